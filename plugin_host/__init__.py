"""The host: audio files, effects and chains, and what connects them to DAW sessions."""
