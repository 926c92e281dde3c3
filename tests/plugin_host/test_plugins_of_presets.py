"""A plug-in file that a preset names runs only after the user allowed that very file."""

import os
import shutil
import subprocess

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import ServerError
from plugin_host.cli import main
from plugin_host.cli.daw import requests_folder
from plugin_host.effects.presets import (
    allow,
    chain_from_preset,
    check_allowed,
    fingerprint,
    plugin_files,
)
from presets import Effect, Preset, PresetError, PresetStem, ResidualStem
from presets.library import user_store
from tests.support.host_audio import RATE, music

PROGRAM = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) { close(open(MARK, O_CREAT | O_RDWR, 0600)); }
int ModuleEntry(void *handle) { return 1; }
int ModuleExit(void) { return 1; }
void *GetPluginFactory(void) { return 0; }
"""
PLACES = ["before", "after", "stem", "residual"]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plugin(tmp_path):
    """A plug-in beside the song that leaves a mark as soon as it is loaded."""
    if shutil.which("gcc") is None or os.uname().machine != "x86_64":
        pytest.skip("needs gcc on x86_64 Linux")
    path = tmp_path / "fx.vst3"
    library = path / "Contents" / "x86_64-linux" / "fx.so"
    library.parent.mkdir(parents=True)
    (tmp_path / "fx.c").write_text(PROGRAM)
    mark = f'-DMARK="{tmp_path / "ran"}"'
    subprocess.run(["gcc", "-shared", "-fPIC", mark, "-o", library, tmp_path / "fx.c"], check=True)
    return path


def preset_with(path, place):
    chain = (Effect(str(path)),)
    if place in ("before", "after"):
        return Preset(stems=(PresetStem("half"),), **{place: chain})
    stem = PresetStem("half", chain=chain if place == "stem" else ())
    return Preset(stems=(stem,), residual=ResidualStem(chain if place == "residual" else ()))


@pytest.mark.parametrize("place", PLACES)
def test_what_was_not_allowed_is_not_loaded(plugin, tmp_path, place):
    preset = preset_with("fx.vst3", place)
    with pytest.raises(PresetError, match=r"fx\.vst3 \(sha256 .* preset allow"):
        chain_from_preset(preset)
    assert not (tmp_path / "ran").exists()
    allow(plugin)
    check_allowed(preset)
    with pytest.raises(PresetError, match="cannot be loaded"):
        chain_from_preset(preset)
    assert (tmp_path / "ran").exists()


def test_commands_load_nothing_of_a_project_in_the_current_folder(plugin, tmp_path, bundle, capsys):
    folder = tmp_path / ".stembridge" / "presets"
    folder.mkdir(parents=True)
    text = f'format = 1\nmodel = "{bundle}"\nafter = [{{ plugin = "fx.vst3" }}]\n'
    for name in ("band", "mine"):
        (folder / f"{name}.toml").write_text(text + '[[prompts]]\ntext = "half"\n')
    soundfile.write("song.wav", music().T, RATE)
    options = ["--in-process", "-o", "out"]
    assert main(["preset", "list"]) == 0
    assert main(["preset", "show", "mine"]) == 0
    assert main(["separate", "song.wav", "--preset", "mine", *options]) == 0
    assert "preset mine: project, " in capsys.readouterr().err
    assert main(["render", "song.wav", "--chain", "mine", "--in-process", "-o", "rendered"]) == 2
    error = capsys.readouterr().err
    assert "preset mine: project, " in error
    assert f"stembridge preset allow '{plugin}'" in error
    # The name of a factory preset means the factory's.
    assert main(["preset", "show", "band"]) == 0
    assert "fx.vst3" not in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()
    assert main(["preset", "allow", str(plugin)]) == 0
    assert main(["render", "song.wav", "--chain", "mine", "--in-process", "-o", "rendered"]) == 2
    assert (tmp_path / "ran").exists()


@given(st.data())
@settings(max_examples=40)
def test_another_content_has_to_be_allowed_again(tmp_path, data):
    path = tmp_path / "a.vst3"
    shutil.rmtree(path, ignore_errors=True)
    names = st.text("abc", min_size=1, max_size=3)
    files = data.draw(st.dictionaries(names, st.binary(max_size=8), min_size=1, max_size=4))
    for name, content in files.items():
        (path / "Contents").mkdir(parents=True, exist_ok=True)
        (path / "Contents" / name).write_bytes(content)
    before = allow(path)
    check_allowed(preset_with(path, "after"))
    changed = path / "Contents" / data.draw(st.sampled_from(sorted(files)))
    how = data.draw(st.sampled_from(["bytes", "name", "more", "less"]))
    if how == "bytes":
        changed.write_bytes(changed.read_bytes() + b"!")
    elif how == "name":
        changed.rename(changed.with_name("other"))
    elif how == "more":
        (path / "Contents" / "more").write_bytes(b"")
    else:
        changed.unlink()
    assert fingerprint(path) != before
    # Each example has a list of its own: the same content may have been allowed by another.
    (tmp_path / "data" / "stembridge" / "allowed-plugins").write_text(f"{before}\n")
    with pytest.raises(PresetError, match="was not allowed"):
        check_allowed(preset_with(path, "after"))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder link"])
def test_what_is_not_known_cannot_be_allowed(tmp_path, kind):
    path = tmp_path / "a.vst3"
    path.mkdir()
    if kind == "pipe":
        os.mkfifo(path / "x")
    else:
        (path / "x").symlink_to("/etc" if kind == "folder link" else "/etc/hostname")
    with pytest.raises(PresetError, match=r"a\.vst3/x"):
        allow(path)


def test_built_in_plug_ins_and_bypassed_ones_need_no_word(tmp_path):
    (tmp_path / "Gain").write_bytes(b"a file of that name is not what is meant")
    chain = (Effect("Gain"), Effect("x.vst3", bypass=True))
    assert plugin_files(Preset(after=chain)) == []
    check_allowed(Preset(after=chain))


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_list_that_others_could_have_written_allows_nothing(tmp_path, mode):
    (tmp_path / "fx.vst3").write_bytes(b"x")
    allow(tmp_path / "fx.vst3")
    check_allowed(Preset(before=(Effect("fx.vst3"),)))
    (tmp_path / "data" / "stembridge").chmod(mode)
    with pytest.raises(PresetError, match="cannot be trusted"):
        check_allowed(Preset(before=(Effect("fx.vst3"),)))
    with pytest.raises(ServerError, match="cannot be trusted"):
        requests_folder()


def test_what_the_user_keeps_is_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        user_store().save("mine", Preset(stems=(PresetStem("half"),)))
        requests_folder()
        (tmp_path / "fx.vst3").write_bytes(b"x")
        allow(tmp_path / "fx.vst3")
    finally:
        os.umask(old)
    made = [path for path in (tmp_path / "data").rglob("*") if path.is_dir()]
    assert {path.name for path in made} == {"stembridge", "presets", "requests"}
    assert [path for path in made if path.stat().st_mode & 0o077] == []
