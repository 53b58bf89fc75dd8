"""The agent's certificate: the configured one, or one made on the spot by a CA of this user's own. `clacks cert` makes more with that CA.

The CA lives in the user's data folder, where clients of the same user find it and trust it for loopback names only (`common.trust`).
Every agent of the user signs with it, whatever its state folder.
"""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..common.errors import ClacksError
from ..common.trust import CA_FILE, data_home

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = logging.getLogger("clacks.agent")

KEY_FILE: Final = "ca.key"
LOCAL_CA: Final = "Clacks local CA"
# The CA of a workstation: as long as the machine. A server's certificate is made anew when the agent starts and it is older than a month.
_CA_DAYS: Final = 3650
_SERVER_DAYS: Final = 365
# Those that are copied elsewhere by hand: as long as browsers take a server's, and time enough to think of the next one.
ISSUED_DAYS: Final = 397
_RENEW_SECONDS: Final = 30 * 86400
# From when on the log says that a given certificate ends: time enough to order another one.
_WARN_DAYS: Final = 14

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def server_context(
    certificate: Path | None, key: Path | None, state_dir: Path, names: tuple[str, ...] = (), client_ca: Path | None = None
) -> ssl.SSLContext:
    """The TLS context of a listener: with the given certificate, or with one for this machine's loopback names and `names`.

    With `client_ca`, a client may show a certificate that one of these CAs has signed for clients; whoever has none needs a password.
    Raises ClacksError config-invalid.
    """
    if certificate is None or key is None:
        certificate = key = _own_certificate(state_dir, (*LOOPBACK_NAMES, *(name for name in names if name not in LOOPBACK_NAMES)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise ClacksError("config-invalid", source=str(certificate), reason=reason, hint="Check tls.certificate and tls.key.") from error
    _warn_of_its_end(certificate)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or str(error)
            raise ClacksError("config-invalid", source=str(client_ca), reason=reason, hint="Check tls.client_ca.") from error
    return context


def _warn_of_its_end(certificate: Path) -> None:
    """With an expired one an agent serves, and no client trusts it."""
    from cryptography import x509

    end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    left = end - datetime.datetime.now(datetime.UTC)
    if left < datetime.timedelta(days=_WARN_DAYS):
        what = "the certificate has expired" if left < datetime.timedelta() else "the certificate expires soon"
        log.warning(what, extra={"file": str(certificate), "end": end.isoformat(), "hint": "set tls.certificate to another, and restart"})


def _own_certificate(state_dir: Path, names: tuple[str, ...]) -> Path:
    """A PEM file with key and chain, made by the user's CA. It is used again while it is young and the CA is the same."""
    folder = data_home()
    try:
        with _alone(folder):
            ca = folder / CA_FILE
            if not (ca.exists() and (folder / KEY_FILE).exists()):
                _make_ca(folder, LOCAL_CA)
            path = state_dir / "agent.pem"
            wanted = f"# {' '.join(names)}\n".encode()
            young = path.exists() and (datetime.datetime.now().timestamp() - path.stat().st_mtime) < _RENEW_SECONDS
            if not (young and path.read_bytes().startswith(wanted) and ca.read_bytes().strip() in path.read_bytes()):
                state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
                key, chain = _issue(folder, "Clacks agent", names, server=True)
                _write(path, wanted + key + chain)
            return path
    except OSError as error:
        raise ClacksError(
            "config-invalid",
            source=str(error.filename or folder),
            reason=error.strerror or str(error),
            hint="Set tls.certificate and tls.key.",
        ) from error


@dataclass(frozen=True, slots=True)
class Made:
    """Two files that were made: a certificate and its key."""

    certificate: Path
    key: Path


def make_ca(folder: Path, name: str = LOCAL_CA) -> Made:
    """A CA in `folder`. Raises ClacksError config-invalid if there is one already, or it cannot be written."""
    made = Made(folder / CA_FILE, folder / KEY_FILE)
    with _told(folder), _alone(folder):
        _absent(made)
        _make_ca(folder, name)
    return made


def make_server(folder: Path, names: tuple[str, ...], out: Path, days: int = ISSUED_DAYS) -> Made:
    """A server's certificate for these host names and addresses, signed by the CA in `folder`, and its key. Raises ClacksError."""
    return _make(folder, "Clacks agent", names, out / _file(names[0]), days, server=True)


def make_client(folder: Path, user: str, out: Path, days: int = ISSUED_DAYS) -> Made:
    """A client's certificate with the subject CN=`user`, signed by the CA in `folder`, and its key. Raises ClacksError."""
    return _make(folder, user, (), out / _file(user), days, server=False)


def _make(folder: Path, subject: str, names: tuple[str, ...], stem: Path, days: int, *, server: bool) -> Made:
    made = Made(stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}.key"))
    if not (folder / KEY_FILE).exists():
        raise _unusable(folder / KEY_FILE, "there is no CA with its key here", "`clacks cert ca` makes one, --ca names its folder.")
    with _told(folder):
        _absent(made)
        stem.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            key, chain = _issue(folder, subject, names, days, server=server)
        except ValueError as error:
            raise _unusable(folder, str(error), "Check the names, and the CA's two files.") from error
        _write(made.key, key)
        _write(made.certificate, chain)
    return made


def _absent(made: Made) -> None:
    for path in (made.certificate, made.key):
        if path.exists():
            raise _unusable(path, "it exists, and somebody may rely on it", "Move it away, or choose another folder.")


def _file(name: str) -> str:
    """A name as that of a file: a wildcard, an IPv6 address."""
    return re.sub(r"[^A-Za-z0-9._@-]", "_", name).lstrip(".") or "_"


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise _unusable(error.filename or folder, reason, "Check the folder and its permissions.") from error


def _unusable(path: Any, reason: str, hint: str) -> ClacksError:
    return ClacksError("config-invalid", source=str(path), reason=reason, hint=hint)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two agents of one user may start at once; one makes the CA."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes) -> None:
    """Whole, and readable by the owner only from its first byte."""
    # Under a name that nobody can have made before, and be the owner of: the folder may be one that others write to.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise


def _make_ca(folder: Path, common_name: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    certificate = (
        _builder(name, name, key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, _sha256())
    )
    _write(folder / KEY_FILE, _private(key))
    _write(folder / CA_FILE, certificate.public_bytes(_pem()))


def _issue(folder: Path, subject: str, names: tuple[str, ...], days: int = _SERVER_DAYS, *, server: bool) -> tuple[bytes, bytes]:
    """The private key, and the certificate with that of the CA behind it. One for a server does not pass for a client's, nor the other way
    round. Raises ValueError for a name that no certificate can bear, OSError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca_pem = (folder / CA_FILE).read_bytes()
    ca = x509.load_pem_x509_certificate(ca_pem)
    ca_key: Any = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(subject), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    certificate = builder.sign(ca_key, _sha256())
    return _private(key), certificate.public_bytes(_pem()) + ca_pem


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of one machine's containers differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(**wanted: bool) -> x509.KeyUsage:
    from cryptography import x509

    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
        "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in every})


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(_pem(), serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _pem() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


def _sha256() -> Any:
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()
