"""Sessions of DAWs in the panel: tracks to choose from, stems into them and out of them again."""

import re
import shutil
import zipfile

import numpy as np
import pytest
import soundfile
from playwright.sync_api import expect

from plugin_host.cli import main
from plugin_host.daw import open_session
from tests.plugin_host import test_ardour, test_dawproject
from tests.support.host_audio import music
from tests.support.panels import running_panel
from tests.support.sidecars import wait_until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

RATE = 44100

# The session that Ardour made, and the archives, that their own tests have.
ardour, ardour_session = test_ardour.ardour, test_ardour.session
dawproject = test_dawproject.project


def item(number, position_s, length_s, offset_s, file):
    return f"""    <ITEM
      POSITION {position_s}
      LENGTH {length_s}
      IGUID {{22222222-0000-0000-0000-00000000000{number}}}
      NAME "{file}"
      SOFFS {offset_s}
      PLAYRATE 1 1 0 -1 0 0.0025
      <SOURCE WAVE
        FILE "{file}"
      >
    >
"""


def track(number, name, *items):
    return f"""  <TRACK {{11111111-0000-0000-0000-00000000000{number}}}
    NAME {name}
    MUTESOLO 0 0 0
    ISBUS 0 0
{"".join(items)}  >
"""


@pytest.fixture
def project(tmp_path):
    """Two guitars of one recording, a singer in two recordings, and a track whose file is gone."""
    folder = tmp_path / "project"
    folder.mkdir()
    for seed, name in enumerate(("guitar", "verse", "chorus")):
        soundfile.write(folder / f"{name}.wav", music(4, RATE, seed=seed).T, RATE, "PCM_24")
    path = folder / "song.rpp"
    path.write_text(
        '<REAPER_PROJECT 0.1 "6.80/linux-x86_64" 1690000000\n  TEMPO 120 4 4\n'
        + track(
            1, "Guitar", item(1, 2.5, 1.0, 0.5, "guitar.wav"), item(2, 4.0, 1.0, 2.0, "guitar.wav")
        )
        + track(
            2, "Singer", item(3, 0.0, 1.5, 0.0, "verse.wav"), item(4, 6.0, 1.5, 0.0, "chorus.wav")
        )
        + track(3, "Lost", item(5, 0.0, 1.0, 0.0, "gone.wav"))
        + ">\n"
    )
    return path


@pytest.fixture
def panel(bundle, project):
    """The panel on the project, with one prompt."""
    with running_panel(project, "--model", bundle, "-p", "half") as running:
        yield running


def chosen(panel, page, label):
    """Choose a track on the page and wait for it."""
    key = next(t["key"] for t in panel.state()["session"]["tracks"] if t["label"] == label)
    page.select_option("#track", key)
    wait_until(lambda: panel.state()["song"] == key)
    wait_until(lambda: page.evaluate("() => stembridge.state.song") == key)


def separated(panel, page):
    page.locator("#separate").click()
    page.wait_for_selector(".take.done")
    assert panel.take()["state"] == "done"


def added(page, what, stem_count):
    page.keyboard.press("Control+s")
    page.locator(what).click()
    page.wait_for_selector(f"#told:has-text('{stem_count}')")


def stem_files(project):
    """The audio of every track that is not of the project itself, by track."""
    session = open_session(project)
    return {
        track.name: [
            soundfile.read(clip.sources[0].path, dtype="float32")[0]
            for clip in session.clips(track.identity)
        ]
        for track in session.tracks()
        if track.name not in ("Guitar", "Singer", "Lost", "Gitarre ö")
    }


def test_tracks_are_chosen_and_keep_what_was_done_to_them(panel, open_page):
    page = open_page(panel)
    options = page.locator("#track option").all_inner_texts()
    assert options[:3] == ["Guitar", "Singer: verse.wav", "Singer: chorus.wav"]
    assert options[3].startswith("Lost (")
    expect(page.locator("#track option").nth(3)).to_be_disabled()
    guitar = panel.state()
    # From the first item's beginning to the second's end, with room to move the edges.
    assert guitar["title"] == "Guitar · song.rpp"
    assert guitar["samples"] == round((3.0 - 0.5 + 0.25 + 0.25) * RATE)
    panel.do(
        "edit",
        {"do": "set-spans", "id": "p1", "spans": [{"start_s": 0.5, "end_s": 1.0}]},
    )
    chosen(panel, page, "Singer: chorus.wav")
    singer = panel.state()
    assert singer["title"] == "Singer: chorus.wav · song.rpp"
    # The prompts came along, the spans did not.
    assert [(row["text"], row["spans"]) for row in singer["prompts"]] == [("half", [])]
    expect(page.locator("#title")).to_have_text(singer["title"])
    chosen(panel, page, "Guitar")
    assert panel.state()["prompts"][0]["spans"][0]["start_s"] == 0.5
    assert panel.ask("track", {"key": "../../etc/passwd 0"}).status == 400
    lost = panel.state()["session"]["tracks"][3]
    refused = panel.ask("track", {"key": lost["key"]})
    assert refused.status == 400
    assert "gone.wav" in refused.json["error"]


