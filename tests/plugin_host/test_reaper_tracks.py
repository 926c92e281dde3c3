"""What plays on a REAPER track, and what its stems take over from it."""

import re

import pytest
import soundfile

from plugin_host.cli import main
from plugin_host.daw.reaper import ReaperSession
from plugin_host.daw.reaper_tracks import FOLDER_LINES, ITEM_LINES, STEM_LINES, playing_takes
from plugin_host.daw.rpp import parse
from plugin_host.daw.session import NewTracks, Placement, SessionError
from tests.support.host_audio import RATE, music


def item(file="a.wav", lines="", takes="", number=1, **fields):
    values = {"POSITION": "1", "LENGTH": "1", "LOOP": "0", "ALLTAKES": "0", "MUTE": "0 0"} | fields
    head = "\n".join(f"{key} {value}" for key, value in values.items())
    return f"""<ITEM
{head}
IGUID {{22222222-0000-0000-0000-00000000000{number}}}
NAME {file}
VOLPAN 0.5 0.25 0.75 -1
SOFFS 0.5
PLAYRATE 1 1 0 -1 0 0.0025
CHANMODE 0
{lines}
<SOURCE WAVE
FILE {file}
>
{takes}
>
"""


def track(*items, name="Gtr", lines="", number=1):
    guid = f"{{11111111-0000-0000-0000-00000000000{number}}}"
    return f"""<TRACK {guid}
NAME {name}
VOLPAN 0.5 0 -1 -1 1
MUTESOLO 0 0 0
NCHAN 2
{lines}
TRACKID {guid}
MAINSEND 1 0
{"".join(items)}>
"""


@pytest.fixture
def session(tmp_path):
    """Give a session of tracks; beside it lie a.wav, b.wav and six.wav."""
    soundfile.write(tmp_path / "a.wav", music(4, RATE).T, RATE)
    soundfile.write(tmp_path / "b.wav", music(4, RATE, seed=1).T, RATE)
    soundfile.write(tmp_path / "six.wav", music(4, RATE, channels=6, seed=2).T, RATE)

    def make(*tracks):
        path = tmp_path / "a.rpp"
        path.write_text("<REAPER_PROJECT 0.1\n" + "".join(tracks) + ">\n")
        return ReaperSession(path)

    return make


def add_stem(session, name="Gtr", **options):
    """Add a stem that plays b.wav for every clip."""
    file = session.path.parent / "b.wav"
    placements = [Placement(clip, file, 0) for clip in session.clips(name)]
    options = {"group": "stems", "mute": "track"} | options
    addition = session.add_tracks(
        NewTracks(name, {"one": placements, "two": placements}, **options)
    )
    return parse(session.text()).chunks("REAPER_PROJECT")[0].chunks("TRACK"), addition


def heard(session, name="Gtr"):
    return [clip.sources[0].path.name for clip in session.clips(name)]


def depths(tracks):
    level, found = 0, {}
    for chunk in tracks:
        found[chunk.fields("NAME")[0]] = level
        level += int((chunk.fields("ISBUS") or ["0", "0"])[1])
    return found


SECOND = """TAKE SEL
NAME b.wav
TAKEVOLPAN -0.5 0.125 -1
SOFFS 0.25
PLAYRATE 1 1 0 -1 0 0.0025
CHANMODE 0
<SOURCE WAVE
FILE b.wav
>
"""


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (item(), ["a.wav"]),
        (item(MUTE="1 0"), []),
        (item(MUTE="1 -1"), ["a.wav"]),
        (item(MUTE="0 1"), []),
        (item(takes=SECOND), ["b.wav"]),
        (item(takes=SECOND.replace(" SEL", "")), ["a.wav"]),
        (item(takes=SECOND, ALLTAKES="1"), ["a.wav", "b.wav"]),
        (item(takes="TAKE NULL SEL\n"), []),
        (item(takes="TAKE NULL\n" + SECOND), ["b.wav"]),
        ("<ITEM\nPOSITION 1\nLENGTH 1\n<NOTES\n|chorus\n>\n>\n", []),
        (item().replace("SOURCE WAVE", "SOURCE EMPTY"), []),
        (item().replace("SOURCE WAVE", "SOURCE _OFFLINE_WAVE"), []),
        (item().replace("SOURCE WAVE", "SOURCE VIDEO\nAUDIO 0"), []),
        (item().replace("SOURCE WAVE", "SOURCE VIDEOEFFECT"), []),
    ],
)
def test_what_plays_is_read_and_the_rest_passed_over(session, made, expected):
    assert heard(session(track(made))) == expected


