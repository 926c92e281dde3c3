"""The graphs of a bundle in ONNX Runtime, which is imported here and nowhere else.

Each graph is opened when it is first run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from bridge.bundles.manifest import CODEC_DECODER, CODEC_ENCODER, TEXT_ENCODER, BundleManifest
from bridge.errors import (
    InputError,
    MemoryBudgetError,
    ModelError,
    ProviderError,
    StembridgeError,
    reason_of,
)
from bridge.inference.context import Cancellation, Turns

# Some builds store a device identifier and queue events for their maker as soon as they are
# imported; switching that off afterwards is too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

#: For whoever needs it elsewhere.
ort: Final = onnxruntime

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"

_SHORT_NAMES: Final = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}


def choose_providers(
    asked: Sequence[str] | None, available: Collection[str]
) -> tuple[tuple[str, ...], bool]:
    """Decide on which providers a session is opened.

    Parameters
    ----------
    asked : sequence of str or None
        ONNX Runtime's names, or ``"cpu"``, ``"cuda"``, ``"tensorrt"``, ``"coreml"``,
        ``"directml"``, best first. None means CUDA where there is a device, else the CPU.
    available : collection of str
        What the installed ONNX Runtime was built with.

    Returns
    -------
    providers : tuple of str
        ONNX Runtime's names, best first.
    may_fall_back : bool
        Whether the CPU may stand in: only where nothing was asked for.

    Raises
    ------
    ProviderError
        If a provider asked for is not in this build, or its driver or device is missing.
    """
    if asked is None:
        return ((CUDA, CPU) if CUDA in available and has_cuda_device() else (CPU,)), True
    if isinstance(asked, str) or not asked:
        raise ProviderError(f"providers is {asked!r}; expected a list such as ['cuda']")
    names = tuple(_SHORT_NAMES.get(name.lower(), name) for name in asked)
    for name in names:
        if name not in available:
            raise ProviderError(
                f"the provider {name} is not in the installed ONNX Runtime, which has "
                f"{', '.join(available)}; install a build that has it, or ask for another"
            )
        if name == CUDA and not has_cuda_device():
            raise ProviderError(
                "the provider CUDAExecutionProvider was asked for, but there is no NVIDIA driver "
                "with a device here; install the driver, or ask for 'cpu'"
            )
    return names, False


def check_used(asked: Sequence[str], used: Sequence[str]) -> None:
    """Compare the providers that a session was opened with to those it really uses.

    Raises
    ------
    ProviderError
        If one that was asked for is missing.
    """
    for name in asked:
        if name not in used:
            raise ProviderError(
                f"the provider {name} was asked for, but ONNX Runtime uses {', '.join(used)}: "
                "its libraries could not be loaded; for CUDA install stembridge[cuda], "
                "or ask for 'cpu'"
            )


def has_cuda_device() -> bool:
    """Ask the NVIDIA driver, where there is one, whether it has a device.

    ONNX Runtime is not asked, because it complains on stderr before it answers.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


Array: TypeAlias = npt.NDArray[np.float32]

_RUN_IN_CHUNKS: Final = (CODEC_ENCODER, CODEC_DECODER)
_POLL_S: Final = 0.05
_LOG_ERRORS_ONLY = 3
_LOG_NOTHING_SHORT_OF_A_CRASH = 4


