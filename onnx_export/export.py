"""Writing a bundle: every graph of a blueprint, the tokenizer, and the manifest last.

A bundle grows in a hidden directory beside its destination and is renamed when it is whole, so
that a half-written one is never found. Finished graphs are kept when an export stops in between;
the next one takes up those whose weights, specification and tools are still the same.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir
import torch

from bridge.bundles.bundle import describe_file, write_manifest
from bridge.bundles.manifest import VELOCITY, AttentionForm, FileInfo, Manifest
from bridge.errors import InputError
from bridge.files import expanded, write_whole
from onnx_export.recipes import Blueprint, Graph
from onnx_export.trace import ARITHMETIC_TOLERANCE, OPSET, Precision, trace

CONFIG_FILE = "config.json"
_EXTERNAL_BYTES = 32 << 20  # above: weights in a file of their own, which the engine maps
_JOURNAL = "finished.json"
#: fp16 keeps T5 whole, whose feed-forward overflows half precision, and CLAP, whose graph begins
#: with a spectrogram.
_ALWAYS_FP32 = ("text_encoder", "clap")

Progress = Callable[[str], None]


def export_bundle(
    blueprint: Blueprint,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    attention: AttentionForm = "plain",
    progress: Progress = lambda _line: None,
) -> Path:
    """Write a bundle.

    Parameters
    ----------
    blueprint : Blueprint
        What to write; see `onnx_export.recipes`.
    out : str or Path
        Directory to make. It must not exist.
    precision : {"fp32", "fp16", "fp16-weights", "int8"}
        Of weights and arithmetic. In fp16 the norms, the watermark and the text encoder stay in
        fp32; ``fp16-weights`` only stores weights in half and computes in fp32; ``int8`` is that,
        but for the layers of the velocity network, which multiply in 8 bits.
    attention : {"plain", "fused"}
        Of the velocity network: ``fused`` writes the operator that ONNX Runtime has fast kernels
        for on CUDA.
    progress : callable
        Called with a line of text as each graph is begun.

    Returns
    -------
    Path
        The bundle's directory.

    Raises
    ------
    InputError
        If `out` exists, or the disk is full or not writable. What was finished by then is kept
        and taken up by the next export to the same place.
    """
    destination = expanded(out).absolute()
    if destination.exists():
        raise InputError(f"{destination} exists; choose another place or delete it first")
    staging = destination.with_name(f".{destination.name}.partial")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        _check_space(blueprint, staging, precision)
        journal = _Journal(staging)
        for graph in blueprint.graphs:
            used = precision_of(graph, precision)
            key = _fingerprint(graph, used, attention)
            if journal.has(graph.role, key):
                progress(f"{graph.role}: already exported")
                continue
            progress(f"{graph.role}: exporting")
            journal.finish(graph.role, key, write_graph(graph, used, staging, attention))
        manifest = _finish(blueprint, staging, precision, journal)
        write_manifest(msgspec.structs.replace(manifest, attention=attention), staging)
        journal.path.unlink()
        staging.rename(destination)
    except OSError as error:
        hint = "free some space" if error.errno == errno.ENOSPC else "choose another place"
        raise InputError(
            f"{staging}: cannot write the bundle ({error.strerror or error}); {hint} and export "
            "again: finished graphs are kept"
        ) from error
    return destination


class _Journal:
    """Which graphs in a staging directory are finished, and with which files."""

    def __init__(self, staging: Path) -> None:
        self.path = staging / _JOURNAL
        self._staging = staging
        self._entries: dict[str, Any] = {}
        if self.path.is_file():
            try:
                self._entries = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError:  # interrupted while writing: everything is made again
                self._entries = {}

    def has(self, role: str, key: str) -> bool:
        entry = self._entries.get(role)
        return (
            entry is not None
            and entry["key"] == key
            and all(
                (self._staging / name).is_file()
                and describe_file(self._staging / name) == FileInfo(**info)
                for name, info in entry["files"].items()
            )
        )

    def finish(self, role: str, key: str, files: list[str]) -> None:
        described = {name: describe_file(self._staging / name) for name in files}
        self._entries[role] = {"key": key, "files": msgspec.to_builtins(described)}
        write_whole(self.path, json.dumps(self._entries, indent=1).encode())

    def files(self, roles: list[str]) -> dict[str, FileInfo]:
        return {
            name: FileInfo(**info)
            for role in roles
            for name, info in self._entries[role]["files"].items()
        }


def write_graph(
    graph: Graph, precision: Precision, staging: Path, attention: AttentionForm = "plain"
) -> list[str]:
    """Trace a graph and write it; return the names of the files."""
    data = f"{graph.file}.data"
    for name in (graph.file, data):
        (staging / name).unlink(missing_ok=True)
    model = trace(graph, precision, attention)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    ir.save(
        model,
        staging / graph.file,
        external_data=data if size > _EXTERNAL_BYTES else None,
        size_threshold_bytes=1024,
    )
    return [graph.file] + ([data] if (staging / data).is_file() else [])


def _finish(
    blueprint: Blueprint, staging: Path, precision: Precision, journal: _Journal
) -> Manifest:
    """Add the tokenizer and the configuration, drop leftovers, and describe everything."""
    files = journal.files([graph.role for graph in blueprint.graphs])
    for name, source in blueprint.files.items():
        shutil.copyfile(source, staging / name)
    config = staging / CONFIG_FILE
    config.write_text(json.dumps(blueprint.config, indent=1, sort_keys=True), encoding="utf-8")
    for name in (*blueprint.files, config.name):
        files[name] = describe_file(staging / name)
    for path in staging.iterdir():
        if path.name not in files and path != journal.path:
            path.unlink()
    tolerances = {
        graph.role: ARITHMETIC_TOLERANCE.get(precision_of(graph, precision), graph.tolerance)
        for graph in blueprint.graphs
    }
    return blueprint.manifest(files, precision, tolerances)


def _fingerprint(graph: Graph, precision: Precision, attention: AttentionForm) -> str:
    """Hash all that decides what a graph's file holds."""
    form = attention if graph.role == VELOCITY else "plain"  # no other graph has it
    tools = (OPSET, str(torch.__version__))
    head = [precision, form, *tools, graph.role, graph.inputs, graph.outputs]
    digest = hashlib.sha256(msgspec.json.encode(head))
    for name, value in graph.state():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().contiguous().numpy().ravel().data)
    return digest.hexdigest()


def precision_of(graph: Graph, precision: Precision) -> Precision:
    """Say what precision a graph has in a bundle of a precision."""
    if precision == "int8" and graph.role != VELOCITY:
        return "fp16-weights"
    return "fp32" if precision == "fp16" and graph.role in _ALWAYS_FP32 else precision


def _check_space(blueprint: Blueprint, staging: Path, precision: Precision) -> None:
    """Refuse at once what can't fit, rather than after minutes of work."""
    needed = sum(
        value.numel() * (4 if precision_of(graph, precision) == "fp32" else 2)
        for graph in blueprint.graphs
        for value in graph.module.parameters()
    )
    present = sum(path.stat().st_size for path in staging.iterdir())
    free = shutil.disk_usage(staging).free + present
    if free < needed:
        raise InputError(
            f"{staging.parent}: the bundle needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free; free some space or choose another place"
        )
