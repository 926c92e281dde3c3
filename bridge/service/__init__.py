"""The server's side: sessions, jobs, workers, the store, and the threads that move messages."""