OTHERS = {
    "VOLENV": "<VOLENV\nACT 1\nPT 0 0 0\n>",
    "PANENV": "<PANENV\nACT 1\nPT 0 1 0\n>",
    "MUTEENV": "<MUTEENV\nACT 1\nPT 0 0 0\n>",
    "PITCHENV": "<PITCHENV\nACT 1\nPT 0 7 0\n>",
    "TAKEFX": "<TAKEFX\n<JS x\n>\n>",
    "SM": "SM 0 0 + 1 2",
    "TKM": 'TKM 0.5 "here"',
    "SPECTRAL_EDIT": "SPECTRAL_EDIT 0 1",
    "SPLS": "SAMPLEEDITS 1 1 44100\n<SPLS 0\nSPL 1 0\n>",
    "TM": "TMINFO 44100\nTM 104 671 6270\n680 6320",
    "TAKECOLOR": "TAKECOLOR 5",
    "SOMETHING_NEW": "SOMETHING_NEW 1",
}


@pytest.mark.parametrize("line", OTHERS)
@pytest.mark.parametrize("active", [0, 1])
def test_of_another_take_nothing_reaches_the_copy(session, line, active):
    other = OTHERS[line]
    second = (
        SECOND if active else SECOND.replace(" SEL", "").replace("CHANMODE", f"{other}\nCHANMODE")
    )
    project = session(track(item(lines=other if active else "", takes=second)))
    tracks, _ = add_stem(project)
    copy = tracks[2].text()
    assert line not in copy
    assert "680 6320" not in copy
    assert ("VOLPAN 0.5 -0.5 0.125 -1" if active else "VOLPAN 0.5 0.25 0.75 -1") in copy


def test_the_envelopes_of_the_take_that_plays_come_with_it(session):
    lines = "".join(f"{OTHERS[key]}\n" for key in ("VOLENV", "PANENV", "MUTEENV"))
    second = SECOND.replace("CHANMODE 0", f"CHANMODE 0\n{lines}")
    tracks, _ = add_stem(session(track(item(lines=OTHERS["VOLENV"], takes=second))))
    chunks = [
        child.kind for child in tracks[2].chunks("ITEM")[0].children if not isinstance(child, str)
    ]
    assert chunks == ["SOURCE", "VOLENV", "PANENV", "MUTEENV"]


def test_takes_that_play_at_once_stay_in_one_item(session):
    third = SECOND.replace("TAKE SEL", "TAKE").replace("SOURCE WAVE", "SOURCE EMPTY")
    tracks, _ = add_stem(session(track(item(takes=third + SECOND, ALLTAKES="1"))))
    (made,) = tracks[2].chunks("ITEM")
    assert made.fields("ALLTAKES") == ["1"]
    assert made.fields("VOLPAN") == ["0.5", "0.25", "0.75", "-1"]
    assert [fields for _, fields in made.lines("TAKEVOLPAN")] == [
        ["TAKEVOLPAN", "-0.5", "0.125", "-1"]
    ]
    assert len(made.chunks("SOURCE")) == 2
    tracks, _ = add_stem(session(track(item(takes=third, ALLTAKES="1"))))
    assert tracks[2].chunks("ITEM")[0].fields("ALLTAKES") == ["0"]


