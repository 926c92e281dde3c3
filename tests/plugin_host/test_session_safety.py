"""A session is changed as a whole or not at all, and never over what somebody else saved."""

import json
import subprocess
import sys
import threading
import zipfile

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dawproject import PROJECT
from test_reaper import SIMPLE

from bridge.request import Prompt, Settings
from plugin_host.cli import main
from plugin_host.daw import apply as applying
from plugin_host.daw import open_session
from plugin_host.daw.apply import Journal
from plugin_host.daw.media import hold_project
from plugin_host.daw.session import SessionError
from plugin_host.effects.separators import open_separator
from tests.support.host_audio import music

RATE = 44100
TRACKS = {"rpp": "Gitarre", "dawproject": "Gitarre ö", "ardour": "Gitarre"}

ARDOUR = """<?xml version="1.0" encoding="UTF-8"?>
<Session version="7002" name="a" sample-rate="44100" id-counter="100">
  <Sources><Source name="take 1.wav" type="audio" id="1" channel="0"/></Sources>
  <Routes><Route id="2" name="Gitarre" default-type="audio" audio-playlist="3"/></Routes>
  <Playlists><Playlist id="3" name="Gitarre">
    <Region id="4" name="take" channels="1" source-0="1" start="a0"
            length="a282240000@a0" muted="0"/>
  </Playlist></Playlists>
</Session>
"""


def make(folder, kind):
    path = folder / f"a.{kind}"
    audio = music(4, RATE, channels=1 if kind == "ardour" else 2)
    places = {"rpp": "audio", "ardour": "interchange/a/audiofiles", "dawproject": "."}
    (folder / places[kind]).mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / places[kind] / "take 1.wav", audio.T, RATE)
    if kind == "dawproject":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            xml = PROJECT.format(unit="seconds", time="2.5", duration="1.25")
            archive.writestr("project.xml", xml)
            archive.write(folder / "take 1.wav", "audio/take 1.wav")
    else:
        path.write_text(SIMPLE if kind == "rpp" else ARDOUR)
    return path


