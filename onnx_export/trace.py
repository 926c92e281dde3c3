"""One module to one ONNX model: tracing, and weights that keep their names.

Weights stay recognisable in the file: each is stored under the name it has in the module, or that
name with `TRANSPOSED` appended where the graph multiplies by the transpose. No weight is folded
into a constant. `onnx_export.rebuild` reads them back.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bridge.bundles.manifest import AttentionForm
from onnx_export.networks.dacvae import Watermark
from onnx_export.networks.dit import Attention
from onnx_export.networks.layers import RMSNorm
from onnx_export.recipes import FRAMES, SAMPLES, Graph

Scales: TypeAlias = npt.NDArray[np.float32]

#: ``fp16-weights`` stores weights in half and computes in fp32: half the size, the speed of fp32.
#: ``int8`` multiplies by the matrices of a transformer's layers in 8 bits; the rest of it is as in
#: ``fp16-weights``.
Precision = Literal["fp32", "fp16", "fp16-weights", "int8"]

#: Largest difference accepted from the same weights in fp32; outputs are of about unit size.
ARITHMETIC_TOLERANCE: dict[Precision, float] = {"fp16": 2e-2, "int8": 0.2}
#: Largest difference accepted from the weights as they were before they were rounded.
ROUNDING_TOLERANCE: dict[str, float] = {"fp16": 2e-2, "fp16-weights": 2e-2, "int8": 0.4}

#: Kept in float32: sums of squares overflow in half precision, an LSTM accumulates its error over
#: thousands of steps.
_WIDE = (RMSNorm, nn.LayerNorm, nn.GroupNorm, Watermark)


class HalfPrecision(nn.Module):
    """A module computed in half precision behind float32 inputs and outputs.

    Parameters
    ----------
    module : nn.Module
        Left as it is; a converted copy is kept.
    narrow : tuple of bool
        For each input, whether it is converted too. Flow times and integers are not.
    """

    def __init__(self, module: nn.Module, narrow: tuple[bool, ...]) -> None:
        super().__init__()
        self.narrow = narrow
        self.module = copy.deepcopy(module).half()
        for part in self.module.modules():
            if isinstance(part, _WIDE):
                part.float()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Convert, compute, convert back."""
        converted = [
            value.half() if narrow else value
            for value, narrow in zip(inputs, self.narrow, strict=True)
        ]
        out: Tensor = self.module(*converted)
        return out.to(torch.float32)


#: Known to export everything here; later ones bring operators that ONNX Runtime's CPU provider
#: runs no faster (opset 23's Attention).
OPSET = 20
TRANSPOSED = ".transposed"
#: Appended to the names of a matrix in 8 bits and of what its columns are multiplied by.
IN_8_BITS, SCALE = ".int8", ".scale"
#: The zero of a matrix in 8 bits. Unsigned, since processors without VNNI multiply unsigned by
#: signed bytes in sums of 16 bits, which saturate.
ZERO_POINT = 128
_LAYERS = ".layers."  # in the names of the weights that are multiplied in 8 bits

#: Sizes while tracing: 0 and 1 would be taken for constants, and no two may be equal.
_TRACE_SIZES = {"batch": 2, "frames": 13, "tokens": 7}
_MATRIX = 4096  # elements; what is smaller stays as precise as it is
_UNLIMITED = 1 << 40  # bytes; folding is limited by `_may_fold` alone


def trace(
    graph: Graph, precision: Precision = "fp32", attention: AttentionForm = "plain"
) -> ir.Model:
    """Trace a graph's module into an ONNX model with dynamic axes.

    Parameters
    ----------
    graph : Graph
    precision : {"fp32", "fp16", "fp16-weights", "int8"}
        Of weights and, but for ``fp16-weights``, of arithmetic; inputs and outputs are float32
        in any case.
    attention : {"plain", "fused"}
        How a transformer's attention is written: as products and a softmax, or as the one operator
        that ONNX Runtime has for all of it.

    Returns
    -------
    onnx_ir.Model
    """
    module, inputs = graph.module.eval(), graph.sample(_TRACE_SIZES)
    if precision == "fp16":
        narrow = tuple(s.dtype == "float32" and len(s.dims) > 2 for s in graph.inputs)
        module = HalfPrecision(module, narrow).eval()
    if graph.weights is not None:
        module, inputs = _without_values(module, inputs)
    model = _capture(graph, module, inputs, attention)
    common.InlinePass()(model)
    if graph.weights is not None:
        _attach_weights(model, module, graph.weights)
    weights = frozenset(name for name in model.graph.initializers)
    _transpose_weights(model)
    _simplify(model, weights)
    if precision == "int8":
        _quantise_layers(model)
    if precision in ("fp16-weights", "int8"):
        state = module.state_dict(keep_vars=True)
        trained = (name for name, value in state.items() if isinstance(value, nn.Parameter))
        _narrow_weights(model, frozenset(trained))
    for value, spec in zip(model.graph.outputs, graph.outputs, strict=True):
        value.shape = ir.Shape(list(spec.dims))
    return model