@pytest.mark.parametrize(
    ("mode", "channels", "kept"),
    [(0, [None], "0"), (1, [1, 0], "0"), (2, [None], "2"), (3, [0], "0"), (4, [1], "0"),
     (67, [0, 1], "0")],
)  # fmt: skip
def test_a_channel_mode_chooses_what_is_separated(session, mode, channels, kept):
    project = session(track(item().replace("CHANMODE 0", f"CHANMODE {mode}")))
    (clip,) = project.clips("Gtr")
    assert [source.channel for source in clip.sources] == channels
    tracks, _ = add_stem(project)
    assert tracks[2].chunks("ITEM")[0].fields("CHANMODE") == [kept]


def lanes(solo, *numbers, settings="9 0 0 0 0", count=3):
    items = (
        item(number=n + 1, YPOS=f"{n / count:.14g} {1 / count:.14g} 2", NAME=f"lane{n}")
        for n in numbers
    )
    line = "" if solo is None else f"\nLANESOLO {solo}"
    return track(*items, lines=f"FREEMODE 2\nFIXEDLANES {settings}{line}")


@pytest.mark.parametrize(
    ("solo", "expected"),
    [
        ("1 0 0 0 0 0 0 0", [0]),
        ("4 0 0 0 0 0 0 0", [2]),
        ("5 0 0 0 0 0 0 0", [0, 2]),
        ("0 0 0 0 0 0 0 0", []),
        ("4294967293 4294967295 4294967295 0 0 0 0 0", [0, 2]),
        (None, [0, 1, 2]),
    ],
)
def test_of_fixed_lanes_those_that_play_are_taken(session, solo, expected):
    project = session(lanes(solo, 0, 1, 2))
    assert [int(clip.tag.split(".")[0]) for clip in project.clips("Gtr")] == expected
    if expected:
        tracks, _ = add_stem(project)
        # What lies in several lanes is mixed, which one upon the other need not be.
        for word in ("YPOS", "FREEMODE 2", "FIXEDLANES"):
            assert (word in tracks[2].text()) == (len(expected) > 1)


def test_a_lane_beyond_the_32nd_plays_too(session):
    project = session(lanes("0 2 0 0 0 0 0 0", 0, 33, count=40))
    assert [clip.tag for clip in project.clips("Gtr")] == ["1.0"]


@pytest.mark.parametrize(
    ("solo", "settings", "expected"),
    [
        ("3 0 0 0 0 0 0 0", "9 0 1 0 0", "shows one lane alone"),
        ("3 0 0 0 0 0 0 0", "9 0 0 1 0", "mask others"),
    ],
)
def test_lanes_whose_playing_cannot_be_told_are_refused(session, solo, settings, expected):
    with pytest.raises(SessionError, match=expected):
        session(lanes(solo, 0, 1, settings=settings)).clips("Gtr")


def test_lanes_that_mask_others_are_taken_where_they_do_not_overlap(session):
    made = lanes("3 0 0 0 0 0 0 0", 0, 1, settings="9 0 0 1 0").replace(
        "POSITION 1", "POSITION 3", 1
    )
    assert len(session(made).clips("Gtr")) == 2


def test_notes_of_scripts_on_an_item_are_not_those_of_a_take(session):
    made = item(lines="", takes=SECOND).replace("NAME a.wav", "<EXTI\nx y\n>\nNAME a.wav")
    tracks, _ = add_stem(session(track(made)))
    kinds = [c.kind for c in tracks[2].chunks("ITEM")[0].children if not isinstance(c, str)]
    assert kinds == ["EXTI", "SOURCE"]


