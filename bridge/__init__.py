"""Stembridge's sidecar: the separation engine, the server around it, and the client.

Everything public, see `__init__.pyi`, is loaded on first use, so that a client never pays for the
engine: importing `bridge` or its client loads neither ONNX Runtime nor an audio library.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
