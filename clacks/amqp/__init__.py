"""AMQP 1.0 on asyncio: proton's engine driven without I/O of its own; SASL, TLS, links and credit. Knows nothing of events.

`serve` listens, `connect` dials; both give `Connection`s whose links are `Sender`s and `Receiver`s. No proton pointer leaves this
package: a delivery is named by its link and a number that is checked, so a late settlement finds nothing instead of a stranger.
"""

from .client import connect
from .codec import CodecError, Described, Int, Symbol, SymbolArray, Timestamp, UInt, ULong
from .connection import Connection, ConnectionHandler
from .gate import Gate, GateLimits
from .link import TOO_LARGE, Link, LinkHandler, Receiver, Sender
from .message import Draft, Header, Message, Properties, annotate
from .options import Options
from .outcome import ACCEPTED, RELEASED, AmqpError, Condition, LinkGone, Modified, Outcome, Rejected
from .peer import is_loopback
from .sasl import Authenticator, Credentials, SaslFailure, ScramVerifier, make_verifier
from .server import Listener, serve
from .terminus import Terminus

__all__ = [
    "ACCEPTED",
    "RELEASED",
    "TOO_LARGE",
    "AmqpError",
    "Authenticator",
    "CodecError",
    "Condition",
    "Connection",
    "ConnectionHandler",
    "Credentials",
    "Described",
    "Draft",
    "Gate",
    "GateLimits",
    "Header",
    "Int",
    "Link",
    "LinkGone",
    "LinkHandler",
    "Listener",
    "Message",
    "Modified",
    "Options",
    "Outcome",
    "Properties",
    "Receiver",
    "Rejected",
    "SaslFailure",
    "ScramVerifier",
    "Sender",
    "Symbol",
    "SymbolArray",
    "Terminus",
    "Timestamp",
    "UInt",
    "ULong",
    "annotate",
    "connect",
    "is_loopback",
    "make_verifier",
    "serve",
]  # fmt: skip