@pytest.mark.parametrize(("flag", "late"), [(" 1", 0), ("", 576 + 1152 + 529)])
def test_an_mp3_begins_where_the_project_lets_it_begin(session, flag, late):
    made = track(
        item().replace("SOURCE WAVE\nFILE a.wav", f"SOURCE MP3\nFILE a.mp3{flag}"),
        item(number=2, SOFFS="0", LENGTH="4", LOOP="1")
        .replace("SOFFS 0.5\n", "")
        .replace("SOURCE WAVE\nFILE a.wav", f"SOURCE MP3\nFILE a.mp3{flag}"),
    )
    project = session(made)
    audio, _ = soundfile.read(project.path.parent / "a.wav", always_2d=True)
    soundfile.write(project.path.parent / "a.mp3", audio, RATE, format="MP3")
    cut, whole = project.clips("Gtr")
    assert cut.start == RATE // 2 - late
    assert (whole.origin, whole.loops) == (-late, False)
    tracks, _ = add_stem(project)
    offsets = [float(made.fields("SOFFS")[0]) for made in tracks[2].chunks("ITEM")]
    # What is read begins with the audio, so the stem does, too.
    assert offsets == pytest.approx([0.5 - late / RATE, -late / RATE])
    longer = session(made.replace("LENGTH 4", "LENGTH 9"))
    if late:
        with pytest.raises(SessionError, match="loops an MP3 with the silence"):
            longer.clips("Gtr")
    else:
        assert longer.clips("Gtr")[1].loops


def test_free_positions_stay_free(session):
    made = track(item(YPOS="0.5 0.5"), lines="FREEMODE 1")
    tracks, _ = add_stem(session(made))
    assert "FREEMODE 1" in tracks[2].text()
    assert tracks[2].chunks("ITEM")[0].fields("YPOS") == ["0.5", "0.5"]


SOUND = """PEAKCOL 5
AUTOMODE 1
IPHASE 1
PLAYOFFS 0.05 0
PANLAWFLAGS 3
HWOUT 512 0 1 0 0 0 0 -1:U -1
AUXRECV 0 0 1 0 0 0 0 0 0 -1:U 0 -1 ''
<AUXVOLENV
EGUID {55555555-0000-0000-0000-000000000001}
PT 0 1 0
>
<VOLENV2
EGUID {55555555-0000-0000-0000-000000000002}
PT 0 1 0
>
<FXCHAIN
BYPASS 0 0 0
<JS loser/3BandEQ ""
12 200
>
FXID {55555555-0000-0000-0000-000000000003}
>
<FXCHAIN_REC
>"""


def project(lines="ISBUS 0 0", sound=SOUND):
    return (
        track(name="Before", number=1),
        track(item(), lines=f"{lines}\n{sound}", number=2),
        track(
            name="After", lines="AUXRECV 1 0 1 0 0 0 0 0 0 -1:U 0 -1 ''\nAUXRECV 3 0 1", number=3
        ),
        track(item(number=2), name="Last", number=4),
    )


def test_the_folder_works_on_the_sound_as_the_track_does(session):
    made = session(*project())
    before = made.text()
    tracks, addition = add_stem(made)
    folder = tracks[2].text()
    for line in ("VOLPAN 0.5 0 -1 -1 1", "IPHASE 1", "HWOUT 512", "AUTOMODE 1", "PEAKCOL 5",
                 "<VOLENV2", "<JS loser/3BandEQ", "AUXRECV 0 0 1", "<AUXVOLENV"):  # fmt: skip
        assert line in folder
    assert "FXCHAIN_REC" not in folder
    # Nothing is there under one identifier twice.
    found = re.findall(r"(?:EGUID|FXID|IGUID) (\{.*?\})", made.text())
    assert len(found) == len(set(found))
    # When its items play is up to the tracks inside.
    assert "PLAYOFFS" not in folder
    assert all("PLAYOFFS 0.05 0" in tracks[n].text() for n in (3, 4))
    # What received the track receives the folder as well, and all numbers are right again.
    assert re.findall(r"AUXRECV (\d)", tracks[5].text()) == ["1", "2", "6"]
    made.remove(addition)
    assert made.text() == before


