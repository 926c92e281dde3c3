"""``stembridge doctor``: each finding is provoked, and has to be found."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import onnx
import pytest

from bridge.bundles.bundle import load_manifest
from bridge.errors import InputError, ModelError, ProviderError, ServerError, with_next_step
from bridge.request import Settings
from plugin_host.cli import doctor as doctoring
from plugin_host.cli import main
from plugin_host.cli.daw import install
from plugin_host.cost import (
    measure_cost,
    remembered_cost,
    song_memory_bytes,
    with_chosen_quality,
)
from plugin_host.files.stem_files import comment_of
from tests.support import sidecars, tiny_bundle


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """Folders of this user that nothing else writes to."""
    folder = tmp_path_factory.mktemp("h")
    runtime = Path(tempfile.mkdtemp(prefix="sb"))  # a socket's address is short
    for name, place in {
        "HOME": folder,
        "XDG_CONFIG_HOME": folder / "config",
        "XDG_DATA_HOME": folder / "data",
        "STEMBRIDGE_CACHE_DIR": folder / "cache",
        "STEMBRIDGE_RUNTIME_DIR": runtime,
    }.items():
        monkeypatch.setenv(name, str(place))
    yield folder
    shutil.rmtree(runtime, ignore_errors=True)


def findings(capsys, *arguments):
    """Run the command; return its exit code and what it found, by area and name."""
    code = main(["doctor", "--json", "--no-measure", *arguments])
    told = json.loads(capsys.readouterr().out)
    return code, {(one["area"], one["name"]): one for one in told["findings"]}


def test_the_tiny_graph_is_what_it_is_said_to_be():
    graph = onnx.load_model_from_string(doctoring._TINY_GRAPH)
    onnx.checker.check_model(graph)
    assert [node.op_type for node in graph.graph.node] == ["MatMul"]
    assert list(graph.graph.node[0].input) == ["x", "x"]


def test_a_sound_machine_gets_a_clean_bill(capsys):
    code, found = findings(capsys)
    assert code == 0, found
    assert found["providers", "CPUExecutionProvider"]["found"] == "ran a graph"
    assert found["sidecar", "answer"]["found"] == "none runs; the next job starts it"
    assert "have their checksums" in found["bundles", "mini"]["found"]
    assert not [one for one in found.values() if one["state"] == "bad"]
    assert main(["doctor", "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert "CPUExecutionProvider: ran a graph" in out
    assert "everything that was tried works" in out


def test_a_provider_that_is_not_really_used_is_found():
    class Session:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

        def run(self, *_):
            return [doctoring.__dict__]

    class Runtime:
        SessionOptions = type("Options", (), {"log_severity_level": 0})
        InferenceSession = Session

    found = doctoring._try_provider(Runtime, "CUDAExecutionProvider", by_default=True)
    assert (found.state, found.advice) == ("bad", "install stembridge[cuda]")
    assert "takes CPUExecutionProvider instead" in found.found


def test_a_provider_that_cannot_start_is_found():
    from bridge.inference.graphs import ort

    found = doctoring._try_provider(ort, "NoSuchExecutionProvider", by_default=True)
    assert found.state == "bad"


@pytest.mark.slow
def test_a_running_sidecar_is_asked(capsys, monkeypatch):
    with sidecars.sidecar() as server:
        monkeypatch.setenv("STEMBRIDGE_RUNTIME_DIR", str(server.directory))
        code, found = findings(capsys)
        assert code == 0
        assert f"pid {server.status().pid}" in found["sidecar", "answer"]["found"]
        # One that is there but says nothing is not taken for one that is not there.
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            code, found = findings(capsys)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert code == 2
        assert "does not answer" in found["sidecar", "answer"]["found"]
        assert f"kill {server.process.pid}" in found["sidecar", "answer"]["advice"]


def test_folders_that_others_can_enter_are_found(capsys, monkeypatch, tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("STEMBRIDGE_RUNTIME_DIR", str(tmp_path / "open"))
    code, found = findings(capsys)
    assert code == 2
    assert "chmod 700" in found["sidecar", "folder"]["found"]


def test_what_a_dead_sidecar_left_is_told(capsys):
    place = Path(os.environ["STEMBRIDGE_RUNTIME_DIR"])
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place / "control.sock"))
    (place / "not-started.txt").write_text("out of memory")
    code, found = findings(capsys)
    assert code == 2
    assert "left of an earlier one" in found["sidecar", "sockets"]["found"]
    assert found["sidecar", "last end"]["found"] == "out of memory"
    # Looking changes nothing: whoever asks next is told the same.
    assert (place / "not-started.txt").exists()


def test_a_damaged_bundle_is_found(capsys, home):
    installed = tiny_bundle.build(home / "data" / "stembridge" / "models" / "mine")
    assert findings(capsys)[1]["bundles", "mine"]["state"] == "good"
    graph = installed / "velocity.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    code, found = findings(capsys)
    assert code == 2
    assert "the file is damaged" in found["bundles", "mine"]["found"]
    assert found["bundles", "mini"]["state"] == "good"


def test_a_bundle_that_does_not_fit_the_memory_is_red(capsys, monkeypatch):
    memory = doctoring.psutil.virtual_memory()
    monkeypatch.setattr(
        doctoring.psutil, "virtual_memory", lambda: memory._replace(total=10**8, available=10**7)
    )
    code, found = findings(capsys)
    assert code == 2
    assert "the machine has 0.1 GB" in found["bundles", "mini: memory"]["found"]


def test_a_full_disk_is_red(capsys, monkeypatch):
    usage = doctoring.shutil.disk_usage("/")
    monkeypatch.setattr(doctoring.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    code, found = findings(capsys)
    assert code == 2
    assert "STEMBRIDGE_CACHE_DIR" in found["disk", "room"]["advice"]


def test_a_script_whose_program_is_gone_is_found(capsys, home, monkeypatch):
    reaper = home / "config" / "REAPER"
    reaper.mkdir(parents=True)
    install("reaper")
    code, found = findings(capsys)
    assert (code, found["scripts", "reaper"]["state"]) == (0, "good")
    gone = home / "old environment" / "python"
    gone.parent.mkdir()
    gone.touch()
    monkeypatch.setattr(sys, "executable", str(gone))
    install("reaper")
    assert findings(capsys)[0] == 0
    gone.unlink()
    code, found = findings(capsys)
    assert code == 2
    assert str(gone) in found["scripts", "reaper"]["found"]
    assert found["scripts", "reaper"]["advice"] == "stembridge daw install reaper"


def test_costs_are_measured_once_and_remembered(bundle, capsys):
    manifest = load_manifest(bundle)
    assert remembered_cost(manifest) is None
    cost = measure_cost(bundle)
    assert cost.song_s > 0
    assert cost.provider == "CPUExecutionProvider"
    assert cost.memory_bytes == song_memory_bytes(manifest) > 180 * 44100 * 2 * 4
    assert remembered_cost(manifest) == cost
    # What is remembered is told without measuring.
    assert main(["models", "show", str(bundle)]) == 0
    told = capsys.readouterr()
    assert "measuring" not in told.err
    assert "for a 3-minute song with one prompt on CPUExecutionProvider" in told.out
    assert f"licence:   {manifest.licence}" in told.out


def test_models_show_tells_what_a_bundle_knows(capsys):
    assert main(["models", "show", "mini", "--no-measure"]) == 0
    out = capsys.readouterr().out
    manifest = load_manifest(Path("bridge/models/mini").absolute())
    for sound in manifest.sounds:
        assert f"\n{sound.name} " in out
    assert "time:      not measured" in out
    assert main(["models", "show", "mini", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mini"


SECRETS = ("ghost note", "my-secret-song", "Jane", "my cache", "janes-laptop")


def test_the_report_has_no_audio_prompt_or_name(capsys, home, monkeypatch, tmp_path):
    jane = tmp_path / "Jane"
    (jane / "my cache").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(jane))
    monkeypatch.setenv("STEMBRIDGE_CACHE_DIR", str(jane / "my cache"))
    monkeypatch.setattr(doctoring.platform, "node", lambda: "janes-laptop")
    place = Path(os.environ["STEMBRIDGE_RUNTIME_DIR"])
    entries = [
        {"time": "t", "level": "error", "event": "job failed", "seconds": 3.5, "local": True,
         "prompts": ["ghost note"], "key": "abc", "client": "janes-laptop",
         "error": "cannot read '/home/jane/my-secret-song.wav' of Jane on janes-laptop",
         "traceback": 'Traceback:\n  File "/home/jane/x/bridge/engine.py", line 7, in run\n'
         "InputError: the prompt 'ghost note' is bad"},
    ]  # fmt: skip
    lines = [json.dumps(entry) for entry in entries] + ["my-secret-song, no JSON at all"]
    (place / "server.log").write_text("\n".join(lines))
    target = tmp_path / "report.zip"
    # Also a bundle's name may be one.
    tiny_bundle.build(home / "data" / "stembridge" / "models" / "my-secret-song")
    assert main(["doctor", "--no-measure", "--bundle", str(target)]) == 0
    with zipfile.ZipFile(target) as archive:
        assert sorted(archive.namelist()) == ["findings.json", "server.log", "versions.json"]
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    for secret in SECRETS:
        for name, text in texts.items():
            assert secret.casefold() not in text.casefold(), (secret, name, text)
    (kept,) = [json.loads(line) for line in texts["server.log"].splitlines()]
    assert kept["event"] == "job failed"
    assert kept["seconds"] == 3.5
    assert kept["traceback"] == ["engine.py 7 run"]
    assert json.loads(texts["versions.json"])["python"] == doctoring.platform.python_version()
    assert "CPUExecutionProvider" in texts["findings.json"]
    # It is never written over something else.
    assert main(["doctor", "--no-measure", "--bundle", str(target)]) == 2
    assert "exists" in capsys.readouterr().err


def test_errors_with_deeper_causes_end_with_the_next_step(capsys, tmp_path, song):
    for kind in (ModelError, ProviderError, ServerError):
        assert with_next_step(kind("x")).endswith("stembridge doctor")
    assert with_next_step(InputError("x")) == "x"
    assert main(["separate", str(song), "-p", "x", "--model", "no-such-model"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("stembridge doctor")
    assert main(["separate", str(tmp_path / "none.wav"), "-p", "x"]) == 2
    assert "doctor" not in capsys.readouterr().err


def test_it_runs_without_the_extras():
    """No module of an extra is needed to be told that it is absent."""
    code = (
        "import sys, importlib.util as u\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('starlette', 'uvicorn', 'jack', 'av', 'torch'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "real = u.find_spec\n"
        "gone = ('starlette', 'jack', 'av', 'torch')\n"
        "u.find_spec = lambda n, *a: None if n in gone else real(n)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from plugin_host.cli import main\n"
        "sys.exit(main(['doctor', '--no-measure']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "pip install 'stembridge[panel,live,video,export]'" in done.stdout


def test_the_quality_of_a_bundle_is_remembered(bundle, song, tmp_path, capsys):
    show = ["models", "quality", str(bundle)]
    assert main(show) == 0
    assert capsys.readouterr().out == "tiny: own\n"
    assert main([*show, "draft"]) == 0
    assert capsys.readouterr().out == "tiny: draft\n"
    settings = Settings(seed=4)
    assert with_chosen_quality(settings, str(bundle)) == Settings(seed=4, quality="draft")
    assert with_chosen_quality(settings, "mini") == settings
    # Whoever says something of the kind means it.
    for own in (Settings(quality="best"), Settings(steps=3), Settings(solver="euler")):
        assert with_chosen_quality(own, str(bundle)) == own
    # The commands take it up: the files carry another job's name than those without.
    arguments = ["separate", str(song), "-p", "half", "--model", str(bundle), "--in-process"]
    assert main([*arguments, "-o", str(tmp_path / "draft")]) == 0
    assert main([*show, "own"]) == 0
    assert main([*arguments, "-o", str(tmp_path / "own")]) == 0
    tags = [comment_of(tmp_path / name / "song" / "half.wav") for name in ("draft", "own")]
    assert tags[0] != tags[1]
    assert all(tags)