def contents(folder):
    """All files of a folder; locks and empty folders of ours do not count."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


class Meddling:
    """A separator that does something else before it separates, as time passes for a user."""

    def __init__(self, separator, meddle):
        self.separator, self.meddle = separator, meddle

    def separate(self, *arguments, **options):
        self.meddle()
        return self.separator.separate(*arguments, **options)


def apply(path, bundle, meddle, **options):
    request = applying.Request(TRACKS[path.suffix[1:]], (Prompt("half"),), Settings(), **options)
    with open_separator(str(bundle), in_process=True) as separator:
        return applying.apply(
            open_session(path), request, Meddling(separator, meddle), path, lambda _: None
        )


@pytest.fixture(params=["rpp", "dawproject", "ardour"])
def session(request, tmp_path):
    return make(tmp_path, request.param)


def save_again(path):
    if path.suffix == ".dawproject":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("an-hour-of-work.xml", "<x/>")
    else:
        text = path.read_text()
        path.write_text(text.replace("Gitarre", "Guitarre"))


def test_what_was_saved_meanwhile_is_not_overwritten(session, bundle):
    saved = {}

    def meddle():
        save_again(session)
        saved.update(contents(session.parent))

    with pytest.raises(SessionError, match="saved by another program meanwhile"):
        apply(session, bundle, meddle)
    assert contents(session.parent) == {**saved, **journal_of(session)}


def journal_of(session):
    path = session.parent / ".stembridge" / "additions.json"
    assert json.loads(path.read_text()) == []
    return {path.relative_to(session.parent): path.read_bytes()}


def test_a_session_removed_meanwhile_is_not_made_again(session, bundle):
    with pytest.raises(SessionError, match="removed meanwhile"):
        apply(session, bundle, session.unlink)
    assert not session.exists()


class Stop(Exception):
    pass


@pytest.mark.parametrize("reason", [Stop, KeyboardInterrupt, MemoryError])
def test_nothing_is_left_of_a_run_that_fails(session, bundle, reason):
    before = contents(session.parent)

    def fail():
        raise reason

    with pytest.raises(reason):
        apply(session, bundle, fail)
    assert contents(session.parent) == before


def test_a_journal_that_cannot_be_read_stops_the_run_before_it_begins(session, bundle):
    journal = session.parent / ".stembridge" / "additions.json"
    journal.parent.mkdir()
    journal.write_text('[{"session":')
    before = contents(session.parent)
    with pytest.raises(SessionError, match=r"additions\.json: cannot be read"):
        apply(session, bundle, lambda: pytest.fail("it was computed"))
    assert contents(session.parent) == before


def test_a_journal_that_breaks_while_it_computes_leaves_the_session(session, bundle):
    before = contents(session.parent)
    journal = session.parent / ".stembridge" / "additions.json"
    with pytest.raises(SessionError, match="cannot be"):
        apply(session, bundle, journal.mkdir)
    journal.rmdir()
    assert contents(session.parent) == before


def test_undo_leaves_the_journal_when_the_session_was_saved_meanwhile(session, bundle):
    apply(session, bundle, lambda: None)
    opened = open_session(session)
    save_again(session)
    before = contents(session.parent)
    with pytest.raises(SessionError, match="saved by another program"):
        applying.undo(opened, session)
    assert contents(session.parent) == before
    assert len(Journal(session.parent).entries(session.name)) == 1


def test_runs_on_one_project_wait_for_each_other(session, bundle):
    track = TRACKS[session.suffix[1:]]
    code = "import sys; from plugin_host.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "session", "apply", str(session), "--track", track]
    options = ["--model", str(bundle), "--in-process", "-p"]
    runs = [subprocess.Popen([*command, *options, text]) for text in ("half", "everything")]
    assert [run.wait() for run in runs] == [0, 0]
    entries = Journal(session.parent).entries(session.name)
    assert len(entries) == 2
    assert len(open_session(session).tracks()) == 1 + 2 * 2
    for _ in entries:
        assert main(["session", "undo", str(session)]) == 0
    assert len(open_session(session).tracks()) == 1


def test_a_project_is_held_against_other_threads_but_not_against_oneself(tmp_path):
    path = tmp_path / "a.rpp"
    events = []

    def other():
        with hold_project(path):
            events.append("other")

    with hold_project(path), hold_project(path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        events.append("first")
    thread.join()
    assert events == ["first", "other"]


@pytest.mark.parametrize("kind", ["rpp", "ardour", "dawproject"])
def test_a_link_stays_a_link_and_the_mode_stays(tmp_path, bundle, kind):
    session = make(tmp_path, kind)
    store = tmp_path / "store"
    store.mkdir()
    target = session.rename(store / session.name)
    target.chmod(0o640)
    session.symlink_to(target)
    apply(session, bundle, lambda: None)
    assert session.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert len(open_session(session).tracks()) == 3


def test_a_new_file_that_somebody_made_meanwhile_is_kept(tmp_path, bundle):
    session, other = make(tmp_path, "rpp"), tmp_path / "b.rpp"
    request = applying.Request("Gitarre", (Prompt("half"),), Settings())
    with open_separator(str(bundle), in_process=True) as separator:
        meddling = Meddling(separator, lambda: other.write_text("mine"))
        with pytest.raises(SessionError, match="exists"):
            applying.apply(open_session(session), request, meddling, other, lambda _: None)
    assert other.read_text() == "mine"


@pytest.mark.parametrize("kind", ["rpp", "ardour", "dawproject"])
def test_the_audio_is_where_the_report_says(tmp_path, bundle, kind):
    session = make(tmp_path, kind)
    done = apply(session, bundle, lambda: None)
    for place in (path for paths in done.files.values() for path in paths):
        if kind == "dawproject":
            with zipfile.ZipFile(session) as archive:
                assert str(place.relative_to(session)) in archive.namelist()
        else:
            assert place.is_file()
    (entry,) = Journal(tmp_path).entries(session.name)
    assert not any(file.startswith(("..", "/")) for file in entry.files)


@given(st.text(st.characters(codec=None), min_size=1, max_size=20))
@settings(max_examples=50)
def test_a_journal_keeps_any_name(tmp_path, name):
    from plugin_host.daw.apply import Entry

    journal = Journal(tmp_path)
    entry = Entry("a.rpp", name, f"{name} stems", "", (name,), None, ())
    with journal.changing(gone=journal.entries("a.rpp"), new=[entry]):
        pass
    assert journal.entries("a.rpp") == [entry]
