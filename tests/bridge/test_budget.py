"""Memory: counted before a job starts, refused with the numbers, and sized into batches."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bridge.engine import Engine
from bridge.errors import MemoryBudgetError
from bridge.inference.budget import Need, count_need, plan_batch
from bridge.inference.model import Model
from tests.support import tiny_bundle
from tests.support.sidecars import RATE, noise, sidecar


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.build(tmp_path_factory.mktemp("budget") / "tiny")


def test_batches_fill_the_budget_and_no_more() -> None:
    need = Need(arrays_bytes=1000, window_bytes=100)
    assert [plan_batch(need, budget, 8) for budget in (1100, 1199, 1200, 1750, 9999)] == [
        1,
        1,
        2,
        7,
        8,
    ]
    with pytest.raises(MemoryBudgetError, match="are allowed"):
        plan_batch(need, 1099, 8)


def test_what_cannot_fit_is_refused_before_it_starts(bundle: Path) -> None:
    mixture = noise(30)
    seen = []
    with (
        Engine(bundle, memory_bytes=10 << 20) as engine,
        pytest.raises(MemoryBudgetError) as error,
    ):
        engine.separate(mixture, RATE, ["half", "everything"], progress=seen.append)
    assert not seen
    needed, arrays, window, allowed = map(int, re.findall(r"(\d+) MB", str(error.value)))
    assert allowed == 10
    assert needed > allowed
    assert abs(arrays + window - needed) <= 1


@pytest.mark.slow
def test_the_count_of_arrays_is_near_what_is_held(bundle: Path) -> None:
    mixture = noise(60, rate=44_100)
    with Engine(bundle) as engine:
        engine.separate(mixture[:, :44_100], 44_100, ["half"])
        tracemalloc.start()
        engine.separate(mixture, 44_100, ["half", "everything"])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        need = count_need(
            engine.manifest,
            channels=2,
            samples=mixture.shape[1],
            sample_rate=44_100,
            prompts=2,
            window=250,
        )
    counted = need.arrays_bytes - mixture.nbytes  # the caller's own array was there before
    assert 0.5 * peak < counted < 2 * peak


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np, psutil
from bridge.bundles.manifest import VELOCITY
from bridge.inference.budget import window_bytes
from bridge.inference.context import Cancellation
from bridge.inference.model import Model

windows, frames = map(int, sys.argv[1:])
model = Model("mini")

def feeds(batch, length):
    sizes = {"batch": batch, "frames": length, "tokens": 6}
    inputs = model.manifest.graphs[VELOCITY].inputs
    return {
        one.name: np.zeros([sizes.get(size, size) for size in one.dims], one.dtype)
        for one in inputs
    }

with Cancellation(None) as cancellation:
    model.graphs.run(VELOCITY, feeds(1, 4), cancellation)
    large = feeds(windows, frames)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    model.graphs.run(VELOCITY, large, cancellation)
    status = Path("/proc/self/status").read_text()
    taken = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) - before
print(windows * window_bytes(model.manifest, frames) / taken)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks are read and reset through /proc"
)
@pytest.mark.parametrize(("windows", "frames"), [(4, 250), (8, 250), (1, 1000)])
def test_the_estimate_for_a_window_is_near_what_mini_takes(windows: int, frames: int) -> None:
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, str(windows), str(frames)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.67 < float(process.stdout) < 2


def test_smaller_batches_give_the_same_bits(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "most_windows", 8)
    mixture = noise(10)
    with Engine(bundle) as engine:
        expected = engine.separate(mixture, RATE, ["half", "everything"])
        need = count_need(
            engine.manifest, channels=2, samples=160_000, sample_rate=RATE, prompts=2, window=250
        )
    for windows in (1, 3):
        budget = need.arrays_bytes + windows * need.window_bytes
        with Engine(bundle, memory_bytes=budget) as engine:
            result = engine.separate(mixture, RATE, ["half", "everything"])
        for name, stem in expected.stems.items():
            assert np.array_equal(result.stems[name], stem)


def test_the_server_refuses_with_the_numbers() -> None:
    with sidecar("--memory", "7000000") as server, server.client() as client:
        with pytest.raises(MemoryBudgetError, match="7 MB are allowed"):
            client.separate(noise(200), RATE, ["half"])
        client.separate(noise(1), RATE, ["half"])