def test_without_the_mute_what_the_track_receives_is_not_heard_twice(session):
    tracks, _ = add_stem(session(*project()), mute="nothing")
    assert "AUXRECV" not in tracks[2].text()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("", "ISBUS 2 -1", ""), {"P": 0, "Gtr": 1, "stems": 1, "one": 2, "two": 2, "Z": 0}),
        (("", "ISBUS 0 0", "ISBUS 2 -1"),
         {"P": 0, "Gtr": 1, "stems": 1, "one": 2, "two": 2, "Z": 1}),
        (("ISBUS 0 0", "ISBUS 0 0", "ISBUS 1 1"),
         {"P": 0, "Gtr": 0, "stems": 0, "one": 1, "two": 1, "Z": 0}),
        (("", "ISBUS 1 1", "ISBUS 2 -2"),
         {"P": 0, "Gtr": 1, "stems": 2, "one": 3, "two": 3, "Z": 2}),
        (("ISBUS 1 1", "", ""), {"P": 0, "Gtr": 1, "stems": 1, "one": 2, "two": 2, "Z": 1}),
    ],
)  # fmt: skip
def test_stems_lie_where_the_track_lies(session, lines, expected):
    parent, own, last = lines
    made = session(
        track(name="P", lines=parent or "ISBUS 1 1", number=1),
        track(item(), lines=own, number=2),
        track(name="Z", lines=last, number=3),
    )
    before = made.text()
    tracks, addition = add_stem(made)
    assert depths(tracks) == expected
    made.remove(addition)
    assert made.text() == before


def test_in_a_track_that_is_a_folder_its_items_are_muted_and_its_tracks_go_on(session):
    made = session(
        track(item(), item(number=2, MUTE="1 0"), lines=f"ISBUS 1 1\n{SOUND}", number=1),
        track(item(number=3), name="Inside", lines="ISBUS 2 -1", number=2),
    )
    before = made.text()
    tracks, addition = add_stem(made)
    assert [chunk.fields("NAME")[0] for chunk in tracks] == ["Gtr", "stems", "one", "two", "Inside"]
    assert tracks[0].fields("MUTESOLO")[0] == "0"
    assert [chunk.fields("MUTE")[0] for chunk in tracks[0].chunks("ITEM")] == ["1", "1"]
    # The track's own effects work on what is in it.
    assert "FXCHAIN" not in tracks[1].text()
    made.remove(addition)
    assert made.text() == before


def test_the_channels_of_the_track_are_those_of_its_stems(session):
    made = session(track(item("six.wav")).replace("NCHAN 2", "NCHAN 6"))
    assert [info.channels for info in made.tracks()] == [6]
    tracks, _ = add_stem(made)
    assert [chunk.fields("NCHAN") for chunk in tracks] == [["6"]] * 4


def test_a_stem_loops_only_if_the_item_plays_its_file_again(session):
    tracks, _ = add_stem(session(track(item(LOOP="1"), item(LOOP="1", LENGTH="9", number=2))))
    assert [chunk.fields("LOOP") for chunk in tracks[2].chunks("ITEM")] == [["0"], ["1"]]


def test_tracks_without_audio_are_not_listed(session):
    midi = item().replace("SOURCE WAVE", "SOURCE MIDI")
    click = item().replace("SOURCE WAVE", "SOURCE CLICK")
    text = "<ITEM\nPOSITION 1\nLENGTH 1\n>\n"
    made = session(
        track(midi, name="Piano"),
        track(click, name="Click", number=2),
        track(text, name="Words", number=3),
        track(item(), text, number=4),
        track(item(MUTE="1 0"), name="Off", number=5),
        track(item(lines="SM 0 0"), name="Bent", number=6),
        track(item().replace("SOURCE WAVE", "SOURCE WAVPACK"), name="Packed", number=7),
        track(item().replace("SOURCE WAVE", "SOURCE VIDEO"), name="Film", number=8),
    )
    listed = made.tracks()
    assert [(t.name, t.number, t.clips) for t in listed] == [
        ("Gtr", 4, 1),
        ("Off", 5, 0),
        ("Bent", 6, 1),
        ("Packed", 7, 1),
        ("Film", 8, 1),
    ]
    assert "stretch markers" in listed[2].note
    assert all("not read here" in info.note for info in listed[3:])


