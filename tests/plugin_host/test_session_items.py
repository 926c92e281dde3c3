"""Single items, takes, several tracks in one run, and what stems have beyond what they play."""

import re

import numpy as np
import pytest
import soundfile
from test_reaper_tracks import SECOND, item, track
from test_session_safety import make

from plugin_host.cli import main
from plugin_host.daw import open_session
from plugin_host.daw.reaper import ReaperSession
from plugin_host.daw.rpp import parse
from plugin_host.daw.session import SessionError
from tests.support.host_audio import RATE, music


@pytest.fixture
def song(tmp_path):
    """Two tracks with three items, the second of which is selected."""
    for seed, name in enumerate(["a.wav", "b.wav"]):
        soundfile.write(tmp_path / name, music(4, RATE, seed=seed).T, RATE, subtype="FLOAT")
    path = tmp_path / "song.rpp"
    items = [item(number=n, POSITION=str(n), SEL=str(int(n == 2))) for n in (1, 2)]
    tracks = [track(*items), track(item(number=3, takes=SECOND), name='"Two"', number=2)]
    path.write_text("<REAPER_PROJECT 0.1\n" + "".join(tracks) + ">\n")
    return path


@pytest.fixture
def apply(song, bundle):
    def run(*arguments):
        options = ["-p", "half", "--model", str(bundle), "--in-process", *arguments]
        return main(["session", "apply", str(song), *options])

    return run


def chunks(song):
    return parse(song.read_text()).chunks("REAPER_PROJECT")[0].chunks("TRACK")


def names(song):
    return [chunk.fields("NAME")[0] for chunk in chunks(song)]


@pytest.mark.parametrize(
    ("chosen", "positions"),
    [
        (["--items"], ["2"]),
        (["--track", "Gtr", "--items"], ["2"]),
        (["--track", "Gtr", "--item", "1"], ["1"]),
        (["--track", "Gtr", "--item", "{22222222-0000-0000-0000-000000000002}"], ["2"]),
        (["--track", "Gtr", "--item", "1.0", "--item", "2"], ["1", "2"]),
    ],
)
def test_only_the_items_that_are_meant_are_separated(song, apply, chosen, positions):
    before = song.read_bytes()
    assert apply(*chosen, "--mute-source") == 0
    stem = chunks(song)[names(song).index("half")]
    assert [made.fields("POSITION")[0] for made in stem.chunks("ITEM")] == positions
    # They are muted, and the others are heard as before; if they are all, the track is.
    source = chunks(song)[0]
    if len(positions) == 1:
        muted = {i.fields("POSITION")[0]: i.fields("MUTE")[0] for i in source.chunks("ITEM")}
        assert muted == {"1": "0", "2": "0", positions[0]: "1"}
    assert (source.fields("MUTESOLO")[0] == "1") == (len(positions) == 2)
    assert main(["session", "undo", str(song)]) == 0
    assert song.read_bytes() == before


def test_of_items_with_one_identifier_undo_unmutes_those_that_apply_muted(song, apply):
    # As pasted projects and old ones have them.
    twins = [item(MUTE="1 0"), item(POSITION="2"), item(POSITION="3", MUTE="1 0")]
    song.write_text(f"<REAPER_PROJECT 0.1\n{track(*twins, item(number=2, POSITION='5'))}>\n")
    before = song.read_bytes()
    assert apply("--track", "Gtr", "--item", "2", "--mute-source") == 0
    muted = [made.fields("MUTE")[0] for made in chunks(song)[0].chunks("ITEM")]
    assert muted == ["1", "1", "1", "0"]
    assert main(["session", "undo", str(song)]) == 0
    assert song.read_bytes() == before


