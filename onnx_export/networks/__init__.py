"""The networks as PyTorch modules, one a file."""
