"""A real RabbitMQ for the tests: fetched once into a cache, run on loopback, nothing left behind. Knows nothing of what is tested on it.

It comes from a suite of Debian that has version 4. Its packages are unpacked, not installed: they bring their own C library and loader, so
they run beside an older system, without root, container or chroot.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import hashlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from debian import Suite, Unavailable, cached

# Debian 13, with RabbitMQ 4.0.5: the oldest version that clacks accepts, and a suite that changes no more. forky has 4.3.
SUITE: Final = os.environ.get("CLACKS_TESTS_RABBITMQ_SUITE", "trixie")
# What the broker needs of its dependencies: Erlang and the libraries it is linked with. The rest would prepare an installation.
WANTED: Final = r"rabbitmq-server|erlang-.*|lib(c6|stdc\+\+6|gcc-s1|ssl3.*|systemd0|tinfo6|cap2|zstd1)|zlib1g"
PROGRAMS: Final = ("beam.smp", "epmd", "erl_call", "erl_child_setup", "erlexec", "escript", "heart", "inet_gethost")

START_SECONDS: Final = 120.0  # 5 s on an idle machine
STOP_SECONDS: Final = 30.0
ALL: Final = (".*", ".*", ".*")

# A port of ours must be free again after a restart: the kernel hands out those from 32768 on to whoever connects somewhere.
_PORTS: Final = range(20_000, 32_000)


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
class Account:
    """A user of the broker: regular expressions of the names that may be configured, written and read; an `impersonator` may set the
    user-id of others, as an agent does that delivers their events."""

    name: str
    password: str
    permissions: tuple[str, str, str] = ALL
    impersonator: bool = False


ADMIN: Final = Account("admin", "secret")
AGENT: Final = Account("clacks-agent", "secret", impersonator=True)


class RabbitMQ:
    """One RabbitMQ node on loopback with a state folder of its own. `settings` are further lines of rabbitmq.conf.

    `kill` and `restart` are those of a crash: nothing is said to anybody, what was on disk comes back.
    """

    def __init__(
        self, suite: str = SUITE, accounts: tuple[Account, ...] = (ADMIN, AGENT), settings: Mapping[str, Any] | None = None
    ) -> None:
        self._root = rabbitmq_root(suite)
        self._accounts = {account.name: account for account in accounts}
        self._settings = dict(settings or {})
        self._folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._cookie = secrets.token_hex(16)
        ports = free_ports()
        self.port, self._distribution, self._epmd = next(ports), next(ports), next(ports)
        (home,) = self._root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
        self._home = home
        self.version = home.name.rpartition("-")[2]
        self._write()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def url(self, user: str = ADMIN.name) -> str:
        password = self._accounts[user].password
        return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The node's process, which is the whole broker."""
        return self._processes[-1].pid

    @property
    def log(self) -> str:
        parts = [*sorted(self._folder.glob("log/*.log")), self._folder / "output"]
        return "".join(part.read_text(errors="replace") for part in parts if part.exists())

    @property
    def _failure(self) -> str:
        """Of the log what says why: from its first error on; the dumps of Erlang's supervisors that follow are as long as one likes."""
        log = self.log
        first = log.find("[error]")
        return log[first : first + 4000] if first >= 0 else log[-4000:]

    def start(self) -> None:
        """Returns when all its listeners accept. Raises RuntimeError with what the log says."""
        atexit.register(self.stop)
        try:
            self._spawn([str(self._folder / "bin" / "epmd")])
            node = self._spawn([str(self._home / "sbin" / "rabbitmq-server"), "-noinput"])
            end = time.monotonic() + START_SECONDS
            while not self._answers():
                if node.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"RabbitMQ {self.version} does not start:\n{self._failure}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """As if the machine lost its power; the state folder stays."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def restart(self) -> None:
        """Kill, and start again on the same port with what was on disk."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Kill, and remove the state folder: nobody will ask for it again."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.stop)

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

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """In a process group of its own, and killed by the kernel if this process goes without a word."""
        with (self._folder / "output").open("ab") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _answers(self) -> bool:
        """The listeners come up one after the other, the plain one first."""
        with contextlib.suppress(OSError, RuntimeError), socket.create_connection(("127.0.0.1", self.port), 1):
            return self.evaluate("rabbit:is_booted().") == "true"
        return False

    @property
    def _environment(self) -> dict[str, str]:
        folder = self._folder
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return kept | {
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


def free_ports() -> Iterator[int]:
    """Ports of loopback that nobody listens on, in no order."""
    candidates = random.sample(_PORTS, len(_PORTS))
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


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
