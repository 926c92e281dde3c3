"""What one evaluation of SAM Audio's velocity network costs on a GPU, and what it could cost.

Run as ``python -m tests.benchmark.gpu`` where there is an NVIDIA GPU: under ten minutes. Exports
the network with seeded weights, in the sizes of base and large, and prints for a batch of windows
the milliseconds per window: of ONNX Runtime with every input copied each time, with inputs that
stay on the device, with TF32 off, and with a captured CUDA graph, in fp32 and fp16, the attention
written as products and a softmax and as one operator; and of PyTorch, eager and compiled. Every
output is compared with PyTorch's in fp32. Large is measured in fp16 only: its fp32 weights alone
take longer to export than all the rest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import torch

from bridge.bundles.manifest import VELOCITY, AttentionForm
from bridge.inference.context import Cancellation
from bridge.inference.graphs import CUDA, Graphs
from onnx_export.export import write_graph
from onnx_export.networks.dit import DiTConfig
from onnx_export.networks.sam_audio import SamAudioConfig, VelocityNetwork
from onnx_export.recipes import Graph, velocity_graph

SIZES = {
    "tiny": DiTConfig(dim=128, n_heads=4, n_layers=2),
    "base": DiTConfig(dim=2048, n_heads=16, n_layers=16),
    "large": DiTConfig(dim=2816, n_heads=22, n_layers=22),
}
PRECISIONS = {"tiny": ("fp32",), "base": ("fp32", "fp16"), "large": ("fp16",)}
TOKENS = 8
FIXED = ("latents", "text", "text_mask", "spans")


def seeded(size: str) -> Graph:
    """Make the network of a size with seeded weights, as the exporter sees it."""
    torch.manual_seed(0)
    config = SamAudioConfig(transformer=SIZES[size])
    module = VelocityNetwork(config).eval().requires_grad_(False)
    return velocity_graph(module, config.channels, config.text_dim, 0)


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of a call, after two that warm up."""
    times = []
    for number in range(repeats + 2):
        began = time.perf_counter()
        work()
        if number >= 2:
            times.append(time.perf_counter() - began)
    return median(times)


def onnx_ways(
    directory: Path, graph: Graph, precision: str, provider: str, feeds: dict[str, np.ndarray]
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield names and calls of the ways to run a graph with ONNX Runtime."""
    manifest: Any = SimpleNamespace(
        graphs={VELOCITY: graph.spec(1.0)}, name=directory.name, precision=precision
    )
    changed = {name: value for name, value in feeds.items() if name not in FIXED}
    options: dict[str, dict[str, str]] = {"bound": {}}
    if provider == "cuda":
        options["bound, no TF32"] = {"use_tf32": "0"}
        options["bound, CUDA graph"] = {"enable_cuda_graph": "1"}
    with Cancellation(None) as cancellation:
        for name, chosen in options.items():
            graphs = Graphs(directory, manifest, providers=[provider], provider_options=chosen)
            if provider == "cuda" and graphs.provider != CUDA:
                raise RuntimeError(f"asked for CUDA, got {graphs.provider}")
            if not chosen:
                yield "copied", lambda g=graphs: g.run(VELOCITY, feeds, cancellation)
            bound = graphs.bind(VELOCITY, feeds)
            yield name, lambda b=bound: b.run(changed, cancellation)
            graphs.close()


def torch_ways(
    graph: Graph, precision: str, device: str, inputs: tuple[torch.Tensor, ...], *, compiled: bool
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield names and calls of the ways to run a network with PyTorch."""
    dtype = torch.float16 if precision == "fp16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = True
    module = graph.module.to(device, dtype)
    there = [one.to(device, dtype if one.is_floating_point() else None) for one in inputs]

    def call(network: Callable[..., torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return network(*there).float().cpu().numpy()

    yield "PyTorch eager", lambda: call(module)
    if compiled:
        fast = torch.compile(module)
        yield "PyTorch compiled", lambda: call(fast)


def measure(
    size: str, provider: str, windows: int, frames: int, repeats: int, *, compiled: bool = True
) -> list[tuple[str, str, float, float]]:
    """Return and print rows of precision, way, ms per window, and largest error in dB."""
    graph = seeded(size)
    inputs = graph.sample({"batch": windows, "frames": frames, "tokens": TOKENS})
    feeds = {spec.name: one.numpy() for spec, one in zip(graph.inputs, inputs, strict=True)}
    feeds["text_mask"][:] = True
    device = "cuda" if provider == "cuda" else "cpu"
    with torch.inference_mode():
        torch.backends.cuda.matmul.allow_tf32 = False
        expected = graph.module.to(device)(*(one.to(device) for one in inputs)).cpu().numpy()
    rows = []
    for precision in PRECISIONS[size]:
        graph.module.to("cpu", torch.float32)
        with tempfile.TemporaryDirectory() as name:
            plain, fused = Path(name, "plain"), Path(name, "fused")
            for form, directory in zip(get_args(AttentionForm), (plain, fused), strict=True):
                directory.mkdir()
                write_graph(graph, precision, directory, form)
            ways = [
                onnx_ways(plain, graph, precision, provider, feeds),
                (
                    (f"fused, {way}", call)
                    for way, call in onnx_ways(fused, graph, precision, provider, feeds)
                    if "TF32" not in way and way != "copied"
                ),
                torch_ways(graph, precision, device, inputs, compiled=compiled),
            ]
            for way, call in (one for some in ways for one in some):
                difference = np.square(call() - expected).sum() / np.square(expected).sum()
                error_db = 10 * np.log10(max(float(difference), 1e-30))
                per_window_ms = 1000 * timed(call, repeats) / windows
                rows.append((precision, way, per_window_ms, error_db))
                print(
                    f"{size} {precision:5} {way:24} {per_window_ms:9.2f} ms a window of "
                    f"{frames} frames, {windows} at a time; error {error_db:.0f} dB",
                    flush=True,
                )
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(SIZES), action="append")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true")
    asked = parser.parse_args(argv)
    for size in asked.size or ("base", "large"):
        measure(
            size,
            asked.provider,
            asked.windows,
            asked.frames,
            asked.repeats,
            compiled=not asked.no_compile,
        )


if __name__ == "__main__":
    main()
