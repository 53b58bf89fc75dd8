"""Clacks: an event bus for infrastructure. Typed XML events, XQuery subscriptions, AMQP 1.0 on the wire."""

__version__ = "0.1.0"
