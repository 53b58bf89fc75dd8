"""Who may get in: the users file with SCRAM verifiers, no password in it.

The file is TOML, one table a user:

    [users.admin]
    scram = "SCRAM-SHA-256$16384:SALT$STORED_KEY:SERVER_KEY"     # the form PostgreSQL uses (base64)
    groups = ["admin"]
    certificates = ["CN=admin", "URI:spiffe://example.net/admin"]  # names in client certificates that stand for this user

A user has a password, certificates, or both.

It is written by `clacks user`, whole and at once, so an agent never reads half a file.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..amqp import ScramVerifier, make_verifier
from ..common.errors import ClacksError

# About 5 ms of PBKDF2 on both sides. RFC 7677 asks for 4,096 at least; more would be felt in every `sendEvent`.
ITERATIONS: Final = 16384
SALT_SIZE: Final = 32  # bytes; scramp's, and more than the 16 that are usual
SECRET_SIZE: Final = 32  # bytes; as many as SHA-256 has

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FORM: Final = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,8}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")

# CN of the subject, or a subject alternative name, as `amqp.peer.certificate_names` writes them.
_CERTIFICATE: Final = re.compile(r"(CN=|DNS:|email:|URI:).+")
_CERTIFICATE_HINT: Final = "It looks like CN=anna, DNS:host.example.net, email:anna@example.net or URI:spiffe://example.net/anna."

ANONYMOUS: Final = "anonymous"  # the user without a name; nobody else may be called that


@dataclass(frozen=True, slots=True)
class User:
    """One user: the name, what is kept instead of the password (None: there is none), the groups, and the names in certificates."""

    name: str
    verifier: ScramVerifier | None
    groups: frozenset[str] = frozenset()
    certificates: frozenset[str] = frozenset()


def make_user(name: str, password: str | None, groups: Sequence[str] = (), certificates: Sequence[str] = ()) -> User:
    """A user with this password; None: with certificates only. Raises ClacksError for what cannot be used."""
    if not NAME.fullmatch(name):
        raise _invalid(
            name, "a user's name has up to 64 letters, digits and . _ @ -, and begins with a letter or a digit", "Choose another."
        )
    if name == ANONYMOUS:
        raise _invalid(name, "this is the name of whoever has none", "Choose another.")
    for certificate in certificates:
        if not _CERTIFICATE.fullmatch(certificate):
            raise _invalid(name, f"{certificate!r} is no name in a certificate", _CERTIFICATE_HINT)
    if password is None:
        return User(name, None, frozenset(groups), frozenset(certificates))
    if not password:
        raise _invalid(name, "the password is empty", "Choose one.")
    try:
        return User(name, make_verifier(password, ITERATIONS), frozenset(groups), frozenset(certificates))
    except ValueError as error:
        raise _invalid(name, str(error), "Choose another password.") from error


def read_users(path: Path) -> dict[str, User]:
    """The users of a file; none if there is no file. Raises ClacksError config-invalid."""
    import tomllib

    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(str(path), str(error), "Mend it, or restore it from a backup.") from error
    tables = content.get("users", {})
    if not isinstance(tables, dict):
        raise _invalid(str(path), "users is not a table", "See docs/running.md for its form.")
    users = {name: _user(path, name, table) for name, table in tables.items()}
    owners: dict[str, str] = {}
    for user in users.values():
        for certificate in user.certificates:
            if certificate in owners:
                both = f"{certificate} stands for both {owners[certificate]} and {user.name}"
                raise _invalid(str(path), both, "Leave it to one of them.")
            owners[certificate] = user.name
    return users


def write_users(path: Path, users: Mapping[str, User]) -> None:
    """Replace the file, keeping its comments. Raises ClacksError config-invalid if it cannot be written."""
    import tomlkit

    try:
        document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
        tables: Any = document.setdefault("users", tomlkit.table(is_super_table=True))
        for name in [name for name in tables if name not in users]:
            del tables[name]
        for name, user in users.items():
            table = tables.setdefault(name, tomlkit.table())
            if user.verifier is not None:
                table["scram"] = _form(user.verifier)
            table["groups"] = sorted(user.groups)
            if user.certificates or "certificates" in table:
                table["certificates"] = sorted(user.certificates)
    except (OSError, ValueError) as error:
        raise _invalid(str(path), str(error), "Mend it, or restore it from a backup.") from error
    write_whole(path, tomlkit.dumps(document))


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only. Raises ClacksError config-invalid if it cannot be written.

    Root leaves it to whom it belongs, or the folder if there was none: `sudo clacks user add` must not lock the agent's user out.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(text)  # mkstemp makes it readable by its owner only
                file.flush()
                os.fsync(file.fileno())
                if os.geteuid() == 0:
                    owner = (path if path.exists() else path.parent).stat()
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise _invalid(str(path), str(error), "Check the folder and its permissions.") from error


def kept_secret(path: Path) -> bytes:
    """The secret in a file that only its owner can read, made when there is none. An unknown user's salt comes of it, so that it stays
    the same over restarts as a user's does, and nobody can tell the two by asking twice. Raises ClacksError config-invalid."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return _make_secret(path)
    except OSError as error:
        raise _invalid(str(path), str(error), "Check its permissions.") from error
    if len(found) != SECRET_SIZE:
        raise _invalid(str(path), f"it has {len(found)} bytes and not {SECRET_SIZE}", "Remove it, and another is made.")
    return found


