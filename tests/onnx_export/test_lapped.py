"""The lapped codec: orthonormal at any length, frequency selective, chunkable."""

import pytest
import torch

from onnx_export.networks.lapped import LappedCodec


@pytest.mark.parametrize("frames", [1, 2, 3, 17])
def test_all_coefficients_reconstruct_any_number_of_frames(frames: int) -> None:
    codec = LappedCodec(64, 64)
    wav = torch.randn(2, 1, 64 * frames, generator=torch.Generator().manual_seed(frames))
    latents = codec.encode(wav)
    assert latents.shape == (2, frames, 64)
    assert (codec.decode(latents) - wav).abs().max() < 1e-5
    assert latents.norm().item() == pytest.approx(wav.norm().item(), rel=1e-5)


def test_low_coefficients_keep_the_band_and_nothing_else() -> None:
    codec = LappedCodec(256, 128)  # of 16 kHz: up to 4 kHz
    time = torch.arange(256 * 40) / 16000
    inside = torch.sin(2 * torch.pi * 1000 * time)[None, None]
    outside = torch.sin(2 * torch.pi * 6000 * time)[None, None]
    middle = slice(256 * 4, -256 * 4)
    assert (codec.decode(codec.encode(inside)) - inside)[..., middle].abs().max() < 1e-3
    assert codec.decode(codec.encode(outside))[..., middle].abs().max() < 3e-3


def test_one_frame_of_context_makes_chunks_exact() -> None:
    codec = LappedCodec(32, 32)
    wav = torch.randn(1, 1, 32 * 12, generator=torch.Generator().manual_seed(0))
    whole = codec.encode(wav)
    chunk = codec.encode(wav[..., 32 * 3 : 32 * 9])
    assert torch.allclose(chunk[:, 1:-1], whole[:, 4:8], atol=1e-6)
    decoded = codec.decode(whole[:, 3:9])
    assert torch.allclose(decoded[..., 32:-32], wav[..., 32 * 4 : 32 * 8], atol=1e-5)


def test_a_steady_sine_fills_few_coefficients() -> None:
    codec = LappedCodec(256, 256)
    time = torch.arange(256 * 20) / 16000
    energy = codec.encode(torch.sin(2 * torch.pi * 1000 * time)[None, None])[0, 5:-5].pow(2).sum(0)
    assert energy[31:33].sum() / energy.sum() > 0.999
