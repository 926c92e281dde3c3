"""Audio for the tests of the host."""

import numpy as np

RATE = 44100


def music(seconds=1.5, rate=RATE, channels=2, seed=0):
    """Noise below the tiny model's band limit, quiet enough that nothing clips."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate)
    spectrum = np.fft.rfft(rng.standard_normal((channels, samples)))
    spectrum[:, np.fft.rfftfreq(samples, 1 / rate) > 3000] = 0
    audio = np.fft.irfft(spectrum, samples)
    return (0.4 * audio / np.abs(audio).max()).astype(np.float32)