def test_stems_become_tracks_and_go_again(panel, open_page, project, bundle, tmp_path):
    before = project.read_bytes()
    by_command = tmp_path / "by command"
    shutil.copytree(project.parent, by_command)
    page = open_page(panel)
    separated(panel, page)
    added(page, "#add-tracks", "2 tracks added to song.rpp")
    assert before != project.read_bytes()
    arguments = ["session", "apply", str(by_command / "song.rpp"), "--track", "Guitar"]
    assert main([*arguments, "-p", "half", "--model", str(bundle), "--in-process"]) == 0
    ours, theirs = stem_files(project), stem_files(by_command / "song.rpp")
    assert list(ours) == list(theirs)
    assert sum(map(len, ours.values())) == 4
    for name, clips in ours.items():
        for one, other in zip(clips, theirs[name], strict=True):
            assert np.array_equal(one, other)
    # The new tracks can be chosen too; and away with them.
    labels = [each["label"] for each in panel.state()["session"]["tracks"]]
    assert set(ours) <= {label.partition(":")[0] for label in labels}
    page.keyboard.press("Control+s")
    page.locator("#session-undo").click()
    page.wait_for_selector("#told:has-text('Taken away')")
    assert project.read_bytes() == before
    page.keyboard.press("Control+s")
    expect(page.locator("#session-undo")).to_be_hidden()


def test_stems_become_takes_of_the_items(panel, open_page, project):
    before = project.read_bytes()
    page = open_page(panel)
    chosen(panel, page, "Singer: chorus.wav")
    separated(panel, page)
    added(page, "#add-takes", "2 takes added to song.rpp")
    text = project.read_text()
    # One item of the two has them: the one with that recording.
    verse, chorus = text.split("chorus.wav", 1)
    assert "TAKE" not in verse
    assert len(re.findall(r"^ +TAKE( SEL)?$", chorus, re.MULTILINE)) == 2
    panel.do("session/undo")
    assert project.read_bytes() == before


def test_what_cannot_be_added_is_refused_in_words(panel, project):
    before = project.read_bytes()
    refused = panel.ask("session/add", {})
    assert refused.status == 400
    assert "nothing is separated yet" in refused.json["error"]
    panel.do("select", {"stretch": [0.2, 0.8]})
    panel.do("run", {"whole": False})
    panel.finished()
    refused = panel.ask("session/add", {})
    assert "a preview is a part of the track" in refused.json["error"]
    panel.do("run", {"whole": True})
    panel.finished()
    # Somebody moved an edge in the DAW and saved: these are not its stems any more.
    project.write_text(project.read_text().replace("SOFFS 0.5", "SOFFS 0.25"))
    changed = project.read_bytes()
    refused = panel.ask("session/add", {})
    assert "other audio than when it was opened" in refused.json["error"]
    assert project.read_bytes() == changed != before
    assert not [path for path in project.parent.rglob("*.wav") if "half" in path.name]
    assert "nothing to undo" in panel.ask("session/undo", {}).json["error"]


def contents(session):
    """The bytes of a session file; of an archive those of all that is in it."""
    if not zipfile.is_zipfile(session):
        return session.read_bytes()
    with zipfile.ZipFile(session) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def there_and_back(panel, page, session, bundle, copy):
    """Add stems to the track ``Gitarre ö``, as the command does to a copy, and take them away."""
    before = contents(session)
    own = open_session(session).tracks()
    expect(page.locator("#track option").first).to_have_text("Gitarre ö")
    assert panel.state()["title"] == f"Gitarre ö · {session.name}"
    separated(panel, page)
    added(page, "#add-tracks", f"2 tracks added to {session.name}")
    expect(page.locator("#add-takes")).to_be_hidden()
    assert contents(session) != before
    arguments = ["session", "apply", str(copy), "--track", "Gitarre ö", "-p", "half"]
    assert main([*arguments, "--model", str(bundle), "--in-process"]) == 0
    ours, theirs = stem_files(session), stem_files(copy)
    assert list(ours) == list(theirs)
    assert len(ours) == 2
    for name, clips in ours.items():
        for one, other in zip(clips, theirs[name], strict=True):
            assert one.any()
            assert np.array_equal(one, other)
    # A stem is a track like others, and is opened as one.
    stem = next(iter(ours))
    chosen(panel, page, stem)
    expect(page.locator("#title")).to_have_text(f"{stem} · {session.name}")
    heard = np.frombuffer(
        panel.ask(f"audio/original/original?start=0&samples={panel.state()['samples']}").body, "<f4"
    )
    assert heard.any()
    chosen(panel, page, "Gitarre ö")
    assert panel.take()["state"] == "done"
    page.keyboard.press("Control+s")
    page.locator("#session-undo").click()
    page.wait_for_selector("#told:has-text('Taken away')")
    assert contents(session) == before
    labels = [each["label"] for each in panel.state()["session"]["tracks"]]
    assert labels == [track.name for track in own]
    page.close()


@pytest.mark.needs("ardour")
def test_an_ardour_session_gets_stems_and_gives_them_back(
    open_page, ardour_session, bundle, tmp_path
):
    copy = tmp_path / "by command" / "song"
    shutil.copytree(ardour_session, copy)
    with running_panel(ardour_session, "--model", bundle, "-p", "half") as panel:
        page = open_page(panel)
        file = ardour_session / "song.ardour"
        there_and_back(panel, page, file, bundle, copy / "song.ardour")


def test_a_dawproject_gets_stems_and_gives_them_back(open_page, dawproject, bundle, tmp_path):
    copy = tmp_path / "by command" / dawproject.name
    copy.parent.mkdir()
    shutil.copy2(dawproject, copy)
    with running_panel(dawproject, "--model", bundle, "-p", "half") as panel:
        there_and_back(panel, open_page(panel), dawproject, bundle, copy)


def test_a_file_has_no_session(bundle, song):
    with running_panel(song, "--model", bundle, "-p", "half") as running:
        assert running.state()["session"] is None
        for path in ("session/add", "session/undo", "track"):
            body = {"key": "x"} if path == "track" else {}
            assert running.ask(path, body).status == 400
