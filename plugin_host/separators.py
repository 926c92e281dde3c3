"""The one door to a separation: through the user's sidecar, or in this process."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, Unpack

import numpy as np
from numpy.typing import NDArray

from bridge.errors import InputError
from bridge.request import Prompt, SettingOptions
from bridge.separation import Progress, ProgressCallback, Separation
from bridge.video import Video

if TYPE_CHECKING:
    from bridge.engine import Engine


class Separator(Protocol):
    """What a client of the sidecar and the engine have in common."""

    def separate(
        self,
        mixture: NDArray[np.float32],
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        **settings: Unpack[SettingOptions],
    ) -> Separation:
        """Separate a mixture ``(channels, samples)`` into one stem per prompt and a residual."""
        ...


@contextlib.contextmanager
def open_separator(
    model: str,
    *,
    in_process: bool = False,
    patience_s: float = 20.0,
    video: Video | None = None,
) -> Iterator[Separator]:
    """Give a separator for a model and close it afterwards.

    Parameters
    ----------
    model
        Name of an installed model, or the path of a bundle.
    in_process
        Compute here instead of in the sidecar.
    patience_s
        How long to wait for a sidecar that does not answer.
    video
        Shows what is to be extracted; in this process only.

    Raises
    ------
    ModelError
        There is no such model, or its files are damaged.
    ServerError
        The sidecar neither runs nor can be started.
    """
    if in_process:
        from bridge.engine import Engine

        with Engine(model) as engine:
            yield engine if video is None else _Seeing(engine, video)
        return
    if video is not None:
        msg = "a video works with --in-process only: the sidecar takes no pictures yet"
        raise InputError(msg)
    from bridge.client import Client

    with Client.local(model=model, connect_timeout_s=patience_s) as client:
        yield client


class _Seeing:
    """The engine, with a video for all that it separates."""

    def __init__(self, engine: "Engine", video: Video) -> None:
        self._engine = engine
        self._video = video

    def separate(
        self,
        mixture: NDArray[np.float32],
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        **settings: Unpack[SettingOptions],
    ) -> Separation:
        """Separate a mixture; see `Separator.separate`."""
        return self._engine.separate(
            mixture, sample_rate, prompts, progress=progress, video=self._video, **settings
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
    """A separator that also shows its progress to somebody else.

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
        mixture: NDArray[np.float32],
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        **settings: Unpack[SettingOptions],
    ) -> Separation:
        """Separate a mixture; see `Separator.separate`."""

        def both(news: Progress) -> None:
            self._show(news)
            if progress is not None:
                progress(news)

        return self._separator.separate(mixture, sample_rate, prompts, progress=both, **settings)


class Remembering:
    """A separator that gives its latest result again when it is asked the same.

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
        mixture: NDArray[np.float32],
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        **settings: Unpack[SettingOptions],
    ) -> Separation:
        """Separate a mixture; see `Separator.separate`."""
        asked = (sample_rate, tuple(prompts), dict(settings))
        if self._result is not None and self._asked is not None:
            earlier, described = self._asked
            if described == asked and np.array_equal(earlier, mixture):
                return self._result
        result = self._separator.separate(
            mixture, sample_rate, prompts, progress=progress, **settings
        )
        self._asked, self._result = (mixture.copy(), asked), result
        return result
