"""What agents and clients share: errors, events, schemas, and the client library."""
