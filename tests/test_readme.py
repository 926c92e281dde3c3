"""The README's code blocks run as they stand: ``bash`` in a shell, ``python`` one after the other.

What the pages name and link is there. Blocks marked ``sh`` install things; the script that tests a
fresh checkout runs those.
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

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / ".github" / "CONTRIBUTING.md"
PLACES = ("bridge/", "onnx_export/", "plugin_host/", "presets/", "tests/", ".ci/")
PAGES = [
    README,
    GUIDE,
    ROOT / "CHANGELOG.md",
    *(page for package in PLACES[:4] for page in sorted((ROOT / package).rglob("*.md"))),
]
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert re.search(rf"<!-- ci: {name} -->\n```sh\n(.+\n)+```", README.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_links_into_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`([\w./-]+/[\w./-]*)`", page.read_text("utf-8"))
    places = [name for name in named if name.startswith(PLACES)]
    assert places
    for name in places:
        assert (ROOT / name).exists(), name


def test_every_page_is_linked_from_the_readme():
    linked = re.findall(r"\]\(([^)#]+)", README.read_text("utf-8"))
    for page in PAGES:
        if page != README:
            assert page.relative_to(ROOT).as_posix() in linked


def test_the_types_on_the_way_of_a_separation_exist():
    table = GUIDE.read_text("utf-8").split("| type | where |")[1].split("\n\n")[0]
    types = re.findall(r"`([A-Z]\w+)`", table)
    assert 10 < len(types) <= 16
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "bridge").rglob("*.py"))
    for name in types:
        assert re.search(rf"^class {name}\b", sources, re.M), name
