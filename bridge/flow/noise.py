"""Starting noise as a pure function of seed, candidate and absolute frame.

The generator is counter-based (Philox-4x64: Salmon et al. 2011, "Parallel Random Numbers: As Easy
as 1, 2, 3"). Every frame owns a block of the counter, so windows that share a frame share its
noise, and a region computed alone starts from the noise it has in the whole clip.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_WORDS_PER_COUNT = 4
_MESSAGE_STREAM = 2**64 - 1


def frame_noise(
    seed: int, first_frame: int, frames: int, channels: int, candidate: int = 0
) -> npt.NDArray[np.float32]:
    """Draw standard normal noise for a run of frames.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    first_frame, frames : int
        Absolute index of the first frame, and how many.
    channels : int
        Normals per frame.
    candidate : int
        Which of several independent noises for the same seed, 0 to 2**32 - 1.

    Returns
    -------
    ndarray of float32, shape (frames, channels)
        Depends only on the arguments, and not on the NumPy release: only the raw bits of the
        generator are used, which NumPy guarantees to be stable.
    """
    counts = -(-channels // _WORDS_PER_COUNT)
    bits = np.random.Philox(counter=first_frame * counts, key=_key(seed, candidate))
    words = bits.random_raw(frames * counts * _WORDS_PER_COUNT)
    # 53 bits, centred in their cells, so that the logarithm never sees zero.
    uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
    # Box & Muller 1958: two uniform numbers become two normal ones.
    radius = np.sqrt(-2.0 * np.log(uniform[0::2]))
    angle = 2.0 * np.pi * uniform[1::2]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return normal.reshape(frames, -1)[:, :channels].astype(np.float32)


def message_bits(seed: int, length: int) -> npt.NDArray[np.float32]:
    """Draw the bits of a watermark message.

    Returns
    -------
    ndarray of float32, shape (length,)
        Zeros and ones, the same for the same seed, independent of `frame_noise`.
    """
    words = np.random.Philox(key=_key(seed, _MESSAGE_STREAM)).random_raw(length)
    return (words >> np.uint64(63)).astype(np.float32)


def number_bits(number: int, length: int) -> npt.NDArray[np.float32]:
    """Write a number as a watermark message.

    Parameters
    ----------
    number : int
        0 to 2**length - 1.
    length : int

    Returns
    -------
    ndarray of float32, shape (length,)
        Zeros and ones, the highest bit first.
    """
    return np.array([number >> place & 1 for place in reversed(range(length))], dtype=np.float32)


def _key(seed: int, stream: int) -> int:
    return seed | stream << 64
