"""Networks of others, from a mixture to its stems, as bundles.

The files are what users fetch themselves; a layout says what they are. A network has one input,
(batch, 2, samples) of a fixed length, and gives all stems, (batch, stems, 2, samples), or one of
them, (batch, 2, samples). Several files are several networks, run one after the other: each gives
one stem, or all give all of them and each is good at one, as in the bag of fine-tuned Demucs.

A network on spectrograms becomes one on waveforms here: the transform and its inverse are put
around it in the same graph. So the engine has one contract to keep, not one for each kind of
transform, and what the network hears is fixed by the file that is checked.
"""

from __future__ import annotations

import math
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import onnx
import onnx.version_converter
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from bridge.bundles.bundle import describe_file, write_manifest
from bridge.bundles.manifest import (
    FORMAT,
    NAMED_STEMS,
    SEPARATOR,
    GraphSpec,
    NamedStemsManifest,
    Reconstruction,
    Sound,
    TensorSpec,
)
from bridge.errors import InputError

GRAPH: Final = "separator.onnx"
_MIXTURE, _STEMS = "mixture", "stems"
_LONGEST_HOP: Final = 1024


class LayoutStem(Struct, frozen=True, forbid_unknown_fields=True):
    """A stem: its name, and the phrases that mean it beside the name."""

    name: str
    phrases: tuple[str, ...] = ()


class Spectrum(Struct, frozen=True, forbid_unknown_fields=True):
    """Which spectrogram a network takes, and what it makes of it.

    The transform is that of ``torch.stft`` and ``torch.istft``, centred, with reflected edges.
    Shapes are written as einops writes them: axes ``batch`` (of one), ``stem``, ``channel`` (two),
    ``part`` (real, imaginary), ``bin`` and ``frame``, those in parentheses being one axis.

    Attributes
    ----------
    n_fft, hop : int
        In samples.
    takes : str
        Shape of the input. Without ``part`` it has magnitudes.
    gives : str
        Shape of the output, by default that of the input. Without ``stem`` it is of one stem.
    output : {"spectrum", "mask"}
        What it gives: the stem's spectrum, of which magnitudes get the phases of the mixture; or
        what the mixture's is multiplied by, which is complex if it has ``part``.
    window : {"hann", "hamming", "rectangular"}
        Periodic, of `n_fft` samples.
    frames : int or None
        For a file that leaves the number of frames open.
    gain : float
        By which stems are multiplied.
    """

    n_fft: int
    hop: int
    takes: str = "batch (channel part) bin frame"
    gives: str | None = None
    output: Literal["spectrum", "mask"] = "spectrum"
    window: Literal["hann", "hamming", "rectangular"] = "hann"
    frames: int | None = None
    gain: float = 1.0


class Layout(Struct, frozen=True, forbid_unknown_fields=True):
    """What networks of others take and give.

    Attributes
    ----------
    sample_rate : int
        In Hz.
    stems : tuple of LayoutStem
        In the order of the network's output, or of the files.
    licence : str
        Of the weights.
    input_rms_db : float or None
        Level to which a mixture is brought before; 0 where it is to have a deviation of 1.
    overlap : float
        What neighbouring windows share, as a share of a window.
    spectrum : Spectrum or None
        For networks on spectrograms.
    """

    sample_rate: int
    stems: tuple[LayoutStem, ...]
    licence: str = "unknown"
    input_rms_db: float | None = None
    overlap: float = 0.25
    spectrum: Spectrum | None = None


_VOCALS = ("vocal", "lead vocals", "singing", "singing voice", "singer", "voice")
_DRUMS = ("drum", "drum kit", "drum set", "percussion")
_BASS = ("bass guitar", "electric bass", "bass line")
_OTHER = ("the rest", "everything else", "instruments")
#: What Demucs' exports have in common, by the number of their stems.
DEMUCS: Final = {
    4: Layout(
        44100,
        (
            LayoutStem("drums", _DRUMS),
            LayoutStem("bass", _BASS),
            LayoutStem("other", _OTHER),
            LayoutStem("vocals", _VOCALS),
        ),
        input_rms_db=0.0,
    ),
}
DEMUCS[6] = msgspec.structs.replace(
    DEMUCS[4],
    stems=(
        *DEMUCS[4].stems,
        LayoutStem("guitar", ("electric guitar", "acoustic guitar", "guitars")),
        LayoutStem("piano", ("keys", "keyboard")),
    ),
)


