"""The URL of an agent, or of the broker that a domain of agents runs on: amqp[s]://user:password@host[:port]/domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from ..errors import ClacksError

DEFAULT_DOMAIN: Final = "org.clacks"
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_ESCAPES: Final = "in a password / ? # [ ] , and spaces are written as %2F %3F %23 %5B %5D %2C and %20"


@dataclass(frozen=True, slots=True)
class Url:
    """Where an agent or a broker is, and who comes. `str()` leaves the password out."""

    secure: bool
    user: str
    password: str
    host: str
    port: int
    domain: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'amqps' if self.secure else 'amqp'}://{self.user + '@' if self.user else ''}{host}:{self.port}/{self.domain}"


def parse_url(text: str, domain: str = DEFAULT_DOMAIN) -> Url:
    """`domain` is taken where the URL has none. Raises ClacksError url-invalid, which shows nothing that may be of a password."""
    if set(text.partition("://")[2].rpartition("@")[0]) & set("/?#[]"):
        raise ClacksError("url-invalid", url=_hidden(text), reason=_ESCAPES)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        # Without urlsplit's own words, and its error: what it takes for the port or the host may be a part of the password.
        reason = f"its port is no number up to 65535, or its host is none; {_ESCAPES}"
        raise ClacksError("url-invalid", url=_hidden(text), reason=reason) from None
    if parts.scheme not in _PORTS:
        raise ClacksError("url-invalid", url=_hidden(text), reason="it begins neither with amqp:// nor with amqps://")
    if not parts.hostname:
        raise ClacksError("url-invalid", url=_hidden(text), reason="it names no host")
    path = unquote(parts.path.strip("/"))
    return Url(
        parts.scheme == "amqps", unquote(parts.username or ""), unquote(parts.password or ""), parts.hostname,
        port if port is not None else _PORTS[parts.scheme], path or domain,
    )  # fmt: skip


def parse_urls(given: str | Sequence[str], domain: str = DEFAULT_DOMAIN) -> list[Url]:
    """Several URLs, tried in their order: a list, or one string with spaces or commas between them. Raises ClacksError url-invalid."""
    texts = given.replace(",", " ").split() if isinstance(given, str) else list(given)
    if not texts:
        raise ClacksError("url-invalid", url="", reason="it is empty")
    return [parse_url(text, domain) for text in texts]


def _hidden(text: str) -> str:
    """The URL without what may be a password, or the beginning of one where a comma has cut it off."""
    scheme, slashes, rest = text.partition("://")
    if "@" in text:
        return f"{scheme if slashes else ''}{slashes}...@{text.rpartition('@')[2]}"
    return f"{scheme}{slashes}{rest.partition(':')[0]}:..." if ":" in rest and not rest.startswith("[") else text
