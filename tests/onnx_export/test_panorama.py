"""Places of coefficients in the stereo field, and masks that choose among them."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from onnx_export.networks.lapped import (
    BANDS_CHOSEN,
    BANDS_HEARD,
    PLACES,
    Panorama,
    band_of_channel,
)
from onnx_export.networks.mini import MiniModel
from tests.support.training_recipe import MODEL

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


def test_what_takes_over_a_smaller_model_answers_as_it_did_in_the_band_that_both_hear() -> None:
    torch.manual_seed(0)
    narrow = replace(MODEL, hop_length=512, latent_channels=384, stereo=True)
    small = MiniModel(narrow).eval()
    torch.nn.init.normal_(small.velocity.transformer.output.weight, std=0.1)
    wide = replace(
        narrow, sample_rate=24000, hop_length=768, latent_channels=768, n_layers=MODEL.n_layers + 2,
        text=replace(MODEL.text, vocab_size=2000),
    )  # fmt: skip
    large = MiniModel(wide).eval()
    large.take_over(small)
    frames, known = 6, narrow.latent_channels
    heard, beside = torch.randn(2, 1, frames, known)
    # What lies above is as loud as what is known, for a window is heard at unit level; next to the
    # border, where neighbours are heard together, there is nothing.
    above = functional.pad(torch.randn(2, 1, frames, wide.latent_channels - known - 1), (1, 0))
    above *= heard.pow(2).mean().sqrt() / above[0].pow(2).mean().sqrt()
    ids, mask = torch.randint(3, 900, (1, 3)), torch.ones(1, 3, dtype=torch.bool)
    spans, start = torch.zeros(1, frames, dtype=torch.int64), torch.zeros(1)
    with torch.no_grad():
        expected = small.velocity.clean(
            torch.zeros(1, frames, 2 * known), start, heard,
            small.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state,
            mask, spans, beside,
        )  # fmt: skip
        found = large.velocity.clean(
            torch.zeros(1, frames, 2 * wide.latent_channels), start,
            torch.cat([heard, above[0]], dim=-1),
            large.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state,
            mask, spans, torch.cat([beside, above[1]], dim=-1),
        )  # fmt: skip
    for mine, theirs in zip(found.chunk(2, dim=-1), expected.chunk(2, dim=-1), strict=True):
        torch.testing.assert_close(mine[..., :known], theirs, atol=1e-4, rtol=1e-4)
    # Longer blocks have larger coefficients, which the codec's scale takes out again.
    torch.testing.assert_close(large.codec.scale[:known], small.codec.scale * 1.5**0.5)


def test_a_wider_codec_is_banded_like_a_narrow_one_and_goes_on_above() -> None:
    wide = band_of_channel(768, BANDS_HEARD)
    assert torch.equal(wide[:384], band_of_channel(384, BANDS_HEARD))
    assert wide[384] == BANDS_HEARD
    assert (wide.diff() >= 0).all()
    assert Panorama(768).bands_heard == int(wide[-1]) + 1
