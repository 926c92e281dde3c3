"""REAPER projects at the level of the file: changed only where stems were added."""

import difflib

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from plugin_host.cli import main
from plugin_host.daw import open_session, rpp
from plugin_host.daw.reaper import ReaperSession
from plugin_host.daw.session import SessionError
from tests.support.host_audio import music

RATE = 44100

SIMPLE = """<REAPER_PROJECT 0.1 "6.80/linux-x86_64" 1690000000
  RIPPLE 0
  TEMPO 120 4 4
  <TRACK {11111111-0000-0000-0000-000000000001}
    NAME Gitarre
    VOLPAN 0.5 -0.25 -1 -1 1
    MUTESOLO 0 0 0
    ISBUS 0 0
    <ITEM
      POSITION 2.5
      SNAPOFFS 0
      LENGTH 1.25
      LOOP 1
      FADEIN 1 0.01 0 1 0 0 0
      FADEOUT 1 0.01 0 1 0 0 0
      MUTE 0 0
      SEL 0
      IGUID {22222222-0000-0000-0000-000000000001}
      IID 1
      NAME "take 1.wav"
      VOLPAN 1 0 0.8 -1
      SOFFS 0.5
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {33333333-0000-0000-0000-000000000001}
      <SOURCE WAVE
        FILE "audio/take 1.wav"
      >
    >
  >
>
"""

FULL = """<REAPER_PROJECT 0.1 "7.05/win64" 1700000000
  <NOTES 0 2
    |Text mit > und < und
    |Umlauten: äöü 日本語 "quotes" 'single'
  >
  TEMPO 97.5 4 4
  MARKER 1 3.5 "Refrain ö" 0
  <TRACK {AAAAAAAA-0000-0000-0000-000000000001}
    NAME Ordner
    ISBUS 1 1
  >
  <TRACK {AAAAAAAA-0000-0000-0000-000000000002}
    NAME 'Stimme "laut"'
    MUTESOLO 0 0 0
    ISBUS 2 -1
    <VOLENV2
      EGUID {BBBBBBBB-0000-0000-0000-000000000001}
      ACT 1 -1
      PT 0 1 0
      PT 4.5 0.5 0
    >
    <FXCHAIN
      SHOW 0
      <VST "VST3: ReaComp (Cockos)" reacomp.vst3 0 "" 1919247213<5653547265636D726561636F6D7000> ""
        bWNlcu5e7f4EAAAAAQAAAAAAAAACAAAAAAAAAAQAAAAAAAAACAAAAAAAAAACAAAA
        AAAAAAAAAAA=
      >
      WAK 0 0
    >
    <ITEM
      POSITION 0.75
      LENGTH 1.5
      LOOP 0
      IGUID {CCCCCCCC-0000-0000-0000-000000000001}
      NAME alt.wav
      SOFFS 0
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {DDDDDDDD-0000-0000-0000-000000000001}
      <SOURCE WAVE
        FILE "gibt es nicht.wav"
      >
      TAKE SEL
      NAME "Äußerung – 2.wav"
      VOLPAN 1 0 1 -1
      SOFFS 0.25
      PLAYRATE 1.5 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {DDDDDDDD-0000-0000-0000-000000000002}
      <SOURCE WAVE
        FILE "audio\\Äußerung – 2.wav" 1
      >
    >
    <ITEM
      POSITION 6
      LENGTH 9
      LOOP 1
      IGUID {CCCCCCCC-0000-0000-0000-000000000002}
      NAME loop
      SOFFS 0.1
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {DDDDDDDD-0000-0000-0000-000000000003}
      <SOURCE WAVE
        FILE "audio\\Äußerung – 2.wav" 1
      >
    >
  >
  <TRACK {AAAAAAAA-0000-0000-0000-000000000003}
    NAME Danach
    ISBUS 0 0
  >
  <EXTENSIONS
  >
>
""".replace("\n", "\r\n")

# No line end at the end, tabs, separators inside strings, a byte that is not UTF-8.
ODD = (
    SIMPLE.replace("NAME Gitarre", "NAME 'Git\u2028arre\x85 `x` \"y\"'")
    .replace("  RIPPLE 0", "\tRIPPLE   0  ")
    .rstrip("\n")
    .encode()
    .replace(b"TEMPO 120", b"AUTHOR M\xfcller\n  TEMPO 120")
)

PROJECTS = {
    "simple": (SIMPLE.encode(), "Gitarre"),
    "full": (FULL.encode(), 'Stimme "laut"'),
    "odd": (ODD, 'Git\u2028arre\x85 `x` "y"'),
}


