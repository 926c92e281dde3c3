"""Generated projects play the same with stems in place of a track, and undo brings them back.

What they play is told by `session_renderer`, which knows nothing of the readers.
"""

import contextlib
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from bridge.request import Prompt, Settings
from plugin_host.daw import apply as applying
from plugin_host.daw import open_session
from tests.support import session_renderer

SECONDS = 4.0
FILES = {"a.wav": (8000, 2, 1.0), "b.wav": (8000, 1, 0.7), "c.wav": (11025, 2, 1.3)}
OFTEN = pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.slow)])


def try_often(count, check, *strategies, beginning=()):
    """Try a check on `count` things that strategies draw, after some that were found once."""
    check = given(*strategies)(check)
    for arguments in beginning:
        check = example(*arguments)(check)
    unlikely = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    settings(max_examples=count, suppress_health_check=unlikely)(check)()


@dataclass(frozen=True)
class Parts:
    """What `Separator.separate` returns, as far as sessions use it."""

    stems: dict
    residual: np.ndarray
    report: SimpleNamespace


class Odd:
    """Separates by a formula: neither part is the mixture turned down, and they add up to it."""

    def separate(self, mixture, sample_rate, prompts, options, progress=None):
        del sample_rate, options, progress
        stems, rest = {}, mixture
        for number, prompt in enumerate(prompts, 1):
            share = 0.5 + 0.5 * np.sin(np.arange(mixture.shape[1]) * 0.01 * number)
            stems[prompt.stem] = (rest * share).astype(np.float32)
            rest = rest - stems[prompt.stem]
        return Parts(stems, rest, SimpleNamespace(notes=()))


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, (rate, channels, seconds) in FILES.items():
        samples = rng.uniform(-0.2, 0.2, (round(rate * seconds), channels))
        soundfile.write(folder / name, samples, rate, subtype="FLOAT")
    return folder


def apply(path, track, **options):
    prompts = (Prompt("one", "one"), Prompt("two", "two"))
    request = applying.Request(track, prompts, Settings(), **options)
    return applying.apply(open_session(path), request, Odd(), path, lambda _: None)


# REAPER

SIZES = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5])
GAINS = st.sampled_from([0.25, 0.5, 1.0, -1.0, 2.0])
PANS = st.sampled_from([-1.0, -0.5, 0.0, 0.25])
BITS = st.sampled_from(["0", "1"])


@st.composite
def envelopes(draw, word, values):
    times = sorted(
        draw(st.lists(st.floats(0, 2).map(lambda t: round(t, 3)), min_size=1, max_size=3))
    )
    points = "".join(f"PT {time} {draw(values)} 0\n" for time in times)
    return f"<{word}\nACT {draw(BITS)} -1\n{points}>\n"


@st.composite
def takes(draw, number):
    """Give the lines of a take: without source, of MIDI, or of audio."""
    kind = draw(st.sampled_from(["WAVE", "WAVE", "WAVE", "WAVE", "FLAC", "EMPTY", "NULL"]))
    if kind == "NULL":
        return ""
    name = draw(st.sampled_from(sorted(FILES)))
    mode = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
    if FILES[name][1] == 1 and mode == 4:
        mode = 0
    rate = draw(st.sampled_from([1, 1, 1, 0.5, 1.5, 0.913]))
    lines = [
        f"NAME {name}",
        f"SOFFS {draw(st.sampled_from([0, 0, 0.1, 0.25, 0.10001, 0.5, -0.1]))}",
        f"PLAYRATE {rate} 0 0 -1 0 0.0025",
        f"CHANMODE {mode}",
        f"GUID {{33333333-0000-0000-0000-{draw(st.integers(0, 10**12 - 1)):012}}}",
        f"<SOURCE {kind}\nFILE {name}\n>",
    ]
    if number:
        lines.insert(1, f"TAKEVOLPAN {draw(PANS)} {draw(GAINS)} -1")
    text = "\n".join(lines) + "\n"
    for word, values in (("VOLENV", SIZES), ("PANENV", PANS), ("MUTEENV", BITS)):
        if draw(st.integers(0, 3)) == 0:
            text += draw(envelopes(word, values))
    return text


