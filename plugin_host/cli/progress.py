"""How far a job is, on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console

from bridge.separation import Progress, ProgressCallback

_LINE_EVERY = 0.25


class ProgressDisplay:
    """Shows the progress of jobs one after the other.

    Parameters
    ----------
    quiet
        Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(file=sys.stderr)
        self._bar = (
            rich.progress.Progress(
                rich.progress.TextColumn("[bold]{task.description}"),
                rich.progress.TextColumn("{task.fields[stage]:<11}"),
                rich.progress.BarColumn(),
                rich.progress.TaskProgressColumn(),
                rich.progress.TextColumn("{task.fields[left]}"),
                console=console,
                transient=True,
            )
            if console.is_terminal and not quiet
            else None
        )
        self._lines = not console.is_terminal and not quiet

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing and leave the terminal as it was."""
        if self._bar:
            self._bar.stop()

    def track(self, title: str) -> ProgressCallback:
        """Return the callback that shows the progress of the job called ``title``."""
        if self._bar:
            bar = self._bar
            task = bar.add_task(title, total=None, stage="starting", left="")

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
        print(
            f"{self._title}: {progress.stage}{count}{' ' + left if left else ''}",
            file=sys.stderr,
            flush=True,
        )


def _left(progress: Progress) -> str:
    return "" if progress.seconds_left is None else f"{progress.seconds_left:.0f} s left"


def _ignore(progress: Progress) -> None:
    """Take a progress message and show nothing."""
    del progress
