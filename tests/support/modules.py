"""A tracker module in ProTracker's format, small enough to be written out by a test."""

import numpy as np

RATE = 8287  # of the note C-2 on the machine that the format comes from


def write_module(path, names, periods=(428, 214)):
    """Write a module in which the samples of the names sound in turn, each a tone of its own.

    It has one pattern of 64 rows, about 7.7 s; a sample sounds for a quarter of a second.
    """
    length = RATE // 4
    headers, sounds = b"", b""
    for number in range(31):
        name = names[number] if number < len(names) else ""
        words = length // 2 if number < len(names) else 0
        headers += name.encode().ljust(22, b"\0") + words.to_bytes(2, "big")
        headers += bytes([0, 64]) + (0).to_bytes(2, "big") + (1).to_bytes(2, "big")
        if number < len(names):
            time = np.arange(words * 2) / RATE
            tone = 100 * np.sin(2 * np.pi * 220 * (number + 1) * time)
            sounds += tone.astype(np.int8).tobytes()
    rows = bytearray(64 * 4 * 4)
    for row in range(0, 64, 4):
        for channel in range(min(4, len(names))):
            sample, period = channel + 1, periods[row // 4 % len(periods)]
            cell = bytes([sample & 0xF0 | period >> 8, period & 0xFF, (sample & 15) << 4, 0])
            at = (row * 4 + channel) * 4
            rows[at : at + 4] = cell
    head = b"test".ljust(20, b"\0") + headers + bytes([4, 127]) + bytes(128) + b"M.K."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + bytes(rows) + sounds)
