"""Where training sound comes from: songs, instruments, speech and noises."""