@pytest.mark.parametrize("guid", ["", "GUID {33333333-0000-0000-0000-000000000003}"])
def test_stems_become_takes_of_their_items_and_the_first_plays(song, apply, guid):
    song.write_text(song.read_text().replace("SOFFS 0.25", f"SOFFS 0.25\n{guid}"))
    before = song.read_bytes()
    old = [ReaperSession(song).clips(name)[0] for name in ("Gtr", "Two")]
    assert apply("--track", "Gtr", "--track", "Two", "--as", "takes") == 0
    assert names(song) == ["Gtr", "Two"]
    for name, clip in zip(("Gtr", "Two"), old, strict=True):
        (new, *_) = ReaperSession(song).clips(name)
        assert new.name.endswith("half")
        assert (new.position_s, new.length_s) == (clip.position_s, clip.length_s)
    (two,) = chunks(song)[1].chunks("ITEM")
    lines = [str(child).strip() for child in two.children if isinstance(child, str)]
    assert [line for line in lines if line.split(" ")[0] == "TAKE"] == ["TAKE", "TAKE SEL", "TAKE"]
    # Pan, volume and pan law are those of the take that played.
    assert lines.count("TAKEVOLPAN -0.5 0.125 -1") == 3
    assert main(["session", "undo", str(song)]) == 0
    assert song.read_bytes() == before


def test_several_tracks_are_one_run_and_one_undo(song, apply, capsys):
    before = song.read_bytes()
    assert apply("--track", "1", "--track", "Two") == 0
    assert names(song) == [
        *("Gtr", "Gtr stems", "half", "residual"),
        *("Two", "Two stems", "half", "residual"),
    ]
    capsys.readouterr()
    assert main(["session", "undo", str(song)]) == 0
    assert "'Gtr stems', 'Two stems'" in capsys.readouterr().out
    assert song.read_bytes() == before
    assert main(["session", "undo", str(song)]) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--track", "Gtr", "--item", "7"],
            "no item '7' on the track 'Gtr'; those that play",
        ),
        (["--track", "Two", "--items"], "no selected item that plays"),
        (["--track", "Gtr", "--as", "takes", "--range", "1:1.5"], "leave out --range"),
        (["--track", "Gtr", "--as", "lanes"], "expected tracks or takes"),
        ([], "say which track with --track, or --items"),
    ],
)
def test_what_is_not_there_is_told(song, apply, capsys, arguments, expected):
    before = song.read_bytes()
    assert apply(*arguments) == 2
    assert expected in capsys.readouterr().err
    assert song.read_bytes() == before


@pytest.mark.parametrize(
    ("mix", "lines", "arguments", "refused"),
    [
        ("ITEMMIX 0", "", ["--item", "1"], True),
        ("ITEMMIX 2", "", ["--range", "1.25:1.75"], True),
        ("ITEMMIX 0", "", [], False),
        ("ITEMMIX 0", "", ["--range", "1.25:1.45"], False),
        ("ITEMMIX 0", "FREEMODE 1", ["--item", "1"], False),
        ("ITEMMIX 1", "", ["--item", "1"], False),
        ("", "", ["--item", "1"], False),
    ],
)
def test_items_that_replace_others_are_taken_with_them(
    song, apply, capsys, mix, lines, arguments, refused
):
    items = [item(number=1), item(number=2, POSITION="1.5", LENGTH="0.25")]
    song.write_text(f"<REAPER_PROJECT 0.1\n{mix}\n{track(*items, lines=lines)}>\n")
    assert apply("--track", "Gtr", *arguments) == (2 if refused else 0)
    assert ("one replaces the other" in capsys.readouterr().err) == refused


@pytest.mark.parametrize("kind", ["rpp", "dawproject", "ardour"])
def test_takes_that_cannot_be_are_refused_before_anything_is_computed(
    tmp_path, capsys, monkeypatch, kind
):
    path = make(tmp_path, kind)
    if kind == "rpp":
        lines = f"{SECOND.replace('b.wav', 'a.wav')}"
        path.write_text(f"<REAPER_PROJECT 0.1\n{track(item(takes=lines, ALLTAKES='1'))}>\n")
        soundfile.write(tmp_path / "a.wav", music(4, RATE).T, RATE)
    monkeypatch.setattr("plugin_host.cli.session.open_separator", pytest.fail)
    assert main(["session", "apply", str(path), "--track", "1", "-p", "x", "--as", "takes"]) == 2
    assert "leave out --as takes" in capsys.readouterr().err


