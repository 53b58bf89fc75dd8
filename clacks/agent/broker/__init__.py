"""Carrying out what the bus decides: the embedded broker (`embedded`), its queues (`subscription`), its addresses (`addresses`)."""
