import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from onnx_export import SamAudio, load_checkpoint
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
