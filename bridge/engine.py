"""The separation engine: from a mixture and prompts to stems, in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Unpack

import numpy.typing as npt

from bridge.bundles.manifest import Manifest
from bridge.errors import InputError
from bridge.inference.cancellation import Cancellation
from bridge.inference.journal import Journal
from bridge.inference.model import Model
from bridge.inference.pipeline import Pipeline
from bridge.request import Prompt, SettingOptions
from bridge.separation import ProgressCallback, Separation
from bridge.validation import check_mixture, check_prompts, settings_from_options
from bridge.video import Video


class Engine:
    """Separates mixtures with one model.

    May be shared by threads: calls of `separate` run one after the other, since each of them
    uses all the cores.

    Parameters
    ----------
    model : str or path
        Name of a bundle, or its directory.
    providers : sequence of str or None
        ONNX Runtime execution providers, best first: ``"cpu"``, ``"cuda"`` or ONNX Runtime's own
        names. None takes CUDA if it works here and the CPU otherwise; the report says which.
    threads : int or None
        Threads for one network on the CPU; None takes the physical cores.
    memory_bytes : int or None
        What a job may use beside the networks' weights; None takes what the machine has free.

    Raises
    ------
    ModelError
        If the bundle is unknown or damaged.
    ProviderError
        If a provider asked for is not there.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "mini",
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._model = Model(model, providers=providers, threads=threads)
        self._lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self._model.manifest

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self._model.graphs.provider

    @property
    def loaded(self) -> tuple[str, ...]:
        """Roles of the networks that are in memory."""
        return self._model.graphs.loaded

    def separate(
        self,
        mixture: npt.ArrayLike,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
        journal: Journal | None = None,
        video: Video | None = None,
        **settings: Unpack[SettingOptions],
    ) -> Separation:
        """Extract one stem per prompt from a mixture.

        Parameters
        ----------
        mixture : array_like of float32, shape (channels, samples)
            Full scale at 1.0, any number of channels.
        sample_rate : int
            In Hz, any.
        prompts : sequence of Prompt or str
            At least one.
        progress : callable or None
            Receives a `Progress` after every piece of work, on this thread.
        cancel : threading.Event or None
            Set it from another thread to stop; networks stop while they run.
        journal : Journal or None
            Remembers what this job and others can use again; see `bridge.inference.journal`.
        video : Video or None
            Shows what is to be extracted, masked out; needs a model with a vision encoder, and
            goes with one prompt.
        **settings
            Fields of `Settings`.

        Returns
        -------
        Separation
            With the mixture's rate, channels and length. The same call with the same seed gives
            the same bits on the same machine.

        Raises
        ------
        InputError
            If the mixture, a prompt or a setting cannot be used.
        Cancelled
            If `cancel` was set.
        ModelError, ProviderError
            If a graph cannot be loaded, or not where it should run.
        MemoryBudgetError
            If the job cannot fit in the memory, with the numbers, before it starts.
        """
        resolved = settings_from_options(settings).resolve(self.manifest)
        audio, rate = check_mixture(mixture, sample_rate)
        checked = check_prompts(prompts, audio.shape[1] / rate)
        if video is not None and len(checked) > 1:
            raise InputError(
                f"a video shows what one stem is, but there are {len(checked)} prompts; "
                "separate them one after the other"
            )
        with self._lock, Cancellation(cancel) as cancellation:
            return Pipeline(
                self._model,
                audio,
                rate,
                checked,
                resolved,
                progress,
                cancellation,
                journal or Journal(),
                self._memory_bytes,
                video,
            ).run()

    def close(self) -> None:
        """Free the model's networks. Using the engine again loads them again."""
        with self._lock:
            self._model.graphs.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
