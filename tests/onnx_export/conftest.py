import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
sys.path.insert(0, str(Path(__file__).parents[1] / "bridge"))

import parity
import small
import torch

from onnx_export import SamAudio, load_checkpoint


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
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Path,
    text_encoder_directory: Path,
    span_predictor_directory: Path,
) -> Path:
    """A SAM Audio with a span predictor, exported as a user would."""
    from onnx_export import export_checkpoint

    out = tmp_path_factory.mktemp("bundles") / "sam-small"
    return export_checkpoint(
        small_checkpoint,
        out,
        text_encoder=text_encoder_directory,
        span_predictor=span_predictor_directory,
    )
