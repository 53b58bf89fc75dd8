"""What the socket tells of the peer, in words: its address, the names in its certificate, why it is gone. Pure."""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any


def certificate_names(certificate: dict[str, Any]) -> tuple[str, ...]:
    """The names in a verified certificate (as `ssl.SSLSocket.getpeercert` gives it) in the form of OpenSSL: CN=anna, DNS:host.example.net,
    email:anna@example.net, URI:spiffe://example.net/anna. Each kind has a prefix of its own, so no name of one can pass for another's."""
    common = [f"CN={value}" for rdn in certificate.get("subject", ()) for key, value in rdn if key == "commonName"]
    kinds = ("DNS", "email", "URI")
    return (*common, *(f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ()) if kind in kinds))


def is_loopback(host: str) -> bool:
    """Whether an IP address, or the name localhost, stands for this machine only."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def reason_of_loss(error: Exception | None) -> str:
    """Why a socket is gone, for people; `error` is what asyncio says."""
    if error is None:
        return "the peer closed the socket"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__
