"""Stembridge's sidecar: the separation engine, the server around it, and the client.

Everything public is loaded on first use, so that a client never pays for the engine: importing
`bridge` or `bridge.client` loads neither ONNX Runtime nor an audio library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.async_client import AsyncClient as AsyncClient
    from bridge.client import Client as Client
    from bridge.engine import Engine as Engine
    from bridge.errors import Cancelled as Cancelled
    from bridge.errors import InputError as InputError
    from bridge.errors import MemoryBudgetError as MemoryBudgetError
    from bridge.errors import ModelError as ModelError
    from bridge.errors import ProtocolError as ProtocolError
    from bridge.errors import ProviderError as ProviderError
    from bridge.errors import ServerError as ServerError
    from bridge.errors import StembridgeError as StembridgeError
    from bridge.request import Prompt as Prompt
    from bridge.request import Settings as Settings
    from bridge.request import Span as Span
    from bridge.separation import Progress as Progress
    from bridge.separation import Report as Report
    from bridge.separation import Separation as Separation
    from bridge.video import Video as Video

_HOME = {
    # separating
    "Client": "client",
    "AsyncClient": "async_client",
    "Engine": "engine",
    # asking
    "Prompt": "request",
    "Settings": "request",
    "Span": "request",
    "Video": "video",
    # results
    "Progress": "separation",
    "Report": "separation",
    "Separation": "separation",
    # errors
    "Cancelled": "errors",
    "InputError": "errors",
    "MemoryBudgetError": "errors",
    "ModelError": "errors",
    "ProtocolError": "errors",
    "ProviderError": "errors",
    "ServerError": "errors",
    "StembridgeError": "errors",
}

__all__ = [  # noqa: PLE0604 -- the table above is the one list, grouped by use
    *_HOME,
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"bridge.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
