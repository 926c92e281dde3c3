"""What travels: messages, descriptors, sockets, addresses and keys."""
