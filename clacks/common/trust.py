"""Which certificates a client trusts: the system's, the one named in CLACKS_CA_FILE, and for loopback names the user's own CA.
And the certificate of its own that it shows, named in CLACKS_CERT_FILE and CLACKS_KEY_FILE."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from .errors import ClacksError

CA_FILE: Final = "ca.pem"


def data_home() -> Path:
    """The user's data folder ($XDG_DATA_HOME/clacks), where a local agent leaves its CA."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "clacks"


# A client's certificate chain and its private key, two PEM files, or twice the same one.
Certificate = tuple[str | os.PathLike[str], str | os.PathLike[str]]


def environment_certificate() -> Certificate | None:
    """What CLACKS_CERT_FILE and CLACKS_KEY_FILE name. Without the second the key is in the first."""
    certificate, key = os.environ.get("CLACKS_CERT_FILE"), os.environ.get("CLACKS_KEY_FILE")
    return (certificate, key or certificate) if certificate else None


def client_context(*, loopback: bool, certificate: Certificate | None = None) -> ssl.SSLContext:
    """A context that verifies the server's certificate and name, and shows `certificate` to a server that asks for one.

    `loopback`: the server's name stands for this machine only. Raises ClacksError config-invalid for a file that cannot be used.
    """
    named = os.environ.get("CLACKS_CA_FILE")
    local = data_home() / CA_FILE
    if loopback and not named and local.exists():
        # A local agent's certificate is signed by this CA and no other: the system's 140 need not be read (20 ms).
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(local)
        context.set_default_verify_paths()
    else:
        context = _trusting(named) if named else ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        _show(context, certificate)
    return context


def _trusting(named: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=named)
    except OSError as error:
        reason = "it holds no certificate (PEM)" if isinstance(error, ssl.SSLError) else error.strerror or str(error)
        raise ClacksError("config-invalid", source=named, reason=reason, hint="Check CLACKS_CA_FILE.") from error


def _show(context: ssl.SSLContext, certificate: Certificate) -> None:
    def ask() -> str:
        raise ValueError("the key is encrypted")  # OpenSSL would ask on the terminal, in the middle of the loop

    try:
        context.load_cert_chain(*certificate, password=ask)
    except (OSError, ValueError) as error:
        name = getattr(error, "filename", None) or certificate[0]
        reason = getattr(error, "strerror", None) or str(error)
        hint = "Check CLACKS_CERT_FILE and CLACKS_KEY_FILE: the certificate and its private key, both PEM."
        raise ClacksError("config-invalid", source=os.fspath(name), reason=reason, hint=hint) from error
