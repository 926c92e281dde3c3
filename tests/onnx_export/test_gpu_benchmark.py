"""The GPU benchmark itself, small and on the CPU; on a GPU where there is one."""

from __future__ import annotations

import pytest

from bridge.inference.graphs import CUDA, has_cuda_device, ort
from tests.benchmark.gpu import measure


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_the_cpu_with_a_small_network(capsys):
    rows = measure("tiny", "cpu", 2, 20, 1, compiled=False)
    assert [way for _, way, _, _ in rows] == ["copied", "bound", "fused, bound", "PyTorch eager"]
    assert all(milliseconds > 0 for _, _, milliseconds, _ in rows)
    assert all(error_db < -100 for _, _, _, error_db in rows)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


@pytest.mark.gpu
@pytest.mark.skipif(
    CUDA not in ort.get_available_providers() or not has_cuda_device(), reason="no NVIDIA GPU"
)
def test_every_way_to_run_on_a_gpu_gives_the_same_numbers():
    rows = measure("tiny", "cuda", 2, 20, 3, compiled=False)
    ways = [way for _, way, _, _ in rows]
    assert {"bound, CUDA graph", "fused, bound, CUDA graph"} <= set(ways)
    # TF32 keeps ten bits of a product's factors.
    assert all(error_db < -50 for _, _, _, error_db in rows)
