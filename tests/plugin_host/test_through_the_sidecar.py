"""The default way of the command: through a sidecar that it starts itself."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest
import soundfile
from host_audio import music

RATE = 16000
PROGRAM = "import sys; from plugin_host.cli import main; sys.exit(main())"


@pytest.fixture
def command():
    """Run the command in a process, with runtime and cache folders of its own."""
    with tempfile.TemporaryDirectory(prefix="sb") as folder:
        os.chmod(folder, 0o700)
        environment = {
            **os.environ,
            "STEMBRIDGE_RUNTIME_DIR": folder,
            "STEMBRIDGE_CACHE_DIR": f"{folder}/cache",
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
        start("stop").communicate(timeout=60)


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
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    for stem in ("half", "nothing", "residual"):
        one, two = (tmp_path / way / "song" / f"{stem}.wav" for way in ("sidecar", "here"))
        assert one.read_bytes() == two.read_bytes()


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
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    # A short job comes through at once: nothing of the long one is in its way.
    soundfile.write(tmp_path / "short.wav", music(1, RATE).T, RATE)
    again = command(
        "separate", tmp_path / "short.wav", "-p", "half", "--model", bundle, "-o", tmp_path / "out"
    )
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
