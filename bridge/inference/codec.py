"""The bundle's codec over clips of any length, in chunks of bounded memory.

A chunk is coded with context on both sides and only its inside is kept, so the result is that of
coding the whole clip at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import CodecInfo

Array: TypeAlias = npt.NDArray[np.float32]


def pad_to_frames(wav: Array, hop_length: int) -> Array:
    """Extend waveforms (..., n) to whole frames by reflecting their right ends."""
    samples = wav.shape[-1]
    widths = [(0, 0)] * (wav.ndim - 1) + [(0, -samples % hop_length)]
    # Reflection needs a second sample to come back from.
    return np.pad(wav, widths, mode="reflect" if samples > 1 else "edge")


def count_chunks(frames: int, codec: CodecInfo) -> int:
    """Count the calls of the graph that coding a clip takes."""
    return -(-frames // codec.chunk_frames)


def encode(
    encoder: Callable[[Array], Array], wav: Array, hop_length: int, channels: int, codec: CodecInfo
) -> Array:
    """Encode waveforms of one length.

    Parameters
    ----------
    encoder : callable
        Maps waveforms (V, 1, N) to latents (V, N / hop_length, C).
    wav : ndarray of float32, shape (V, T * hop_length)
    hop_length, channels : int
        Samples per frame; C.
    codec : CodecInfo

    Returns
    -------
    ndarray of float32, shape (V, T, C)
    """
    frames = wav.shape[1] // hop_length
    latents = np.empty((len(wav), frames, channels), dtype=np.float32)
    for start, end, low, high in _chunks(frames, codec.chunk_frames, codec.encoder_context_frames):
        part = encoder(wav[:, np.newaxis, low * hop_length : high * hop_length])
        latents[:, start:end] = part[:, start - low : end - low]
    return latents


def decode(
    decoder: Callable[[Array], Array],
    latents: Array,
    hop_length: int,
    codec: CodecInfo,
    on_part: Callable[[int, Array], None] | None = None,
) -> Array:
    """Decode latents.

    Parameters
    ----------
    decoder : callable
        Maps latents (V, T, C) to waveforms (V, 1, T * hop_length).
    latents : ndarray of float32, shape (V, T, C)
    hop_length : int
    codec : CodecInfo
    on_part : callable or None
        Receives the first sample and the waveforms (V, n) of every part as it is decoded.

    Returns
    -------
    ndarray of float32, shape (V, T * hop_length)
    """
    views, frames, _ = latents.shape
    wav = np.empty((views, frames * hop_length), dtype=np.float32)
    for start, end, low, high in _chunks(frames, codec.chunk_frames, codec.decoder_context_frames):
        part = decoder(latents[:, low:high])
        inside = slice(start * hop_length, end * hop_length)
        wav[:, inside] = part[:, 0, (start - low) * hop_length : (end - low) * hop_length]
        if on_part is not None:
            on_part(start * hop_length, wav[:, inside])
    return wav


def _chunks(frames: int, chunk: int, context: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the inside (start, end) of each chunk, and (low, high) with its context."""
    for start in range(0, frames, chunk):
        end = min(start + chunk, frames)
        yield start, end, max(0, start - context), min(frames, end + context)
