"""The error hierarchy: every failure a caller can act on, each with a code for the wire.

A message says what was expected, what came and what to do. Anything that is not a
`StembridgeError` is a defect of ours.
"""

from __future__ import annotations

from typing import ClassVar


class StembridgeError(Exception):
    """Base of all errors raised on purpose.

    Attributes
    ----------
    code : str
        Stable short name that travels in error replies; see `from_code`.
    """

    code: ClassVar[str] = "internal"


class InputError(StembridgeError):
    """The request cannot be served as it stands: audio, prompts, spans or settings are wrong."""

    code = "bad_input"


class ModelError(StembridgeError):
    """The model is unknown, damaged, or its manifest cannot be used."""

    code = "bad_model"


class ProviderError(StembridgeError):
    """A requested ONNX Runtime execution provider is not there or is not really used."""

    code = "provider"


class MemoryBudgetError(StembridgeError):
    """The job cannot fit in the memory it is allowed to use."""

    code = "memory"


class Cancelled(StembridgeError):
    """The caller cancelled the job."""

    code = "cancelled"


class ProtocolError(StembridgeError):
    """The peer sent something that the protocol does not allow, or speaks another version."""

    code = "protocol"


class ServerError(StembridgeError):
    """The server cannot be reached, died, or took longer than the caller allows."""

    code = "server"


_BY_CODE: dict[str, type[StembridgeError]] = {
    kind.code: kind
    for kind in (
        StembridgeError,
        InputError,
        ModelError,
        ProviderError,
        MemoryBudgetError,
        Cancelled,
        ProtocolError,
        ServerError,
    )
}


def from_code(code: str, message: str) -> StembridgeError:
    """Rebuild an error that travelled as a code and a message.

    Parameters
    ----------
    code : str
        The `code` of the class that was raised on the other side.
    message : str
        Its message.

    Returns
    -------
    StembridgeError
        An instance of the class with that code. An unknown code, from a newer peer, gives the
        base class with the code in front of the message.
    """
    kind = _BY_CODE.get(code)
    if kind is None:
        return StembridgeError(f"{code}: {message}")
    return kind(message)