def _capture(
    graph: Graph, module: nn.Module, inputs: tuple[Tensor, ...], attention: AttentionForm
) -> ir.Model:
    """Have torch write down what a module, which may be a copy of the graph's, computes."""
    dims: dict[str, Any] = {name: Dim(name) for name in graph.axes()}
    if FRAMES in dims:
        dims[SAMPLES] = graph.hop_length * dims[FRAMES]
    shapes = tuple(
        {axis: dims[d] for axis, d in enumerate(spec.dims) if isinstance(d, str)}
        for spec in graph.inputs
    )
    with torch.no_grad(), _quiet(), _written_as(attention, module):
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes if not isinstance(module, HalfPrecision) else (shapes,),
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch.onnx.export returned nothing for {graph.role}")
    model: ir.Model = program.model
    return model


def _without_values(
    module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Copy a module on the meta device to tensors that have a shape and a device, but no memory."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    module = copy.deepcopy(module)
    like = {name: (value.shape, value.dtype) for name, value in module.state_dict().items()}
    with mode:
        state = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in like.items()}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
    return module, tuple(mode.from_tensor(value, static_shapes=True) for value in inputs)


def _attach_weights(
    model: ir.Model, module: nn.Module, weights: Mapping[str, Callable[[], Tensor]]
) -> None:
    """Let the weights of a model that was traced without values be read when they are written."""
    half = isinstance(module, HalfPrecision)
    prefix, first = ("module.", torch.float16) if half else ("", torch.float32)
    state = module.state_dict()
    for name, value in model.graph.initializers.items():
        if name in state and value.const_value is not None:
            dtype, shape = value.const_value.dtype, state[name].shape
            read = weights[name.removeprefix(prefix)]
            value.const_value = _later(name, dtype, shape, _array, read, first, state[name].dtype)


def _array(read: Callable[[], Tensor], first: torch.dtype, then: torch.dtype) -> npt.NDArray[Any]:
    """Read a weight; `HalfPrecision` rounds what it keeps wide too."""
    array: npt.NDArray[Any] = read().to(first).to(then).numpy()
    return array


def _later(
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    compute: Callable[..., npt.NDArray[Any]],
    *arguments: Any,
) -> ir.LazyTensor:
    """Make a tensor that is computed of the arguments whenever it is asked for, and never kept."""
    return ir.LazyTensor(
        lambda: ir.Tensor(compute(*arguments), name=name),
        dtype=dtype,
        shape=ir.Shape(shape),
        name=name,
    )


def _transpose_weights(model: ir.Model) -> None:
    """Store the transpose of a matrix that is only ever used transposed."""
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.name not in graph.initializers or source.const_value is None:
            continue
        order = node.attributes["perm"].as_ints()
        if list(order) != [1, 0] or len(source.uses()) != 1:
            continue
        tensor = source.const_value
        name = f"{source.name}{TRANSPOSED}"
        shape = tensor.shape.numpy()[::-1]
        transposed = _later(name, tensor.dtype, shape, lambda full: full.numpy().T, tensor)
        value = _constant(model, transposed)
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)
        del graph.initializers[str(source.name)]


def _simplify(model: ir.Model, weights: frozenset[str]) -> None:
    """Fold what is constant, but no weight, and drop what nothing uses."""

    def may_fold(node: ir.Node) -> bool | None:
        names = [value.name or "" for value in node.inputs if value is not None]
        touches = any(name.removesuffix(TRANSPOSED) in weights for name in names)
        return False if touches else None

    fold_constants(
        model, input_size_limit=_UNLIMITED, output_size_limit=_UNLIMITED, should_fold=may_fold
    )
    # Not onnxscript's whole optimizer: it merges weights of equal values, and their names with it.
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
        # The exporter notes a stack trace at every node: megabytes, with this machine's paths.
        common.ClearMetadataAndDocStringPass(),
    )(model)


