"""``stembridge daw``: scripts for inside a DAW, and the work that they ask for through files.

A script writes ``NAME.request``, one argument a line, and starts a command that contains nothing
from the project. Track names and prompts thus meet no shell, whatever is in them. What follows:

- ``NAME.running`` instead of the request, once a process has taken it;
- ``NAME.log.part``, what the command says as it goes on, a line of progress at a time;
- ``NAME.alive``, a number that grows every second as long as the process lives;
- ``NAME.log``, all of it, whose last line is ``exit CODE``; the other files are gone then;
- ``NAME.cancel``, which the script writes when the user cancels.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib.metadata
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final
from xml.etree import ElementTree as ET

import typer

from bridge.errors import StembridgeError
from bridge.files import config_directory, data_directory, private_directory
from plugin_host.cli import main
from plugin_host.cli.console import say
from plugin_host.daw.session import SessionError
from presets import library

STALE_S = 60.0
"""A request that has waited so long was left by a script that has given up."""

ALLOWED = (("session", "apply"), ("session", "undo"))
"""How the arguments of a request may begin."""

_FOLDER: Final = Path(__file__).parents[1] / "daw" / "scripts"
_SCRIPTS: Final = {
    "reaper": ("stembridge.lua", "Scripts"),
    "ardour": ("stembridge-ardour.lua", "scripts"),
}
_TOLD: Final = re.compile(r"(?i)\b(?:command|requests) = \[==\[(.*?)\]==\]")


def requests_folder() -> Path:
    """Return the folder that scripts write requests to, made private to the user."""
    folder = data_directory() / "requests"
    # What lies in it is done.
    private_directory(folder.parent)
    private_directory(folder)
    return folder


def start_words() -> list[str]:
    """Return the command that starts `run_requests` in a process of its own."""
    # A DAW may stand in any folder, also one that holds modules named like ours.
    return [sys.executable, "-P", "-m", "plugin_host.daw.run_requests"]


def start_command() -> str:
    """Return that command as a line for a shell."""
    words = start_words()
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def run_requests(folder: Path, run: Callable[[Sequence[str]], int]) -> int:
    """Run every request in a folder; return how many there were.

    Parameters
    ----------
    folder
        See `requests_folder`.
    run
        Takes arguments and returns an exit code, as `plugin_host.cli.main` does.
    """
    done = 0
    _drop_stale(folder)
    for request in sorted(folder.glob("*.request")):
        taken = request.with_suffix(".running")
        try:
            request.rename(taken)
        except FileNotFoundError:
            continue  # Another process took it.
        log = request.with_suffix(".log")
        part = request.with_suffix(".log.part")
        with part.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
            with (
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
                _watched(request),
            ):
                try:
                    code = _run_one(taken, run)
                except KeyboardInterrupt:
                    code = 130
            file.write(f"\nexit {code}\n")
        # The log appears whole, so that a script never takes half of it for all.
        part.replace(log)
        for suffix in (".running", ".alive", ".cancel"):
            request.with_suffix(suffix).unlink(missing_ok=True)
        done += 1
    _write_presets(folder)
    return done


def _drop_stale(folder: Path) -> None:
    """Remove what scripts and processes that are gone have left."""
    oldest = time.time() - STALE_S
    for file in folder.iterdir():
        alive = file.with_name(file.name.split(".")[0] + ".alive")
        with contextlib.suppress(OSError):
            newest = max(f.stat().st_mtime for f in (file, alive) if f.exists())
            if newest < oldest:
                file.unlink()


@contextlib.contextmanager
def _watched(request: Path) -> Iterator[None]:
    """Show every second that this process is alive, and interrupt the block on request."""
    over = threading.Event()

    def watch() -> None:
        for number in itertools.count(1):
            with contextlib.suppress(OSError):
                request.with_suffix(".alive").write_text(str(number))
            if request.with_suffix(".cancel").exists():
                _interrupt_main()
                return
            if over.wait(1.0):
                return

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _interrupt_main() -> None:
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        # Unlike that, a signal also ends what the thread waits for.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _write_presets(folder: Path) -> None:
    """Write the names of the presets beside the folder, for scripts to offer."""
    with contextlib.suppress(OSError, StembridgeError):
        names = dict.fromkeys(name for store in library() for name in store.names())
        (folder.parent / "presets.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")


def _with_free_target(arguments: Sequence[str]) -> list[str]:
    """Return arguments with a number added to the file to write if it is there."""
    words = list(arguments)
    for place in [i + 1 for i, word in enumerate(words[:-1]) if word == "--out"]:
        path = Path(words[place])
        numbered = (path.with_stem(f"{path.stem} {n}") for n in itertools.count(2))
        free = next(p for p in itertools.chain([path], numbered) if not os.path.lexists(p))
        words[place] = str(free)
    return words


def _run_one(request: Path, run: Callable[[Sequence[str]], int]) -> int:
    try:
        # Names may hold what Python takes for the end of a line, and bytes that are not UTF-8.
        text = request.read_bytes().decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        arguments = text.removesuffix("\n").split("\n")
    except OSError as error:
        print(f"stembridge: the request cannot be read ({error})")
        return 2
    if tuple(arguments[:2]) not in ALLOWED:
        print(f"stembridge: a request may not ask for {' '.join(arguments[:2])!r}")
        return 2
    return run(_with_free_target(arguments))


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
    name, inside = _SCRIPTS[daw]
    folder = _settings_folder(daw) if home is None else home
    if not folder.is_dir():
        raise SessionError(
            f"{folder} is not there; start {daw} once, or name its folder with --folder"
        )
    text = (_FOLDER / name).read_text("utf-8")
    text = text.replace("@COMMAND@", start_command())
    text = text.replace("@WORDS@", ", ".join(f"[==[{word}]==]" for word in start_words()))
    text = text.replace("@REQUESTS@", requests_folder().as_posix())
    target = folder / inside / name
    try:
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, "utf-8")
        if daw == "reaper":
            # For the script as ReaPack installs it.
            told = f"{start_command()}\n{requests_folder().as_posix()}\n"
            (folder / "stembridge.conf").write_text(told, "utf-8")
        _write_presets(requests_folder())
    except OSError as error:
        raise SessionError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


def installed_scripts() -> list[tuple[str, Path, str]]:
    """Return the DAW, the file and what is missing of every script that `install` put somewhere.

    What is missing is the program that the script starts, which goes away with its environment, or
    the folder of its requests; empty if both are there.
    """
    found = []
    for daw, (name, inside) in _SCRIPTS.items():
        folder = _settings_folder(daw)
        file = folder / inside / name
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = file.read_text("utf-8")
            told = [match[1] for match in _TOLD.finditer(text)]
            if told[:1] == ["@COMMAND@"]:
                # As ReaPack installs it: what `install` knows lies in the folder above.
                told = (folder / "stembridge.conf").read_text("utf-8").splitlines()
            command, requests = told[:2] if len(told) >= 2 else ("", "")
            wanted = [_first_word(command), requests]
            missing = [word for word in wanted if not Path(word).exists()]
            found.append((daw, file, ", ".join(missing)))
    return found


def _first_word(command: str) -> str:
    """Return the program of a command that `start_command` wrote."""
    if sys.platform != "win32":
        return next(iter(shlex.split(command)), "")
    return command[1:].partition('"')[0] if command.startswith('"') else command.split(" ", 1)[0]


def reapack_index(url: str) -> str:
    """Return the index of a ReaPack repository that offers REAPER's script.

    Parameters
    ----------
    url
        Where the script lies.
    """
    index = ET.Element("index", {"version": "1", "name": "stembridge"})
    category = ET.SubElement(index, "category", {"name": "Items Editing"})
    text = (_FOLDER / "stembridge.lua").read_text("utf-8")
    description = text.split("@description ", 1)[1].split("\n", 1)[0]
    fields = {"name": "stembridge.lua", "type": "script", "desc": description}
    package = ET.SubElement(category, "reapack", fields)
    version = ET.SubElement(
        package,
        "version",
        {"name": importlib.metadata.version("stembridge"), "author": "stembridge"},
    )
    ET.SubElement(version, "source", {"main": "main"}).text = url
    ET.indent(index)
    return ET.tostring(index, encoding="unicode", xml_declaration=True)


def _settings_folder(daw: str) -> Path:
    if daw == "reaper":
        return config_directory("REAPER", roaming=True)
    # Ardour counts its folders: ardour9, and Ardour9 among macOS's preferences.
    if sys.platform == "darwin":
        base, name = Path.home() / "Library" / "Preferences", "Ardour"
    else:
        base, name = config_directory(""), "ardour"
    found = {
        int(path.name[len(name) :]): path
        for path in base.glob(f"{name}[0-9]*")
        if path.name[len(name) :].isdecimal() and path.is_dir()
    }
    return found[max(found)] if found else base / f"{name}9"


app = typer.Typer(help="Scripts for inside a DAW.", no_args_is_help=True)

_NEXT = {
    "reaper": "in REAPER: Actions > Show action list > New action > Load ReaScript, and choose it",
    "ardour": "in Ardour: Edit > Lua Scripts > Script Manager, and add it as an action",
    "audacity": "in Audacity: Edit > Preferences > Modules > mod-script-pipe > Enabled, restart",
}


@app.command("install")
def install_script(
    daw: Annotated[str, typer.Argument(metavar="reaper|ardour|audacity")],
    *,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The DAW's folder of settings.")
    ] = None,
) -> None:
    """Install the script for a DAW, or say what to switch on."""
    if daw not in _NEXT:
        raise typer.BadParameter(
            f"expected {', '.join(_NEXT)}, got {daw!r}; for others see DAWproject in the README",
            param_hint="DAW",
        )
    if daw != "audacity":
        say(f"installed {install(daw, folder)}")
    say(f"next, {_NEXT[daw]}")


@app.command("reapack")
def reapack(
    url: Annotated[str, typer.Argument(metavar="URL", help="URL of stembridge.lua.")],
) -> None:
    """Write the index of a ReaPack repository that offers the script of this version."""
    for line in reapack_index(url).splitlines():
        say(line)


if __name__ == "__main__":
    # A program that runs in the background may be started with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_requests(requests_folder(), main)
