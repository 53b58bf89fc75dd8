"""Clacks: an event bus for infrastructure. Typed XML events, XQuery subscriptions, AMQP 1.0 on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .common.components.client import BusClient as connect

__version__ = "0.1.0"

__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    if name == "connect":  # `async with clacks.connect(url) as bus`, loaded when somebody does
        from .common.components.client import BusClient

        return BusClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
