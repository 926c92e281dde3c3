"""What each format holds, over every combination: it comes back as it was, or is refused before."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import InputError
from plugin_host.files import riff
from plugin_host.files.audio_files import (
    FORMATS,
    INTEGER_BITS,
    UNLIMITED,
    check_format,
    choose_subtype,
    format_of,
    keeps_mask,
    read_audio,
    refusal,
    subtypes,
    write_audio,
)
from plugin_host.files.stem_files import comment_of
from plugin_host.render import render_file
from presets import Preset
from tests.support.host_audio import RATE, music

KINDS = [
    (name, subtype)
    for name in sorted({*FORMATS.values(), "WAVEX"})
    for subtype in soundfile.available_subtypes(name)
]
EVERY_SUBTYPE = sorted(
    {each for name in soundfile.available_formats() for each in soundfile.available_subtypes(name)}
)
LOSSY = {
    "VORBIS": 0.2,
    "OPUS": 0.3,
    "MPEG_LAYER_III": 0.2,
    "GSM610": 0.3,
    "ULAW": 0.05,
    "ALAW": 0.05,
}
UNCHANGED = Preset(bypass=True)


@pytest.mark.parametrize(("file_format", "subtype"), KINDS)
def test_what_is_written_comes_back_and_the_rest_is_refused_before(tmp_path, file_format, subtype):
    held = 0
    for number, (rate, channels, level) in enumerate(
        itertools.product((8000, 44100, 48000, 88201), (1, 2, 6, 9, 300), (0.5, 2.0))
    ):
        path = tmp_path / str(number)
        tone = np.sin(np.arange(2017) * 2 * np.pi * 440 / rate)
        audio = np.tile(tone * level, (channels, 1)).astype(np.float32)
        reason = refusal(file_format, subtype, rate, channels)
        clipping = subtype not in UNLIMITED and level > 1.0
        options = {"file_format": file_format, "subtype": subtype}
        if reason is not None or clipping:
            expected = "cannot hold" if reason is not None else "would clip"
            with pytest.raises(InputError, match=expected):
                write_audio(path, audio, rate, **options)
            assert not path.exists()
            continue
        write_audio(path, audio, rate, **options)
        held += 1
        if subtype not in subtypes(file_format):
            continue  # Its length is not kept, so nothing chooses it.
        back, info = read_audio(path)
        assert (info.sample_rate, info.channels, info.notes) == (rate, channels, ())
        if file_format != "MP3":
            assert back.shape == audio.shape
        tolerance = LOSSY.get(subtype, 2.0 ** (1 - INTEGER_BITS.get(subtype, 16)))
        middle = slice(500, 1500)
        loudest = np.abs(back[:, middle]).max(axis=1) if channels < 9 else np.abs(back).max()
        if subtype not in ("OPUS", "VORBIS") or channels <= 2:  # the channel of bass has no 440 Hz
            assert np.allclose(loudest, level, atol=level * tolerance + tolerance)
    assert held or subtypes(file_format)


@given(source=st.sampled_from(EVERY_SUBTYPE), file_format=st.sampled_from([*FORMATS.values()]))
def test_bits_are_kept_or_their_loss_is_told(source, file_format):
    subtype, note = choose_subtype(file_format, source)
    assert subtype in subtypes(file_format)
    needed = INTEGER_BITS.get(source, 33 if source in ("FLOAT", "DOUBLE") else 0)
    if subtype in INTEGER_BITS and INTEGER_BITS[subtype] < needed:
        assert f"{INTEGER_BITS[subtype]} bits" in note
        assert INTEGER_BITS[subtype] == max(INTEGER_BITS.get(s, 0) for s in subtypes(file_format))
    else:
        assert note is None


@pytest.mark.slow
@given(
    file_format=st.sampled_from([*FORMATS.values()]),
    rate=st.integers(1, 1_000_000),
    channels=st.integers(1, 1100),
)
@settings(max_examples=200)
def test_a_refusal_names_formats_that_hold_the_audio(file_format, rate, channels):
    subtype = subtypes(file_format)[0]
    if refusal(file_format, subtype, rate, channels) is None:
        check_format(file_format, subtype, rate, channels)
        return
    with pytest.raises(InputError, match=f"{file_format} cannot hold") as caught:
        check_format(file_format, subtype, rate, channels)
    _, named, suffixes = str(caught.value).partition("; choose ")
    for suffix in suffixes.split(", ") if named else ():
        other = format_of(suffix)
        assert any(refusal(other, each, rate, channels) is None for each in subtypes(other))


@given(st.text(max_size=8))
def test_a_suffix_is_a_format_or_refused_with_those_there_are(suffix):
    if f".{suffix.lower().removeprefix('.')}" in FORMATS:
        assert format_of(suffix) in FORMATS.values()
        return
    with pytest.raises(InputError, match="expected wav, flac"):
        format_of(suffix)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("source", ["PCM_16", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_every_format_is_rendered_and_recognised_again(tmp_path, suffix, source):
    path = tmp_path / "a.wav"
    target = tmp_path / "out" / f"a{suffix}"
    soundfile.write(path, music(0.3).T, RATE, subtype=source)
    first = render_file(path, target, UNCHANGED)
    assert not first.skipped
    # A .wav file may be RF64 inside; one that is called .rf64 is.
    assert soundfile.info(target).format == FORMATS[suffix]
    assert comment_of(target).startswith("stembridge render ")
    assert render_file(path, target, UNCHANGED).skipped


@pytest.mark.slow
def test_an_hour_of_ogg_does_not_overflow_the_stack(tmp_path):
    write_audio(
        tmp_path / "a.ogg", np.zeros((1, 3600 * 8000), np.float32), 8000, file_format="OGG",
        subtype="VORBIS",
    )  # fmt: skip
    assert soundfile.info(tmp_path / "a.ogg").frames == 3600 * 8000


def test_full_scale_itself_fits_where_there_is_no_float(tmp_path):
    sound = np.array([[1.0, -1.0, 0.5, 0.0] * 100], np.float32)
    write_audio(tmp_path / "a.wav", sound, RATE)
    done = render_file(tmp_path / "a.wav", tmp_path / "a.flac", UNCHANGED)
    assert "24 bits" in done.note
    assert np.abs(read_audio(tmp_path / "a.flac")[0] - sound).max() <= 2**-23
    write_audio(tmp_path / "b.wav", sound * 1.01, RATE)
    with pytest.raises(InputError, match="lower a gain"):
        render_file(tmp_path / "b.wav", tmp_path / "b.flac", UNCHANGED)


@given(
    channels_and_mask=st.integers(1, 8).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.sets(st.integers(0, 17), min_size=n, max_size=n).map(
                lambda bits: sum(1 << bit for bit in bits)
            ),
        )
    ),
    suffix=st.sampled_from([*FORMATS]),
)
@settings(max_examples=60)
def test_which_speaker_a_channel_is_for_is_kept_or_told(
    tmp_path_factory, channels_and_mask, suffix
):
    channels, mask = channels_and_mask
    folder = tmp_path_factory.mktemp("mask")
    source, target = folder / "a.wav", folder / "o" / f"a{suffix}"
    soundfile.write(source, music(0.1, channels=channels).T, RATE, format="WAVEX")
    riff.write_channel_mask(source, mask)
    if refusal(FORMATS[suffix], subtypes(FORMATS[suffix])[0], RATE, channels):
        with pytest.raises(InputError, match="cannot hold"):
            render_file(source, target, UNCHANGED)
        return
    note = render_file(source, target, UNCHANGED).note
    kept = keeps_mask(FORMATS[suffix], channels, mask)
    assert kept != ("channel mask" in (note or ""))
    if suffix in (".wav", ".rf64"):
        assert riff.read_channel_mask(target) == mask


@pytest.mark.parametrize("channels", range(1, 9))
def test_ogg_has_its_own_order_of_channels(tmp_path, channels):
    tones = [np.sin(np.arange(RATE) * 2 * np.pi * 30 * (n + 1) / RATE) for n in range(channels)]
    sound = 0.3 * np.array(tones, np.float32)
    path = tmp_path / "a.ogg"
    write_audio(path, sound, RATE, file_format="OGG", subtype="VORBIS")
    back = read_audio(path)[0]
    assert np.abs(back[:, 2000:-2000] - sound[:, 2000:-2000]).max() < 0.1
    # Vorbis I, 4.3.9: left, centre, right first from three channels on, the bass last.
    raw = soundfile.read(path, always_2d=True)[0].T
    loudest = [int(np.argmax(np.abs(np.fft.rfft(channel)))) // 30 - 1 for channel in raw]
    assert loudest == {
        1: [0], 2: [0, 1], 3: [0, 2, 1], 4: [0, 1, 2, 3], 5: [0, 2, 1, 3, 4],
        6: [0, 2, 1, 4, 5, 3], 7: [0, 2, 1, 5, 6, 4, 3], 8: [0, 2, 1, 6, 7, 4, 5, 3],
    }[channels]  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_never_written(tmp_path, bad):
    for name, subtype in (("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS")):
        with pytest.raises(InputError, match="NaN or infinite"):
            write_audio(
                Path(tmp_path / "a"), np.full((1, 9), bad, np.float32), RATE, file_format=name,
                subtype=subtype,
            )  # fmt: skip