def read_layout(path: Path) -> Layout:
    """Read a layout from TOML.

    Raises
    ------
    InputError
        If it is not one; the message names the field.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Layout)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: not the layout of a network ({error})") from error


def import_waveform_networks(
    out: Path,
    files: Sequence[Path],
    layout: Layout | None = None,
    *,
    licence: str | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Path:
    """Make a bundle of the networks in ONNX files.

    Parameters
    ----------
    out : Path
        Directory to make.
    files : sequence of Path
        One network that gives all stems, or one for each stem.
    layout : Layout or None
        What they are; None takes the one of Demucs with as many stems.
    licence : str or None
        Of the weights, in place of the layout's.
    progress : callable
        Called with a line for each step.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If `out` exists, or a file is no network of that kind.
    """
    if not files:
        raise InputError("expected the ONNX file of a network, or one for each of its stems")
    models = [_read(path) for path in files]
    bins = None
    if layout is not None and layout.spectrum is not None:
        wrapped = [
            _Spectrogram(layout.spectrum, len(layout.stems), model, path)
            for model, path in zip(models, files, strict=True)
        ]
        bins = min(network.bins for network in wrapped)
        models = [network.from_waveforms() for network in wrapped]
    samples = {_window(model, path) for model, path in zip(models, files, strict=True)}
    if len(samples) > 1:
        raise InputError(f"the networks have windows of {sorted(samples)} samples; expected one")
    window = samples.pop()
    with new_bundle(out) as bundle:
        progress("trying the networks")
        counts = [
            _count_stems(model, path, window) for model, path in zip(models, files, strict=True)
        ]
        layout = layout or _demucs(counts, files)
        joined = _join(models, counts, files, len(layout.stems), window)
        onnx.save(joined, bundle / GRAPH)
        manifest = _describe(bundle, out.name, files, layout, window, licence, bins)
        write_manifest(manifest, bundle)
    return out


@contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """Give a folder to write a bundle to, which becomes `out` if nothing goes wrong.

    Raises
    ------
    InputError
        If `out` exists.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; remove it or choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        bundle = Path(folder) / "bundle"
        bundle.mkdir()
        yield bundle
        bundle.rename(out)


def describe_named_stems(
    bundle: Path, name: str, mixture: TensorSpec, stems: TensorSpec, **told: Any
) -> NamedStemsManifest:
    """Return the manifest of a network with a closed list of stems, whose files are written.

    Parameters
    ----------
    bundle : Path
    name : str
    mixture, stems : TensorSpec
        What the graph takes and gives.
    **told
        Fields that each network has its own of.
    """
    return NamedStemsManifest(
        format=FORMAT,
        name=name,
        family=NAMED_STEMS,
        solver="euler",
        steps=1,
        reconstruct="wiener",
        listen="channels",
        graphs={SEPARATOR: GraphSpec(GRAPH, (mixture,), (stems,))},
        files={path.name: describe_file(path) for path in sorted(bundle.iterdir())},
        precision="fp32",
        **told,
    )


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, onnx's and the system's own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a network in ONNX ({reason[:160]})") from error
    return model