class Graphs:
    """Runs the graphs of one bundle.

    Parameters
    ----------
    directory : Path
        Of the bundle.
    manifest : BundleManifest
    providers : sequence of str or None
        See `bridge.inference.graphs.choose_providers`.
    threads : int or None
        Threads for one graph on the CPU; None takes the physical cores.

    Attributes
    ----------
    threads : int
        How many compute for one job on the CPU, in graphs and between them.
    fallback : str
        Why they run on another provider than was wanted; empty if they do not.

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
        manifest: BundleManifest,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        self._provider_options = dict(provider_options or {})
        self._directory = directory
        self._manifest = manifest
        self._providers, self._may_fall_back = choose_providers(
            providers, onnxruntime.get_available_providers()
        )
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected a whole number from 1 up")
        self.threads = threads or physical_cores()
        self.fallback = ""
        self._open: dict[str, onnxruntime.InferenceSession] = {}
        if CUDA in self._providers:
            # The CUDA libraries that come from PyPI lie where no loader looks.
            with contextlib.redirect_stdout(sys.stderr):
                onnxruntime.preload_dlls()
        if self._providers != (CPU,):
            # A provider shows only in an open session whether it works: better now than midway.
            self.open(
                TEXT_ENCODER if TEXT_ENCODER in manifest.graphs else next(iter(manifest.graphs))
            )

    @property
    def provider(self) -> str:
        """The execution provider that the graphs really run on."""
        return self._providers[0]

    @property
    def loaded(self) -> tuple[str, ...]:
        """Roles whose graphs are in memory."""
        return tuple(self._open)

    def open(self, role: str) -> onnxruntime.InferenceSession:
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
                self.fallback = str(error)
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
        ModelError
            If the graph cannot be run on that, or what it gives is not of the declared shape, or
            not finite.
        """
        session = self.open(role)
        names = [self.output_name(role)]
        with self._running(role, feeds, cancellation) as options:
            output: Array = session.run(names, dict(feeds), options)[0]
        self._check_shape(role, feeds, output)
        self._check_finite(role, feeds, output)
        return output

    def output_name(self, role: str) -> str:
        """Return the name of a graph's first output."""
        return self._manifest.graphs[role].outputs[0].name

    def bind(self, role: str, feeds: Mapping[str, npt.NDArray[Any]]) -> Bound:
        """Put a graph's inputs where it computes, to stay there for many runs of one shape."""
        return Bound(self, role, feeds)

    def run_bound(
        self,
        role: str,
        feeds: Mapping[str, npt.NDArray[Any]],
        binding: onnxruntime.IOBinding,
        cancellation: Cancellation,
    ) -> None:
        """Run a graph on inputs and to an output that are bound; raises as `run` does."""
        session = self.open(role)
        with self._running(role, feeds, cancellation) as options:
            if self._provider_options.get("enable_cuda_graph") == "1":
                # One captured graph for each binding, which has addresses of its own.
                options.add_run_config_entry("gpu_graph_id", str(id(binding) % (1 << 31)))
            session.run_with_iobinding(binding, options)

    def check_output(self, role: str, feeds: Mapping[str, npt.NDArray[Any]], output: Array) -> None:
        """Raise a ModelError unless an output is of the declared shape and finite."""
        self._check_shape(role, feeds, output)
        self._check_finite(role, feeds, output)

    @contextlib.contextmanager
    def _running(
        self, role: str, feeds: Mapping[str, npt.NDArray[Any]], cancellation: Cancellation
    ) -> Iterator[onnxruntime.RunOptions]:
        """Give the options of a run, and tell what is wrong with it in terms of the bundle."""
        options = onnxruntime.RunOptions()
        # A failed run raises; ONNX Runtime would print the same on stderr as well.
        options.log_severity_level = _LOG_NOTHING_SHORT_OF_A_CRASH
        if role in _RUN_IN_CHUNKS:
            # Chunks are large and of several lengths; what one took is given back for the next.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with cancellation.stopping(lambda: setattr(options, "terminate", True)):
            try:
                yield options
            except Exception as error:  # ONNX Runtime's own classes share no other base
                cancellation.check()
                shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
                if _is_for_want_of_memory(error):
                    raise MemoryBudgetError(
                        f"not enough memory to run {role} on {shapes}; close other programs, or "
                        "give a shorter window"
                    ) from error
                raise ModelError(
                    f"{self._path(role)}: ONNX Runtime cannot run it on {shapes} "
                    f"({reason_of(error)}); fetch or export the model "
                    f"{self._manifest.name!r} again"
                ) from error

    def close(self) -> None:
        """Free the graphs; the next run opens them again."""
        self._open.clear()

    def _check_shape(
        self, role: str, feeds: Mapping[str, npt.NDArray[Any]], output: npt.NDArray[Any]
    ) -> None:
        """Compare an output with its declaration, names of sizes standing for those of inputs."""
        graph = self._manifest.graphs[role]
        sizes: dict[int | str, int] = {}
        for spec in graph.inputs:
            if spec.name in feeds:
                sizes.update(zip(spec.dims, feeds[spec.name].shape, strict=False))
        declared = graph.outputs[0]
        expected = [d if isinstance(d, int) else sizes.get(d) for d in declared.dims]
        fits = len(expected) == output.ndim and all(
            size in (None, found) for size, found in zip(expected, output.shape, strict=True)
        )
        if not fits:
            raise ModelError(
                f"{self._path(role)}: {declared.name!r} has the shape {output.shape}, but the "
                f"manifest declares {list(declared.dims)}; export the model "
                f"{self._manifest.name!r} again"
            )

    def _check_finite(
        self, role: str, feeds: Mapping[str, npt.NDArray[Any]], output: npt.NDArray[Any]
    ) -> None:
        if np.isfinite(output).all():
            return
        fed = [name for name, value in feeds.items() if not np.isfinite(value).all()]
        cause = (
            f"it was fed such numbers as {fed[0]!r}, which an earlier step let overflow"
            if fed
            else f"with weights in {self._manifest.precision} on {self.provider} numbers "
            "overflowed, or the weights hold none"
        )
        raise ModelError(
            f"{self._path(role)}: the graph {role!r} gives NaN or infinite numbers; probably "
            f"{cause}. Run it with the provider 'cpu', or export the model "
            f"{self._manifest.name!r} again in fp32"
        )

    def _path(self, role: str) -> Path:
        return self._directory / self._manifest.graphs[role].file

    def _load(self, role: str) -> onnxruntime.InferenceSession:
        path = self._path(role)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_ERRORS_ONLY
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        # What is not ONNX was not searched for weights outside of the manifest.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            with _path_as_text(path) as name:
                first, *others = self._providers
                chosen = [(first, self._provider_options), *others]
                return onnxruntime.InferenceSession(name, options, providers=chosen)
        except Exception as error:  # ONNX Runtime's own classes share no other base
            if _is_for_want_of_memory(error):
                raise MemoryBudgetError(
                    f"{path}: not enough memory to load it; close other programs"
                ) from error
            raise ModelError(
                f"{path}: ONNX Runtime cannot load it ({reason_of(error)}); fetch or export "
                f"the model {self._manifest.name!r} again"
            ) from error


