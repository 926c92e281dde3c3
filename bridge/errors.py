"""The error hierarchy: every failure a caller can act on, each with a code for the wire.

A message says what was expected, what was found and what to do. Any exception that is not a
`StembridgeError` is a bug of ours. What messages quote, such as file and track names, may come from
anybody, and is made safe to print, draw or send here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Final


class StembridgeError(Exception):
    """Base of all errors raised on purpose.

    Attributes
    ----------
    code : str
        Stable short name that travels in error replies; see `from_code`.
    lies_deeper : bool
        Whether the cause is as likely in the machine, or in what is installed, as in the request.
    """

    code: ClassVar[str] = "internal"
    lies_deeper: ClassVar[bool] = False


class InputError(StembridgeError):
    """The request cannot be served as it stands: audio, prompts, spans or settings are wrong."""

    code = "bad_input"


class ModelError(StembridgeError):
    """The model is unknown, damaged, or its manifest cannot be used."""

    code = "bad_model"
    lies_deeper = True


class ProviderError(StembridgeError):
    """A requested ONNX Runtime execution provider is missing, or present but unused."""

    code = "provider"
    lies_deeper = True


class MemoryBudgetError(StembridgeError):
    """The job cannot fit in the memory it is allowed to use."""

    code = "memory"
    lies_deeper = True


class Cancelled(StembridgeError):
    """The caller cancelled the job."""

    code = "cancelled"


class ProtocolError(StembridgeError):
    """The peer sent something that the protocol does not allow, or speaks another version."""

    code = "protocol"


class ServerError(StembridgeError):
    """The server cannot be reached, died, or took longer than the caller allows."""

    code = "server"
    lies_deeper = True


def with_next_step(error: StembridgeError) -> str:
    """Return what an error says, and where to look next if its cause may lie deeper."""
    text = str(error)
    return f"{text}; to find out more: stembridge doctor" if error.lies_deeper else text


_LONGEST_REASON = 300
NO_FILES = (errno.EMFILE, errno.ENFILE)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_THREAD = "can't start new thread"


def shortage(error: BaseException) -> str | None:
    """Say what to do if an exception says that the system gives no more of something.

    Libraries raise their own classes for it, some of them with the system's words alone, so those
    are looked for too.

    Parameters
    ----------
    error : BaseException
        Any.

    Returns
    -------
    str or None
        What to do about files, threads, room on the disk or memory; None for anything else.
    """
    number, text = getattr(error, "errno", None), str(error)
    if number in NO_FILES or any(os.strerror(each) in text for each in NO_FILES):
        return (
            "close files, clients or programs that are not needed, or raise the limit (ulimit -n)"
        )
    if _NO_THREAD in text:
        return "close clients or programs that are not needed, or raise the limit (ulimit -u)"
    if number in _NO_ROOM or any(os.strerror(each) in text for each in _NO_ROOM):
        return "free some space on the disk"
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return "close programs that are not needed"
    return None


@contextlib.contextmanager
def foreign_errors(
    what: str, kind: type[StembridgeError] = InputError, advice: str = ""
) -> Iterator[None]:
    """Turn any exception of another library in the block into one of our errors.

    Libraries raise more than they document, so nothing is listed here; keep the block to the calls
    of the library, or a bug of ours would be blamed on the user's file.

    Parameters
    ----------
    what : str
        What failed, with the name of the file or the plug-in: the start of the message.
    kind : type
        The class to raise.
    advice : str
        What to do about it, unless the system ran out of something: the end of the message.

    Raises
    ------
    StembridgeError
        Of that kind. One raised inside passes unchanged, and so do interrupts.
    """
    try:
        yield
    except StembridgeError:
        raise
    except Exception as error:
        advice = shortage(error) or advice
        hint = f"; {advice}" if advice else ""
        raise kind(f"{what} ({reason_of(error)}){hint}") from error


@contextlib.contextmanager
def about(path: object) -> Iterator[None]:
    """Have errors in the block name the file they are about, for work on many files.

    Parameters
    ----------
    path : path-like
        The file; prepended to a message that does not mention it.
    """
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


def reason_of(error: BaseException) -> str:
    """Return an exception's message on one line, or its class if it has none."""
    text = str(getattr(error, "strerror", None) or error)
    if isinstance(error, KeyError) and error.args:
        text = f"missing {error.args[0]!r}"
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not text:
        return "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


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


# Controls, of which terminals obey some; ends of lines and paragraphs; marks that make text run
# the other way; and lone surrogates, which stand for bytes that were not text.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return text as one line that is safe for a terminal: ``\n`` and the like are escaped."""
    return _UNPRINTABLE.sub(_escaped, text)


def encodable(value: Any) -> Any:
    """Return plain values in which all text can be encoded as UTF-8.

    Parameters
    ----------
    value : object
        Text, numbers, lists and dictionaries, as `msgspec.to_builtins` gives them.
    """
    if isinstance(value, str):
        return _SURROGATES.sub(_escaped, value)
    if isinstance(value, dict):
        return {encodable(key): encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(each) for each in value]
    return value


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
