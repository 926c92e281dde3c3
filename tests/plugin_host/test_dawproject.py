"""DAWproject archives: read, added to, valid, and the same elsewhere."""

import shutil
import subprocess
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import soundfile

from plugin_host.cli import main
from plugin_host.daw import open_session
from plugin_host.daw.dawproject import DawprojectSession
from plugin_host.daw.session import SessionError, cut_clips
from tests.support.host_audio import music

RATE = 44100
SCHEMA = Path(__file__).parents[1] / "reference" / "dawproject" / "Project.xsd"

PROJECT = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Project version="1.0">
  <Application name="Bitwig Studio" version="5.0"/>
  <Transport>
    <Tempo max="666" min="20" unit="bpm" value="120" id="id0" name="Tempo"/>
    <TimeSignature denominator="4" numerator="4" id="id1"/>
  </Transport>
  <Structure>
    <Track contentType="audio" loaded="true" id="id2" name="Gitarre ö" color="#a2eabf">
      <Channel audioChannels="2" destination="id9" role="regular" solo="false" id="id3">
        <Mute value="false" id="id5" name="Mute"/>
        <Pan max="1" min="0" unit="normalized" value="0.5" id="id6" name="Pan"/>
        <Volume max="2" min="0" unit="linear" value="0.7" id="id4" name="Volume"/>
      </Channel>
    </Track>
    <Track contentType="audio notes" loaded="true" id="id8" name="Master">
      <Channel audioChannels="2" role="master" solo="false" id="id9">
        <Mute value="false" id="id10"/>
        <Pan unit="normalized" value="0.5" id="id11"/>
        <Volume unit="linear" value="1" id="id12"/>
      </Channel>
    </Track>
  </Structure>
  <Arrangement id="id13">
    <Lanes timeUnit="{unit}" id="id14">
      <Lanes track="id2" id="id15">
        <Clips id="id16">
          <Clip time="{time}" duration="{duration}" contentTimeUnit="seconds" playStart="0.5"
                fadeTimeUnit="seconds" fadeInTime="0.01" fadeOutTime="0.02" name="take 1">
            <Audio channels="2" duration="4" sampleRate="44100" id="id17">
              <File path="audio/take 1.wav"/>
            </Audio>
          </Clip>
        </Clips>
      </Lanes>
    </Lanes>
    <Markers><Marker time="1" name="Refrain"/></Markers>
  </Arrangement>
  <Scenes/>
