"""Presets that travel inside session files."""

import threading
import zipfile

import pytest
from test_ardour import CREATE, LIST, ardour
from test_dawproject import PROJECT
from test_reaper import FULL, SIMPLE

from plugin_host import daw
from plugin_host.cli import main
from plugin_host.daw.project_presets import project_presets
from presets import Preset, PresetError, PresetStem

__all__ = ["ardour"]

MINE = Preset(description='Zeile\n"zwei" <&> ö', stems=(PresetStem("lead vocals", "vox"),), seed=3)


def reaper(folder, text=SIMPLE):
    path = folder / "a.rpp"
    path.write_bytes(text.encode())
    return path


def dawproject(folder):
    path = folder / "a.dawproject"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.xml", PROJECT.format(unit="seconds", time="1", duration="1"))
    return path


def ardour_file(folder):
    path = folder / "a.ardour"
    path.write_text('<Session version="7002" name="a" sample-rate="48000"><Extra/></Session>')
    return path


def test_presets_lie_beside_a_session_whose_kind_holds_none(tmp_path, monkeypatch):
    monkeypatch.setitem(daw._KINDS, ".aup3", ("audacity", "AudacitySession"))
    project = tmp_path / "a.aup3"
    project.touch()
    project_presets(project).save("mine", MINE)
    assert project_presets(project).load("mine") == MINE
    assert (tmp_path / ".stembridge" / "presets" / "mine.toml").exists()


@pytest.mark.parametrize("make", [reaper, dawproject, ardour_file])
def test_presets_inside_a_session(tmp_path, make):
    path = make(tmp_path)
    project_presets(path).save("mine ö", MINE)
    project_presets(path).save("other", Preset(stems=(PresetStem("drums"),)))
    store = project_presets(path)
    assert store.names() == ["mine ö", "other"]
    assert store.load("mine ö") == MINE
    with pytest.raises(PresetError, match="--overwrite"):
        store.save("other", MINE)
    store.save("other", MINE, overwrite=True)
    assert store.load("other") == MINE
    store.delete("other")
    with pytest.raises(PresetError, match="no preset 'other'"):
        store.delete("other")
    assert store.names() == ["mine ö"]


@pytest.mark.parametrize("text", [SIMPLE, FULL])
def test_a_reaper_project_is_as_before_when_the_presets_are_gone(tmp_path, text):
    path = reaper(tmp_path, text)
    store = project_presets(path)
    store.save("mine", MINE)
    assert b"EXTSTATE" in path.read_bytes()
    store.delete("mine")
    assert path.read_bytes() == text.encode()


def test_presets_beside_a_session_are_found_too(tmp_path):
    path = reaper(tmp_path)
    project_presets(tmp_path).save("beside", MINE)
    assert project_presets(path).load("beside") == MINE
    project_presets(path).save("inside", MINE)
    assert project_presets(path).names() == ["beside", "inside"]
    assert project_presets(tmp_path).names() == ["beside"]


def test_two_at_once_lose_nothing(tmp_path):
    path = reaper(tmp_path)

    def save(name):
        for number in range(5):
            project_presets(path).save(f"{name} {number}", MINE)

    threads = [threading.Thread(target=save, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(project_presets(path).names()) == 10


def test_the_command_line_reaches_them(tmp_path, capsys):
    path = reaper(tmp_path)
    arguments = ["-p", "drums", "--no-pin", "--project", str(path)]
    assert main(["preset", "save", "mine", *arguments]) == 0
    assert main(["preset", "rename", "mine", "yours", "--project", str(path)]) == 0
    assert main(["preset", "show", "yours", "--project", str(path)]) == 0
    assert 'text = "drums"' in capsys.readouterr().out


@pytest.mark.slow
def test_ardour_itself_keeps_them(ardour, tmp_path):
    ardour(CREATE, tmp_path / "song")
    path = tmp_path / "song" / "song.ardour"
    project_presets(path).save("mine", MINE)
    ardour(LIST, tmp_path / "song")
    assert project_presets(path).load("mine") == MINE