@st.composite
def items(draw, number, lanes):
    count = draw(st.integers(1, 3))
    active = draw(st.integers(0, count - 1))
    position = draw(st.sampled_from([0.0, 0.125, 0.5, 1.0, 1.23456789]))
    length = draw(st.sampled_from([0.25, 0.5, 1.0, 1.7]))
    fade = draw(st.sampled_from([0, 0.01, 0.1]))
    text = (
        f"<ITEM\nPOSITION {position}\nLENGTH {length}\nLOOP {draw(BITS)}\n"
        f"ALLTAKES {int(draw(st.integers(0, 4)) == 0)}\nFADEIN 1 {fade} 0 1 0 0 0\n"
        f"FADEOUT 1 0 {draw(st.sampled_from([0, 0.05]))} 1 0 0 0\n"
        f"MUTE {draw(st.sampled_from(['0 0', '0 0', '0 0', '1 0', '1 -1', '0 1']))}\nSEL 0\n"
        f"IGUID {{22222222-0000-0000-0000-{number:012}}}\n"
    )
    if lanes:
        lane = draw(st.integers(0, lanes - 1))
        text += f"YPOS {lane / lanes:.14g} {1 / lanes:.14g} 2\n"
    volpan = f"VOLPAN {abs(draw(GAINS))} {draw(PANS)} {draw(GAINS)} -1\n"
    for index in range(count):
        take = draw(takes(index))
        if index:
            null = "" if take else " NULL"
            text += f"TAKE{null}{' SEL' if index == active else ''}\n"
        elif "SOURCE" in take:
            text += volpan
        text += take
    return text + ">\n"


@st.composite
def tracks(draw, number, depth, sends):
    lanes = draw(st.sampled_from([0, 0, 2, 3]))
    made = "".join(draw(items(10 * number + n, lanes)) for n in range(draw(st.integers(0, 3))))
    guid = f"{{11111111-0000-0000-0000-{number:012}}}"
    kind = 1 if depth > 0 else 2 if depth < 0 else 0
    text = (
        f"<TRACK {guid}\nNAME {number}x\nVOLPAN {draw(GAINS)} {draw(PANS)} -1 -1 1\n"
        f"MUTESOLO 0 0 0\nIPHASE {draw(BITS)}\nPLAYOFFS {draw(st.sampled_from([0, 0, 0.05]))} 0\n"
        f"ISBUS {kind} {depth}\nNCHAN 2\n"
    )
    if lanes:
        bits = draw(st.integers(0, 2**lanes - 1))
        text += "FREEMODE 2\nFIXEDLANES 9 0 0 0 0\n"
        if draw(st.booleans()):
            text += f"LANESOLO {bits} 0 0 0 0 0 0 0\n"
        elif draw(st.booleans()):
            text += f"LANESOLO {bits | 0xFFFFFF00} 4294967295 0 0 0 0 0 0\n"
    text += f"TRACKID {guid}\nMAINSEND {draw(st.sampled_from([1, 1, 0]))} 0\n"
    for sender in sends:
        text += f"AUXRECV {sender} 0 {draw(SIZES)} 0 0 0 0 0 0 -1:U 0 -1 ''\n"
    if draw(st.integers(0, 2)) == 0:
        text += draw(envelopes("VOLENV2", SIZES))
    return text + made + ">\n"


@st.composite
def reaper_projects(draw):
    """Give a project and the number of the track to separate."""
    depths = draw(
        st.sampled_from(
            [(0, 0, 0, 0), (1, 0, -1, 0), (1, 1, -2, 0), (0, 1, -1, 0), (1, 0, 0, 0), (0, 0, 1, -1)]
        )
    )
    level, tops = 0, []
    for number, depth in enumerate(depths):
        tops.append(number if level == 0 else tops[-1])
        level += depth
    # Only from one folder or track at the top to a later one, so that nothing feeds itself.
    sends = [
        draw(st.lists(st.sampled_from(before), max_size=1)) if before else []
        for before in ([s for s in range(n) if tops[s] < tops[n]] for n in range(4))
    ]
    text = "".join(draw(tracks(n, depths[n], sends[n])) for n in range(4))
    mix = draw(st.sampled_from(["", "ITEMMIX 0\n", "ITEMMIX 1\n", "ITEMMIX 2\n"]))
    text = f'<REAPER_PROJECT 0.1 "7.18/linux-x86_64" 1727696200\n{mix}{text}>\n'
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return text, draw(st.integers(1, 4))