</Project>
"""


@pytest.fixture(params=["seconds", "beats"])
def project(request, tmp_path):
    path = tmp_path / "Lied ö.dawproject"
    times = {"seconds": ("2.5", "1.25"), "beats": ("5", "2.5")}[request.param]
    xml = PROJECT.format(unit=request.param, time=times[0], duration=times[1])
    soundfile.write(tmp_path / "take 1.wav", music(4, RATE).T, RATE, subtype="PCM_24")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.xml", xml)
        archive.writestr("metadata.xml", "<MetaData><Title>Lied</Title></MetaData>")
        archive.write(tmp_path / "take 1.wav", "audio/take 1.wav")
        archive.writestr("plugins/state.fxb", b"\0\1\2")
    return path


def apply(path, bundle, *arguments):
    options = ["--track", "Gitarre ö", "--model", str(bundle), "--in-process", *arguments]
    return main(["session", "apply", str(path), *options])


def played(clip):
    audio, _ = soundfile.read(clip.sources[0].path, dtype="float32", always_2d=True)
    part = audio[clip.start : clip.start + clip.samples]
    assert len(part) == clip.samples
    return part


def test_the_clips_of_a_track_are_read(project):
    (clip,) = open_session(project).clips("gitarre ö")
    assert (clip.position_s, clip.length_s, clip.start, clip.samples) == (2.5, 1.25, 22050, 55125)


def test_the_new_tracks_play_the_stems_of_what_the_old_one_plays(project, bundle):
    session = DawprojectSession(project)
    (old,) = session.clips("Gitarre ö")
    expected = played(old)
    assert apply(project, bundle, "-p", "vox=half", "--mute-source") == 0
    after = DawprojectSession(project)
    assert [(t.name, t.clips, t.muted) for t in after.tracks()] == [
        ("Gitarre ö", 1, True),
        ("vox", 1, False),
        ("residual", 1, False),
    ]
    new = [after.clips(name)[0] for name in ("vox", "residual")]
    assert {(c.position_s, c.length_s) for c in new} == {(2.5, 1.25)}
    assert np.abs(sum(map(played, new)) - expected).max() < 1e-5


def test_everything_else_stays(project, bundle):
    with zipfile.ZipFile(project) as archive:
        before = {name: archive.read(name) for name in archive.namelist()}
    assert apply(project, bundle, "-p", "half", "--mute-source") == 0
    with zipfile.ZipFile(project) as archive:
        after = {name: archive.read(name) for name in archive.namelist()}
    for name in ("metadata.xml", "audio/take 1.wav", "plugins/state.fxb"):
        assert after[name] == before[name]
    root = ET.fromstring(after["project.xml"])
    structure = root.find("Structure")
    structure.remove(structure[1])
    lanes = root.find("Arrangement/Lanes")
    for added in list(lanes)[1:]:
        lanes.remove(added)
    root.find("Structure/Track/Channel/Mute").set("value", "false")
    assert ET.canonicalize(ET.tostring(root), strip_text=True) == ET.canonicalize(
        before["project.xml"], strip_text=True
    )


def test_undo_and_a_second_run(project, bundle):
    with zipfile.ZipFile(project) as archive:
        before = ET.canonicalize(archive.read("project.xml"), strip_text=True)
    assert apply(project, bundle, "-p", "half", "--mute-source") == 0
    assert apply(project, bundle, "-p", "half") == 0
    assert len(open_session(project).tracks()) == 5
    assert main(["session", "undo", str(project)]) == 0
    assert main(["session", "undo", str(project)]) == 0
    with zipfile.ZipFile(project) as archive:
        assert ET.canonicalize(archive.read("project.xml"), strip_text=True) == before
        assert not [n for n in archive.namelist() if n.startswith("audio/stembridge")]


@pytest.mark.needs("libxml2-utils")
def test_the_output_validates_against_the_schema(project, bundle, tmp_path):
    assert apply(project, bundle, "-p", "half", "--mute-source") == 0
    with zipfile.ZipFile(project) as archive:
        archive.extract("project.xml", tmp_path)
    xmllint = shutil.which("xmllint")
    command = [xmllint, "--noout", "--schema", SCHEMA, tmp_path / "project.xml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<Audio ", "<Warps contentTimeUnit='seconds'><Audio ", "more than one rate"),
        ("<Audio ", "<Lanes><Video/><Audio ", "plays a video"),
        ("audio/take 1.wav", "audio/take 9.wav", "relink"),
        ("audio/take 1.wav", "../../../../../../etc/hostname", "no name inside"),
        ("<Project ", "<!DOCTYPE x [<!ENTITY a 'b'>]><Project ", "cannot be read"),
        ("<Project ", "<Projekt ", "cannot be read"),
    ],
)
def test_what_cannot_be_honoured_is_named(tmp_path, old, new, expected):
    xml = PROJECT.format(unit="seconds", time="2.5", duration="1.25")
    xml = xml.replace(old, new).replace("?><!", "?>\n<!")
    if "Warps" in new:
        points = "".join(
            f"<Warp time='{t}' contentTime='{c}'/>" for t, c in [(0, 0), (1, 1), (2, 3)]
        )
        xml = xml.replace("</Audio>", f"</Audio>{points}</Warps>")
    if "Lanes" in new:
        xml = xml.replace("</Audio>", "</Audio></Lanes>")
    soundfile.write(tmp_path / "take 1.wav", music(4, RATE).T, RATE)
    path = tmp_path / "a.dawproject"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.xml", xml)
        archive.write(tmp_path / "take 1.wav", "audio/take 1.wav")
    with pytest.raises(SessionError, match=expected):
        DawprojectSession(path).clips("Gitarre ö")


def test_names_that_lead_out_of_the_archive_are_not_unpacked(tmp_path):
    path = tmp_path / "a.dawproject"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.xml", "<Project version='1.0'/>")
        archive.writestr("../../escaped.txt", "x")
    assert DawprojectSession(path).tracks() == []
    assert not list(tmp_path.parent.glob("**/escaped.txt"))


def test_a_file_that_is_no_archive_is_told(tmp_path, capsys):
    (tmp_path / "a.dawproject").write_text("not a zip")
    assert main(["session", "list", str(tmp_path / "a.dawproject")]) == 2
    assert main(["session", "list", str(tmp_path / "none.rpp")]) == 2
    (tmp_path / "a.als").write_text("")
    assert main(["session", "list", str(tmp_path / "a.als")]) == 2
    err = capsys.readouterr().err
    assert "cannot be read as a DAWproject" in err
    assert "no such session" in err
    assert "expected .rpp, .dawproject or .ardour" in err


@pytest.mark.parametrize("track_range", ["2.75:3.5", "0:3", "3.2:9"])
def test_a_range_is_cut_to_the_sample(project, bundle, track_range):
    before = DawprojectSession(project)
    (old,) = before.clips("Gitarre ö")
    audio = played(old)
    assert apply(project, bundle, "-p", "half", "--range", track_range) == 0
    low, high = map(float, track_range.split(":"))
    low, high = max(low, old.position_s), min(high, old.end_s)
    session = DawprojectSession(project)
    new = [session.clips(name)[0] for name in ("half", "residual")]
    for clip in new:
        assert (clip.position_s, clip.end_s) == pytest.approx((low, high), abs=1e-9)
        assert clip.fade_in_s == pytest.approx(0.01 if low == old.position_s else 0.0)
        assert clip.fade_out_s == pytest.approx(0.02 if high == old.end_s else 0.0)
    first = round((low - old.position_s) * RATE)
    expected = audio[first : first + round((high - low) * RATE)]
    assert np.abs(sum(map(played, new)) - expected).max() < 1e-6


def test_markers_are_prompts_and_what_the_format_lacks_is_told(project, bundle, capsys):
    with zipfile.ZipFile(project) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    xml = entries["project.xml"].decode()
    marked = '<Markers timeUnit="seconds"><Marker time="2.75" name="vox: half"/>'
    entries["project.xml"] = xml.replace("<Markers>", marked).encode()
    with zipfile.ZipFile(project, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    labels = DawprojectSession(project).marks().labels
    assert ("vox: half", 2.75) in [(label.text, label.start_s) for label in labels]
    assert apply(project, bundle) == 0
    assert [track.name for track in open_session(project).tracks()] == [
        "Gitarre ö",
        "vox",
        "residual",
    ]
    assert apply(project, bundle, "-p", "half", "--range", "selection") == 2
    assert "no time selection" in capsys.readouterr().err


STEPS = '<RealPoint time="0" value="120"/><RealPoint time="8" value="60" interpolation="hold"/>'
RAMP = '<RealPoint time="0" value="120" interpolation="linear"/><RealPoint time="4" value="60"/>'


@pytest.mark.parametrize(
    ("unit", "points", "lanes", "time", "duration", "expected"),
    [
        # Beats 4 to 12 are two seconds at 120 and four at 60.
        ("beats", STEPS, "beats", 4, 8, (2.0, 6.0)),
        ("beats", STEPS, "beats", 10, 2, (6.0, 2.0)),
        ("beats", STEPS, "seconds", 5, 2, (5.0, 2.0)),
        # From 120 to 60 along four beats: the fourth is at 4 ln 2; along four seconds: there are 6.
        ("beats", RAMP, "beats", 4, 1, (4 * np.log(2), 1.0)),
        ("beats", RAMP, "beats", 2, 2, (4 * np.log(4 / 3), 4 * np.log(1.5))),
        ("seconds", RAMP, "beats", 6, 1, (4.0, 1.0)),
        ("seconds", RAMP, "beats", 0, 6, (0.0, 4.0)),
        ("seconds", RAMP, "beats", -2, 1, (-1.0, 0.5)),
    ],
)
def test_clips_lie_where_the_tempo_puts_them(
    tmp_path, unit, points, lanes, time, duration, expected
):
    tempo = f"<TempoAutomation unit='bpm' timeUnit='{unit}'>{points}</TempoAutomation>"
    xml = PROJECT.format(unit=lanes, time=time, duration=duration)
    xml = xml.replace("</Arrangement>", f"{tempo}</Arrangement>").replace("playStart='0.5'", "")
    warps = "<Warps timeUnit='beats' contentTimeUnit='seconds'><Audio"
    stretched = "</Audio><Warp time='0' contentTime='0'/><Warp time='8' contentTime='4'/></Warps>"
    xml = xml.replace("<Audio", warps).replace("</Audio>", stretched)
    xml = xml.replace('contentTimeUnit="seconds" playStart="0.5"', 'contentTimeUnit="beats"')
    path = tmp_path / "a.dawproject"
    soundfile.write(tmp_path / "take 1.wav", music(4, RATE).T, RATE)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.xml", xml)
        archive.write(tmp_path / "take 1.wav", "audio/take 1.wav")
    session = DawprojectSession(path)
    (clip,) = session.clips("Gitarre ö")
    assert (clip.position_s, clip.length_s) == pytest.approx(expected)
    bent = (lanes, time) in [("beats", 2), ("beats", 0)] or (points, time) == (STEPS, 4)
    assert clip.bent == bent
    if lanes == "beats":
        # Eight beats are the four seconds of the file, at whatever tempo.
        assert (clip.start, clip.samples) == (0, round(duration / 2 * RATE))
    if bent:
        assert "only nearly" in session.remarks("Gitarre ö")[-1]
        with pytest.raises(SessionError, match="the tempo changes within the clip"):
            cut_clips([clip], (clip.position_s + 0.1, clip.end_s))


def test_audio_told_in_beats_where_the_tempo_changes_is_refused(tmp_path):
    tempo = f"<TempoAutomation unit='bpm' timeUnit='beats'>{STEPS}</TempoAutomation>"
    xml = PROJECT.format(unit="beats", time=4, duration=8)
    xml = xml.replace("</Arrangement>", f"{tempo}</Arrangement>")
    path = tmp_path / "a.dawproject"
    soundfile.write(tmp_path / "take 1.wav", music(4, RATE).T, RATE)
    for unit, refused in [("seconds", False), ("beats", True)]:
        with zipfile.ZipFile(path, "w") as archive:
            text = xml.replace('contentTimeUnit="seconds"', f'contentTimeUnit="{unit}"')
            archive.writestr("project.xml", text)
            archive.write(tmp_path / "take 1.wav", "audio/take 1.wav")
        if refused:
            with pytest.raises(SessionError, match="placed in beats"):
                DawprojectSession(path).clips("Gitarre ö")
        else:
            assert DawprojectSession(path).clips("Gitarre ö")[0].start == RATE // 2
