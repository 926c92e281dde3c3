"""SAM Audio checkpoints, and the bundled model, to the ONNX bundles that `bridge` runs.

Needs the extra ``export`` (PyTorch, transformers, onnx, onnxscript); importing this package does
not load them yet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_export.checkpoint import load_checkpoint
    from onnx_export.export import export_bundle
    from onnx_export.graphs import Blueprint, Graph
    from onnx_export.official import checkpoint_blueprint, export_checkpoint
    from onnx_export.rebuild import rebuild_blueprint
    from onnx_export.recipes import Provenance, mini_blueprint, sam_audio_blueprint
    from onnx_export.sam_audio import SamAudio, SamAudioConfig
    from onnx_export.text_encoder import TextEncoder, load_text_encoder
    from onnx_export.verify import Difference, verify_bundle

__all__ = [  # noqa: RUF022 (grouped: models, description, writing and checking)
    # models
    "SamAudio",
    "SamAudioConfig",
    "TextEncoder",
    "load_checkpoint",
    "load_text_encoder",
    # what a bundle is made of
    "Blueprint",
    "Graph",
    "Provenance",
    "checkpoint_blueprint",
    "mini_blueprint",
    "sam_audio_blueprint",
    # writing and checking bundles
    "Difference",
    "export_bundle",
    "export_checkpoint",
    "rebuild_blueprint",
    "verify_bundle",
]

_MODULES = {
    "SamAudio": "sam_audio",
    "SamAudioConfig": "sam_audio",
    "TextEncoder": "text_encoder",
    "load_text_encoder": "text_encoder",
    "load_checkpoint": "checkpoint",
    "Blueprint": "graphs",
    "Graph": "graphs",
    "Provenance": "recipes",
    "mini_blueprint": "recipes",
    "sam_audio_blueprint": "recipes",
    "Difference": "verify",
    "checkpoint_blueprint": "official",
    "export_bundle": "export",
    "export_checkpoint": "official",
    "rebuild_blueprint": "rebuild",
    "verify_bundle": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
