"""Effects with Pedalboard's interface: separation as an effect, chains, streams."""
