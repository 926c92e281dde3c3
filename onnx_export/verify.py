"""Every graph of a bundle against the PyTorch module it stands for, at several sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from bridge.bundles.bundle import load_manifest, verify_files
from bridge.errors import ModelError
from bridge.inference.graphs import ort
from onnx_export.export import precision_of
from onnx_export.recipes import BATCH, FRAMES, TOKENS, Blueprint, Graph
from onnx_export.trace import ROUNDING_TOLERANCE, Precision

#: Two sizes of every dynamic axis, in the combinations that are tried; none was traced.
_TRIALS = (
    {BATCH: 1, FRAMES: 5, TOKENS: 3},
    {BATCH: 3, FRAMES: 5, TOKENS: 9},
    {BATCH: 1, FRAMES: 17, TOKENS: 9},
    {BATCH: 3, FRAMES: 17, TOKENS: 3},
)
_LOG_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Difference:
    """What was found for one graph.

    Attributes
    ----------
    role : str
    worst : float
        Largest absolute difference over all sizes.
    scale : float
        Largest absolute value of the PyTorch outputs.
    tolerance : float
        What is allowed: the manifest's bound, wider where rounded weights are compared with the
        checkpoint's.
    sizes : tuple of str
        The sizes tried, as text.
    """

    role: str
    worst: float
    scale: float
    tolerance: float
    sizes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the worst difference is within the tolerance."""
        return self.worst <= self.tolerance


def verify_bundle(bundle: str | Path, blueprint: Blueprint) -> tuple[Difference, ...]:
    """Compare a bundle's graphs with the modules of a blueprint.

    Parameters
    ----------
    bundle : str or Path
        Directory of the bundle.
    blueprint : Blueprint
        The model it was exported from, or `onnx_export.rebuild_blueprint` of the bundle itself.

    Returns
    -------
    tuple of Difference
        One per graph, each tried at two sizes of every dynamic axis.

    Raises
    ------
    ModelError
        If a file is damaged, or the bundle and the blueprint don't describe the same graphs.
    """
    directory = Path(bundle)
    manifest = load_manifest(directory)
    verify_files(directory, manifest)
    differences = []
    for graph in blueprint.graphs:
        spec = manifest.graphs.get(graph.role)
        if spec is None or spec != graph.spec(spec.tolerance):
            raise ModelError(
                f"{directory}: its {graph.role} graph isn't the one of this checkpoint; "
                "verify against the checkpoint it was exported from"
            )
        allowed = spec.tolerance
        if blueprint.weights == "checkpoint":
            used = precision_of(graph, cast(Precision, manifest.precision))
            allowed = max(allowed, ROUNDING_TOLERANCE.get(used, 0.0))
        differences.append(compare(graph, directory / spec.file, allowed))
    return tuple(differences)


def worst(differences: Iterable[Difference]) -> float:
    """Largest difference of all graphs."""
    return max(difference.worst for difference in differences)


def table(differences: Sequence[Difference]) -> str:
    """Lay the differences out as text, one line a graph."""
    lines = [f"{'graph':16} {'worst diff':>11} {'allowed':>9} {'max |out|':>10}  sizes"]
    lines += [
        f"{d.role:16} {d.worst:11.2e} {d.tolerance:9.0e} {d.scale:10.3g}  {', '.join(d.sizes)}"
        + ("" if d.passed else "  FAILED")
        for d in differences
    ]
    return "\n".join(lines)


def compare(graph: Graph, path: Path, tolerance: float) -> Difference:
    """Compare one ONNX file with the module it stands for.

    Parameters
    ----------
    graph : Graph
    path : Path
        The file.
    tolerance : float
        Largest absolute difference to accept.

    Raises
    ------
    ModelError
        If an output has another shape than the module's.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found, scale, sizes_tried = 0.0, 0.0, []
    axes = graph.axes()
    module = graph.loaded()
    for seed, trial in enumerate(_TRIALS):
        sizes = {axis: trial[axis] for axis in axes}
        inputs = graph.sample(sizes, seed)
        with torch.inference_mode():
            expected = module(*inputs).numpy()
        feeds = {spec.name: x.numpy() for spec, x in zip(graph.inputs, inputs, strict=True)}
        got = session.run([graph.outputs[0].name], feeds)[0]
        if got.shape != expected.shape:
            raise ModelError(
                f"{path}: {graph.outputs[0].name} has shape {got.shape}, expected {expected.shape}"
            )
        difference = float(np.max(np.abs(got - expected)))
        found = max(found, difference if np.isfinite(difference) else np.inf)
        scale = max(scale, float(np.max(np.abs(expected))))
        sizes_tried.append("x".join(map(str, sizes.values())))
    return Difference(graph.role, found, scale, tolerance, tuple(sizes_tried))