def quantise(matrix: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], Scales]:
    """Round a matrix to 8 bits, each column by itself: ``(rounded - ZERO_POINT) * scales``.

    Returns
    -------
    rounded : ndarray of uint8
    scales : ndarray of float32, shape (columns,)
    """
    largest = np.abs(matrix).max(axis=0)
    scales = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    return (np.rint(matrix / scales) + ZERO_POINT).astype(np.uint8), scales


def _quantise_layers(model: ir.Model) -> None:
    """Multiply by the matrices of the layers in 8 bits, what comes in being rounded as it comes.

    These operators stay what they are in ONNX Runtime. A DequantizeLinear of a weight would be
    folded back into a matrix of float32.
    """
    graph = model.graph
    zero = _constant(model, ir.Tensor(np.array(ZERO_POINT, np.uint8), name="int8.zero_point"))
    rounded_inputs: dict[ir.Value, tuple[ir.Value, ...]] = {}
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        name = "" if weight is None else str(weight.name)
        if weight is None or name not in graph.initializers or _LAYERS not in name:
            continue
        source = node.inputs[0]
        if source is None or weight.const_value is None:
            continue
        if source not in rounded_inputs:
            rounding = ir.node("DynamicQuantizeLinear", [source], num_outputs=3)
            graph.insert_before(node, rounding)
            rounded_inputs[source] = tuple(rounding.outputs)
        values, scale, offset = rounded_inputs[source]
        full = weight.const_value
        shape, kind = full.shape.numpy(), ir.DataType.UINT8
        matrix = _later(name + IN_8_BITS, kind, shape, lambda m: quantise(m.numpy())[0], full)
        scales = _later(name + SCALE, full.dtype, shape[1:], lambda m: quantise(m.numpy())[1], full)
        product = ir.node("MatMulInteger", [values, _constant(model, matrix), offset, zero])
        widened = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
        by = ir.node("Mul", [scale, _constant(model, scales)])
        scaled = ir.node("Mul", [widened.outputs[0], by.outputs[0]])
        result = node.outputs[0]
        scaled.outputs[0].type, scaled.outputs[0].shape = result.type, result.shape
        graph.insert_before(node, [product, widened, by, scaled])
        result.replace_all_uses_with(scaled.outputs[0])
        graph.remove(node, safe=True)
        del graph.initializers[name]
    common.NameFixPass()(model)


def _constant(model: ir.Model, tensor: ir.Tensor[Any] | ir.LazyTensor) -> ir.Value:
    value = ir.Value(
        name=tensor.name,
        shape=tensor.shape,
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.initializers[str(tensor.name)] = value
    return value


def _narrow_weights(model: ir.Model, weights: frozenset[str]) -> None:
    """Store trained matrices in half precision, each widened again where the graph begins."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        is_weight = name.removesuffix(TRANSPOSED) in weights
        if (
            not is_weight
            or tensor is None
            or tensor.dtype != ir.DataType.FLOAT
            or tensor.size < _MATRIX
        ):
            continue
        half, shape = ir.DataType.FLOAT16, tensor.shape.numpy()
        narrow = _later(name, half, shape, lambda full: full.numpy().astype("float16"), tensor)
        stored = ir.Value(
            name=name,
            shape=narrow.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=narrow,
        )
        widened = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        widened.outputs[0].name = f"{name}.widened"
        widened.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        widened.outputs[0].shape = narrow.shape
        value.replace_all_uses_with(widened.outputs[0])
        graph.insert_before(graph[0], widened)
        graph.initializers[name] = stored


@contextmanager
def _written_as(attention: AttentionForm, module: nn.Module) -> Iterator[None]:
    """Let the attention of a module be written in one form or another meanwhile."""
    parts = [part for part in module.modules() if isinstance(part, Attention)]
    for part in parts:
        part.fused = attention == "fused"
    try:
        yield
    finally:
        for part in parts:
            part.fused = False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about itself and about packages we don't use."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*The axis name.*", category=UserWarning)
            yield
    finally:
        logger.setLevel(level)
