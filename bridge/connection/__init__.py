"""The client's side of a connection: its thread, its jobs, and the server it may start."""