REGIONS = ["{}", "<Regions>{}</Regions>"]  # Ardour 7 and before, and since


@pytest.mark.parametrize("holder", REGIONS)
def test_the_selected_regions_of_ardour_are_those_that_its_editor_saved(
    tmp_path, bundle, capsys, holder
):
    path = make(tmp_path, "ardour")
    region = re.search(r"<Region .*?/>", path.read_text(), re.DOTALL).group()
    second = region.replace('id="4"', 'id="5"').replace("@a0", "@a564480000")
    path.write_text(path.read_text().replace(region, region + second))
    before = path.read_bytes()
    options = ["-p", "half", "--model", str(bundle), "--in-process"]
    assert main(["session", "apply", str(path), "--items", *options]) == 2
    assert "no item is selected" in capsys.readouterr().err
    chosen = holder.format('<Region id="5"/>')
    editor = f"<instant><Editor><Selection>{chosen}</Selection></Editor></instant>"
    (tmp_path / "instant.xml").write_text(editor)
    assert main(["session", "apply", str(path), "--items", "--mute-source", *options]) == 0
    session = open_session(path)
    (clip,) = session.clips("Gitarre half")
    assert clip.position_s == 2.0
    # What was not selected is heard as before.
    assert [left.item for left in session.clips("Gitarre")] == ["4"]
    assert not session.tracks()[0].muted
    assert main(["session", "undo", str(path)]) == 0
    assert path.read_bytes() == before


def test_regions_with_effects_of_their_own_are_refused(tmp_path):
    path = make(tmp_path, "ardour")
    text = path.read_text()
    path.write_text(text.replace('muted="0"/>', 'muted="0"><RegionFXPlugin/></Region>'))
    with pytest.raises(SessionError, match="'take' has effects of its own"):
        open_session(path).clips("Gitarre")


def test_stems_go_on_beyond_what_plays_as_far_as_the_file_does(song, apply):
    made = item(SOFFS="1.00001").replace("SOFFS 0.5\n", "")
    late = item(number=2, SOFFS="3.9", LENGTH="0.1").replace("SOFFS 0.5\n", "")
    source, _ = soundfile.read(song.parent / "a.wav", dtype="float32", always_2d=True)
    for lines, first, last in ((made, 0.75, 2.25), (late, 3.65, 4.0)):
        song.write_text("<REAPER_PROJECT 0.1\n" + track(lines) + ">\n")
        old = ReaperSession(song).clips("Gtr")[0]
        assert apply("--track", "Gtr") == 0
        stems = []
        for name in ("half", "residual"):
            (clip,) = ReaperSession(song).clips(name)
            audio, _ = soundfile.read(clip.sources[0].path, dtype="float32", always_2d=True)
            assert len(audio) == pytest.approx((last - first) * RATE, abs=2)
            assert clip.start >= 0
            begin = old.start - clip.start
            stems.append(audio)
        assert np.abs(sum(stems) - source[begin : begin + len(stems[0])]).max() < 1e-5


def test_undo_of_what_is_no_longer_there_says_so_and_changes_nothing(song, apply, capsys):
    before = song.read_bytes()
    assert apply("--track", "Gtr") == 0
    # The program that had it open saved its own state over it.
    song.write_bytes(before)
    assert main(["session", "undo", str(song)]) == 2
    assert "is not in it any more" in capsys.readouterr().err
    assert song.read_bytes() == before
    assert main(["session", "undo", str(song)]) == 2
    assert "nothing to undo" in capsys.readouterr().err


def test_the_folders_of_stems_are_not_named_like_files(song, apply):
    assert apply("--track", "Gtr") == 0
    folders = [path.name for path in (song.parent / "stembridge" / "gtr 1").iterdir()]
    assert folders == ["01 a"]


def test_what_stems_do_not_have_is_told_before(song, apply, capsys):
    song.write_text(song.read_text().replace("NCHAN 2", "NCHAN 2\nGROUP_FLAGS 1 1", 1))
    assert apply("--track", "Gtr") == 0
    assert "Gtr: left behind: the track's place in its groups" in capsys.readouterr().err