def test_tracks_are_chosen_by_name_number_and_identifier(session):
    made = session(
        track(item(), name='""', number=1),
        track(item("b.wav"), name='""', number=2),
        track(item(), name="3", number=4),
        track(item("b.wav"), name="gtr", number=5),
        track(item(), name="Gtr", number=6),
    )
    for wanted, file in [
        ("1", "a.wav"), ("2", "b.wav"), ("Track 2", "b.wav"), ("3", "a.wav"), ("4", "b.wav"),
        ("gtr", "b.wav"), ("Gtr", "a.wav"), ("{11111111-0000-0000-0000-000000000005}", "b.wav"),
    ]:  # fmt: skip
        assert heard(made, wanted) == [file]
    for wanted, expected in [
        ("", "2 tracks are called '', numbers 1 and 2"),
        ("GTR", "numbers 4 and 5"),
        ("6", "there are number 1"),
        ("Track 4", "no track 'Track 4'"),
    ]:
        with pytest.raises(SessionError, match=expected):
            made.clips(wanted)


def test_of_two_tracks_with_one_identifier_undo_unmutes_the_one_that_apply_muted(session):
    made = session(
        track(item(), number=1),
        track(item(), name="Low", number=1).replace("MUTESOLO 0", "MUTESOLO 1"),
    )
    before = made.text()
    _, addition = add_stem(made)
    made.remove(addition)
    assert made.text() == before


def test_what_the_stems_do_not_have_is_told(session):
    assert session(track(item())).remarks("Gtr") == []
    made = track(item().replace("PLAYRATE 1 1 0", "PLAYRATE 1.5 1 0"), lines="GROUP_FLAGS 1 0 1")
    told = session(made).remarks("Gtr")
    assert ["groups" in told[0], "stretched or tuned" in told[1]] == [True, True]
    assert session(track(item().replace("PLAYRATE 1 1 0", "PLAYRATE 1.5 0 0"))).remarks("Gtr") == []


# Every word that lines of tracks and items begin with in REAPER 3 to 7, and what becomes of it.
ITEM_WORDS = {
    "honoured": "POSITION LENGTH LOOP ALLTAKES FADEIN FADEOUT MUTE YPOS TAKE NAME VOLPAN "
    "TAKEVOLPAN SOFFS PLAYRATE CHANMODE SOURCE VOLENV PANENV MUTEENV PITCHENV GUID IGUID SEL",
    "harmless": "SNAPOFFS FADEFLAG COLOR BEAT LOCK GROUP IID NOTES RESOURCEFN "
    "IMGRESOURCEFLAGS NOTESWND COMP TAKECOLOR TKM TMINFO TM RECPASS "
    "TAKE_FX_HAVE_NEW_PDC_AUTOMATION_BEHAVIOR EXT EXTI TAKEFX_NCH",
    "refused": "SM TAKEFX SPECTRAL_EDIT SPLS",
}
TRACK_WORDS = {
    "taken over": "PEAKCOL BEAT AUTOMODE VOLPAN PANMODE PANLAWFLAGS IPHASE MUTESOLO NCHAN FX "
    "MAINSEND HWOUT",
    "of the items": "BEAT PLAYOFFS",
    "read": "NAME ISBUS FREEMODE FIXEDLANES LANESOLO AUXRECV TRACKID ITEM FXCHAIN GROUP_FLAGS",
    "harmless": "LOCK BUSCOMP SHOWINMIX LANEREC LANENAME ITEMLANES LINKEDLANE SEL REC VU "
    "TRACKHEIGHT INQ PERF LAYOUTS MIDIOUT EXT FXCHAIN_REC FREEZE CUSTOM_NOTE_ORDER MIDINOTENAMES "
    "TRACKIMGFN",
}


