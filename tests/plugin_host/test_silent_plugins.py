"""Sound in and exact silence out: mended where the plug-in can do it, told where it cannot."""

import numpy as np
import pedalboard
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import Engine, InputError
from plugin_host import Chain, Split
from plugin_host.effects.streams import silent_in_blocks
from plugin_host.files.audio_files import read_audio, write_audio
from plugin_host.render import render_file
from presets import Effect, Preset
from tests.support.host_audio import RATE, music

BUILT_IN = [
    kind
    for kind in vars(pedalboard).values()
    if isinstance(kind, type)
    and issubclass(kind, pedalboard.Plugin)
    and not issubclass(kind, pedalboard.PluginContainer | pedalboard.ExternalPlugin)
]


def makes(kind):
    try:
        kind()
    except (TypeError, NotImplementedError, RuntimeError):
        return False
    return True


USABLE = [kind for kind in BUILT_IN if makes(kind)]
LATE = pedalboard.Delay(delay_seconds=9.0, mix=1.0)


@pytest.mark.parametrize("kind", USABLE, ids=lambda kind: kind.__name__)
def test_every_built_in_plug_in_gives_what_pedalboard_gives(kind):
    sound = music(1.0)
    expected = pedalboard.Pedalboard([kind()]).process(sound, RATE)
    chain = Chain([kind()])
    result = chain.process(sound, RATE)
    assert result.shape == sound.shape
    assert result.any() == expected.any()
    if not silent_in_blocks(kind()):
        return
    assert np.array_equal(result, expected)
    assert chain.silence_reason is None


@pytest.mark.parametrize(
    "effects",
    [
        [pedalboard.PitchShift(3)],
        [pedalboard.Gain(-6), pedalboard.PitchShift(-2), pedalboard.Reverb()],
        [pedalboard.Mix([pedalboard.Gain(0), pedalboard.PitchShift(5)])],
        [pedalboard.Chain([pedalboard.Mix([pedalboard.PitchShift(5)])])],
    ],
    ids=["alone", "in a row", "in a mix", "deep inside"],
)
def test_pitch_shift_sounds_wherever_it_stands(effects):
    sound = music(1.0)
    expected = pedalboard.Pedalboard(effects).process(sound, RATE)
    result = Chain(effects).process(sound, RATE)
    assert np.abs(result - expected).max() < 1e-4
    with pytest.raises(InputError, match="PitchShift gives nothing but silence in a stream"):
        Chain(effects).process(sound, RATE, reset=False)


def test_pitch_shift_sounds_on_a_stem(bundle):
    with Engine(bundle, threads=1) as engine:
        split = Split({"half": [pedalboard.PitchShift(3)], "residual": None}, separator=engine)
        assert np.abs(split.process(music(1.0), RATE)).max() > 0.05


def test_a_plug_in_that_stays_silent_is_told_by_name(tmp_path):
    chain = Chain([LATE, pedalboard.Gain(1)])
    assert not chain.process(music(0.5), RATE).any()
    assert "Delay, Gain: sound went in" in chain.silence_reason
    assert not chain.process(np.zeros((2, 1000), np.float32), RATE).any()
    assert chain.silence_reason is None

    write_audio(tmp_path / "a.wav", music(0.5), RATE)
    late = Effect("Delay", parameters={"delay_seconds": 9.0, "mix": 1.0})
    done = render_file(tmp_path / "a.wav", tmp_path / "b.wav", Preset(before=(late,)))
    assert "Delay: sound went in and nothing but silence came out" in done.note
    assert not read_audio(tmp_path / "b.wav")[0].any()


def test_a_stream_tells_silence_as_long_as_it_lasts():
    chain = Chain([pedalboard.Delay(delay_seconds=0.5, mix=1.0)])
    sound = music(1.0)
    chain.process(sound[:, : RATE // 4], RATE, reset=False)
    assert "Delay" in chain.silence_reason
    chain.process(sound[:, RATE // 4 :], RATE, reset=False)
    chain.flush()
    assert chain.silence_reason is None


@settings(max_examples=40)
@given(
    blocks=st.lists(st.integers(0, 4000), min_size=1, max_size=6),
    channels=st.integers(1, 8),
    first=st.integers(0, 2),
)
def test_blocks_of_any_size_are_a_stream_from_the_first_on(blocks, channels, first):
    sizes = [first, *blocks, 100]
    sound = music(1.0, channels=channels)[:, : sum(sizes)]
    sizes = [min(size, sound.shape[1]) for size in sizes]
    chain = Chain([pedalboard.Gain(-6)] if channels <= 2 else [])
    if first > 1 and channels > first:
        # Three by two may be three samples of two channels: here somebody has to say.
        chain.order = "channels_first"
    parts, at = [], 0
    for size in sizes:
        parts.append(chain.process(sound[:, at : at + size], RATE, reset=False))
        at += size
    parts.append(chain.flush())
    result = np.concatenate([part for part in parts if part.size], axis=1)
    assert np.array_equal(result, chain.process(sound[:, :at], RATE))


def test_a_layout_can_be_told():
    chain = Chain([pedalboard.Gain(0)])
    chain.order = "samples_first"
    parts = [chain.process(np.zeros((size, 2), np.float32), RATE, reset=False) for size in (1, 99)]
    assert sum(len(part) for part in [*parts, chain.flush()]) == 100
