"""The host: audio files, effects and chains, and what connects them to DAW sessions.

Everything public, see `__init__.pyi`, is loaded on first use, so that the command line starts fast.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