def test_every_word_of_an_item_is_decided(session):
    base = item(lines="")
    for word in ITEM_WORDS["refused"].split():
        lines = OTHERS[word]
        with pytest.raises(SessionError, match=r"the item 'a\.wav' at 1 s"):
            session(track(item(lines=lines))).clips("Gtr")
    for word in ITEM_WORDS["harmless"].split():
        line = f"<{word}\n>" if word in ("NOTES", "EXT", "EXTI") else f"{word} 1 1 1"
        made = session(track(item(lines=line)))
        assert made.clips("Gtr") == session(track(base)).clips("Gtr")
    # Of an item with several takes, exactly these words are not those of the first one.
    both = {*ITEM_WORDS["honoured"].split(), *ITEM_WORDS["harmless"].split()}
    assert both >= ITEM_LINES


def test_every_word_of_a_track_is_decided(session):
    assert set(TRACK_WORDS["taken over"].split()) == FOLDER_LINES
    assert set(TRACK_WORDS["of the items"].split()) == STEM_LINES
    for word in TRACK_WORDS["harmless"].split():
        chunk = word in ("EXT", "FXCHAIN_REC", "FREEZE", "MIDINOTENAMES")
        line = f"<{word} 0\n>" if chunk else f"{word} 1 1 1"
        tracks, _ = add_stem(session(track(item(), lines=line)))
        assert not any(re.search(rf"^\s*<?{word} ", t.text(), re.M) for t in tracks[1:])


def test_items_of_a_folder_without_identifiers_are_not_muted_by_guess(session):
    made = session(track(item().replace("IGUID", "XGUID"), lines="ISBUS 1 1"))
    with pytest.raises(SessionError, match="items without an identifier"):
        add_stem(made)


def test_a_session_that_breaks_off_is_named(tmp_path, capsys):
    path = tmp_path / "song.rpp"
    path.write_text("<REAPER_PROJECT 0.1\n  <TRACK\n")
    assert main(["session", "list", str(path)]) == 2
    assert "song.rpp: not a complete REAPER project" in capsys.readouterr().err


def test_only_what_plays_counts(session):
    made = session(track(item(), item(number=2, MUTE="1 0")))
    chunk = parse(made.text()).chunks("REAPER_PROJECT")[0].chunks("TRACK")[0]
    assert [len(playing_takes(i)) for i in chunk.chunks("ITEM")] == [1, 0]
    assert [t.clips for t in made.tracks()] == [1]


@pytest.mark.parametrize("last", [False, True])
def test_a_track_that_was_put_among_the_stems_stays_where_the_track_is(session, last):
    made = session(
        track(name="P", lines="ISBUS 1 1", number=1),
        track(item(), lines="ISBUS 0 0", number=2),
        track(name="Z", lines="ISBUS 2 -1", number=3),
    )
    tracks, addition = add_stem(made)
    text = made.text()
    mine = track(name="Mine", lines="ISBUS 2 -1" if last else "ISBUS 0 0", number=7)
    after = tracks[4 if last else 3].text()
    if last:
        text = text.replace(after, after.replace("ISBUS 2 -1", "ISBUS 0 0") + mine)
    else:
        text = text.replace(after, after + mine)
    made.path.write_text(text)
    again = ReaperSession(made.path)
    assert again.remove(addition) == 3
    left = parse(again.text()).chunks("REAPER_PROJECT")[0].chunks("TRACK")
    assert depths(left) == {"P": 0, "Gtr": 1, "Mine": 1, "Z": 1}
    assert [chunk.fields("ISBUS")[1] for chunk in left] == ["1", "0", "0", "-1"]


def test_tracks_of_the_oldest_projects_are_unmuted_too(session):
    bare = track(item()).replace("{11111111-0000-0000-0000-000000000001}", "")
    made = session(bare, bare.replace("NAME Gtr", "NAME Other"))
    before = made.text()
    _, addition = add_stem(made, "Gtr")
    assert "MUTESOLO 1" in made.text()
    made.remove(addition)
    assert made.text() == before


def test_an_identifier_needs_no_braces(session):
    made = session(track(item()), track(item("b.wav"), name="Two", number=2))
    assert heard(made, "11111111-0000-0000-0000-000000000002") == ["b.wav"]
