"""A real RabbitMQ for the tests: fetched once into a cache, run on loopback, nothing left behind. Knows nothing of what is tested on it.

It comes from a suite of Debian that has version 4. Its packages are unpacked, not installed: they bring their own C library and loader, so
they run beside an older system, without root, container or chroot.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from debian import Suite, Unavailable, cached
from server import START_SECONDS, BrokerServer, Login, environment_without, free_ports

# Debian 13, with RabbitMQ 4.0.5: the oldest version that clacks accepts, and a suite that changes no more. forky has 4.3.
SUITE: Final = os.environ.get("CLACKS_TESTS_RABBITMQ_SUITE", "trixie")
# What the broker needs of its dependencies: Erlang and the libraries it is linked with. The rest would prepare an installation.
WANTED: Final = r"rabbitmq-server|erlang-.*|lib(c6|stdc\+\+6|gcc-s1|ssl3.*|systemd0|tinfo6|cap2|zstd1)|zlib1g"
PROGRAMS: Final = ("beam.smp", "epmd", "erl_call", "erl_child_setup", "erlexec", "escript", "heart", "inet_gethost")

ALL: Final = (".*", ".*", ".*")


# --- getting it ------------------------------------------------------------------------------------------------------------------


def rabbitmq_root(suite: str = SUITE) -> Path:
    """The folder with an unpacked RabbitMQ of that suite, fetched if it is not there. Raises Unavailable."""

    def fetch(scratch: Path) -> Path:
        debian = Suite(suite, "RabbitMQ", scratch)
        debian.unpack(debian.needed("rabbitmq-server", WANTED))
        return debian.root

    return cached(f"rabbitmq-{suite}", fetch)


# --- running it ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account(Login):
    """A user of the broker: regular expressions of the names that may be configured, written and read; an `impersonator` may set the
    user-id of others, as an agent does that delivers their events."""

    permissions: tuple[str, str, str] = ALL
    impersonator: bool = False


ADMIN: Final = Account("admin", "secret")
AGENT: Final = Account("clacks-agent", "secret", impersonator=True)


class RabbitMQ(BrokerServer[Account]):
    """One RabbitMQ node. `settings` are further lines of rabbitmq.conf."""

    name = "RabbitMQ"

    def __init__(
        self, suite: str = SUITE, accounts: tuple[Account, ...] = (ADMIN, AGENT), settings: Mapping[str, Any] | None = None
    ) -> None:
        self._root = rabbitmq_root(suite)
        (self._home,) = self._root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
        super().__init__(self._home.name.rpartition("-")[2], accounts)
        self._settings = dict(settings or {})
        self._cookie = secrets.token_hex(16)
        ports = (port for port in free_ports() if port != self.port)
        self._distribution, self._epmd = next(ports), next(ports)
        self._write()

    def add_user(self, name: str, password: str, permissions: tuple[str, str, str] = ALL) -> None:
        self._accounts[name] = Account(name, password, permissions)
        rights = ", ".join(map(_binary, permissions))
        self.evaluate(
            f"ok = rabbit_auth_backend_internal:add_user({_binary(name)}, {_binary(password)}, {_binary('tests')}),"
            f"ok = rabbit_auth_backend_internal:set_permissions({_binary(name)}, {_binary('/')}, {rights}, {_binary('tests')})."
        )

    def remove_user(self, name: str) -> None:
        self._accounts.pop(name, None)
        self.evaluate(f"ok = rabbit_auth_backend_internal:delete_user({_binary(name)}, {_binary('tests')}).")

    def flush(self) -> None:
        """Write what RabbitMQ would write within a second: a younger quorum queue is lost in a crash, with all it has accepted."""
        self.evaluate("[ok = dets:sync(Table) || Table <- dets:all()].")

    def evaluate(self, expression: str) -> str:
        """The value of an Erlang expression in the node, as Erlang writes it. Raises RuntimeError."""
        command = [str(self._folder / "bin" / "erl_call"), "-address", f"127.0.0.1:{self._distribution}", "-c", self._cookie, "-e"]
        done = subprocess.run(
            command,
            input=f"{expression}\n".encode(),
            env=self._environment,
            capture_output=True,
            timeout=START_SECONDS,
            check=False,
        )
        answer = done.stdout.decode("latin-1")  # bytes of names as they are, whatever they spell
        if done.returncode or not answer.startswith("{ok, "):
            raise RuntimeError(f"{expression} failed: {answer}{done.stderr.decode('latin-1')}")
        return answer.removeprefix("{ok, ").removesuffix("}")

    # --- how it is started ---

    def _launch(self) -> subprocess.Popen[bytes]:
        self._spawn([str(self._folder / "bin" / "epmd")], self._environment)
        return self._spawn([str(self._home / "sbin" / "rabbitmq-server"), "-noinput"], self._environment)

    def _has_started(self) -> bool:
        """The listeners come up one after the other, the plain one first."""
        with contextlib.suppress(RuntimeError):
            return self.evaluate("rabbit:is_booted().") == "true"
        return False

    def _failure(self) -> str:
        """From its first error on; the dumps of Erlang's supervisors that follow are as long as one likes."""
        log = self.log
        first = log.find("[error]")
        return log[first : first + 4000] if first >= 0 else log[-4000:]

    @property
    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return environment_without("RABBITMQ_", "ERL_") | {
            "HOME": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd),
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the node instead of watching over it
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": "clacks@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(
                (
                    f"-setcookie {self._cookie} -kernel inet_dist_use_interface {{127,0,0,1}} +S 2:2",
                    "-os_mon start_memsup false -os_mon start_cpu_sup false",  # programs that Erlang would start without our loader
                )
            ),
        }

    def _write(self) -> None:
        folder, root = self._folder, self._root
        (folder / "bin").mkdir()
        (loader,) = [*root.glob("usr/lib64/ld-linux-*.so.*"), *root.glob("usr/lib/ld-linux-*.so.*")][:1]
        libraries = next(iter(root.glob("usr/lib/*/libc.so.6"))).parent
        (programs,) = root.glob("usr/lib/erlang/erts-*/bin")
        for name in PROGRAMS:
            self._script(name, f'exec {loader} --library-path {libraries} {programs / name} "$@"')
        erlang, binaries = root / "usr/lib/erlang", folder / "bin"
        self._script("erl", f'export ROOTDIR={erlang} BINDIR={binaries} EMU=beam PROGNAME=erl\nexec {binaries}/erlexec "$@"')
        settings: dict[str, Any] = {
            "listeners.tcp.default": f"127.0.0.1:{self.port}",
            "auth_mechanisms.1": "PLAIN",
            "anonymous_login_user": "none",
            "load_definitions": folder / "definitions.json",
            "disk_free_limit.absolute": "50MB",  # a full disk is not what is tested
            "log.file.level": "info",
        }
        (folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in (settings | self._settings).items()))
        (folder / "plugins").write_text("[].\n")
        (folder / "definitions.json").write_text(json.dumps(self._definitions()))

    def _script(self, name: str, text: str) -> None:
        path = self._folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def _definitions(self) -> dict[str, Any]:
        accounts = self._accounts.values()
        return {
            "vhosts": [{"name": "/"}],
            "users": [
                {
                    "name": account.name,
                    "password_hash": _password_hash(account.password),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": ["impersonator"] if account.impersonator else [],
                }
                for account in accounts
            ],
            "permissions": [
                {"user": account.name, "vhost": "/", **dict(zip(("configure", "write", "read"), account.permissions, strict=True))}
                for account in accounts
            ],
        }


def _password_hash(password: str) -> str:
    """As RabbitMQ keeps it: salt, and SHA-256 of salt and password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _binary(text: str) -> str:
    """An Erlang binary, whatever is in the text."""
    return f"<<{','.join(map(str, text.encode()))}>>"


def main() -> int:
    """Fetch what the tests will ask for, so that no test's time-out has to cover a download."""
    try:
        rabbitmq_root()
    except Unavailable as error:
        print(f"The tests on RabbitMQ are left out: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
