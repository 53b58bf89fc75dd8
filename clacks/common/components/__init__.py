"""The client library: `AMQPEventConsumer` receives events, `AMQPServiceProxy` calls commands, `Command` marks a method as one.

Names are loaded when they are used, so that a program that only publishes does not wait for the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .command import Command, CommandType
    from .consumer import AMQPEventConsumer
    from .proxy import AMQPServiceProxy
    from .terms import Keep

_PLACES = {
    "AMQPEventConsumer": "consumer",
    "AMQPServiceProxy": "proxy",
    "Command": "command",
    "CommandType": "command",
    "Keep": "terms",
}

__all__ = ["AMQPEventConsumer", "AMQPServiceProxy", "Command", "CommandType", "Keep"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