class Bound:
    """A graph whose inputs and output lie where it computes, from one run to the next.

    Their shapes and addresses stay the same, as a captured CUDA graph needs them, and only what
    changes is copied.

    Parameters
    ----------
    graphs : Graphs
    role : str
    feeds : mapping of str to ndarray
        All inputs.
    """

    def __init__(self, graphs: Graphs, role: str, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        self._graphs = graphs
        self._role = role
        self._device = "cuda" if graphs.provider == CUDA else "cpu"
        # On the CPU a value is the very array that it is made from.
        self._feeds = {name: np.array(value, order="C") for name, value in feeds.items()}
        self._values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(value, self._device, 0)
            for name, value in self._feeds.items()
        }
        self._binding = graphs.open(role).io_binding()
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        self._output: onnxruntime.OrtValue | None = None

    def run(
        self, changed: Mapping[str, npt.NDArray[Any]], cancellation: Cancellation
    ) -> npt.NDArray[np.float32]:
        """Copy the inputs that changed and run; raises as `Graphs.run` does."""
        for name, value in changed.items():
            self._values[name].update_inplace(np.ascontiguousarray(value))
        if self._output is None:  # the graph says itself how large its output is, the first time
            name = self._graphs.output_name(self._role)
            self._binding.bind_output(name, self._device, 0)
            self._graphs.run_bound(self._role, self._feeds, self._binding, cancellation)
            (self._output,) = self._binding.get_outputs()
            self._binding.bind_ortvalue_output(name, self._output)
        else:
            self._graphs.run_bound(self._role, self._feeds, self._binding, cancellation)
        output = np.array(self._output.numpy())
        self._graphs.check_output(self._role, self._feeds, output)
        return output


