"""The way to an agent or a broker: one connection to one URL, and in words for people why there is none."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from ...amqp import AmqpError, Connection, Credentials, Options, SaslFailure, connect, is_loopback
from ..errors import ClacksError
from ..trust import Certificate, client_context, environment_certificate
from .url import Url

CONNECT_SECONDS: Final = 10.0

# What OpenSSL calls it when the answer to its hello is no TLS; the second one since OpenSSL 3.2.
NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})

# What to do about a certificate that is not trusted, by OpenSSL's number of what is wrong with it (X509_V_ERR_*).
_ANOTHER: Final = "The agent needs another one (`clacks cert server`), or a clock is wrong."
_NAME: Final = "Reach the agent by a name that is in it, or give the agent another one (`clacks cert server`)."
_TRUST_HINTS: Final = {9: _ANOTHER, 10: _ANOTHER, 62: _NAME, 64: _NAME}

Dial = Callable[[Url], Awaitable[Connection]]


def client_options(url: Url) -> Options:
    """What a client announces. It takes events of any size (2.7.3): how large one may be is for the agent, which it trusts, to say."""
    return Options(hostname=url.host, max_message_size=0)


async def dial(url: Url, certificate: Certificate | None = None) -> Connection:
    """A connection to the agent at `url`. Without a password in it, `certificate` says who comes (default: that of the environment).

    Raises ClacksError: unreachable, not-authenticated, and what else can go wrong on the way."""
    certificate = (certificate or environment_certificate()) if url.secure else None
    credentials = Credentials(url.user, url.password, certified=certificate is not None)
    try:
        tls = client_context(loopback=is_loopback(url.host), certificate=certificate) if url.secure else None
        async with asyncio.timeout(CONNECT_SECONDS):
            return await connect(url.host, url.port, credentials, client_options(url), tls=tls)
    except TimeoutError as error:
        raise ClacksError("unreachable", url=url, reason=f"no answer within {CONNECT_SECONDS:g} s") from error
    except ssl.SSLCertVerificationError as error:
        hint = _TRUST_HINTS.get(error.verify_code, "Name its CA in CLACKS_CA_FILE.")
        raise ClacksError("tls-untrusted", url=url, reason=error.verify_message, hint=hint) from error
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
            raise ClacksError("unreachable", url=url, reason="what answers there does not speak TLS, so it may be amqp://") from error
        known = error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError)
        raise ClacksError("unreachable", url=url, reason=os.strerror(error.errno or 0) if known else str(error)) from error
    except SaslFailure as error:
        raise _not_let_in(url, error) from error
    except AmqpError as error:
        reason = str(error.condition)
        if not url.secure and error.condition.name == "amqp:connection:forced" and not error.condition.info:
            reason = f"{error.condition.description}, as one does that expects TLS (amqps://)"
        raise ClacksError("unreachable", url=url, reason=reason) from error


def _not_let_in(url: Url, error: SaslFailure) -> ClacksError:
    if error.kind == "credentials":
        return ClacksError("not-authenticated")
    if error.kind == "exposed":
        return ClacksError("password-exposed", host=url.host)
    if error.kind == "mechanism":
        hint = "Give a user and a password in the URL." if not url.password else "Check the agent's configuration."
        return ClacksError("mechanism-unusable", offered=", ".join(error.offered) or "nothing", hint=hint)
    return ClacksError("unreachable", url=url, reason=error.condition.description)
