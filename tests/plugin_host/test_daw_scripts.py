"""The scripts for inside a DAW: installed, run in Lua against a stand-in for the DAW."""

import shutil
import subprocess
import sys

import pytest
import soundfile
from host_audio import music
from test_reaper import RATE, SIMPLE

from plugin_host.cli import main
from plugin_host.daw.requests import install, requests_folder, run_requests

# What the script uses of REAPER, recording what it does.
REAPER = r"""
local shown, inserted, deferred = {}, {}, nil
reaper = {
  ShowMessageBox = function(text) print("MESSAGE " .. text) end,
  GetSelectedTrack = function() return "track" end,
  GetTrackName = function() return true, TRACK end,
  EnumProjects = function() return 0, PROJECT end,
  Main_SaveProject = function() end,
  GetUserInputs = function() return true, ANSWER end,
  GetSet_LoopTimeRange = function() return 0, 0 end,
  time_precise = function() return 12.5 end,
  ExecProcess = function(line, wait) print("EXEC " .. wait .. " " .. line); os.execute(RUN) end,
  CountTracks = function() return 1 + #inserted end,
  GetTrack = function(_, index) return index end,
  GetTrackGUID = function() return "{11111111-0000-0000-0000-000000000001}" end,
  Undo_BeginBlock = function() end,
  Undo_EndBlock = function(text) print("UNDO " .. text) end,
  InsertTrackAtIndex = function(index) inserted[#inserted + 1] = index end,
  SetTrackStateChunk = function(_, chunk)
    print("TRACK " .. chunk:match("NAME ([^\r\n]*)"))
  end,
  SetMediaTrackInfo_Value = function(_, key, value) print("SET " .. key .. " " .. value) end,
  UpdateArrange = function() end,
  defer = function(callback) deferred = callback end,
}
dofile(SCRIPT)
for _ = 1, 100 do
  if not deferred then break end
  local callback = deferred
  deferred = nil
  callback()
end
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "da ta ö"))
    folder = tmp_path / "REAPER"
    folder.mkdir()
    return folder


def lua(program, **values):
    command = shutil.which("lua5.4")
    assert command, "Lua is missing; apt-get install lua5.4"
    given = "".join(f"{name} = [==[{value}]==]\n" for name, value in values.items())
    done = subprocess.run(
        [command, "-"], input=given + program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reaper_runs_it_in_the_background_and_inserts_the_tracks(home, tmp_path, bundle):
    name = 'Gitarre; $(touch hacked) "ö" `x`'
    project = tmp_path / "Lied ö.rpp"
    project.write_text(SIMPLE.replace("NAME Gitarre", f"NAME '{name}'"))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "take 1.wav", music(4, RATE).T, RATE)
    before = project.read_bytes()
    assert main(["daw", "install", "reaper", "--folder", str(home)]) == 0
    script = home / "Scripts" / "stembridge.lua"
    runner = tmp_path / "runner.py"
    # As the installed command does, with the model of formulas and without a sidecar.
    runner.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from plugin_host.cli import main\n"
        "from plugin_host.daw.requests import requests_folder, run_requests\n"
        f"options = ['--model', {str(bundle)!r}, '--in-process']\n"
        "run_requests(requests_folder(), lambda words: main([*words, *options]))\n"
    )
    out = lua(
        REAPER,
        SCRIPT=script,
        PROJECT=project,
        TRACK=name,
        ANSWER="vox=half; nothing|yes",
        RUN=f"'{sys.executable}' '{runner}'",
    )
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("TRACK")][1:] == [
        "TRACK vox",
        "TRACK nothing",
        "TRACK residual",
    ]
    assert "SET B_MUTE 1" in lines
    (executed,) = [line for line in lines if line.startswith("EXEC")]
    assert executed.startswith("EXEC -2 ")
    assert "Gitarre" not in executed
    assert project.read_bytes() == before
    assert not list(tmp_path.rglob("hacked"))
    assert not list(requests_folder().iterdir())


def test_what_goes_wrong_is_shown(home, tmp_path):
    project = tmp_path / "a.rpp"
    project.write_text(SIMPLE)
    install("reaper", home)
    runner = tmp_path / "runner.py"
    runner.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from plugin_host.daw.run_requests import requests_folder, run_requests, main\n"
        "run_requests(requests_folder(), main)\n"
    )
    out = lua(
        REAPER,
        SCRIPT=home / "Scripts" / "stembridge.lua",
        PROJECT=project,
        TRACK="Gitarre",
        ANSWER="preset:band|no",
        RUN=f"'{sys.executable}' '{runner}'",
    )
    assert "MESSAGE" in out
    assert "relink it first" in out


def test_the_ardour_script_is_lua_with_a_fixed_command(home):
    target = install("ardour", home)
    text = target.read_text("utf-8")
    assert "@" not in text.split("description")[0]
    assert "run_requests" in text
    lua("assert(loadfile(SCRIPT))", SCRIPT=target)


def test_requests_run_once_and_only_what_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = requests_folder()
    assert folder.stat().st_mode & 0o077 == 0
    (folder / "a.request").write_text("session\napply\nx y.rpp\n--track\n$(ö)\n")
    (folder / "b.request").write_text("serve\n")
    ran = []

    def run(arguments):
        ran.append(list(arguments))
        print("working")
        return 0

    assert run_requests(folder, run) == 2
    assert ran == [["session", "apply", "x y.rpp", "--track", "$(ö)"]]
    assert (folder / "a.log").read_text() == "working\n\nexit 0\n"
    assert (folder / "b.log").read_text().endswith("exit 2\n")
    assert run_requests(folder, run) == 0


def test_a_daw_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["daw", "install", "reaper", "--folder", str(tmp_path / "none")]) == 2
    assert main(["daw", "install", "cubase"]) == 2
    err = capsys.readouterr().err
    assert "start reaper once" in err
    assert "expected reaper, ardour, audacity" in err
    assert main(["daw", "install", "audacity"]) == 0
