"""The client: its connection, its jobs, and the server that it may start."""
