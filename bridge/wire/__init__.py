"""The wire: messages, their encoding, sockets, addresses and keys."""