LANE = """<REAPER_PROJECT 0.1 "7.18/linux-x86_64" 1727696200
ITEMMIX 0
<TRACK {{11111111-0000-0000-0000-000000000000}}
NAME 0x
FREEMODE 2
FIXEDLANES 9 0 0 0 0
{0}{1}>
>
"""
IN_LANE = """<ITEM
POSITION 0
LENGTH 0.25
YPOS 0 0.5 2
IGUID {{22222222-0000-0000-0000-00000000000{0}}}
NAME a.wav
<SOURCE WAVE
FILE a.wav
>
>
"""


@contextlib.contextmanager
def written(audio, text):
    """Write a project beside its audio, for the length of a block."""
    with tempfile.TemporaryDirectory() as name:
        for file in audio.iterdir():
            (Path(name) / file.name).symlink_to(file)
        path = Path(name) / "song.rpp"
        path.write_bytes(text.encode())
        yield path


@pytest.mark.slow
@OFTEN
def test_a_reaper_project_plays_the_same_and_comes_back(audio, count):
    def check(made):
        text, number = made
        with written(audio, text) as path:
            folder = path.parent
            assume(open_session(path).clips(str(number)))
            before = session_renderer.render_rpp(text, folder, SECONDS)
            apply(path, str(number), mute_source=True)
            after = session_renderer.render_rpp(path.read_bytes().decode(), folder, SECONDS)
            assert np.abs(after - before).max() < 1e-6
            applying.undo(open_session(path), path)
            assert path.read_bytes() == text.encode()

    lanes = LANE.format(IN_LANE.format(0), IN_LANE.format(1))
    try_often(count, check, reaper_projects(), beginning=[((lanes, 1),)])


@pytest.mark.slow
@OFTEN
def test_takes_of_a_reaper_project_add_up_and_go_again(audio, count):
    def check(made):
        text, number = made
        text = text.replace("ALLTAKES 1", "ALLTAKES 0")
        with written(audio, text) as path:
            folder = path.parent
            clips = open_session(path).clips(str(number))
            assume(clips)
            before = session_renderer.render_rpp(text, folder, SECONDS)
            apply(path, str(number), as_takes=True)
            new = path.read_bytes().decode()
            total = 0
            for stem in ("one", "two", "residual"):
                # Let the takes of this stem play, wherever there are any.
                lines = new.replace("\r\n", "\n").split("\n")
                for index, line in enumerate(lines):
                    if line.strip() in ("TAKE", "TAKE SEL"):
                        ours = (
                            lines[index + 1]
                            .strip()
                            .endswith((' - one"', ' - two"', ' - residual"'))
                        )
                        if ours:
                            chosen = lines[index + 1].strip().endswith(f' - {stem}"')
                            lines[index] = "TAKE SEL" if chosen else "TAKE"
                total = total + session_renderer.render_rpp("\n".join(lines), folder, SECONDS)
            # The rest of the project is in each of the three.
            silent = text
            for clip in clips:
                silent = mute(silent, clip.item)
            others = session_renderer.render_rpp(silent, folder, SECONDS)
            assert np.abs(total - 2 * others - before).max() < 1e-6
            applying.undo(open_session(path), path)
            assert path.read_bytes() == text.encode()

    try_often(count, check, reaper_projects())


def mute(text, guid):
    """Mute the item of an identifier."""
    head, tail = text.split(f"IGUID {guid}", 1)
    lines = head.split("\n")
    place = max(i for i, line in enumerate(lines) if line.startswith("MUTE "))
    lines[place] = "MUTE 1 0" + ("\r" if lines[place].endswith("\r") else "")
    return "\n".join(lines) + f"IGUID {guid}" + tail


# DAWproject

UNITS = st.sampled_from(["beats", "seconds"])
FADES = st.sampled_from([0.05, -0.1])


@st.composite
def timelines(draw, depth, ids):
    """Give what a clip holds: audio, warped audio, or clips again."""
    kind = draw(st.sampled_from(["audio", "warps", "lanes", "clips"])) if depth else "audio"
    name = draw(st.sampled_from(sorted(FILES)))
    rate, channels, seconds = FILES[name]
    audio = (
        f'<Audio channels="{channels}" duration="{seconds}" sampleRate="{rate}" id="{next(ids)}">'
        f'<File path="audio/{name}"/></Audio>'
    )
    if kind == "audio":
        return audio
    if kind == "warps":
        end, content = draw(st.sampled_from([(2.0, 1.0), (1.0, 1.0), (1.5, 0.5)]))
        shift = draw(st.sampled_from([0.0, 0.1]))
        return (
            f'<Warps contentTimeUnit="seconds" timeUnit="{draw(UNITS)}" id="{next(ids)}">{audio}'
            f'<Warp time="0" contentTime="{shift}"/><Warp time="{end}" '
            f'contentTime="{content + shift}"/></Warps>'
        )
    if kind == "lanes":
        return f'<Lanes id="{next(ids)}">{audio}</Lanes>'
    made = "".join(draw(clips(depth - 1, ids)) for _ in range(draw(st.integers(1, 2))))
    return f'<Clips timeUnit="{draw(UNITS)}" id="{next(ids)}">{made}</Clips>'


