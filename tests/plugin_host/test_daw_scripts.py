"""The scripts for inside a DAW: installed, run in Lua against a stand-in for the DAW."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import soundfile
from msgspec.structs import replace
from test_reaper import RATE
from test_reaper_tracks import item, track

from bridge.bundles.bundle import load_manifest, write_manifest
from bridge.bundles.manifest import Level
from bridge.errors import ServerError
from plugin_host.cli import daw as requests
from plugin_host.cli import main
from plugin_host.cli.daw import install, requests_folder, run_requests, start_words
from tests.support import tiny_bundle
from tests.support.host_audio import music

pytestmark = pytest.mark.needs("lua5.4")

HERE = Path(__file__).parent
STANDIN = (HERE / "reaper_standin.lua").read_text("utf-8")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "da ta ö"))
    folder = tmp_path / "REAPER"
    folder.mkdir()
    return folder


def lua(program, **values):
    command = shutil.which("lua5.4")
    given = "".join(
        f"{name} = {value}\n" if name == "TRACKS" else f"{name} = [==[{value}]==]\n"
        for name, value in values.items()
    )
    done = subprocess.run(
        [command, "-"], input=given + program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


SESSION = (
    """<REAPER_PROJECT 0.1 "7.18/linux-x86_64" 1727696200
