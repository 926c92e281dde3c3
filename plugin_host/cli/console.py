"""What commands print (lines, tables, JSON, progress), on whatever terminal, pipe or file there is.

Names of files, tracks, models and the like come from anywhere. Here, and only here, they are
made fit to be shown: nothing in them is taken for markup or obeyed by the terminal.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TextIO, TypeAlias

import typer

from bridge.errors import (
    Cancelled,
    StembridgeError,
    about,
    printable,
    reason_of,
    shortage,
    with_next_step,
)

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

    from bridge.separation import Progress, ProgressCallback

JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

EXIT_SOME_FAILED: Final = 1
#: How many inputs that failed are named at the end.
_NAMED: Final = 10
#: A long stage is told of at every quarter where there is no bar.
_LINE_EVERY: Final = 0.25


def make_streams_lenient() -> None:
    """Escape characters that stdout or stderr cannot encode, instead of failing at them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print one line on stdout."""
    print(printable(line))


def note(line: str) -> None:
    """Print one line on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    """Print a value as JSON, in ASCII."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def console(stream: TextIO) -> Console:
    """Return rich's console for a stream, with markup switched off."""
    from rich.console import Console

    return Console(file=stream, soft_wrap=True, markup=False, emoji=False, highlight=False)


def say_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> None:
    """Print a table on stdout.

    Parameters
    ----------
    columns
        Headings.
    rows
        One text per column.
    title
        What stands above.
    right
        Headings of columns that are aligned to the right.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console(sys.stdout).print(table)


def say_document(text: str) -> None:
    """Print the text of a file on stdout: as it is, but on a terminal made safe to show."""
    if sys.stdout.isatty():
        text = "".join(f"{printable(line)}\n" for line in text.removesuffix("\n").split("\n"))
    sys.stdout.write(text)


class ProgressDisplay:
    """Shows the progress of jobs one after the other.

    Parameters
    ----------
    quiet
        Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        terminal = sys.stderr.isatty()
        self._bar = _bar() if terminal and not quiet else None
        self._lines = not terminal and not quiet

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing and leave the terminal as it was."""
        if self._bar:
            self._bar.stop()

    def track(self, title: str) -> ProgressCallback:
        """Return the callback that shows the progress of the job called ``title``."""
        if self._bar:
            bar = self._bar
            task = bar.add_task(printable(title), total=None, stage="starting", left="")

            def draw(progress: Progress) -> None:
                bar.update(
                    task,
                    stage=progress.stage,
                    left=_left(progress),
                    completed=progress.done,
                    total=progress.total or None,
                )

            return draw
        return _Lines(title) if self._lines else _ignore


def _bar() -> rich.progress.Progress:
    # Loaded here, since most calls in scripts show no bar.
    import rich.progress

    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", style="bold", markup=False),
        rich.progress.TextColumn("{task.fields[stage]:<11}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[left]}"),
        console=console(sys.stderr),
        transient=True,
    )


class _Lines:
    """One line when a stage begins and at every quarter of a long one."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._stage = ""
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage, self._next = progress.stage, 0.0
        share = progress.done / progress.total if progress.total else 0.0
        began = self._next == 0.0
        if share < self._next or not (began or progress.total > 1):
            return
        self._next = share - share % _LINE_EVERY + _LINE_EVERY
        count = f" {progress.done}/{progress.total}" if progress.total > 1 else ""
        left = _left(progress)
        note(f"{self._title}: {progress.stage}{count}{' ' + left if left else ''}")


def _left(progress: Progress) -> str:
    return "" if progress.seconds_left is None else f"{progress.seconds_left:.0f} s left"


def _ignore(progress: Progress) -> None:
    """Ignore a progress message."""
    del progress


class Batch:
    """The outcome of the inputs of one call.

    Parameters
    ----------
    count
        How many there are. What goes wrong with a single one is raised.

    Attributes
    ----------
    failures
        Why inputs could not be done, in the order in which they failed.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.failures: dict[Path, str] = {}

    @contextlib.contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """Run the block for an input; what it raises is noted, and names the file.

        A cancellation ends the batch, and so does a closed pipe on stdout.
        """
        try:
            with about(path):
                yield
        except (Cancelled, BrokenPipeError, typer.Exit):
            raise
        except Exception as error:
            if self._count == 1:
                raise
            if isinstance(error, StembridgeError):
                message = with_next_step(error)
            elif (advice := shortage(error)) is not None:
                message = f"{reason_of(error)}; {advice}"
            else:
                message = f"internal error: {type(error).__name__}: {error}"
            self.failures[path] = message if str(path) in message else f"{path}: {message}"
            note(f"stembridge: {self.failures[path]}")

    def as_json(self) -> list[dict[str, str]]:
        """Return what ``--json`` prints of the failures."""
        return [{"input": str(path), "error": why} for path, why in self.failures.items()]

    def finish(self) -> None:
        """Print a summary if something failed.

        Raises
        ------
        typer.Exit
            Something did.
        """
        if not self.failures:
            return
        names = [str(path) for path in self.failures]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        note(
            f"stembridge: {self._count - len(names)} of {self._count} files done; failed: "
            f"{', '.join(names[:_NAMED])}{more}"
        )
        raise typer.Exit(EXIT_SOME_FAILED)