@st.composite
def clips(draw, depth, ids):
    fields = {
        "time": draw(st.sampled_from([0.0, 0.25, 1.0, 1.37])),
        "duration": draw(st.sampled_from([0.5, 1.0, 2.0])),
        "contentTimeUnit": draw(UNITS),
        "playStart": draw(st.sampled_from([0.0, 0.0, 0.125, 0.3])),
    }
    if draw(st.integers(0, 3)) == 0:
        fields |= {"loopStart": draw(st.sampled_from([0.0, 0.1])), "loopEnd": 0.6}
    elif draw(st.integers(0, 3)) == 0:
        fields["playStop"] = 0.7
    if draw(st.integers(0, 2)) == 0:
        fields |= {"fadeTimeUnit": draw(UNITS), "fadeInTime": draw(FADES), "fadeOutTime": 0.1}
    if draw(st.integers(0, 6)) == 0:
        fields["enable"] = "false"
    if draw(st.booleans()):
        fields["name"] = "loop"
    text = " ".join(f'{key}="{value}"' for key, value in fields.items())
    return f"<Clip {text}>{draw(timelines(depth, ids))}</Clip>"


@st.composite
def dawprojects(draw):
    ids = iter(f"x{number}" for number in range(10**6))
    made = "".join(draw(clips(3, ids)) for _ in range(draw(st.integers(1, 3))))
    held = f'<Clips id="c0">{made}</Clips>'
    lanes = held.replace("<Clips ", '<Clips track="trk" ', 1)
    if draw(st.booleans()):
        lanes = f'<Lanes track="trk" id="l1">{held}</Lanes>'
    mute = '<Mute value="false" id="m0"/>' if draw(st.booleans()) else ""
    return (
        '<Project version="1.0"><Application name="x" version="1"/><Transport>'
        f'<Tempo unit="bpm" value="{draw(st.sampled_from([120, 97]))}" id="t0"/></Transport>'
        '<Structure><Track contentType="audio" id="trk" name="Loop"><Channel id="ch" '
        f'destination="mst">{mute}<Volume unit="linear" value="0.5" id="v0"/></Channel></Track>'
        '<Track contentType="audio" id="mt" name="Master"><Channel role="master" id="mst"/></Track>'
        f'</Structure><Arrangement id="arr"><Lanes timeUnit="{draw(UNITS)}" id="l0">{lanes}'
        '<Lanes track="mt" id="l9"><Points id="p0"><Target parameter="v0"/><RealPoint time="0" '
        'value="1"/></Points></Lanes></Lanes></Arrangement></Project>'
    )


@pytest.mark.slow
@OFTEN
def test_a_dawproject_plays_the_same_and_comes_back(audio, count):
    def check(xml, cut):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            path = folder / "song.dawproject"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("project.xml", xml)
                for file in audio.iterdir():
                    archive.write(file, f"audio/{file.name}")

            def unpacked(file):
                with zipfile.ZipFile(path) as archive:
                    return archive.extract(file.get("path"), folder / "out")

            before = session_renderer.render_dawproject(xml, unpacked, {"trk"}, SECONDS)
            times = np.arange(len(before)) / session_renderer.RATE
            found = open_session(path).clips("Loop")
            if cut is not None:
                # Not through a fade, where it is refused.
                edges = [(c.position_s, c.position_s + c.fade_in_s) for c in found]
                edges += [(c.end_s - c.fade_out_s, c.end_s) for c in found]
                assume(not any(low - 0.01 < at < high + 0.01 for at in cut for low, high in edges))
                found = [c for c in found if c.position_s < cut[1] and c.end_s > cut[0]]
            assume(found)
            apply(path, "Loop", mute_source=cut is None, range_s=cut)
            with zipfile.ZipFile(path) as archive:
                after_xml = archive.read("project.xml").decode()
            new = {t.identity for t in open_session(path).tracks()} - {"trk"}
            after = session_renderer.render_dawproject(after_xml, unpacked, new, SECONDS)
            expected = before
            if cut is not None:
                # Clips are cut at the nearest sample of what they play.
                near = np.min([np.abs(times - at) for at in cut], axis=0) < 2.5 / 8000
                inside = (times >= cut[0]) & (times < cut[1])
                expected = np.where(inside[:, None], before, 0)
                expected[near], after[near] = 0, 0
            assert np.abs(after - expected).max() < 1e-6
            applying.undo(open_session(path), path)
            with zipfile.ZipFile(path) as archive:
                assert archive.read("project.xml").decode() == xml
                assert sorted(archive.namelist()) == sorted(
                    ["project.xml", *(f"audio/{file}" for file in FILES)]
                )

    try_often(count, check, dawprojects(), st.sampled_from([None, (0.25, 1.5), (0.6, 3.0)]))


