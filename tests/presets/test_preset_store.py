import subprocess
import sys
from pathlib import Path

import pytest

from presets import FactoryStore, FolderStore, Preset, PresetError, PresetStem, find_preset
from presets.library import library, locate_preset, project_store, user_store


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "presets", "user")


def preset(text="drums", **fields):
    return Preset(stems=(PresetStem(text),), **fields)


def visible(store):
    return sorted(p.name for p in store.folder.iterdir() if not p.name.startswith("."))


def test_saved_presets_come_back(store):
    assert store.names() == []
    store.save("mine", preset(seed=3))
    store.save("the other – ö", preset("bass"))
    assert store.names() == ["mine", "the other – ö"]
    assert store.load("mine") == preset(seed=3)
    assert visible(store) == ["mine.toml", "the other – ö.toml"]


def test_a_taken_name_is_refused_and_an_overwritten_preset_is_kept(store):
    store.save("mine", preset(seed=1))
    with pytest.raises(PresetError, match="--overwrite"):
        store.save("mine", preset(seed=2))
    assert store.load("mine").seed == 1
    store.save("mine", preset(seed=2), overwrite=True)
    assert store.load("mine").seed == 2
    kept = FolderStore(store.folder / ".replaced", "kept")
    assert [kept.load(name).seed for name in kept.names()] == [1]


def test_rename_and_delete(store):
    store.save("a", preset())
    store.save("b", preset("bass"))
    with pytest.raises(PresetError, match="exists"):
        store.rename("a", "b")
    store.rename("a", "c")
    store.delete("b")
    assert store.names() == ["c"]
    for missing in (lambda: store.delete("b"), lambda: store.rename("b", "d")):
        with pytest.raises(PresetError, match="no user preset 'b'"):
            missing()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "con", "a\n"])
def test_names_that_are_no_file_names_are_refused(store, name):
    for act in (store.load, store.delete, lambda n: store.save(n, preset())):
        with pytest.raises(PresetError, match="cannot name a preset"):
            act(name)


def test_a_broken_file_is_named(store):
    store.folder.mkdir()
    (store.folder / "bad.toml").write_text("format = 1\nsede = 2")
    with pytest.raises(PresetError, match=r"bad\.toml: top level: .*sede"):
        store.load("bad")


def test_two_programs_saving_at_once_lose_nothing(store):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from presets import FolderStore, Preset, PresetError, PresetStem\n"
        "store = FolderStore(Path(sys.argv[1]), 'user')\n"
        "me = sys.argv[2]\n"
        "won = 0\n"
        "sys.stdin.readline()\n"
        "for i in range(20):\n"
        "    preset = Preset(description=me, stems=(PresetStem('drums'),), seed=i)\n"
        "    store.save(f'own {me} {i}', preset)\n"
        "    store.save('shared', preset, overwrite=True)\n"
        "    try:\n"
        "        store.save(f'contested {i}', preset)\n"
        "        won += 1\n"
        "    except PresetError:\n"
        "        pass\n"
        "print(won)\n"
    )
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, store.folder, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "AB"
    ]
    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    won = [int(program.communicate()[0]) for program in programs]

    assert [program.returncode for program in programs] == [0, 0]
    assert sum(won) == 20
    assert len(store.names()) == 20 + 40 + 1
    kept = FolderStore(store.folder / ".replaced", "kept")
    versions = [kept.load(name) for name in kept.names()] + [store.load("shared")]
    assert {(v.description, v.seed) for v in versions} == {
        (name, seed) for name in "AB" for seed in range(20)
    }
    assert not list(store.folder.glob("*.part"))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PresetError, match="cannot save there"):
        FolderStore(tmp_path / "file" / "presets", "user").save("a", preset())


def test_factory_presets_load_and_cannot_be_changed():
    store = FactoryStore()
    assert {"band", "voice-over", "music-and-effects"} <= set(store.names())
    for name in store.names():
        loaded = store.load(name)
        assert loaded.prompts
        assert loaded.description
    assert [p.stem for p in store.load("band").prompts] == ["drums", "bass", "guitar", "piano"]
    with pytest.raises(PresetError, match="cannot be changed"):
        store.save("band", preset())
    with pytest.raises(PresetError, match="cannot be deleted"):
        store.delete("band")
    with pytest.raises(PresetError, match="no factory preset"):
        store.load("bnd")


def test_a_project_that_was_asked_for_comes_before_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    project = project_store(tmp_path / "song")
    project.save("mine", preset("project"))
    assert find_preset("mine", library(project)) == preset("project")
    user_store().save("mine", preset("user"))
    assert find_preset("mine", library(project)) == preset("project")
    assert find_preset("mine") == preset("user")
    assert (tmp_path / "song" / ".stembridge" / "presets").is_dir()


def test_the_current_folder_comes_last(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    project_store(tmp_path).save("mine", preset("project"))
    assert locate_preset("mine").place == f"project, {tmp_path}/.stembridge/presets/mine.toml"
    user_store().save("mine", preset("user"))
    assert locate_preset("mine").place == f"user, {tmp_path}/data/stembridge/presets/mine.toml"


@pytest.mark.parametrize("name", FactoryStore().names())
def test_no_project_takes_the_place_of_a_factory_preset(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    factory = find_preset(name)
    project = project_store(tmp_path)
    project.save(name, preset("project"))
    assert locate_preset(name).place == "factory"
    assert find_preset(name, library(project)) == factory
    user_store().save(name, preset("user"))
    assert find_preset(name, library(project)) == preset("user")


def test_a_preset_is_found_by_the_path_of_its_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("format = 1\n[[prompts]]\ntext = 'choir'\n")
    assert find_preset(str(path)).prompts[0].text == "choir"
    with pytest.raises(PresetError, match="cannot be read"):
        find_preset(str(Path(tmp_path / "other.toml")))


def test_a_near_miss_is_suggested():
    with pytest.raises(PresetError, match="did you mean 'band'"):
        find_preset("bnad", [FactoryStore()])
    with pytest.raises(PresetError, match="there are band"):
        find_preset("xyz", [FactoryStore()])
