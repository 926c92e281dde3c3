"""An exported SAM Audio runs in the engine like any other bundle."""

from pathlib import Path

import numpy as np
import pytest

from bridge import Engine, Prompt, Span

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(small_bundle: Path):
    with Engine(small_bundle, threads=2) as engine:
        yield engine


def separate(engine: Engine, prompt: Prompt, seed: int = 0):
    rng = np.random.default_rng(1)
    mixture = 0.1 * rng.standard_normal((2, 2 * 44100 + 7)).astype(np.float32)
    return mixture, engine.separate(mixture, 44100, [prompt], seed=seed, steps=1, reconstruct="raw")


def test_stems_have_the_mixtures_shape_and_repeat(engine: Engine) -> None:
    mixture, first = separate(engine, Prompt("drums"))
    _, again = separate(engine, Prompt("drums"))
    assert first.stems["drums"].shape == mixture.shape
    assert np.isfinite(first.stems["drums"]).all()
    np.testing.assert_array_equal(first.stems["drums"], again.stems["drums"])
    assert first.report.nfe == 1  # one step of unipc, the default, is one evaluation


def test_spans_and_text_reach_the_network(engine: Engine) -> None:
    _, plain = separate(engine, Prompt("drums"))
    _, spanned = separate(engine, Prompt("drums", spans=(Span(0.5, 1.0),)))
    _, other = separate(engine, Prompt("bass", name="drums"))
    for changed in (spanned, other):
        assert np.abs(plain.stems["drums"] - changed.stems["drums"]).max() > 1e-3