@pytest.fixture(params=PROJECTS)
def project(request, tmp_path):
    data, track = PROJECTS[request.param]
    path = tmp_path / "Lied ö.RPP"
    path.write_bytes(data)
    (tmp_path / "audio").mkdir()
    for seed, name in enumerate(["take 1.wav", "Äußerung – 2.wav"]):
        soundfile.write(tmp_path / "audio" / name, music(4, RATE, seed=seed).T, RATE)
    return path, track


def apply(path, track, bundle, *arguments):
    options = ["--track", track, "--model", str(bundle), "--in-process", *arguments]
    return main(["session", "apply", str(path), *options])


def test_what_is_read_writes_back_byte_for_byte(project):
    path, _ = project
    session = ReaperSession(path)
    assert session.text().encode("utf-8", "surrogateescape") == path.read_bytes()


@given(st.lists(st.sampled_from(["A 1", "<B 2", ">", " ", "\r", "|x > y", 'N "< q"'])))
def test_any_text_is_parsed_without_loss_or_refused(lines):
    text = "<REAPER_PROJECT\n" + "\n".join(lines) + "\n>"
    try:
        chunk = rpp.parse(text)
    except SessionError:
        assert any(line in (">", "<B 2") for line in lines)
        return
    assert chunk.text() == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1))
def test_a_quoted_name_reads_back(text):
    (back,) = rpp.split_fields("NAME " + rpp.quote(text))[1:]
    assert back == (text if {*"\"'`"} - {*text} else text.replace("`", "'"))


def test_only_lines_are_added_and_one_mute_changed(project, bundle):
    path, track = project
    before = path.read_bytes()
    assert apply(path, track, bundle, "-p", "vox=half", "--mute-source") == 0
    after = path.read_bytes()
    diff = [
        line
        for line in difflib.diff_bytes(
            difflib.unified_diff, before.split(b"\n"), after.split(b"\n"), n=0
        )
        if line.startswith((b"-", b"+")) and not line.startswith((b"---", b"+++"))
    ]
    removed = [line[1:].strip() for line in diff if line.startswith(b"-")]
    # The last track of a folder hands its end on to the stems.
    assert removed == [b"MUTESOLO 0 0 0", *([b"ISBUS 2 -1"] if b"ISBUS 2" in before else [])]
    if b"\r\n" in before:
        assert all(line.endswith(b"\r") for line in diff)

    assert main(["session", "undo", str(path)]) == 0
    assert path.read_bytes() == before


def test_the_new_items_play_the_stems_of_what_the_old_ones_play(project, bundle):
    path, track = project
    old = ReaperSession(path).clips(track)
    assert apply(path, track, bundle, "-p", "vox=half") == 0
    session = ReaperSession(path)
    names = [info.name for info in session.tracks()]
    assert names == [track, "vox", "residual"]
    stems = {name: session.clips(name) for name in names[1:]}
    for index, clip in enumerate(old):
        new = [clips[index] for clips in stems.values()]
        assert {(c.position_s, c.length_s) for c in new} == {(clip.position_s, clip.length_s)}
        total = sum(played(c) for c in new)
        assert np.abs(total - played(clip)).max() < 1e-5


def played(clip):
    audio, _ = soundfile.read(clip.sources[0].path, dtype="float32", always_2d=True)
    part = audio[clip.start : clip.start + clip.samples]
    assert len(part) == clip.samples
    return part


@pytest.fixture
def simple(tmp_path):
    path = tmp_path / "a.rpp"
    path.write_text(SIMPLE)
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "take 1.wav", music(4, RATE).T, RATE)
    return path


def test_the_level_of_the_track_is_that_of_the_folder(simple, bundle):
    assert apply(simple, "Gitarre", bundle, "-p", "half") == 0
    folder = simple.read_text().split("<TRACK")[2]
    assert "Gitarre stems" in folder
    assert "VOLPAN 0.5 -0.25 -1 -1 1" in folder


def test_a_second_run_adds_and_updates_when_the_preset_says_so(project, bundle, tmp_path):
    path, track = project
    assert apply(path, track, bundle, "-p", "half") == 0
    assert apply(path, track, bundle, "-p", "half") == 0
    assert len(open_session(path).tracks()) == 5
    audio = set((tmp_path / "stembridge").rglob("*.wav"))
    preset = tmp_path / ".stembridge" / "presets" / "mine.toml"
    preset.parent.mkdir(parents=True, exist_ok=True)
    preset.write_text('format = 1\nrerun = "update"\n[[prompts]]\ntext = "half"\n')
    for _ in range(2):
        assert apply(path, track, bundle, "--preset", "mine") == 0
    assert len(open_session(path).tracks()) == 7
    assert audio < set((tmp_path / "stembridge").rglob("*.wav"))


