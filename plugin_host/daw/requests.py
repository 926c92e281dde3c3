"""Work that a script inside a DAW asks for, through files instead of command lines.

A script writes ``NAME.request``, one argument a line, and starts a command that holds nothing of
the project's. Track names and prompts thus meet no shell, whatever is in them. What happens goes
into ``NAME.log``, whose last line is ``exit CODE``.
"""

import contextlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from plugin_host.daw.session import SessionError

ALLOWED = (("session", "apply"), ("session", "undo"))
"""How the arguments of a request may begin."""


def requests_folder() -> Path:
    """Return the folder that scripts write requests to, made private to the user."""
    folder = Path(platformdirs.user_data_dir("stembridge", appauthor=False)) / "requests"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def start_command() -> str:
    """Return the line that starts `run_requests` in a process of its own."""
    words = [sys.executable, "-m", "plugin_host.daw.run_requests"]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def run_requests(folder: Path, run: Callable[[Sequence[str]], int]) -> int:
    """Do all that is asked for in a folder; return how much that was.

    Parameters
    ----------
    folder
        See `requests_folder`.
    run
        Takes arguments and returns an exit code, as `plugin_host.cli.main` does.
    """
    done = 0
    for request in sorted(folder.glob("*.request")):
        taken = request.with_suffix(".running")
        try:
            request.rename(taken)
        except FileNotFoundError:
            continue  # Another process took it.
        log = request.with_suffix(".log")
        part = request.with_suffix(".log.part")
        with part.open("w", encoding="utf-8") as file:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                code = _run_one(taken, run)
            file.write(f"\nexit {code}\n")
        # The log appears whole, so that a script never reads half of it.
        part.replace(log)
        taken.unlink()
        done += 1
    return done


def _run_one(request: Path, run: Callable[[Sequence[str]], int]) -> int:
    try:
        arguments = request.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        print(f"stembridge: the request cannot be read ({error})")
        return 2
    if tuple(arguments[:2]) not in ALLOWED:
        print(f"stembridge: a request may not ask for {' '.join(arguments[:2])!r}")
        return 2
    return run(arguments)


def install(daw: str, home: Path | None = None) -> Path:
    """Put the script for a DAW where it looks for scripts, and return its place.

    Parameters
    ----------
    daw
        ``"reaper"`` or ``"ardour"``.
    home
        The DAW's folder of settings, by default the one it uses on this system.

    Raises
    ------
    SessionError
        The DAW's folder is not there, or not writable.
    """
    name, inside = {
        "reaper": ("stembridge.lua", "Scripts"),
        "ardour": ("stembridge-ardour.lua", "scripts"),
    }[daw]
    folder = _settings_folder(daw) if home is None else home
    if not folder.is_dir():
        msg = f"{folder} is not there; start {daw} once, or name its folder with --folder"
        raise SessionError(msg)
    text = (Path(__file__).parent / "scripts" / name).read_text("utf-8")
    text = text.replace("@COMMAND@", start_command())
    text = text.replace("@REQUESTS@", requests_folder().as_posix())
    target = folder / inside / name
    try:
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, "utf-8")
    except OSError as error:
        msg = f"{target}: cannot be written ({error.strerror or error})"
        raise SessionError(msg) from error
    return target


def _settings_folder(daw: str) -> Path:
    if daw == "reaper":
        return Path(platformdirs.user_config_dir("REAPER", appauthor=False, roaming=True))
    base = Path(platformdirs.user_config_dir("", appauthor=False))
    found = sorted(base.glob("ardour[78]"))
    return found[-1] if found else base / "ardour7"
