import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from bridge.bundles.manifest import AttentionForm
from onnx_export import SamAudio, export, load_checkpoint, trace
from onnx_export.recipes import Graph
from tests.support import parity, small


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a directory once for all processes of a run with ``-n``; tests only read it.

    Tracing a model takes longer than waiting for the process that does it already.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, write: Callable[[Path], object]) -> Path:
        place = root / f"shared-{name}" / name
        place.parent.mkdir(exist_ok=True)
        with (place.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                write(place)
        return place

    return make


@pytest.fixture(scope="session")
def seeded_model(tmp_path_factory: pytest.TempPathFactory) -> SamAudio:
    """The model of the reference numbers, its codec in full size."""
    return load_checkpoint(parity.write_checkpoint(tmp_path_factory.mktemp("seeded")))


@pytest.fixture(scope="session")
def small_state() -> dict[str, torch.Tensor]:
    return small.tensors()


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def text_encoder_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.write_text_encoder(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def span_predictor_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.write_span_predictor(tmp_path_factory.mktemp("pe-a-frame"))


@pytest.fixture(scope="session")
def small_bundle(
    made_once: Callable[..., Path],
    small_checkpoint: Path,
    text_encoder_directory: Path,
    span_predictor_directory: Path,
) -> Path:
    """A SAM Audio with a span predictor, exported as a user would."""
    from onnx_export import export_checkpoint

    return made_once(
        "sam-small",
        lambda out: export_checkpoint(
            small_checkpoint,
            out,
            text_encoder=text_encoder_directory,
            span_predictor=span_predictor_directory,
        ),
    )


@pytest.fixture(scope="module")
def captured_once() -> Iterator[None]:
    """Have torch trace the same graph with the same weights once for all tests of a module.

    It takes 5 to 20 s, and what is tested is what comes of it. The models of a module must not
    differ in what shows neither in the names nor in the shapes of their weights.
    """
    capture = trace._capture
    kept: dict[tuple[object, ...], ir.Model] = {}

    def once(
        graph: Graph, module: nn.Module, inputs: tuple[Tensor, ...], attention: AttentionForm
    ) -> ir.Model:
        precision: trace.Precision = "fp16" if isinstance(module, trace.HalfPrecision) else "fp32"
        key = (export._fingerprint(graph, precision, attention), graph.weights is not None)
        if key not in kept:
            kept[key] = capture(graph, module, inputs, attention)
        return kept[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_capture", once)
        yield
