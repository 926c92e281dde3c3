"""The processes that compute, and what the server asks of them."""
