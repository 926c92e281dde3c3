"""Opening a separator: the user's sidecar, or an engine in this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bridge.request import Prompt, Settings
from bridge.scratch import LongArray
from bridge.separation import Progress, ProgressCallback, Separation, Separator
from bridge.video import Videos

if TYPE_CHECKING:
    from bridge.connection.client import Client
    from bridge.engine import Engine


@contextlib.contextmanager
def open_separator(
    model: str,
    *,
    in_process: bool = False,
    patience_s: float = 20.0,
    video: Videos | None = None,
    revise: bool = False,
) -> Iterator[Separator]:
    """Yield a separator for a model, and close it afterwards.

    Parameters
    ----------
    model
        Name of an installed model, or the path of a bundle.
    in_process
        Compute here instead of in the sidecar.
    patience_s
        How long to wait for a sidecar that does not answer.
    video
        Shows what is to be extracted, of one prompt or by the names of stems.
    revise
        Let the sidecar revise what it was asked before, where only a part of it was edited.

    Raises
    ------
    ModelError
        There is no such model, or its files are damaged.
    ServerError
        The sidecar neither runs nor can be started.
    """
    more: dict[str, Any] = {} if video is None else {"video": video}
    if in_process:
        from bridge.engine import Engine

        with Engine(model) as engine:
            yield Asking(engine, **more) if more else engine
        return
    from bridge.connection.client import Client

    with Client.local(model=model, connect_timeout_s=patience_s) as client:
        if revise:
            more["revise"] = True
        yield Asking(client, **more) if more else client


class Asking:
    """An engine or a client that is asked the same besides, whatever it separates.

    Parameters
    ----------
    separator
        What computes.
    **more
        Arguments of its `separate`.
    """

    def __init__(self, separator: Engine | Client, **more: Any) -> None:
        self._separator = separator
        self._more = more

    def separate(
        self,
        mixture: LongArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Separation:
        """Separate a mixture; see `Separator.separate`."""
        return self._separator.separate(
            mixture, sample_rate, prompts, settings, progress=progress, **self._more
        )


class SharedSeparator:
    """A separator opened when it is first needed, and opened anew after it failed.

    Parameters
    ----------
    open_one
        Returns a context manager that gives a separator.
    """

    def __init__(
        self, open_one: Callable[[], contextlib.AbstractContextManager[Separator]]
    ) -> None:
        self._open = open_one
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._current: Separator | None = None

    def get(self) -> Separator:
        """Return the separator."""
        with self._lock:
            if self._current is None:
                self._current = self._stack.enter_context(self._open())
            return self._current

    def close(self) -> None:
        """Close it; `get` opens another."""
        with self._lock:
            self._current = None
            self._stack.close()


class Reporting:
    """A separator that reports its progress to a second callback as well.

    Parameters
    ----------
    separator
        What computes.
    show
        Receives the progress of every job.
    """

    def __init__(self, separator: Separator, show: ProgressCallback) -> None:
        self._separator = separator
        self._show = show

    def separate(
        self,
        mixture: LongArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Separation:
        """Separate a mixture; see `Separator.separate`."""

        def both(news: Progress) -> None:
            self._show(news)
            if progress is not None:
                progress(news)

        return self._separator.separate(mixture, sample_rate, prompts, settings, progress=both)


class Remembering:
    """A separator that returns its latest result again for the same request.

    Parameters
    ----------
    separator
        What computes.
    """

    def __init__(self, separator: Separator) -> None:
        self._separator = separator
        self._asked: tuple[NDArray[np.float32], object] | None = None
        self._result: Separation | None = None

    def separate(
        self,
        mixture: LongArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Separation:
        """Separate a mixture; see `Separator.separate`."""
        asked = (sample_rate, tuple(prompts), settings)
        if self._result is not None and self._asked is not None:
            earlier, described = self._asked
            if described == asked and np.array_equal(earlier, np.asarray(mixture)):
                return self._result
        result = self._separator.separate(
            mixture, sample_rate, prompts, settings, progress=progress
        )
        self._asked, self._result = (np.array(mixture), asked), result
        return result
