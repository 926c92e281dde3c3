"""One module to one ONNX model: tracing, and weights that keep their names.

Weights stay recognisable in the file: each is stored under the name it has in the module, or that
name with `TRANSPOSED` appended where the graph multiplies by the transpose. No weight is folded
into a constant. `onnx_export.rebuild` reads them back.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants
from torch import nn
from torch.export import Dim

from onnx_export.graphs import FRAMES, SAMPLES, Graph
from onnx_export.precision import HalfPrecision, Precision

#: Known to export everything here; later ones bring operators that ONNX Runtime's CPU provider
#: runs no faster (opset 23's Attention).
OPSET = 20
TRANSPOSED = ".transposed"

#: Sizes while tracing: 0 and 1 would be taken for constants, and no two may be equal.
_TRACE_SIZES = {"batch": 2, "frames": 13, "tokens": 7}
_MATRIX = 4096  # elements; what is smaller stays as precise as it is
_UNLIMITED = 1 << 40  # bytes; folding is limited by `_may_fold` alone


def trace(graph: Graph, precision: Precision = "fp32") -> ir.Model:
    """Trace a graph's module into an ONNX model with dynamic axes.

    Parameters
    ----------
    graph : Graph
    precision : {"fp32", "fp16", "fp16-weights"}
        Of weights and, but for ``fp16-weights``, of arithmetic; inputs and outputs are float32
        in any case.

    Returns
    -------
    onnx_ir.Model
    """
    module = graph.module.eval()
    if precision == "fp16":
        narrow = tuple(s.dtype == "float32" and len(s.dims) > 2 for s in graph.inputs)
        module = HalfPrecision(module, narrow).eval()
    dims: dict[str, Any] = {name: Dim(name) for name in graph.axes()}
    if FRAMES in dims:
        dims[SAMPLES] = graph.hop_length * dims[FRAMES]
    shapes = tuple(
        {axis: dims[d] for axis, d in enumerate(spec.dims) if isinstance(d, str)}
        for spec in graph.inputs
    )
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            graph.sample(_TRACE_SIZES),
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
    model = program.model
    common.InlinePass()(model)
    weights = frozenset(name for name in model.graph.initializers)
    _transpose_weights(model)
    _simplify(model, weights)
    if precision == "fp16-weights":
        state = module.state_dict(keep_vars=True)
        trained = (name for name, value in state.items() if isinstance(value, nn.Parameter))
        _narrow_weights(model, frozenset(trained))
    for value, spec in zip(model.graph.outputs, graph.outputs, strict=True):
        value.shape = ir.Shape(list(spec.dims))
    return model


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
        transposed = ir.Tensor(tensor.numpy().T, name=name)  # a view: copied when it is written
        value = ir.Value(
            name=name, shape=transposed.shape, type=ir.TensorType(tensor.dtype),
            const_value=transposed,
        )  # fmt: skip
        graph.initializers[name] = value
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
        narrow = ir.Tensor(tensor.numpy().astype("float16"), name=name)
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
