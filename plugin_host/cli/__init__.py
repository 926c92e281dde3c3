"""The command line ``stembridge``.

Only the module of the command that is run gets imported: `COMMANDS` holds what the help needs.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

import typer

from bridge.errors import Cancelled, StembridgeError, reason_of, shortage, with_next_step
from plugin_host.cli import console

EXIT_INTERNAL = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# Typer once used click and now carries its own copy: take the class from its public child.
_UsageProblem: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


@dataclass(frozen=True)
class Command:
    """A command as the overview shows it.

    Attributes
    ----------
    name
        What is typed.
    module
        Module below `plugin_host.cli` with ``app``, a typer application, or
        ``register(app)``, which adds its commands to one.
    summary
        One line for the overview.
    """

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("separate", "separate", "Separate audio files into the stems you name."),
    Command("remove", "remove", "Take sounds out of files, and keep the rest."),
    Command("demo", "demo", "Separate the bundled mixture and show how well it went."),
    Command("mask", "mask", "Follow what you click on through a clip, as a mask for it."),
    Command("eval", "evaluate", "Score a model on mixtures with known stems."),
    Command("render", "render", "Render files through the chain of a preset."),
    Command("preset", "preset", "List, show, save and share presets."),
    Command("daw", "daw", "Install scripts for inside a DAW."),
    Command("panel", "panel", "Mark, listen and separate on a page in the browser."),
    Command("live", "live", "Play stems in place, as a JACK or PipeWire insert."),
    Command("session", "session", "Add stems to the tracks of a DAW session."),
    Command("serve", "serve", "Run the sidecar."),
    Command("status", "serve", "Show what the server is doing."),
    Command("stop", "serve", "Stop the server."),
    Command("jobs", "serve", "List jobs."),
    Command("cancel", "serve", "Cancel a job."),
    Command("logs", "serve", "Show the newest log records."),
    Command("keys", "serve", "Manage the keys for servers on the network."),
    Command("models", "models", "List, check and export model bundles."),
    Command("doctor", "doctor", "Look for what can go wrong, and say what to do."),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program's name; `sys.argv` by default.

    Returns
    -------
    The exit code: 0 done; 1 an error of ours, or some of several files failed; 2 something to be
    changed by the user, told in one line on stderr; 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    console.make_streams_lenient()
    restore = _interrupt_on_termination()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _interrupted()
    finally:
        restore()


def script() -> int:
    """Run the command line as a process of its own, which ends with it."""
    code = main()
    # What is left goes with the process. Looking for cycles in it first takes a tenth of a second.
    gc.freeze()
    return code


def _run(arguments: list[str]) -> int:
    try:
        app = build_app(next((word for word in arguments if not word.startswith("-")), None))
        result = typer.main.get_command(app).main(
            arguments, prog_name="stembridge", standalone_mode=False
        )
        # Typer returns the code of an interruption where it once raised.
        return _interrupted() if result == EXIT_INTERRUPTED else int(result or 0)
    except (typer.Abort, typer.Exit, Cancelled) as error:
        code = getattr(error, "exit_code", EXIT_INTERRUPTED)
        return _interrupted() if code == EXIT_INTERRUPTED else int(code)
    except _UsageProblem as error:
        # Without arguments the help was shown, which is the message.
        told = type(error).__name__ == "NoArgsIsHelpError"
        return EXIT_BAD_INPUT if told else _fail(f"{error.format_message()} (see --help)")
    except StembridgeError as error:
        return _fail(with_next_step(error))
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing is wrong with us.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("STEMBRIDGE_DEBUG"):
            traceback.print_exc()
        if (advice := shortage(error)) is not None:
            return _fail(f"{reason_of(error)}; {advice}")
        _fail(
            f"internal error: {type(error).__name__}: {error}; this is a defect of stembridge, "
            "please report it with the file of: stembridge doctor --bundle report.zip "
            "(STEMBRIDGE_DEBUG=1 shows where)"
        )
    return EXIT_INTERNAL


def build_app(command: str | None) -> typer.Typer:
    """Return the application with the real ``command`` and all others as names with summaries.

    Parameters
    ----------
    command
        The first word of the command line; None imports no command's module.
    """
    app = typer.Typer(
        name="stembridge",
        help="Promptable stem separation: say what you want to hear, get it as a file.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    wanted = next((entry.module for entry in COMMANDS if entry.name == command), None)
    mounted = False
    for entry in COMMANDS:
        if entry.module != wanted:
            app.command(entry.name, help=entry.summary)(_placeholder)
        elif not mounted:
            mount(app, entry)
            mounted = True
    return app


def mount(app: typer.Typer, entry: Command) -> None:
    """Import the module of a command and add what it offers to ``app``."""
    module = importlib.import_module(f"plugin_host.cli.{entry.module}")
    register: Callable[[typer.Typer], None] | None = getattr(module, "register", None)
    if register is not None:
        register(app)
    else:
        app.add_typer(module.app, name=entry.name)


def _show_version(wanted: bool) -> None:
    if wanted:
        # Loaded here, since it takes longer than all of the command line's own modules.
        import importlib.metadata

        try:
            console.say(f"stembridge {importlib.metadata.version('stembridge')}")
        except importlib.metadata.PackageNotFoundError:
            console.say("stembridge, run from its source without installation")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Promptable stem separation: say what you want to hear, get it as a file."""
    del version


def _placeholder() -> None:
    """Stand in for a command in the overview; `build_app` mounts the one that runs."""


def _fail(message: str) -> int:
    console.note(f"stembridge: {' '.join(message.split())}")
    return EXIT_BAD_INPUT


def _interrupted() -> int:
    console.note("stembridge: interrupted; nothing half-written is left")
    return EXIT_INTERRUPTED


def _interrupt_on_termination() -> Callable[[], None]:
    """Let SIGTERM and SIGHUP clean up as Ctrl-C does; return what undoes that."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    earlier: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        try:
            # Whoever ignores a signal on purpose, as nohup does, goes on ignoring it.
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                earlier[number] = signal.signal(number, interrupt)
        except ValueError:
            break  # Not the main thread, where signals are not ours to handle.

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    return restore