AUDIO = (
    '<Audio algorithm="{algorithm}" channels="2" duration="1.0" sampleRate="8000" id="{id}">'
    '<File path="{path}"{external}/></Audio>'
)


def clip_of(inner, **fields):
    text = " ".join(f'{key}="{value}"' for key, value in fields.items())
    return f"<Clip {text}>{inner}</Clip>"


def sound(path="audio/a.wav", identity="au", algorithm="raw", external=""):
    return AUDIO.format(path=path, id=identity, algorithm=algorithm, external=external)


def warped(beats, identity="au", **options):
    return (
        f'<Warps contentTimeUnit="seconds" timeUnit="beats" id="w{identity}">'
        f"{sound(identity=identity, algorithm='stretch', **options)}"
        f'<Warp time="0.0" contentTime="0.0"/><Warp time="{beats}" contentTime="1.0"/></Warps>'
    )


FADES_IN_BEATS = {"fadeTimeUnit": "beats", "fadeInTime": 0.25, "fadeOutTime": 0.25}
# As the reference implementation, Bitwig Studio, Cubase and Studio One lay audio out: what holds
# the track's timelines, and the clips in it. The tempo is 150, so that a beat is 0.4 s.
SHAPES = {
    "reference, warped": (
        '<Clips track="trk" id="c">{}</Clips>',
        clip_of(warped(2.5), time=1, duration=2.5, contentTimeUnit="beats", playStart=1.0,
                **FADES_IN_BEATS),
    ),
    "reference, seconds in beats": (
        '<Clips track="trk" id="c">{}</Clips>',
        clip_of(sound(), time=1.0, duration=2.5, contentTimeUnit="seconds", playStart=0.25,
                playStop=1.0, fadeTimeUnit="seconds", fadeInTime=0.1, fadeOutTime=0.1),
    ),
    "reference, a file beside the project": (
        '<Clips track="trk" id="c">{}</Clips>',
        clip_of(sound("media/../media/b.wav", external=' external="true"'), time=1, duration=1,
                contentTimeUnit="seconds"),
    ),
    "Bitwig, a loop of events cut from one recording": (
        '<Lanes track="trk" id="l"><Clips id="c">{}</Clips></Lanes>',
        clip_of(
            '<Clips id="in">'
            + clip_of(warped(2.5, "a1"), time=0.0, duration=1.0, contentTimeUnit="beats",
                      playStart=0.0)
            + clip_of(warped(2.5, "a2"), time=1.0, duration=0.5, contentTimeUnit="beats",
                      playStart=1.5)
            + "</Clips>",
            time=0.5, duration=6.0, playStart=0.25, loopStart=0.0, loopEnd=1.5, name="Beat",
            fadeTimeUnit="beats", fadeInTime=0.0, fadeOutTime=0.0,
        ),
    ),
    "Bitwig, gain and pan drawn in the clip, at another speed": (
        '<Lanes track="trk" id="l"><Clips id="c">{}</Clips><Points unit="linear" id="p1">'
        '<Target parameter="v0"/><RealPoint time="0" value="1" interpolation="linear"/></Points>'
        "</Lanes>",
        clip_of('<Clips id="in">' + clip_of(warped(4.0), time=0.0, duration=4.0,
                contentTimeUnit="beats") + "</Clips>", time=2.0, duration=3.5, playStart=0.5),
    ),
    "Cubase, crossfaded and in seconds, beside notes": (
        '<Lanes track="trk" id="l" timeUnit="seconds"><Clips id="c">{}</Clips></Lanes>',
        clip_of(sound(identity="a1"), time=0.2, duration=0.6, playStart=0.1,
                contentTimeUnit="seconds", fadeTimeUnit="seconds", fadeOutTime=0.15, name="one")
        + clip_of(sound("audio\\c.wav", "a2"), time=0.8, duration=0.8, playStart=0.4,
                  contentTimeUnit="seconds", fadeTimeUnit="seconds", fadeInTime=-0.15)
        + clip_of('<Notes id="n"><Note time="0" duration="1" key="60"/></Notes>', time=2,
                  duration=1),
    ),
    "Studio One, an alias, a clip switched off and one longer than its file": (
        '<Lanes track="trk" id="l"><Clips id="c">{}</Clips></Lanes>',
        clip_of(sound("./audio/a.wav", "a1"), time=0, duration=10, contentTimeUnit="seconds")
        + '<Clip time="5.0" playStart="0.5" contentTimeUnit="seconds" reference="a1"/>'
        + clip_of(sound(identity="a3"), time=3, duration=1, enable="false"),
    ),
}  # fmt: skip
SHAPES_IN_BEATS = [name for name in SHAPES if "warped" in name or name.startswith("Bitwig")]


