import math

import numpy as np
import pytest

from onnx_export.evaluation.sdr import (
    bleedless_and_fullness,
    si_sar_db,
    si_sdr_db,
    stft_distance,
)


def signals(seed=0):
    rng = np.random.default_rng(seed)
    s = rng.standard_normal(50000)
    n = rng.standard_normal(50000)
    n -= n.mean()
    s -= s.mean()
    n -= s * (n @ s) / (s @ s)
    return s, n


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0])
@pytest.mark.parametrize("scale", [0.01, -3.0])
def test_orthogonal_noise_gives_its_ratio_at_any_scale(snr_db, scale):
    s, n = signals()
    n *= np.linalg.norm(s) / np.linalg.norm(n) / 10 ** (snr_db / 20)
    assert si_sdr_db(scale * (s + n), s) == pytest.approx(snr_db, abs=1e-6)


def test_an_offset_does_not_count():
    s, n = signals()
    assert si_sdr_db(s + n + 5.0, s) == pytest.approx(si_sdr_db(s + n, s))


def test_a_wrong_stereo_image_costs():
    s, n = signals()
    reference = np.stack([s, 0.2 * s])
    swapped = np.stack([0.2 * s, s]) + 0.01 * np.stack([n, n])
    assert si_sdr_db(swapped, reference) < 0 < si_sdr_db(reference + 0.01 * n, reference)


def test_the_ends():
    s, n = signals()
    assert si_sdr_db(np.zeros_like(s), s) == -math.inf
    assert si_sdr_db(s, s) > 200
    with pytest.raises(ValueError, match="silent"):
        si_sdr_db(s, np.zeros_like(s))
    with pytest.raises(ValueError, match="one shape"):
        si_sdr_db(s, s[:-1])
    assert si_sdr_db(s + n, s) - si_sdr_db(s + 10 * n, s) == pytest.approx(20, abs=1e-6)


def test_only_what_no_source_explains_is_an_artefact():
    s, n = signals()
    other, noise = signals(seed=1)
    estimate = s + 0.5 * other + 0.1 * noise
    assert si_sar_db(estimate, s, [other]) == pytest.approx(20, abs=0.1)
    assert si_sar_db(s + 0.5 * other, s, [other]) == math.inf
    assert si_sar_db(estimate, s, []) == pytest.approx(si_sdr_db(estimate, s))
    assert si_sar_db(estimate, s, [np.zeros_like(s)]) == pytest.approx(si_sdr_db(estimate, s))
    # Sources that are alike explain no more than one of them.
    assert si_sar_db(estimate, s, [other, 2 * other]) == pytest.approx(
        si_sar_db(estimate, s, [other])
    )
    with pytest.raises(ValueError, match="silent"):
        si_sar_db(n, np.zeros_like(s), [other])


def stereo(seed=0, samples=60000):
    rng = np.random.default_rng(seed)
    s = 0.1 * rng.standard_normal((2, samples)).astype(np.float32)
    e = 0.8 * s + 0.03 * rng.standard_normal(s.shape).astype(np.float32)
    e[:, 20000:30000] *= 0.01
    return e, s


def test_the_stft_distance_is_that_of_auraloss():
    torch = pytest.importorskip("torch")
    e, s = stereo()

    def magnitudes(signal, n_fft, hop, length):
        spectrum = torch.stft(torch.from_numpy(signal), n_fft, hop, length,
                              torch.hann_window(length), return_complex=True)  # fmt: skip
        return torch.clamp(spectrum.abs() ** 2, min=1e-8).sqrt()

    expected = 0.0
    for sizes in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)):
        mine, true = (magnitudes(x, *sizes) for x in (e, s))
        convergence = (true - mine).norm(dim=(-1, -2)) / true.norm(dim=(-1, -2))
        expected += float(convergence.mean() + (true.log() - mine.log()).abs().mean()) / 3
    assert stft_distance(e, s) == pytest.approx(expected, rel=1e-5)
    assert stft_distance(s, s) == 0.0


@pytest.mark.parametrize("rate", [44100, 48000])
def test_bleed_is_too_much_and_fullness_lacks_nothing(rate):
    torch = pytest.importorskip("torch")
    audio_utils = pytest.importorskip("transformers.audio_utils")
    e, s = stereo()
    bands = audio_utils.mel_filter_bank(
        2049, 512, 0, rate / 2, rate, norm="slaney", mel_scale="slaney"
    )

    def levels(signal):
        spectrum = torch.stft(torch.from_numpy(signal), 4096, 1024, window=torch.hann_window(4096),
                              return_complex=True, pad_mode="constant")  # fmt: skip
        mel = torch.einsum("cft,fm->cmt", spectrum.abs(), torch.from_numpy(bands).float())
        decibels = 20 * torch.log10(mel.clamp(min=1e-10))
        return decibels.clamp(min=float(decibels.max()) - 80)

    difference = levels(e) - levels(s)
    over, under = difference[difference > 0].mean(), -difference[difference < 0].mean()
    bleedless, fullness = bleedless_and_fullness(e, s, rate)
    assert bleedless == pytest.approx(float(100 / (1 + over)), rel=1e-4)
    assert fullness == pytest.approx(float(100 / (1 + under)), rel=1e-4)
    assert bleedless_and_fullness(s, s, rate) == (100.0, 100.0)
    assert bleedless_and_fullness(2 * s, s, rate)[1] == 100.0
    assert bleedless_and_fullness(0.5 * s, s, rate)[0] == 100.0