class JoinedRuns:
    """Runs of graphs that several jobs share, each in a thread of its own.

    A job takes part from the first evaluation of its flow to the last, and lets others have its
    turn at everything else meanwhile. Whenever all that take part wait for an evaluation, or
    enough of them to fill a batch, those that wait longest run as one, as far as their windows
    have the same sizes. So jobs join and leave between any two evaluations, at whatever flow time
    each of them is, and nobody is evaluated twice while another waits.

    Parameters
    ----------
    graphs : Graphs
    turns : Turns
        At the stages that jobs do not share.
    """

    def __init__(self, graphs: Graphs, turns: Turns) -> None:
        self._graphs = graphs
        self._turns = turns
        self._changed = threading.Condition()
        self._members: dict[int, int] = {}  # by thread: how many windows may run at a time
        self._waiting: list[_Asked] = []  # longest first
        self._busy = False
        self._bound: dict[tuple[JoinedPart, ...], Bound] = {}

    @contextlib.contextmanager
    def taking_part(self, batch: int, cancellation: Cancellation) -> Iterator[None]:
        """Share the runs of the block, in batches of at most so many windows."""
        place = threading.get_ident()
        self._turns.give()
        self._count(place, batch)
        try:
            yield
        finally:
            self._count(place, None)
        self._turns.take(cancellation.check)

    def bind(self, role: str, feeds: Mapping[str, npt.NDArray[Any]]) -> JoinedPart:
        """Keep a graph's inputs for many runs, as `Graphs.bind` does."""
        return JoinedPart(self, role, dict(feeds))

    def run(
        self,
        part: JoinedPart,
        changed: Mapping[str, npt.NDArray[Any]],
        cancellation: Cancellation,
    ) -> Array:
        """Run a part, with others where it can be; raises as `Graphs.run` does."""
        asked = _Asked(part, dict(changed), cancellation)
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify_all()
            try:
                while not asked.done:
                    if asked in self._waiting:
                        cancellation.check()
                    if self._busy or not self._enough():
                        self._changed.wait(_POLL_S)
                    else:
                        self._lead()
            finally:
                if asked in self._waiting:
                    self._waiting.remove(asked)
        cancellation.check()
        if asked.error is not None:
            raise asked.error
        assert asked.output is not None  # without an error
        return asked.output

    def _count(self, place: int, batch: int | None) -> None:
        """Count a thread in or out."""
        with self._changed:
            if batch is None:
                del self._members[place]
            else:
                self._members[place] = batch
            self._bound.clear()
            self._changed.notify_all()

    def _enough(self) -> bool:
        """Say whether to run now what waits, or to wait for more."""
        first = self._waiting[0] if self._waiting else None
        alike = sum(one.part.rows for one in self._waiting if first and one.fits(first))
        return len(self._waiting) >= len(self._members) or alike >= min(self._members.values())

    def _lead(self) -> None:
        """Run those that wait longest, without keeping the others from asking meanwhile."""
        first = self._waiting[0]
        room = min(self._members.values(), default=first.part.rows) - first.part.rows
        chosen = [first]
        for one in self._waiting[1:]:
            if one.fits(first) and one.part.rows <= room:
                chosen.append(one)
                room -= one.part.rows
        self._waiting = [one for one in self._waiting if one not in chosen]
        self._busy = True
        self._changed.release()
        try:
            self._evaluate(chosen)
        except BaseException as error:  # whoever leads is interrupted; nobody shall wait for ever
            for one in chosen:
                one.error = one.error or error
            raise
        finally:
            self._changed.acquire()
            self._busy = False
            for one in chosen:
                one.done = True
            self._changed.notify_all()

    def _evaluate(self, chosen: Sequence[_Asked]) -> None:
        if len(chosen) > 1:
            # Whose fault an error is shows where each runs by itself, and so does a cancellation.
            with contextlib.suppress(StembridgeError):
                self._evaluate_as_one(chosen)
                return
        for one in chosen:
            try:
                if one.part.bound is None:
                    one.part.bound = self._graphs.bind(one.part.role, one.part.feeds)
                one.output = one.part.bound.run(one.changed, one.cancellation)
            except Exception as error:
                one.error = error

    def _evaluate_as_one(self, chosen: Sequence[_Asked]) -> None:
        parts = tuple(one.part for one in chosen)
        bound = self._bound.get(parts)
        if bound is None:
            feeds = _stacked([part.feeds for part in parts])
            bound = self._bound[parts] = self._graphs.bind(parts[0].role, feeds)
        changed = _stacked([one.changed for one in chosen])
        with Cancellation(None) as never:
            output = bound.run(changed, never)
        ends = np.cumsum([part.rows for part in parts])
        for one, found in zip(chosen, np.split(output, ends[:-1]), strict=True):
            one.output = found


@dataclass(eq=False)
class JoinedPart:
    """One job's windows in `JoinedRuns`, used like a `Bound`."""

    runs: JoinedRuns
    role: str
    feeds: dict[str, npt.NDArray[Any]]
    bound: Bound | None = None

    @property
    def rows(self) -> int:
        """How many windows they are."""
        return len(next(iter(self.feeds.values())))

    def run(self, changed: Mapping[str, npt.NDArray[Any]], cancellation: Cancellation) -> Array:
        """Run with the inputs that changed; raises as `Graphs.run` does."""
        return self.runs.run(self, changed, cancellation)


@dataclass(eq=False)
class _Asked:
    """A run that a job waits for."""

    part: JoinedPart
    changed: dict[str, npt.NDArray[Any]]
    cancellation: Cancellation
    output: Array | None = None
    error: BaseException | None = None
    done: bool = False

    def fits(self, other: _Asked) -> bool:
        """Say whether both can be one batch."""
        return self._sizes() == other._sizes()

    def _sizes(self) -> tuple[str, set[tuple[str, tuple[int, ...]]]]:
        feeds = self.part.feeds
        return self.part.role, {(name, value.shape[1:]) for name, value in feeds.items()}


def _stacked(feeds: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}


@contextlib.contextmanager
def _path_as_text(path: Path) -> Iterator[Path]:
    """Give a way to a file that is valid UTF-8, as ONNX Runtime wants it, even if its own is not.

    Only on Linux can it be otherwise, and there an open folder has a name in numbers.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            yield Path(f"/proc/self/fd/{folder}", path.name)
        finally:
            os.close(folder)
    else:
        yield path


def _is_for_want_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(
        words in text for words in ("Failed to allocate memory", "bad_alloc", "out of memory")
    )


def physical_cores() -> int:
    """Count the physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable))