def test_spans_of_the_timeline_reach_the_source(tmp_path, bundle):
    path = tmp_path / "a.rpp"
    path.write_text(SIMPLE)
    (tmp_path / "audio").mkdir()
    mixture = music(4, RATE)
    soundfile.write(tmp_path / "audio" / "take 1.wav", mixture.T, RATE, subtype="FLOAT")
    preset = tmp_path / "raw.toml"
    preset.write_text('format = 1\nreconstruct = "raw"\n[[prompts]]\ntext = "half"\n')
    # The item begins at 2.5 s with its source at 0.5 s: 3 to 3.4 s is 1 to 1.4 s there.
    options = ["--preset", str(preset), "--not-span", "3:3.4"]
    assert apply(path, "Gitarre", bundle, *options) == 0
    (clip,) = ReaperSession(path).clips("half")
    stem = played(clip)[:, 0]
    source = mixture.mean(axis=0)[RATE // 2 :][: len(stem)]

    def share(start_s, end_s):
        part = slice(round(start_s * RATE), round(end_s * RATE))
        return float(stem[part] @ source[part] / (source[part] @ source[part]))

    assert share(0.1, 0.4) == pytest.approx(0.5, abs=0.05)
    assert share(0.55, 0.85) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<SOURCE WAVE", "<SOURCE MIDI", "plays MIDI; freeze the track"),
        ("<SOURCE WAVE", "<SOURCE CLICK", "not read here (CLICK); render it"),
        ("<SOURCE WAVE", "<SOURCE VIDEO", "not read here (VIDEO); render it"),
        ("<SOURCE WAVE", "<SOURCE SECTION", "section or reversed; glue it"),
        ("CHANMODE 0", "CHANMODE 5", "channels its file does not have"),
        ("SOFFS 0.5", "SOFFS 0.5\n      SM 0 0", "stretch markers; glue it"),
        ("SOFFS 0.5", "SOFFS 0.5\n      <TAKEFX\n<JS x\n>\n      >", "take effects; glue it"),
        ("SOFFS 0.5", "SOFFS 0.5\n      SPECTRAL_EDIT 0 1", "spectral edits; glue it"),
        ("SOFFS 0.5", "SOFFS 0.5\n      SAMPLEEDITS 1 2 44100\n<SPLS 0\n>", "edited samples"),
        ('take 1.wav"\n      >', 'take 9.wav"\n      >', "relink"),
        ("NAME Gitarre", "NAME Other", "no track 'Gitarre'; there are 'Other'"),
        ("  >\n>", "  >", "not a complete REAPER project"),
    ],
)
def test_what_cannot_be_honoured_is_named_and_nothing_changes(
    simple, bundle, capsys, *, old, new, expected
):
    assert old in SIMPLE
    simple.write_text(SIMPLE.replace(old, new))
    before = simple.read_bytes()
    path = simple
    assert apply(path, "Gitarre", bundle, "-p", "half") == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert path.read_bytes() == before
    assert not (simple.parent / "stembridge").exists()


def test_the_range_chooses_items_and_does_not_mute_the_others(tmp_path, bundle, capsys):
    path = tmp_path / "a.rpp"
    path.write_bytes(FULL.encode())
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "Äußerung – 2.wav", music(4, RATE).T, RATE)
    options = ["-p", "half", "--range", "0:3"]
    assert apply(path, 'Stimme "laut"', bundle, *options, "--mute-source") == 2
    assert "outside the range" in capsys.readouterr().err
    assert apply(path, 'Stimme "laut"', bundle, *options) == 0
    assert [info.clips for info in open_session(path).tracks()] == [2, 1, 1]


@pytest.mark.parametrize("track_range", ["2.75:3.5", "0:3", "3.2:9"])
def test_a_range_is_cut_to_the_sample(simple, bundle, track_range):
    (old,) = ReaperSession(simple).clips("Gitarre")
    mixture = soundfile.read(simple.parent / "audio" / "take 1.wav", dtype="float32")[0]
    assert apply(simple, "Gitarre", bundle, "-p", "half", "--range", track_range) == 0
    low, high = map(float, track_range.split(":"))
    low, high = max(low, old.position_s), min(high, old.end_s)
    session = ReaperSession(simple)
    new = [session.clips(name)[0] for name in ("half", "residual")]
    for clip in new:
        assert (clip.position_s, clip.end_s) == pytest.approx((low, high), abs=1e-9)
    first = round((low - old.position_s + 0.5) * RATE)
    expected = mixture[first : first + round((high - low) * RATE)]
    assert np.abs(sum(map(played, new)) - expected).max() < 1e-6
    added = simple.read_text().split("<TRACK")[3]
    # The fades of the ends that were cut are gone, the others stay.
    assert ("FADEIN 1 0.01" in added) == (low == old.position_s)
    assert ("FADEOUT 1 0.01" in added) == (high == old.end_s)