def _window(model: onnx.ModelProto, path: Path) -> int:
    """Return the length in samples of a network's one input (batch, 2, samples)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inputs]
    kinds = [value.type.tensor_type.elem_type for value in inputs]
    fits = len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][1] == 2 and shapes[0][2] > 0
    if not fits or kinds != [TensorProto.FLOAT]:
        told = ", ".join(f"{v.name} {s}" for v, s in zip(inputs, shapes, strict=True))
        raise InputError(
            f"{path}: takes {told or 'nothing'}; expected one input, float32 (batch, 2, samples) "
            "of a fixed length. Of an export that leaves the spectrogram to the caller the layout "
            "says which: see [spectrum] in onnx_export/README.md"
        )
    return int(shapes[0][2])


class Nodes:
    """Nodes and constants of a graph as they come, each result under a name of its own."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def add(
        self, op: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any
    ) -> str:
        """Add a node, and return the name of its result."""
        name = output or f"{self._prefix}{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: ArrayLike, dtype: type = np.float32) -> str:
        """Add a constant, and return its name."""
        name = f"{self._prefix}constant.{len(self.constants)}"
        array: NDArray[Any] = np.array(value, dtype=dtype, order="C")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def slice(self, of: str, start: int, end: int, axis: int) -> str:
        """Take a stretch of one axis."""
        bounds = (self.constant([number], np.int64) for number in (start, end, axis))
        return self.add("Slice", [of, *bounds])

    def reshape(self, of: str, *shape: int) -> str:
        """Give another shape."""
        return self.add("Reshape", [of, self.constant(shape, np.int64)])

    def pad(self, of: str, before: Sequence[int], after: Sequence[int], mode: str = "") -> str:
        """Add zeros, or what `mode` says, to every axis."""
        told = {"mode": mode} if mode else {}
        return self.add("Pad", [of, self.constant([*before, *after], np.int64)], **told)


_TINY: Final = 1e-10
#: The first in which Pad takes what is needed here.
_OPSET: Final = 11
#: From 4 on, weights need not be listed as inputs.
_IR_VERSION: Final = 8
_LEAST_ENVELOPE: Final = 1e-6


