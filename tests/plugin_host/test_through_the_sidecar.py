"""The default way of the command: through a sidecar that it starts itself."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import soundfile
from test_reaper_tracks import item, track

from bridge.engine import Engine
from tests.support.host_audio import music

RATE = 16000
PROGRAM = "import sys; from plugin_host.cli import main; sys.exit(main())"


@pytest.fixture
def command(request):
    """Run the command in a process, with runtime and cache folders of its own."""
    cache = getattr(request, "param", "cache")
    with tempfile.TemporaryDirectory(prefix="sb") as folder:
        os.chmod(folder, 0o700)
        environment = {
            **os.environ,
            "STEMBRIDGE_RUNTIME_DIR": folder,
            "STEMBRIDGE_CACHE_DIR": f"{folder}/{cache}",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

        def start(*arguments):
            return subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, arguments)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        yield start
        start("stop").communicate()


@pytest.mark.slow
def test_the_sidecar_gives_the_same_bytes_as_this_process(command, bundle, tmp_path):
    soundfile.write(tmp_path / "song.wav", music(3, RATE).T, RATE)
    options = ["-p", "half", "-p", "nothing", "--span", "half@0.5:1", "--seed", "5"]
    for name, more in (("sidecar", []), ("here", ["--in-process"])):
        run = command(
            "separate",
            tmp_path / "song.wav",
            *options,
            "--model",
            bundle,
            "-o",
            tmp_path / name,
            *more,
        )
        _, err = run.communicate()
        assert run.returncode == 0, err
    for stem in ("half", "nothing", "residual"):
        one, two = (tmp_path / way / "song" / f"{stem}.wav" for way in ("sidecar", "here"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_an_interrupt_cancels_the_job_in_the_sidecar(command, bundle, tmp_path):
    soundfile.write(tmp_path / "song.wav", music(60, RATE).T, RATE)
    run = command(
        *("separate", tmp_path / "song.wav", "-p", "half", "--model", bundle),
        *("--steps", "1000", "-o", tmp_path / "out"),
    )
    for line in run.stderr:
        if "solve" in line:
            break
    run.send_signal(signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    # A short job comes through at once: nothing of the long one is in its way.
    soundfile.write(tmp_path / "short.wav", music(1, RATE).T, RATE)
    again = command(
        "separate", tmp_path / "short.wav", "-p", "half", "--model", bundle, "-o", tmp_path / "out"
    )
    _, err = again.communicate()
    assert again.returncode == 0, err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
@pytest.mark.parametrize("command", [os.fsdecode(b"c\xfcche")], indirect=True)
def test_cache_and_model_may_have_names_that_are_no_text(command, bundle, tmp_path):
    model = tmp_path / os.fsdecode(b"m\xf6del")
    shutil.copytree(bundle, model)
    soundfile.write(tmp_path / "song.wav", music(1, RATE).T, RATE)
    job = ["separate", tmp_path / "song.wav", "-p", "half", "-o", tmp_path / "out"]
    for way in ([], ["--in-process"]):
        run = command(*job, "--model", model, *way)
        _, err = run.communicate()
        assert run.returncode == 0, err
    run = command(*job, "--model", tmp_path / os.fsdecode(b"n\xf6del"))
    _, err = run.communicate()
    assert run.returncode == 2
    assert "unknown model" in err
    assert "n\\udcf6del" in err
    out, _ = command("status").communicate()
    assert "1 finished" in out


@pytest.mark.slow
def test_a_session_run_again_after_an_edit_keeps_the_rest_to_the_bit(command, bundle, tmp_path):
    """Where nothing was edited, stems computed anew would be at another level by their last bit."""
    audio = music(20, RATE)
    edited = audio.copy()
    edited[:, 9 * RATE : 10 * RATE] *= 0.25
    lane = track(item(POSITION=0, LENGTH=19))
    (tmp_path / "song.rpp").write_text(f"<REAPER_PROJECT 0.1\n{lane}>\n")
    stems = []
    for name, heard in (("first", audio), ("second", edited)):
        soundfile.write(tmp_path / "a.wav", heard.T, RATE, subtype="FLOAT")
        run = command(
            *("session", "apply", tmp_path / "song.rpp", "--track", "1", "--prompt", "half"),
            *("--range", "0:18", "--out", tmp_path / f"{name}.rpp", "--model", bundle),
        )
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        file = re.search(r"half: (.*\.wav)", out)[1]
        stems.append(soundfile.read(file, dtype="float32")[0])
    differ = np.flatnonzero((stems[0] != stems[1]).any(axis=1)) / RATE
    assert 8 <= differ[0] <= 9
    assert 10 <= differ[-1] + 1 / RATE <= 11
    with Engine(bundle) as engine:
        whole = engine.separate(edited[:, : len(stems[1])], RATE, ["half"]).stems["half"].T
    assert (whole[: 7 * RATE] != stems[1][: 7 * RATE]).any()