def test_a_range_of_an_item_that_plays_faster_and_of_one_that_loops(tmp_path, bundle):
    path = tmp_path / "a.rpp"
    path.write_bytes(FULL.encode())
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "Äußerung – 2.wav", music(4, RATE).T, RATE)
    before = ReaperSession(path).clips('Stimme "laut"')
    assert apply(path, 'Stimme "laut"', bundle, "-p", "half", "--range", "1.25:7") == 0
    fast, loop = ReaperSession(path).clips("half")
    old, _ = before
    assert (fast.position_s, fast.end_s) == pytest.approx((1.25, 2.25))
    assert fast.samples == pytest.approx(1.0 * 1.5 * RATE, abs=1)
    stems = [played(ReaperSession(path).clips(name)[0]) for name in ("half", "residual")]
    expected = played(old)[round(0.5 * 1.5 * RATE) :]
    assert np.abs(sum(stems) - expected).max() < 1e-6
    # The loop goes on from where it stood: 0.1 s into its file.
    assert (loop.position_s, loop.end_s) == pytest.approx((6, 7))
    assert loop.origin == pytest.approx(0.1 * RATE, abs=1)


def test_a_range_through_a_fade_or_an_envelope_is_refused(simple, bundle, capsys):
    before = simple.read_bytes()
    assert apply(simple, "Gitarre", bundle, "-p", "half", "--range", "2.505:3") == 2
    assert "cuts the fade-in of 'take 1.wav' at 2.505 s" in capsys.readouterr().err
    assert simple.read_bytes() == before
    simple.write_text(SIMPLE.replace("CHANMODE 0", "CHANMODE 0\n<VOLENV\nPT 0 1 0\n>"))
    assert apply(simple, "Gitarre", bundle, "-p", "half", "--range", "2.6:3") == 2
    assert "has an envelope" in capsys.readouterr().err
    assert apply(simple, "Gitarre", bundle, "-p", "half", "--range", "2.5:3") == 0


MARKED = SIMPLE.replace(
    "  TEMPO 120 4 4\n",
    "  SELECTION 3 3.4\n  SELECTION2 2.75 3.25\n"
    '  MARKER 1 2.6 "vox: half" 0\n  MARKER 2 3 -vox 8\n  MARKER 3 3.2 Ende\n'
    '  MARKER 1 2.5 "all: everything" 1 0 1 R {11111111-0000-0000-0000-00000000000F}\n'
    '  MARKER 1 3.5 "" 1\n  MARKER 4 9\n',
)


def test_selection_loop_markers_and_regions_are_read(simple):
    simple.write_text(MARKED)
    marks = ReaperSession(simple).marks()
    assert (marks.selection, marks.loop) == ((3.0, 3.4), (2.75, 3.25))
    assert [(m.text, m.start_s, m.end_s) for m in marks.labels] == [
        ("all: everything", 2.5, 3.5),
        ("vox: half", 2.6, 2.6),
        ("-vox", 3.0, 3.0),
        ("Ende", 3.2, 3.2),
        ("", 9.0, 9.0),
    ]


def test_without_a_prompt_the_names_in_the_session_are_the_prompts(simple, bundle):
    simple.write_text(MARKED)
    assert apply(simple, "Gitarre", bundle, "--range", "selection") == 0
    clips = {t.name: ReaperSession(simple).clips(t.name)[0] for t in open_session(simple).tracks()}
    assert list(clips) == ["Gitarre", "all", "vox", "residual"]
    assert (clips["vox"].position_s, clips["vox"].end_s) == pytest.approx((3.0, 3.4))


def test_what_the_session_does_not_mark_is_told(simple, bundle, capsys):
    for options, expected in (
        (["--range", "selection", "-p", "half"], "no time selection"),
        (["--range", "loop", "-p", "half"], "no loop range"),
        (["--range", "3:2", "-p", "half"], "expected START:END in seconds"),
        (["--spans-from", "loop", "-p", "half"], "no loop range"),
        (["--spans-from", "markers", "-p", "half"], "none of the session's markers"),
        (["--spans-from", "notes", "-p", "half"], "expected selection, loop, markers, regions"),
        ([], "name a marker or region"),
    ):
        assert apply(simple, "Gitarre", bundle, *options) == 2
        err = capsys.readouterr().err
        assert expected in err
        assert err.count("\n") == 1