"""
    + "".join(
        [
            track(name="Bus", lines="ISBUS 1 1", number=1),
            track(
                item(number=1, SEL="1"),
                item(number=2, POSITION="3"),
                name="NAME",
                lines="ISBUS 2 -1",
                number=2,
            ),
            track(name="Verb", lines="ISBUS 0 0\nAUXRECV 1 0 1", number=3),
        ]
    )
    .replace("NAME Gtr", "NAME")
    .replace("NAME NAME", "NAME @NAME@")
    + ">\n"
)


@pytest.fixture
def reaper(home, tmp_path, bundle):
    """Run the installed script in the stand-in for REAPER, with the model of formulas."""

    def run(name='""', *, work=True, **values):
        project = tmp_path / "Lied ö.rpp"
        project.write_text(SESSION.replace("@NAME@", name))
        for file in ("a.wav", "b.wav"):
            soundfile.write(tmp_path / file, music(4, RATE).T, RATE)
        install("reaper", home)
        runner = tmp_path / "runner.py"
        # As the installed command does, but without a sidecar.
        runner.write_text(
            f"import sys; sys.path[:0] = {sys.path!r}\n"
            "from plugin_host.cli import main\n"
            "from plugin_host.cli.daw import requests_folder, run_requests\n"
            f"options = ['--model', {str(bundle)!r}, '--in-process']\n"
            "run_requests(requests_folder(), lambda words: main([*words, *options]))\n"
        )
        given = {
            "SCRIPT": home / "Scripts" / "stembridge.lua",
            "API": HERE / "reaper_api.txt",
            "PROJECT": project,
            "TRACKS": "{ 2 }",
            "ITEMS": "0",
            "KEYS": keys("half"),
            "RUN": f"'{sys.executable}' '{runner}'" if work else "",
            "HOME": home,
        } | values
        given["STORED"] = f"draft=no;{values.get('STORED', '')}"
        before = project.read_bytes()
        out = lua(STANDIN, **given)
        assert project.read_bytes() == before
        # Nothing is left for others to stumble over.
        assert not list(requests_folder().iterdir())
        assert not list(tmp_path.glob("* stembridge *.rpp"))
        assert not (tmp_path / ".stembridge" / "additions.json").exists()
        return out

    return run


def keys(prompts):
    """Type prompts into the window and press Enter."""
    return " ".join(str(code) for code in (9, *map(ord, prompts), 13))


def tracks(out):
    return [line.removeprefix("TRACK ") for line in out if line.startswith("TRACK ")]


WITH_STEMS = [
    "0 Bus mute=0 sends= items=",
    '1 "" mute=1 sends=Verb@0.5 items=00,00',
    '1 "Track 2 stems" mute=0 sends=Verb@0.5 items=',
    "2 half mute=0 sends= items=00,00",
    "2 residual mute=0 sends= items=00,00",
    "0 Verb mute=0 sends= items=",
]


def test_reaper_stems_lie_in_a_folder_beside_the_track(reaper):
    out = reaper()
    assert tracks(out) == WITH_STEMS
    assert any(line.startswith("UNDO") and "stems of Track 2" in line for line in out)
    assert not any(line.startswith("MESSAGE") for line in out)


def test_reaper_tells_of_a_silent_stem(reaper):
    out = reaper(KEYS=keys("nothing;half"))
    assert tracks(out)[3:5] == [
        "2 nothing mute=0 sends= items=00,00",
        "2 half mute=0 sends= items=00,00",
    ]
    assert "MESSAGE no 'nothing' was heard: silence" in out


def test_reaper_names_and_prompts_meet_no_shell(reaper, tmp_path):
    out = reaper("""'Gitarre; $(touch hacked) "ö" `x`'""", KEYS=keys("a;vox=half"))
    assert [line.split()[1] for line in tracks(out)][3:6] == ["a", "vox", "residual"]
    (executed,) = [line for line in out if line.startswith("EXEC")]
    assert executed.startswith("EXEC -2 ")
    assert "Gitarre" not in executed
    assert not list(tmp_path.rglob("hacked"))


def test_reaper_items_become_takes(reaper):
    # Items, not tracks, are selected; a click is on the row that says what becomes of the stems.
    out = reaper(TRACKS="{}", ITEMS="1", STORED="place=takes", KEYS=keys("half"))
    assert tracks(out) == ["0 Bus mute=0 sends= items=", '1 "" mute=0 sends=Verb@0.5 items=02,00',
                           "0 Verb mute=0 sends= items="]  # fmt: skip


def test_reaper_only_selected_items_are_muted(reaper):
    out = reaper(TRACKS="{}", ITEMS="1")
    assert tracks(out)[1] == '1 "" mute=0 sends=Verb@0.5 items=10,00'
    assert tracks(out)[3] == "2 half mute=0 sends= items=00"


def test_reaper_presets_are_chosen_by_number(reaper):
    out = reaper(KEYS="50 13")
    assert any(line.startswith("DRAWN 1 ") for line in out)
    assert len(tracks(out)) > 5
    # Also where a prompt is remembered, until one is typed.
    out = reaper(KEYS="49 13", STORED="prompts=half", work=False)
    assert "STORED prompts=" in out
    out = reaper(KEYS=" ".join(map(str, map(ord, "2 halves\r"))), STORED="prompts=x", work=False)
    assert "STORED prompts= halves" in out


def test_reaper_remembers_what_was_chosen(reaper):
    # A click on the row of the quality, then Enter.
    out = reaper(KEYS="0 0 0 104 97 108 102 13", CLICK="2 110", STORED="mute=no;place=takes")
    (asked,) = [line for line in out if line.startswith("REQUEST ")]
    assert "--prompt half --quality draft --as takes" in asked
    assert [line.removeprefix("STORED ") for line in out if line.startswith("STORED ")] == [
        "prompts=half",
        "preset=band",
        "quality=draft",
        "place=takes",
        "mute=no",
        "draft=no",
    ]
    assert "items=02,02" in tracks(out)[1]


def test_a_call_that_reaper_does_not_have_is_found_out(reaper, home):
    install("reaper", home)
    script = home / "Scripts" / "wrong.lua"
    for wrong in ("reaper.CountTracks()", "reaper.Separate(1)", "gfx.rect(1, 2)", "gfx.blur()"):
        script.write_text(wrong)
        with pytest.raises(AssertionError, match=r"takes|has no"):
            reaper(SCRIPT=script)


@pytest.mark.slow
def test_reaper_tracks_go_into_the_project_they_were_made_for(reaper):
    out = reaper(SWITCH="yes")
    assert tracks(out) == WITH_STEMS
    assert "TRACKS IN ANOTHER TAB 0" in out
    out = reaper(CLOSE="yes")
    assert any("was closed meanwhile" in line for line in out)
    assert len(tracks(out)) == 3


def test_reaper_says_what_goes_wrong(reaper):
    out = reaper(KEYS=keys("half"), TRACKS="{ 3 }")
    assert any(line.startswith("MESSAGE stembridge: the track") for line in out)
    out = reaper(TRACKS="{}")
    assert out[0] == "MESSAGE Select tracks or items to separate first."
    # Nothing starts: it is said, and the request does not stay for the next run to find.
    out = reaper(work=False)
    assert any("did not start" in line for line in out)
    assert "STILL WAITING" not in out


def test_reaper_sees_that_the_process_was_ended(reaper):
    runs = requests_folder()
    ended = f"cd '{runs}'; for f in *.request; do mv $f ${{f%.request}}.running; "
    ended += "echo 1 > ${f%.request}.alive; done"
    out = reaper(RUN=ended)
    assert any("was ended from outside" in line for line in out)
    assert "STILL WAITING" not in out


@pytest.mark.slow
def test_reaper_cancels(reaper, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import signal, threading\n"
        "from plugin_host.cli.daw import requests_folder, run_requests\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def run(words):\n"
        "    print('Gtr 1/1: solve 3/4 1 s left')\n"
        "    threading.Event().wait(60)\n"
        "    return 0\n"
        "run_requests(requests_folder(), run)\n"
    )
    typed = keys("half") + " 0" * 60 + " 27"
    out = reaper(RUN=f"'{sys.executable}' '{slow}' &", KEYS=typed, PAUSE="0.05")
    assert "DRAWN Gtr 1/1: solve 3/4 1 s left" in out
    assert "CLOSED" in out
    assert len(tracks(out)) == 3
    assert not any(line.startswith("MESSAGE") for line in out)


@pytest.fixture(scope="module")
def drafts(tmp_path_factory):
    """A model whose drafts are made in one step."""
    made = tiny_bundle.build(tmp_path_factory.mktemp("drafts") / "model")
    levels = {"draft": Level(solver="euler", steps=1)}
    write_manifest(replace(load_manifest(made), qualities=levels), made)
    return str(made)


@pytest.fixture
def drafting(reaper, tmp_path):
    """Run the script with a draft first, by a command whose second run does something else."""

    def run(second="code = main([*words, *options])", **values):
        program = tmp_path / "drafting.py"
        program.write_text(
            f"import sys; sys.path[:0] = {sys.path!r}\n"
            "import signal, threading\n"
            "from plugin_host.cli import main\n"
            "from plugin_host.cli.daw import requests_folder, run_requests\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"options = ['--model', {values.pop('model')!r}, '--in-process']\n"
            "def run(words):\n"
            "    if 'draft' in words:\n"
            "        return main([*words, *options])\n"
            f"    {second}\n"
            "    return code\n"
            "run_requests(requests_folder(), run)\n"
        )
        command = f"'{sys.executable}' '{program}'" + " &" * values.pop("behind", False)
        return reaper(RUN=command, **{"STORED": "draft=yes", **values})

    return run


def plays(out, tmp_path):
    """The files that are played besides those of the project itself, and what is in them."""
    names = [line.removeprefix("PLAYS ") for line in out if line.startswith("PLAYS ")]
    stems = [name for name in names if name not in ("a.wav", "b.wav")]
    return stems, [soundfile.read(tmp_path / name)[0] for name in stems]


DRAFT_STEP = "stembridge: draft stems of Track 2"
FINAL_STEP = "stembridge: stems of Track 2"


@pytest.mark.slow
def test_reaper_hears_a_draft_until_the_stems_are_there(drafting, tmp_path, drafts):
    out = drafting(model=drafts)
    assert tracks(out) == WITH_STEMS
    steps = [line.split(".rpp ")[1] for line in out if line.startswith("UNDO ")]
    assert steps == [DRAFT_STEP, FINAL_STEP]
    first, second = (line for line in out if line.startswith("REQUEST "))
    assert "--quality draft" in first
    assert "--quality" not in second
    stems = plays(out, tmp_path)[1]
    # The drafts lie beside them, and sound otherwise: undo goes back to what is there.
    before = plays(drafting(model=drafts, UNDO="1"), tmp_path)[1]
    assert len(before) == len(stems) == 4
    assert any((one != other).any() for one, other in zip(before, stems, strict=True))
    assert len(tracks(drafting(model=drafts, UNDO="2"))) == 3


@pytest.mark.slow
def test_reaper_keeps_what_was_done_to_the_drafts(drafting, tmp_path, drafts):
    finals = plays(drafting(model=drafts), tmp_path)[1]
    out = drafting(model=drafts, MEANWHILE="mute", FOLDER="/else/where/")
    assert tracks(out)[3] == "2 half mute=0 sends= items=10,00"
    kept = [line for line in out if line.startswith("PLAYS /else/where/")]
    names = [line.removeprefix("PLAYS /else/where/") for line in kept]
    stems = [soundfile.read(tmp_path / name)[0] for name in names if name not in ("a.wav", "b.wav")]
    assert all((one == other).all() for one, other in zip(stems, finals, strict=True))
    # Undone meanwhile, they come as without a draft.
    out = drafting(model=drafts, MEANWHILE="undo")
    assert tracks(out) == WITH_STEMS
    again = plays(out, tmp_path)[1]
    assert all((one == other).all() for one, other in zip(again, finals, strict=True))


@pytest.mark.slow
def test_reaper_takes_a_draft_back_when_cancelled(drafting, drafts):
    waits = "print('solve 3/4'); threading.Event().wait(60); code = 0"
    typed = keys("half") + " 0" * 400 + " 27"
    given = {"model": drafts, "KEYS": typed, "PAUSE": "0.05", "behind": True}
    out = drafting(waits, **given)
    assert f"UNDONE {DRAFT_STEP}" in out
    assert "DRAWN The draft is there. solve 3/4" in out
    assert [line.split()[0:2] for line in tracks(out)] == [["0", "Bus"], ["1", '""'], ["0", "Verb"]]
    assert "mute=0" in tracks(out)[1]
    assert not any(line.startswith("MESSAGE") for line in out)
    # What the user did since is not undone with it.
    out = drafting(waits, **given, MEANWHILE="mute")
    assert tracks(out)[3] == "2 half mute=0 sends= items=10,00"
    assert any("Cancelled, but the project was changed" in line for line in out)


def test_reaper_keeps_the_draft_where_the_stems_fail(drafting, drafts):
    out = drafting("print('stembridge: no more memory'); code = 2", model=drafts)
    assert tracks(out) == WITH_STEMS
    (told,) = (line for line in out if line.startswith("MESSAGE"))
    assert "no more memory" in told
    assert "What is there is the draft; undo takes it away." in told


def test_reaper_without_a_window_asks_in_a_box(reaper):
    out = reaper(WINDOW="no", ANSWER="half|yes")
    assert tracks(out) == WITH_STEMS


def test_reaper_without_a_window_makes_no_draft_first(drafting, drafts):
    out = drafting(model=drafts, WINDOW="no", ANSWER="half|yes")
    assert tracks(out) == WITH_STEMS
    assert [line.split(".rpp ")[1] for line in out if line.startswith("UNDO ")] == [FINAL_STEP]


@pytest.mark.slow
def test_reaper_from_reapack_finds_the_command(reaper, home):
    reaper()
    script = home / "Scripts" / "from reapack.lua"
    script.write_text((requests._FOLDER / "stembridge.lua").read_text())
    assert tracks(reaper(SCRIPT=script)) == WITH_STEMS
    (home / "stembridge.conf").unlink()
    text = (home / "Scripts" / "stembridge.lua").read_text()
    assert "stembridge.conf" in text


def test_the_ardour_script_is_lua_with_a_fixed_command(home):
    target = install("ardour", home)
    text = target.read_text("utf-8")
    assert "@" not in text.split("description")[0]
    assert all(f"[==[{word}]==]" in text for word in start_words())
    lua("assert(loadfile(SCRIPT))", SCRIPT=target)


# Just enough of an editor to ask what is to be done to a track.
ARDOUR = """
ardour = function() end
local identity = { id = function() return { to_s = function() return "121" end } end }
local track = { name = function() return "Gtr/1" end, to_stateful = function() return identity end }
local routes = {
  empty = function() return false end,
  iter = function() local left = { track } return function() return table.remove(left) end end,
}
local selection = { tracks = { routelist = function() return routes end } }
Editor = { get_selection = function() return selection end }
Session = {
  save_state = function() end,
  path = function() return "/song" end,
  snap_name = function() return "verse" end,
}
LuaDialog = {
  MessageType = { Info = 0 }, ButtonType = { Close = 0 },
  Message = function() return { run = function() end } end,
  Dialog = function() return { run = load("return " .. ANSWER) } end,
}
os.execute = function() end
dofile(SCRIPT)
factory()()
"""
ASKED = ["session", "apply", "/song/verse.ardour", "--out",
         "/song/verse with stems of Gtr-1.ardour", "--track", "121"]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        ("{ prompts = ' drums ; vox=lead', mute = true, quality = '' }",
         ["--prompt", "drums", "--prompt", "vox=lead", "--mute-source"]),
        ("{ prompts = '', preset = 'band', quality = 'draft' }",
         ["--preset", "band", "--quality", "draft"]),
        ("{ prompts = 'drums' }", ["--prompt", "drums"]),
        # Without a window there is nothing to wait for a draft.
        ("{ prompts = 'drums', draft = true }", ["--prompt", "drums"]),
    ],
)  # fmt: skip
def test_the_ardour_script_asks_for_what_was_answered(home, answer, asked):
    lua(ARDOUR, SCRIPT=install("ardour", home), ANSWER=answer)
    (request,) = requests_folder().iterdir()
    assert request.read_text().splitlines() == [*ASKED, *asked]


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


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("place", [".", "requests"])
def test_requests_that_others_could_have_left_are_not_run(tmp_path, monkeypatch, mode, place):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = requests_folder()
    (folder.parent / place).chmod(mode)
    with pytest.raises(ServerError, match="others could write"):
        requests_folder()
    (folder / "a.request").write_text("session\nlist\nx.rpp\n")
    done = subprocess.run(start_words(), check=False, stderr=subprocess.PIPE, text=True)
    assert done.returncode
    assert not (folder / "a.log").exists()


def test_a_daw_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["daw", "install", "reaper", "--folder", str(tmp_path / "none")]) == 2
    assert main(["daw", "install", "cubase"]) == 2
    err = capsys.readouterr().err
    assert "start reaper once" in err
    assert "expected reaper, ardour, audacity" in err
    assert main(["daw", "install", "audacity"]) == 0


def test_reapack_is_offered_the_script(capsys):
    assert main(["daw", "reapack", "https://example.org/stembridge.lua"]) == 0
    index = ET.fromstring(capsys.readouterr().out)
    package = index.find("category/reapack")
    assert package.get("desc") == "Separate tracks or items with stembridge"
    assert package.findtext("version/source") == "https://example.org/stembridge.lua"


def test_settings_of_the_newest_ardour_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in ("ardour7", "ardour10", "ardour9", "ardour-old"):
        (tmp_path / name).mkdir()
    assert install("ardour").parts[-3:-1] == ("ardour10", "scripts")
    monkeypatch.setattr(requests.sys, "platform", "darwin")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / "Library" / "Preferences" / "Ardour9").mkdir(parents=True)
    assert install("ardour").parts[-3:-1] == ("Ardour9", "scripts")


def test_what_others_left_is_removed_and_a_file_that_is_there_is_not_written(tmp_path):
    old = tmp_path / "old.request"
    old.write_text("session\napply\nx.rpp\n")
    os.utime(old, (1, 1))
    (tmp_path / "new.ardour").write_text("")
    (tmp_path / "now.request").write_text(f"session\napply\n--out\n{tmp_path / 'new.ardour'}\n")
    ran = []
    assert run_requests(tmp_path, lambda words: ran.append(list(words)) or 0) == 1
    assert ran == [["session", "apply", "--out", str(tmp_path / "new 2.ardour")]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.ardour", "now.log"]


def test_the_command_that_scripts_start_does_what_the_folder_asks(tmp_path):
    command = start_words()
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    folder = tmp_path / "stembridge" / "requests"
    folder.mkdir(parents=True)
    (folder / "a.request").write_text("serve\n")
    subprocess.run(command, env=environment, check=True)
    assert (folder / "a.log").read_text().endswith("exit 2\n")