class _Spectrogram:
    """A network on spectrograms, with the transform and its inverse around it."""

    def __init__(self, spectrum: Spectrum, stems: int, model: onnx.ModelProto, path: Path) -> None:
        self._spectrum, self._path = spectrum, path
        if not 0 < spectrum.hop <= spectrum.n_fft:
            raise InputError(
                f"layout: expected a hop of 1 to n_fft samples, got {spectrum.hop} of "
                f"{spectrum.n_fft}"
            )
        self._takes = _groups(spectrum.takes, "takes", optional=("part",))
        self._gives = _groups(spectrum.gives or spectrum.takes, "gives", ("part", "stem"))
        self._model = self._modern(model)
        graph = self._model.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inputs]
        if len(shapes) != 1 or len(shapes[0]) != len(self._takes) or len(graph.output) != 1:
            raise InputError(
                f"{path}: takes {shapes} and gives {len(graph.output)} results; expected one "
                f"input {spectrum.takes!r}, as the layout says, and one result"
            )
        self._input = inputs[0].name
        told = {group[0]: n for group, n in zip(self._takes, shapes[0], strict=True) if n > 0
                and len(group) == 1}  # fmt: skip
        self.bins = told.get("bin", spectrum.n_fft // 2 + 1)
        frames = told.get("frame", spectrum.frames)
        if frames is None or (spectrum.frames or frames) != frames:
            raise InputError(
                f"{path}: has {frames or 'any number of'} frames, the layout {spectrum.frames}; "
                "say how many in frames"
            )
        self._frames = frames
        self._samples = (frames - 1) * spectrum.hop
        self._sizes = {
            "batch": 1, "stem": stems, "channel": 2, "part": 2, "bin": self.bins, "frame": frames,
        }  # fmt: skip
        wanted = self._flat(self._takes)
        if any(got not in (0, want) for got, want in zip(shapes[0], wanted, strict=True)):
            raise InputError(f"{path}: takes {shapes[0]}, but {spectrum.takes!r} means {wanted}")
        if self.bins > spectrum.n_fft // 2 + 1 or self._samples <= spectrum.n_fft // 2:
            raise InputError(
                f"{path}: {self.bins} bins and {frames} frames don't go with n_fft "
                f"{spectrum.n_fft} and hop {spectrum.hop}"
            )

    def _modern(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a network whose operators are new enough for what comes around it."""
        version = next((o.version for o in model.opset_import if not o.domain), _OPSET)
        if version >= _OPSET:
            return model
        try:
            return onnx.version_converter.convert_version(model, _OPSET)
        except Exception as error:  # onnx's own have no common class
            raise InputError(
                f"{self._path}: is written for version {version} of ONNX's operators and cannot "
                f"be converted ({str(error).splitlines()[0][:160]}); export it for {_OPSET}"
            ) from error

    def _flat(self, groups: Sequence[Sequence[str]]) -> list[int]:
        return [math.prod(self._sizes[axis] for axis in group) for group in groups]

    def from_waveforms(self) -> onnx.ModelProto:
        """Build the graph from waveforms (1, 2, samples) to those of one stem or of all."""
        network = onnx.compose.add_prefix(self._model, "network.")
        before, behind = Nodes("before."), Nodes("behind.")
        mixture = self._analyse(before)
        heard, axes = mixture, ["batch", "channel", "frame", "bin", "part"]
        if not _has(self._takes, "part"):
            levels = self._magnitude(before, mixture)
            heard = before.reshape(levels, 1, 2, self._frames, self.bins)
            axes.remove("part")
        order = [axes.index(axis) for group in self._takes for axis in group]
        turned = before.add("Transpose", [heard], perm=order)
        sizes = before.constant(self._flat(self._takes), np.int64)
        before.add("Reshape", [turned, sizes], output=f"network.{self._input}")
        spectra = self._read_stems(behind, network.graph.output[0].name, mixture)
        waves = self._synthesise(behind, spectra)
        given = [self._sizes["stem"]] if _has(self._gives, "stem") else []
        sizes = behind.constant([1, *given, 2, self._samples], np.int64)
        behind.add("Reshape", [waves, sizes], output=_STEMS)
        shapes = {_MIXTURE: [1, 2, self._samples], _STEMS: [1, *given, 2, self._samples]}
        ends = {
            name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        }
        whole = helper.make_graph(
            [*before.nodes, *network.graph.node, *behind.nodes],
            "spectrogram",
            [ends[_MIXTURE]],
            [ends[_STEMS]],
            [*before.constants, *network.graph.initializer, *behind.constants],
        )
        return helper.make_model(
            whole,
            opset_imports=network.opset_import,
            ir_version=max(network.ir_version, _IR_VERSION),
            functions=network.functions,
        )

    def _window(self) -> NDArray[np.float64]:
        turn = 2 * np.pi * np.arange(self._spectrum.n_fft) / self._spectrum.n_fft
        middle, swing = {"hann": (0.5, 0.5), "hamming": (0.54, 0.46), "rectangular": (1.0, 0.0)}[
            self._spectrum.window
        ]
        return np.asarray(middle - swing * np.cos(turn))

    def _analyse(self, graph: Nodes) -> str:
        """Transform the mixture: (1, channel, frame, bin, real and imaginary part)."""
        n_fft, hop, frames = self._spectrum.n_fft, self._spectrum.hop, self._frames
        edge, overlaps = n_fft // 2, -(-n_fft // hop)
        padded = graph.pad(_MIXTURE, (0, 0, edge), (0, 0, edge), "reflect")
        missing = (frames + overlaps - 1) * hop - (self._samples + 2 * edge)
        even = graph.pad(padded, (0, 0, 0), (0, 0, missing))
        hops = graph.reshape(even, 2, frames + overlaps - 1, hop)
        parts = [graph.slice(hops, k, frames + k, axis=1) for k in range(overlaps)]
        pieces = graph.slice(graph.add("Concat", parts, axis=2), 0, n_fft, axis=2)
        windowed = graph.add("Mul", [pieces, graph.constant(self._window())])
        shape = (1, 2, frames, self.bins, 1)
        found = [
            graph.reshape(graph.slice(part, 0, self.bins, axis=2), *shape)
            for part in _fourier(graph, (windowed, None), n_fft, -1)
        ]
        return graph.add("Concat", found, axis=4)

    def _magnitude(self, graph: Nodes, spectrum: str) -> str:
        """Return magnitudes of what has parts on its last axis, which stays, of one."""
        parts = [graph.slice(spectrum, k, k + 1, axis=4) for k in range(2)]
        powers = [graph.add("Mul", [part, part]) for part in parts]
        return graph.add("Sqrt", [graph.add("Add", powers)])

    def _read_stems(self, graph: Nodes, given: str, mixture: str) -> str:
        """Turn what the network gives into spectra (stem, channel, frame, bin, part)."""
        axes = [axis for group in self._gives for axis in group]
        apart = graph.reshape(given, *(self._sizes[axis] for axis in axes))
        wanted = [a for a in ("batch", "stem", "channel", "frame", "bin", "part") if a in axes]
        turned = graph.add("Transpose", [apart], perm=[axes.index(axis) for axis in wanted])
        stems = self._sizes["stem"] if "stem" in axes else 1
        parts = 2 if "part" in axes else 1
        made = graph.reshape(turned, stems, 2, self._frames, self.bins, parts)
        if parts == 2 and self._spectrum.output == "spectrum":
            return made
        if parts == 2:
            real, imaginary = (graph.slice(made, k, k + 1, axis=4) for k in range(2))
            x, y = (graph.slice(mixture, k, k + 1, axis=4) for k in range(2))
            products = [graph.add("Mul", pair) for pair in
                        ((x, real), (y, imaginary), (x, imaginary), (y, real))]  # fmt: skip
            both = [graph.add("Sub", products[:2]), graph.add("Add", products[2:])]
            return graph.add("Concat", both, axis=4)
        if self._spectrum.output == "spectrum":
            level = graph.add("Add", [self._magnitude(graph, mixture), graph.constant(_TINY)])
            made = graph.add("Div", [made, level])
        return graph.add("Mul", [mixture, made])

    def _synthesise(self, graph: Nodes, spectra: str) -> str:
        """Transform spectra (stem, channel, frame, bin, part) back: (stem * channel, samples)."""
        n_fft, hop, frames = self._spectrum.n_fft, self._spectrum.hop, self._frames
        # The real part of the inverse of the positive half, doubled but for 0 Hz and the highest.
        doubled = np.full((self.bins, 1), 2.0)
        doubled[0] = 1.0
        if n_fft % 2 == 0:
            doubled[n_fft // 2 :] = 1.0
        half = graph.add("Mul", [spectra, graph.constant(doubled / n_fft)])
        parts = []
        for k in range(2):
            part = graph.reshape(graph.slice(half, k, k + 1, axis=4), -1, frames, self.bins)
            parts.append(graph.pad(part, (0, 0, 0), (0, 0, n_fft - self.bins)))
        pieces, _ = _fourier(graph, (parts[0], parts[1]), n_fft, 1)
        windowed = graph.add("Mul", [pieces, graph.constant(self._window())])
        overlaps = -(-n_fft // hop)
        even = graph.pad(windowed, (0, 0, 0), (0, 0, overlaps * hop - n_fft))
        total = ""
        for k in range(overlaps):
            part = graph.slice(even, k * hop, (k + 1) * hop, axis=2)
            moved = graph.pad(part, (0, k, 0), (0, overlaps - 1 - k, 0))
            total = graph.add("Add", [total, moved]) if total else moved
        edge = n_fft // 2
        wave = graph.reshape(total, -1, (frames + overlaps - 1) * hop)
        inside = graph.slice(wave, edge, edge + self._samples, axis=1)
        envelope = np.zeros((frames + overlaps - 1) * hop)
        for frame in range(frames):
            envelope[frame * hop : frame * hop + n_fft] += self._window() ** 2
        envelope = envelope[edge : edge + self._samples]
        if envelope.min() < _LEAST_ENVELOPE:
            raise InputError(
                f"layout: windows of {n_fft} samples every {hop} don't cover the signal; no "
                "inverse is known"
            )
        return graph.add("Mul", [inside, graph.constant(self._spectrum.gain / envelope)])


def _fourier(graph: Nodes, values: tuple[str, str | None], n: int, sign: int) -> tuple[str, str]:
    """Transform the last axis of (rows, frames, n), real and imaginary parts, without a factor.

    ``n1 * n2 = n`` points are transforms of ``n1`` and of ``n2`` with a turn in between (Cooley &
    Tukey 1965), each a product with a small matrix. Where n is no power of two, as in MDX-Net
    (6144 and 7680), ONNX Runtime 1.31's own DFT is off by 4e-4 of the largest sample, and slow.
    """
    n1 = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    n2 = n // n1

    def turns(rows: int, columns: int, whole: int) -> tuple[str, str]:
        angles = sign * 2 * np.pi / whole * (np.outer(range(rows), range(columns)) % whole)
        return graph.constant(np.cos(angles)), graph.constant(np.sin(angles))

    def product(op: str, a: tuple[str, str], b: tuple[str, str | None]) -> tuple[str, str]:
        (x, y), (u, v) = a, b
        if v is None:
            return graph.add(op, [x, u]), graph.add(op, [y, u])
        real = graph.add("Sub", [graph.add(op, [x, u]), graph.add(op, [y, v])])
        return real, graph.add("Add", [graph.add(op, [x, v]), graph.add(op, [y, u])])

    real, imaginary = values
    square = (
        graph.reshape(real, 0, 0, n1, n2),
        None if imaginary is None else graph.reshape(imaginary, 0, 0, n1, n2),
    )
    columns = product("MatMul", turns(n1, n1, n1), square)
    turned = product("Mul", columns, turns(n1, n2, n))
    rows = product("MatMul", turned, turns(n2, n2, n2))
    straight = [graph.add("Transpose", [part], perm=[0, 1, 3, 2]) for part in rows]
    return graph.reshape(straight[0], 0, 0, n), graph.reshape(straight[1], 0, 0, n)


def _has(groups: Sequence[Sequence[str]], axis: str) -> bool:
    return any(axis in group for group in groups)


def _groups(pattern: str, what: str, optional: Sequence[str]) -> list[list[str]]:
    """Read a shape as einops writes it.

    Raises
    ------
    InputError
        If it is none of a spectrogram.
    """
    found = [
        (joined or single).split() for joined, single in re.findall(r"\(([^()]*)\)|(\w+)", pattern)
    ]
    axes = [axis for group in found for axis in group]
    needed = {"batch", "channel", "bin", "frame"}
    allowed = needed | set(optional)
    if not needed <= set(axes) <= allowed or len(set(axes)) < len(axes):
        raise InputError(
            f"layout: {what} is {pattern!r}; expected each of {', '.join(sorted(needed))} once"
            f", and perhaps {' and '.join(optional)}, such as 'batch (channel part) bin frame'"
        )
    return found


def _count_stems(model: onnx.ModelProto, path: Path, window: int) -> int:
    """Run a network once, and return how many stems it gives; 0 if it gives a single one."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        quiet = np.zeros((1, 2, window), np.float32)
        outputs = session.run(None, {session.get_inputs()[0].name: quiet})
    except Exception as error:  # ONNX Runtime's own have no common class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: ONNX Runtime cannot run it ({reason[:160]})") from error
    shape = np.shape(outputs[0])
    if len(outputs) == 1 and shape == (1, 2, window):
        return 0
    if len(outputs) == 1 and len(shape) == 4 and shape[::2] == (1, 2) and shape[3] == window:
        return int(shape[1])
    told = ", ".join(str(np.shape(output)) for output in outputs)
    raise InputError(
        f"{path}: gives {told}; expected (1, stems, 2, {window}), or (1, 2, {window}) for one stem"
    )


def _demucs(counts: Sequence[int], files: Sequence[Path]) -> Layout:
    found = DEMUCS.get(counts[0] or len(files))
    if found is None:
        known = " or ".join(map(str, DEMUCS))
        raise InputError(
            f"{files[0]}: gives {counts[0] or len(files)} stems; Demucs has {known}. Say which "
            "they are: stembridge models import onnx FILE... --layout LAYOUT.toml"
        )
    return found


def _join(
    models: Sequence[onnx.ModelProto],
    counts: Sequence[int],
    files: Sequence[Path],
    stems: int,
    window: int,
) -> onnx.ModelProto:
    """Put networks side by side in one graph, from the mixture to all stems."""
    if len(models) not in (1, stems):
        raise InputError(
            f"{len(models)} files for {stems} stems; give one that gives all, or one for each"
        )
    for count, path in zip(counts, files, strict=True):
        wanted = (stems,) if len(models) == 1 and stems > 1 else (0, stems)
        if count not in wanted:
            raise InputError(
                f"{path}: gives {count or 1} stems, but the layout has {stems}; list them in the "
                "order of the output"
            )
    nodes, weights, values, parts = [], [], [], []
    single = numpy_helper.from_array(np.array([1, 1, 2, window], np.int64), "stembridge_shape")
    if 0 in counts:
        weights.append(single)
    for number, (model, count) in enumerate(zip(models, counts, strict=True)):
        graph = onnx.compose.add_prefix(model, f"n{number}_").graph
        named = {tensor.name for tensor in graph.initializer}
        entry = next(value.name for value in graph.input if value.name not in named)
        given = graph.output[0].name
        for node in graph.node:
            node.input[:] = [_MIXTURE if name == entry else name for name in node.input]
        nodes += list(graph.node)
        weights += list(graph.initializer)
        values += list(graph.value_info)
        if count == 0:
            nodes.append(helper.make_node("Reshape", [given, single.name], [f"{given}_one"]))
            given = f"{given}_one"
        elif len(models) > 1:
            index = numpy_helper.from_array(np.array([number], np.int64), f"stembridge_{number}")
            weights.append(index)
            nodes.append(helper.make_node("Gather", [given, index.name], [f"{given}_one"], axis=1))
            given = f"{given}_one"
        parts.append(given)
    last = "Concat" if len(parts) > 1 else "Identity"
    options: dict[str, Any] = {"axis": 1} if len(parts) > 1 else {}
    nodes.append(helper.make_node(last, parts, [_STEMS], **options))
    # What a network calls its batch says nothing here: the engine gives it one window at a time.
    shapes = {_MIXTURE: [1, 2, window], _STEMS: [1, stems, 2, window]}
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    graph = helper.make_graph(
        nodes, "separator", [tensors[_MIXTURE]], [tensors[_STEMS]], weights,
        value_info=values,
    )  # fmt: skip
    opsets = {(o.domain, o.version) for model in models for o in model.opset_import}
    if len({domain for domain, _ in opsets}) < len(opsets):
        raise InputError("the networks are written for different versions of ONNX's operators")
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*opset) for opset in sorted(opsets)],
        ir_version=max(model.ir_version for model in models),
        functions=[function for model in models for function in model.functions],
    )


