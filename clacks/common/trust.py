"""Which certificates a client trusts: the system's, the one named in CLACKS_CA_FILE, and for loopback names the user's own CA."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

CA_FILE: Final = "ca.pem"


def data_home() -> Path:
    """The user's data folder ($XDG_DATA_HOME/clacks), where a local agent leaves its CA."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "clacks"


def client_context(*, loopback: bool) -> ssl.SSLContext:
    """A context that verifies the server's certificate and name. `loopback`: the server's name stands for this machine only.

    Raises OSError if CLACKS_CA_FILE cannot be read.
    """
    named = os.environ.get("CLACKS_CA_FILE")
    local = data_home() / CA_FILE
    if loopback and not named and local.exists():
        # A local agent's certificate is signed by this CA and no other: the system's 140 need not be read (20 ms).
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(local)
        context.set_default_verify_paths()
    else:
        context = ssl.create_default_context(cafile=named) if named else ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
