"""A sound whose spans all lie elsewhere is nowhere in what is separated, not everywhere.

In the tiny model a prompt without spans gives its share, a negative span silence.
"""

import mido
import numpy as np
import pytest
import soundfile

from bridge import Engine, Span
from plugin_host import Separate
from plugin_host.cli import main
from plugin_host.daw.reaper import ReaperSession
from tests.support.host_audio import RATE, music


def level(audio):
    return float(np.abs(audio).max())


def notes_from(path, seconds):
    midi = mido.MidiFile(ticks_per_beat=480)  # half a second, unless told otherwise
    midi.tracks.append(
        mido.MidiTrack(
            [
                mido.Message("note_on", note=60, velocity=90, time=int(seconds * 960)),
                mido.Message("note_off", note=60, time=480),
            ]
        )
    )
    midi.save(path)


@pytest.mark.parametrize(("at_s", "heard"), [(1.0, True), (100.0, False)])
def test_notes_and_labels_past_the_end_of_a_file(bundle, song, tmp_path, at_s, heard):
    notes_from(tmp_path / "notes.mid", at_s)
    (tmp_path / "labels.txt").write_text(f"{at_s}\t{at_s + 0.5}\tvox: everything\n")
    for source in (
        ["-p", "vox=everything", "--span-midi", tmp_path / "notes.mid"],
        ["--labels", tmp_path / "labels.txt"],
    ):
        out = tmp_path / source[0].strip("-")
        options = ["--reconstruct", "raw", "--model", bundle, "--in-process", "-o", out]
        assert main(["separate", str(song), *map(str, [*source, *options])]) == 0
        stem, _ = soundfile.read(out / "song" / "vox.wav")
        assert (level(stem) > 0.01) is heard


@pytest.mark.parametrize("segment_s", [None, 0.5])
@pytest.mark.parametrize("spans", [[Span(100, 101)], [Span(100, 101), Span(0.2, 0.3, "-")]])
def test_a_segment_before_the_first_span_is_silent(bundle, segment_s, spans):
    with Engine(bundle) as engine:
        effect = Separate(
            "everything", separator=engine, reconstruct="raw", segment_s=segment_s, spans=spans
        )
        assert level(effect(music(), RATE)) < 1e-4


def test_a_clip_of_a_session_that_no_span_touches_is_silent(bundle, tmp_path):
    item = """    <ITEM
      POSITION {at}
      LENGTH 2
      LOOP 0
      IGUID {{22222222-0000-0000-0000-00000000000{number}}}
      IID {number}
      NAME {name}
      VOLPAN 1 0 1 -1
      SOFFS 0
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {{33333333-0000-0000-0000-00000000000{number}}}
      <SOURCE WAVE
        FILE "{name}.wav"
      >
    >
"""
    items = [item.format(number=n, at=2 * n, name=name) for n, name in enumerate(("one", "two"))]
    for number, name in enumerate(("one", "two")):
        soundfile.write(tmp_path / f"{name}.wav", music(2, seed=number).T, RATE)
    path = tmp_path / "song.rpp"
    path.write_text(
        '<REAPER_PROJECT 0.1 "6.80/linux-x86_64" 1690000000\n  TEMPO 120 4 4\n'
        "  <TRACK {11111111-0000-0000-0000-000000000001}\n    NAME Mix\n    MUTESOLO 0 0 0\n"
        f"    ISBUS 0 0\n{''.join(items)}  >\n>\n"
    )
    (tmp_path / "raw.toml").write_text(
        'format = 1\nreconstruct = "raw"\n[[prompts]]\ntext = "everything"\nname = "vox"\n'
    )
    code = main(
        ["session", "apply", str(path), "--track", "Mix", "--preset", str(tmp_path / "raw.toml"),
         "--span", "vox@0.2:0.8", "--model", str(bundle), "--in-process"]
    )  # fmt: skip
    assert code == 0
    first, second = (
        soundfile.read(clip.sources[0].path)[0] for clip in ReaperSession(path).clips("vox")
    )
    assert level(first) > 0.01
    assert level(second) < 1e-4