def _describe(
    bundle: Path,
    name: str,
    files: Sequence[Path],
    layout: Layout,
    window: int,
    licence: str | None,
    bins: int | None,
) -> NamedStemsManifest:
    hop = max(n for n in range(1, _LONGEST_HOP + 1) if window % n == 0)
    frames = window // hop
    stems = len(layout.stems)
    band_hz = layout.sample_rate / 2
    if bins is not None and layout.spectrum is not None:
        band_hz = min(band_hz, bins * layout.sample_rate / layout.spectrum.n_fft)
    told = ", ".join(f"{path.name} (SHA-256 {describe_file(path).sha256})" for path in files)
    return describe_named_stems(
        bundle,
        name,
        TensorSpec(_MIXTURE, "float32", (1, 2, window)),
        TensorSpec(_STEMS, "float32", (1, stems, 2, window)),
        sample_rate=layout.sample_rate,
        hop_length=hop,
        window_s=frames * hop / layout.sample_rate,
        overlap_s=min(round(frames * layout.overlap), frames - 1) * hop / layout.sample_rate,
        reconstruction=Reconstruction(exponent=2.0, n_fft=4096, hop=1024, band_hz=band_hz),
        input_rms_db=layout.input_rms_db,
        sounds=tuple(
            Sound(s.name, tuple(dict.fromkeys((s.name.lower(), *map(str.lower, s.phrases)))))
            for s in layout.stems
        ),
        licence=licence or layout.licence,
        provenance=f"ONNX files of somebody else: {told}",
    )
