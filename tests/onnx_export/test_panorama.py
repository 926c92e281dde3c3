"""Places of coefficients in the stereo field, and masks that choose among them."""

import math
from dataclasses import replace

import pytest
import torch
from training_recipe import MODEL

from onnx_export.mini import MiniModel
from onnx_export.panorama import (
    BANDS_CHOSEN,
    BANDS_HEARD,
    PLACES,
    Panorama,
    band_of_channel,
)

CHANNELS = 48


@pytest.fixture(scope="module")
def panorama() -> Panorama:
    return Panorama(CHANNELS)


def source(seed: int, frames: int = 5) -> torch.Tensor:
    return torch.randn(1, frames, CHANNELS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("angle", [0.1, math.pi / 4, 1.4])
def test_all_of_a_panned_source_lies_at_its_angle(panorama: Panorama, angle: float) -> None:
    wave = source(0)
    place, features = panorama(math.cos(angle) * wave, math.sin(angle) * wave)
    torch.testing.assert_close(
        place, torch.full_like(place, angle * 2 / math.pi), atol=1e-3, rtol=0
    )
    assert features.shape[-1] == panorama.features
    alike = features[..., CHANNELS : 2 * CHANNELS]
    assert (alike > 0.95).float().mean() > 0.9  # all but nearly silent coefficients


def test_power_is_heard_at_the_place_of_its_source(panorama: Panorama) -> None:
    left, right = source(1), source(2)
    right[..., : CHANNELS // 2] = 0  # above the middle only
    own, beside = left * math.cos(0.2) + right * math.cos(1.37), left * 0.2 + right
    _, features = panorama(own, beside)
    spectra = features[..., 2 * CHANNELS :].reshape(1, 5, PLACES, BANDS_HEARD).mean((0, 1))
    low = band_of_channel(CHANNELS, BANDS_HEARD)[: CHANNELS // 4].unique()
    near, far = spectra[: PLACES // 3, low].max(), spectra[-PLACES // 3 :, low].max()
    assert near > far + 0.5


def test_opposite_phase_is_told_from_equal_phase(panorama: Panorama) -> None:
    wave = source(3)
    for sign in (1, -1):
        likeness = panorama(wave, sign * wave)[1][..., CHANNELS : 2 * CHANNELS]
        assert (sign * likeness).median() > 0.95


def test_a_gain_reaches_its_place_and_band_alone(panorama: Panorama) -> None:
    place = torch.full((1, 1, CHANNELS), 3 / (PLACES - 1))
    place[..., 1::2] = 9.5 / (PLACES - 1)
    gains = torch.zeros(1, 1, 2, BANDS_CHOSEN, PLACES)
    gains[:, :, 1, 4, 3], gains[:, :, 1, 4, 9], gains[:, :, 1, 4, 10] = 7.0, 2.0, 4.0
    chosen = panorama.choose(place, gains.flatten(2)).reshape(2, CHANNELS)
    band = panorama.chosen_bands == 4
    assert not chosen[0].any()
    assert not chosen[1, ~band].any()
    even = torch.arange(CHANNELS) % 2 == 0
    torch.testing.assert_close(chosen[1, band & even], torch.full((int((band & even).sum()),), 7.0))
    torch.testing.assert_close(
        chosen[1, band & ~even], torch.full((int((band & ~even).sum()),), 3.0)
    )


def test_the_ends_of_the_field_are_places_too(panorama: Panorama) -> None:
    wave = source(4)
    gains = torch.arange(float(PLACES)).repeat(1, 5, BANDS_CHOSEN)
    for pair, number in (((wave, 0 * wave), 0), ((0 * wave, wave), PLACES - 1)):
        chosen = panorama.choose(panorama(*pair)[0], gains)
        torch.testing.assert_close(chosen, torch.full_like(chosen, number), atol=1e-2, rtol=0)


@pytest.mark.parametrize("bands", [BANDS_HEARD, BANDS_CHOSEN])
def test_bands_cover_all_channels_finer_at_the_bottom(bands: int) -> None:
    band = band_of_channel(384, bands)
    assert band[0] == 0
    assert band[-1] == bands - 1
    assert (band.diff() >= 0).all()
    sizes = band.bincount(minlength=bands)
    assert sizes.min() > 0
    assert sizes[-1] > 5 * sizes[0]


def test_what_takes_over_a_mono_model_answers_as_it_did() -> None:
    torch.manual_seed(0)
    mono = MiniModel(MODEL).eval()
    torch.nn.init.normal_(mono.velocity.transformer.output.weight, std=0.1)
    stereo = MiniModel(replace(MODEL, stereo=True)).eval()
    stereo.take_over(mono)
    frames, width = 6, MODEL.latent_channels
    state, heard = torch.randn(1, frames, 2 * width), torch.randn(1, frames, width)
    text, mask = torch.randn(1, 3, MODEL.text.dim), torch.ones(1, 3, dtype=torch.bool)
    spans = torch.zeros(1, frames, dtype=torch.int64)
    given = (state, torch.full((1,), 0.3), heard, text, mask, spans)
    beside = torch.randn(1, frames, width)
    torch.testing.assert_close(stereo.velocity(*given, beside), mono.velocity(*given))
    with torch.no_grad():
        torch.nn.init.normal_(stereo.velocity.transformer.output.weight, std=0.1)
    assert not torch.allclose(stereo.velocity(*given, beside), stereo.velocity(*given))
    with pytest.raises(ValueError, match="dim=32"):
        stereo.take_over(MiniModel(replace(MODEL, dim=32)))
