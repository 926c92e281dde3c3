"""A bundle with a closed list of stems whose right answers are known.

The stem "most" is three quarters of the mixture, "little" a quarter, and "sides" half of each
channel less its neighbour.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bridge.bundles.bundle import describe_file, write_manifest
from bridge.bundles.manifest import (
    FORMAT,
    NAMED_STEMS,
    GraphSpec,
    NamedStemsManifest,
    Reconstruction,
    Sound,
    TensorSpec,
)

RATE, HOP, FRAMES = 8000, 80, 100
WINDOW = FRAMES * HOP


def build(directory: Path, **changes: object) -> Path:
    """Write the bundle; `changes` are fields of its manifest."""
    directory.mkdir(parents=True)
    matrices = np.array(
        [[[0.75, 0], [0, 0.75]], [[0.25, 0], [0, 0.25]], [[0.5, -0.5], [-0.5, 0.5]]], np.float32
    )
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["mixture", "axes"], ["each"]),
            helper.make_node("MatMul", ["matrices", "each"], ["stems"]),
        ],
        "named",
        [helper.make_tensor_value_info("mixture", TensorProto.FLOAT, ["batch", 2, WINDOW])],
        [helper.make_tensor_value_info("stems", TensorProto.FLOAT, ["batch", 3, 2, WINDOW])],
        [numpy_helper.from_array(matrices, "matrices"), axes],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=9), directory / "named.onnx"
    )
    fields = {
        "format": FORMAT,
        "name": "named",
        "family": NAMED_STEMS,
        "sample_rate": RATE,
        "hop_length": HOP,
        "window_s": WINDOW / RATE,
        "overlap_s": 0.25 * WINDOW / RATE,
        "solver": "euler",
        "steps": 1,
        "reconstruct": "null",
        "listen": "channels",
        "reconstruction": Reconstruction(exponent=1.0, n_fft=512, hop=128, band_hz=4000.0),
        "graphs": {
            "separator": GraphSpec(
                "named.onnx",
                (TensorSpec("mixture", "float32", ("batch", 2, WINDOW)),),
                (TensorSpec("stems", "float32", ("batch", 3, 2, WINDOW)),),
            )
        },
        "sounds": (
            Sound("most", ("most", "the most of it")),
            Sound("little", ("little",)),
            Sound("sides", ("sides",)),
        ),
        "files": {"named.onnx": describe_file(directory / "named.onnx")},
        "precision": "fp32",
        "licence": "none",
        "provenance": "made by the tests",
    }
    write_manifest(NamedStemsManifest(**{**fields, **changes}), directory)
    return directory