def _make_secret(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name) as file:  # mkstemp makes it readable by its owner only
            file.write(secrets.token_bytes(SECRET_SIZE))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another agent has been faster: the same secret for both
                os.link(file.name, path)
        return path.read_bytes()
    except OSError as error:
        raise _invalid(str(path), str(error), "Check the folder and its permissions.") from error


class UserBook:
    """The users of a running agent: what the AMQP layer asks when somebody wants to come in (`amqp.Authenticator`)."""

    def __init__(self, users: Mapping[str, User], *, anonymous: bool = False, secret: bytes = b"") -> None:
        """`secret` makes the salts of unknown users (`kept_secret`); without one they are others after a restart."""
        self.users = dict(users)
        self._anonymous = anonymous
        self._secret = secret or secrets.token_bytes(SECRET_SIZE)

    def mechanisms(self, *, secure: bool, loopback: bool) -> Sequence[str]:
        """PLAIN only where nobody can listen."""
        offered = ["SCRAM-SHA-256"]
        if secure or loopback:
            offered.append("PLAIN")
        if self._anonymous:
            offered.append("ANONYMOUS")
        return offered

    def verifier(self, user: str) -> ScramVerifier:
        found = self.users.get(user)
        if found is not None and found.verifier is not None:
            return found.verifier
        # An unknown user gets a salt that depends on the name only, of the form that one of the users has, and keys that nothing hashes to.
        salt = hmac.digest(self._secret, user.encode("utf-8", "replace"), "sha512")
        forms = sorted({(len(one.verifier.salt), one.verifier.iterations) for one in self.users.values() if one.verifier is not None})
        size, iterations = forms[salt[-1] % len(forms)] if forms else (SALT_SIZE, ITERATIONS)
        return ScramVerifier(salt[:size], secrets.token_bytes(32), secrets.token_bytes(32), iterations)

    def certified(self, names: Sequence[str]) -> Sequence[str]:
        """The users that a client certificate with these names stands for; each name has to be exactly one of theirs."""
        return sorted({user.name for user in self.users.values() if not user.certificates.isdisjoint(names)})

    def admits(self, user: str) -> bool:
        return user in self.users or (self._anonymous and user == ANONYMOUS)

    def members(self, users: Mapping[str, User] | None = None) -> dict[str, frozenset[str]]:
        """Everybody who may come in, with their groups; with other `users` if they are given."""
        members = {name: user.groups for name, user in (self.users if users is None else users).items()}
        return members | {"anonymous": frozenset()} if self._anonymous else members


def _user(path: Path, name: str, table: Any) -> User:
    again = f"Set it anew with `clacks user passwd {name}`."
    if not isinstance(table, dict) or not NAME.fullmatch(name) or name == ANONYMOUS:
        raise _invalid(str(path), f"the entry of {name} is not in order", again)
    groups, certificates, scram = table.get("groups", []), table.get("certificates", []), table.get("scram")
    if not isinstance(groups, list) or not isinstance(certificates, list) or (scram is None and not certificates):
        raise _invalid(str(path), f"the entry of {name} is not in order", again)
    for certificate in certificates:
        if not isinstance(certificate, str) or not _CERTIFICATE.fullmatch(certificate):
            raise _invalid(str(path), f"{certificate!r} of {name} is no name in a certificate", _CERTIFICATE_HINT)
    verifier = None if scram is None else _verifier(path, name, scram, again)
    return User(name, verifier, frozenset(str(group) for group in groups), frozenset(certificates))


def _verifier(path: Path, name: str, scram: Any, hint: str) -> ScramVerifier:
    match = _FORM.fullmatch(scram) if isinstance(scram, str) else None
    if match is None:
        raise _invalid(str(path), f"the entry of {name} is not in order", hint)
    try:
        salt, stored, server = (base64.b64decode(part, validate=True) for part in match.groups()[1:])
    except ValueError as error:
        raise _invalid(str(path), f"the entry of {name} is not base64", hint) from error
    return ScramVerifier(salt, stored, server, int(match[1]))


def _form(verifier: ScramVerifier) -> str:
    salt, stored, server = (base64.b64encode(part).decode() for part in (verifier.salt, verifier.stored_key, verifier.server_key))
    return f"SCRAM-SHA-256${verifier.iterations}:{salt}${stored}:{server}"


def _invalid(source: str, reason: str, hint: str) -> ClacksError:
    return ClacksError("config-invalid", source=source, reason=reason, hint=hint)