TEMPOS = {
    "steady": "",
    "in steps": '<TempoAutomation unit="bpm" timeUnit="beats" id="ta"><Target parameter="t0"/>'
    '<RealPoint time="0" value="150"/><RealPoint time="1.5" value="90" interpolation="hold"/>'
    "</TempoAutomation>",
    "bending": '<TempoAutomation unit="bpm" timeUnit="seconds" id="ta">'
    '<RealPoint time="0.2" value="150" interpolation="linear"/>'
    '<RealPoint time="2" value="60" interpolation="linear"/></TempoAutomation>',
}


@pytest.mark.parametrize(
    ("name", "tempo"),
    # What is all in beats sounds the same beat for beat, whatever the tempo does.
    [(n, t) for n in SHAPES for t in TEMPOS if t == "steady" or n in SHAPES_IN_BEATS],
)
def test_a_dawproject_as_programs_write_it_plays_the_same(audio, tmp_path, name, tempo):
    holder, held = SHAPES[name]
    xml = (
        '<Project version="1.0"><Application name="x" version="1"/><Transport>'
        '<Tempo unit="bpm" value="150" id="t0"/></Transport><Structure>'
        '<Track contentType="audio" id="trk" name="Loop"><Channel id="ch" destination="mst">'
        '<Volume unit="linear" value="0.5" id="v0"/></Channel></Track>'
        '<Track contentType="audio" id="mt" name="Master"><Channel role="master" id="mst"/></Track>'
        f'</Structure><Arrangement id="arr"><Lanes timeUnit="beats" id="l0">{holder.format(held)}'
        f"</Lanes>{TEMPOS[tempo]}</Arrangement></Project>"
    )
    path = tmp_path / "song.dawproject"
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "b.wav").write_bytes((audio / "b.wav").read_bytes())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.xml", xml)
        for file in audio.iterdir():
            archive.write(file, f"audio/{file.name}")

    def find(file):
        place = file.get("path").replace("\\", "/").removeprefix("./")
        if file.get("external") == "true":
            return tmp_path / place
        with zipfile.ZipFile(path) as archive:
            return archive.extract(place, tmp_path / "out")

    before = session_renderer.render_dawproject(xml, find, {"trk"}, SECONDS)
    assert np.abs(before).max() > 0.05
    told = open_session(path).remarks("Loop")
    assert any("notes" in line for line in told) == ("notes" in name)
    stretched = "another speed" in name or tempo != "steady"
    assert any("stretched" in line for line in told) == stretched
    apply(path, "Loop", mute_source=True)
    with zipfile.ZipFile(path) as archive:
        after_xml = archive.read("project.xml").decode()
    new = {t.identity for t in open_session(path).tracks()} - {"trk"}
    after = session_renderer.render_dawproject(after_xml, find, new, SECONDS)
    assert np.abs(after - before).max() < 1e-6
    assert after_xml.count("<Notes") == xml.count("<Notes")
    applying.undo(open_session(path), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("project.xml").decode() == xml
