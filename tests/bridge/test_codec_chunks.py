"""Coding in chunks with context is coding the whole clip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.inference.context import Cancellation
from bridge.inference.model import Model, count_chunks, pad_to_frames
from tests.support import tiny_bundle

HOP = tiny_bundle.HOP
NO_MESSAGE = np.zeros(0, np.float32)


def code(directory, wav):
    """Round trip of one view: latents, waveform, and how often each graph ran."""
    model = Model(directory, threads=1)
    runs = {"encode": 0, "decode": 0}

    def count(name):
        runs[name] += 1

    with Cancellation(None) as never:
        latents = model.encode(wav[None], never, lambda: count("encode"))
        decoded = model.decode(latents, NO_MESSAGE, never, lambda: count("decode"))
    return latents[0], decoded[0], runs


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 57])
def test_chunks_with_context_equal_the_whole(build_bundle, frames):
    wav = np.random.default_rng(0).normal(size=frames * HOP).astype(np.float32)
    whole = build_bundle("whole", blurred=True, chunk_frames=1000)
    chunked = build_bundle("chunked", blurred=True, chunk_frames=8)
    latents, decoded, _ = code(whole, wav)
    chunked_latents, chunked_decoded, runs = code(chunked, wav)
    np.testing.assert_allclose(chunked_latents, latents, atol=2e-6)
    np.testing.assert_allclose(chunked_decoded, decoded, atol=2e-6)
    chunks = count_chunks(frames, Model(chunked).manifest.codec)
    assert runs == {"encode": chunks, "decode": chunks}
    assert chunks == -(-frames // 8)


def test_the_blurred_codec_needs_its_context(build_bundle):
    """The test above would pass with any context if the codec looked at one frame only."""
    wav = np.random.default_rng(0).normal(size=20 * HOP).astype(np.float32)
    latents, _, _ = code(build_bundle(blurred=True, chunk_frames=1000), wav)
    half, _, _ = code(build_bundle("half", blurred=True, chunk_frames=1000), wav[: 10 * HOP])
    assert np.abs(latents[9] - half[9]).max() > 1e-3
    np.testing.assert_allclose(latents[:9], half[:9], atol=2e-6)


@given(st.integers(1, 700), st.sampled_from([2, 64, 256]))
def test_padding_fills_the_last_frame_by_reflection(samples, hop):
    wav = np.arange(1, samples + 1, dtype=np.float32)
    (padded,) = pad_to_frames(wav[np.newaxis], hop)
    assert len(padded) % hop == 0
    assert 0 <= len(padded) - samples < hop
    np.testing.assert_array_equal(padded[:samples], wav)
    if 1 < samples < len(padded):
        assert padded[samples] == wav[-2]
    assert set(padded) <= set(wav)
