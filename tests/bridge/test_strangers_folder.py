"""What lies in the folder that a process is started in is never run, whatever its name."""

import os
import pkgutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from bridge.processes import child_environment, import_folders, python_command
from tests.support.sidecars import RATE, noise, sidecar

EVIL = """
import os, sys
with open({mark!r}, "a") as file:
    file.write(__name__ + " in " + " ".join(sys.argv) + "\\n")
"""


def named_like_dependencies():
    """Every top-level module that is installed here or belongs to Python or to us."""
    ours = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[2])])]
    return {*metadata.packages_distributions(), *sys.stdlib_module_names, *ours}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder full of modules and packages named like those that we import, entered."""
    place = tmp_path / "song folder"
    place.mkdir()
    code = EVIL.format(mark=str(tmp_path / "ran"))
    for name in named_like_dependencies():
        if name.isidentifier():
            (place / f"{name}.py").write_text(code)
    for name in ("sitecustomize", "usercustomize"):
        (place / f"{name}.py").write_text(code)
    (place / "bridge").mkdir()
    (place / "bridge" / "__init__.py").write_text(code)
    (place / "matplotlibrc").write_text("backend: module://evil\n")
    monkeypatch.chdir(place)
    return place


def ran(folder):
    mark = folder.parent / "ran"
    return mark.read_text() if mark.exists() else ""


def test_the_traps_of_this_test_work(folder):
    subprocess.run([sys.executable, "-m", "bridge"], check=False, capture_output=True)
    assert ran(folder)


def test_no_module_of_the_folder_runs_in_the_sidecar_or_its_workers(folder, monkeypatch):
    # What a caller has on its path is passed on, the folder itself and what is relative is not.
    monkeypatch.setattr(sys, "path", ["", ".", str(folder), *sys.path])
    with sidecar(start=False) as server, server.client() as client:
        client.separate(noise(0.5), RATE, ["half"])
        assert server.status().workers == 1
        assert {psutil.Process(pid).cwd() for pid in server.pids()} == {str(server.directory)}
    assert ran(folder) == ""


@pytest.mark.parametrize("entry", ["", ".", "relative/folder", "{here}", "{here}/../{name}"])
def test_the_folder_is_not_passed_on(folder, entry, monkeypatch):
    entry = entry.format(here=folder, name=folder.name)
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    for passed in import_folders():
        assert os.path.isabs(passed)
        assert not (os.path.exists(passed) and os.path.samefile(passed, folder))


def test_a_child_finds_us_and_our_dependencies(folder):
    command = python_command("bridge.sidecar", "--help")
    done = subprocess.run(
        command, check=True, env=child_environment(), capture_output=True, text=True
    )
    assert ran(folder) == ""
    assert "--idle-timeout" in done.stdout


def test_the_search_path_names_what_is_installed():
    assert sysconfig.get_paths()["purelib"] in import_folders()
