"""The graphs of a bundle in ONNX Runtime, each opened when it is first run.

This is the only module that imports ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import psutil

from bridge.bundles.consistency import TEXT_ENCODER
from bridge.bundles.manifest import Manifest
from bridge.errors import InputError, MemoryBudgetError, ModelError, ProviderError
from bridge.inference.cancellation import Cancellation
from bridge.inference.providers import CPU, CUDA, check_used, choose_providers

Array: TypeAlias = npt.NDArray[np.float32]

_LOG_ERRORS_ONLY = 3
_LOG_NOTHING_SHORT_OF_A_CRASH = 4


class Graphs:
    """Runs the graphs of one bundle.

    Parameters
    ----------
    directory : Path
        Of the bundle.
    manifest : Manifest
    providers : sequence of str or None
        See `bridge.inference.providers.choose_providers`.
    threads : int or None
        Threads for one graph on the CPU; None takes the physical cores.

    Raises
    ------
    InputError
        If `threads` is below 1.
    ProviderError
        If a provider asked for is not there, or ONNX Runtime does not really use it.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self._directory = directory
        self._manifest = manifest
        self._providers, self._may_fall_back = choose_providers(
            providers, ort.get_available_providers()
        )
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected a whole number from 1 up")
        self._threads = threads or physical_cores()
        self._open: dict[str, ort.InferenceSession] = {}
        if CUDA in self._providers:
            # The CUDA libraries that come from PyPI lie where no loader looks.
            with contextlib.redirect_stdout(sys.stderr):
                ort.preload_dlls()
        if self._providers != (CPU,):
            # A provider shows only in an open session whether it works: better now than midway.
            self.open(TEXT_ENCODER)

    @property
    def provider(self) -> str:
        """The execution provider that the graphs really run on."""
        return self._providers[0]

    @property
    def loaded(self) -> tuple[str, ...]:
        """Roles whose graphs are in memory."""
        return tuple(self._open)

    def open(self, role: str) -> ort.InferenceSession:
        """Open the graph of a role, or return it where it is open.

        Raises
        ------
        ModelError
            If ONNX Runtime cannot load the graph.
        ProviderError
            If ONNX Runtime does not really use a provider that was asked for.
        """
        if role not in self._open:
            session = self._load(role)
            try:
                check_used(self._providers, session.get_providers())
            except ProviderError as error:
                if not self._may_fall_back:
                    raise
                warnings.warn(f"computing on the CPU: {error}", RuntimeWarning, stacklevel=2)
                self._providers = (CPU,)
            self._open[role] = session
        return self._open[role]

    def run(
        self, role: str, feeds: Mapping[str, npt.NDArray[Any]], cancellation: Cancellation
    ) -> Array:
        """Run a graph and return its first output.

        Parameters
        ----------
        role : str
            A key of the manifest's `graphs`.
        feeds : mapping of str to ndarray
            Its inputs.
        cancellation : Cancellation
            Stops the graph while it runs.

        Raises
        ------
        Cancelled
            If the job was cancelled before or during the run.
        MemoryBudgetError
            If the memory does not suffice.
        """
        session = self.open(role)
        names = [self._manifest.graphs[role].outputs[0].name]
        options = ort.RunOptions()
        # A failed run raises; ONNX Runtime would print the same on stderr as well.
        options.log_severity_level = _LOG_NOTHING_SHORT_OF_A_CRASH
        with cancellation.stopping(lambda: setattr(options, "terminate", True)):
            try:
                output: Array = session.run(names, dict(feeds), options)[0]
            except Exception as error:  # ONNX Runtime's own classes share no other base
                if "Failed to allocate memory" in str(error):
                    shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
                    raise MemoryBudgetError(
                        f"not enough memory to run {role} on {shapes}; close other programs, or "
                        "give a shorter window"
                    ) from error
                raise
        return output

    def close(self) -> None:
        """Free the graphs; the next run opens them again."""
        self._open.clear()

    def _load(self, role: str) -> ort.InferenceSession:
        path = self._directory / self._manifest.graphs[role].file
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_ERRORS_ONLY
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        try:
            return ort.InferenceSession(path, options, providers=list(self._providers))
        except Exception as error:  # ONNX Runtime's own classes share no other base
            raise ModelError(
                f"{path}: ONNX Runtime cannot load it ({error}); fetch or export "
                f"the model {self._manifest.name!r} again"
            ) from error


def physical_cores() -> int:
    """Count the physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable))
