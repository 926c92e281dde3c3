"""The README's code blocks run as they stand: ``bash`` in a shell, ``python`` one after the other.

Blocks marked ``sh`` install things; the script that tests a fresh checkout runs those.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from presets import parse_preset

README = Path(__file__).parents[1] / "README.md"
SHIM = """#!{python}
import sys
sys.path[:0] = {path!r}
from plugin_host.cli import main
sys.exit(main())
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a song in it, a user's folders of its own, and the command on the path."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "bin").mkdir()
    command = folder / "bin" / "stembridge"
    command.write_text(SHIM.format(python=sys.executable, path=sys.path))
    command.chmod(0o755)
    (folder / "run").mkdir(mode=0o700)
    rng = np.random.default_rng(0)
    song = rng.uniform(-0.1, 0.1, (4 * 44100, 2))
    soundfile.write(folder / "song.wav", song, 44100)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "STEMBRIDGE_RUNTIME_DIR": str(folder / "run"),
        "STEMBRIDGE_CACHE_DIR": str(folder / "cache"),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    yield folder, environment
    subprocess.run([command, "stop"], env=environment, check=False, capture_output=True)


@pytest.mark.parametrize("block", blocks("bash"))
def test_commands(place, block):
    folder, environment = place
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_python(place):
    folder, environment = place
    program = "\n".join(blocks("python"))
    assert program
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("toml"))
def test_presets(block):
    assert parse_preset(block).prompts


@pytest.mark.parametrize("name", ["demo", "test"])
def test_the_two_commands_are_marked_for_the_script(name):
    assert re.search(rf"<!-- ci: {name} -->\n```sh\npip install .*\n```", README.read_text())


def test_all_links_into_the_project_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", README.read_text()):
        assert (README.parent / target).exists(), target
