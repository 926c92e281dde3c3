"""SAM Audio checkpoints, and the bundled model, to the ONNX bundles that `bridge` runs.

Needs the extra ``export`` (PyTorch, transformers, onnx, onnxscript). Everything public, see
`__init__.pyi`, is loaded on first use; importing this package does not load them yet.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
