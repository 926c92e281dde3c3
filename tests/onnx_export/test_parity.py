"""Agreement with the official code's numbers; `python -m tests.support.parity` prints them."""

import pytest

from onnx_export import SamAudio
from tests.support import parity

pytestmark = pytest.mark.slow

TORCH = ("latents", "velocity_plain", "velocity_spans", "velocity_video", "generated", "stems",
         "stems_unmarked", "roundtrip")  # fmt: skip
ONNX = tuple(name for name in TORCH if name != "stems_unmarked")


@pytest.fixture(scope="module")
def rows(seeded_model: SamAudio, tmp_path_factory: pytest.TempPathFactory) -> dict:
    found = parity.pytorch_rows(seeded_model, parity.references())
    bundle = parity.export(seeded_model, tmp_path_factory.mktemp("parity"))
    found += parity.onnx_rows(bundle, parity.references())
    return {(row.quantity, row.where): row for row in found}


@pytest.mark.parametrize("quantity", TORCH)
def test_pytorch_gives_the_official_numbers(rows: dict, quantity: str) -> None:
    assert rows[quantity, "PyTorch"].difference <= rows[quantity, "PyTorch"].bound


@pytest.mark.parametrize("quantity", ONNX)
def test_exported_graphs_and_engine_give_the_official_numbers(rows: dict, quantity: str) -> None:
    assert rows[quantity, "ONNX"].difference <= rows[quantity, "ONNX"].bound


def test_table_shows_every_row_and_marks_what_exceeds() -> None:
    text = parity.table([parity.Row("latents", "ONNX", 1e-3, 2e-4), parity.Row("x", "y", 0.0, 1)])
    assert text.count("EXCEEDED") == 1
    assert "latents" in text
