"""Starting Python processes that import nothing from the current folder.

``python -m`` looks for every module in the current folder first. Separating a song in a
folder that came from elsewhere would run a ``zmq.py`` in that folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 8 << 20
_KEPT_BYTES: Final = 32 << 20

_ROOT: Final = Path(__file__).resolve().parents[1]

try:
    # A server changes its folder, but the one it was started in may still be on its search path.
    _STARTED_IN: str = os.getcwd()
except OSError:  # it was removed
    _STARTED_IN = os.curdir


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our modules in a new process.

    Start it with `child_environment`, so that the module is found.
    """
    # -P keeps the current folder, and that of a script, out of the module search path.
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment with the module search path of its children.

    They get the folders that this process imports from, ours first, except relative ones, which
    would mean another folder there, and the folder it was started in.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join(import_folders()), "PYTHONSAFEPATH": "1"}


def give_back_large_arrays() -> None:
    """Have this process return the memory of large arrays to the system when they are freed.

    glibc learns from every array that is freed to keep the next of that size for itself, up to
    32 MiB each, so that a process that works in stretches grows all the same. Told not to, it also
    stops learning how much free memory to keep at the end of its heaps: with the 128 KiB that it
    begins with, each small array that is freed there costs system calls and page faults, a quarter
    of a job's time. To be called by processes that are ours, not by a library in somebody else's.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not every Linux has glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
            libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def import_folders() -> list[str]:
    """Return the folders that a child imports from; see `child_environment`."""
    folders = [os.fspath(_ROOT)]
    for entry in sys.path:
        # An empty entry is the current folder; a name with a separator cannot be passed on.
        if os.path.isabs(entry) and os.pathsep not in entry and not _is_started_in(entry):
            folders.append(entry)
    return list(dict.fromkeys(folders))


def _is_started_in(folder: str) -> bool:
    for current in (_STARTED_IN, os.curdir):
        try:
            if os.path.samefile(folder, current):
                return True
        except OSError:
            continue
    return False
