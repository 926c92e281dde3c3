"""Files of a session: the audio that its clips play, and its own file, which is written whole."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree as ET

import defusedxml
import defusedxml.ElementTree
import numpy as np
from filelock import FileLock

from bridge.errors import InputError, StembridgeError
from bridge.files import check_regular, open_regular, read_bounded
from plugin_host.daw.session import SessionError, Source
from plugin_host.files.audio_files import (
    Audio,
    AudioInfo,
    probe,
    read_audio,
    replace_file,
    temporary_beside,
)


def read_sources(
    sources: Sequence[Source], start: int, samples: int, *, spare: int = 0
) -> tuple[Audio, int]:
    """Read a stretch of sources, one after the other as channels.

    Parameters
    ----------
    sources
        Files, or single channels of them.
    start, samples
        Where the stretch begins and how long it is.
    spare
        How many samples at its end may be missing.

    Returns
    -------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Of the sources.

    Raises
    ------
    InputError
        A file cannot be read or is shorter.
    """
    parts, rates = [], set()
    for source in sources:
        audio, info = read_audio(source.path)
        rates.add(info.sample_rate)
        part = audio[:, start : start + samples]
        if part.shape[1] < samples - spare:
            raise SessionError(
                f"{source.path}: the session uses {samples} samples from {start}, it is shorter"
            )
        if source.channel is not None:
            if source.channel >= part.shape[0]:
                raise SessionError(
                    f"{source.path}: the session uses channel {source.channel + 1}, it has fewer"
                )
            part = part[source.channel : source.channel + 1]
        parts.append(part)
    if len(rates) != 1:
        raise SessionError(f"a clip mixes sources of {sorted(rates)} Hz; bounce it first")
    shortest = min(part.shape[1] for part in parts)
    return np.ascontiguousarray(np.concatenate([p[:, :shortest] for p in parts])), rates.pop()


def probe_source(path: Path, session: Path) -> tuple[int, int, int]:
    """Return sample rate, channels and samples of a file that a session uses.

    Raises
    ------
    SessionError
        It is missing or no audio file.
    """
    try:
        # A project can name anything: what is no file would be waited for, or read for ever.
        check_regular(path)
        status = path.stat()
        info = _probe_once(path, (status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError as error:
        why = error.strerror or error
        raise SessionError(
            f"{session.name} uses {path}, which cannot be read ({why}); relink it first"
        ) from None
    except InputError as error:
        raise SessionError(
            f"{session.name} uses {path}, which is not audio; relink it first ({error})"
        ) from None
    return info.sample_rate, info.channels, info.samples


def mp3_padding(path: Path) -> tuple[int, int]:
    """Return how many samples an MP3 has before and after its audio, as its encoder tells.

    They are left out when it is read here. A decoder that does not know of them plays them: the
    frame that tells, the encoder's delay, and the 529 samples that a decoder itself is late.

    Parameters
    ----------
    path
        The file. One that tells nothing has none.
    """
    with open_regular(path) as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            size = sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10])))
            file.seek(10 + size)
        else:
            file.seek(0)
        frame = file.read(4096)
    mark = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or mark < 0 or len(frame) < mark + 144:
        return 0, 0
    # The delays are 12 bits each, behind the tag, its table and the name of the encoder.
    delays = int.from_bytes(frame[mark + 141 : mark + 144])
    if not delays:
        return 0, 0
    first_frame = 1152 if frame[1] >> 3 & 3 == 3 else 576
    return first_frame + (delays >> 12) + 529, max((delays & 0xFFF) - 529, 0)


@functools.lru_cache(maxsize=4096)
def _probe_once(path: Path, state: tuple[int, ...]) -> AudioInfo:
    """Probe a file in this state; thousands of clips may be cut from one."""
    del state
    return probe(path)


MOST_TEXT_BYTES = 256 << 20
"""More than a session's text or XML ever has."""

_T = TypeVar("_T")


@contextlib.contextmanager
def hold_project(session: Path) -> Iterator[None]:
    """Keep other runs of stembridge from changing the sessions of a folder; wait for them first.

    Whoever reads a session to change it holds it from before reading until after writing. May be
    entered again by the same thread.

    Parameters
    ----------
    session
        The file that is going to be written.

    Raises
    ------
    SessionError
        Its folder cannot be written.
    """
    folder = session.resolve().parent / ".stembridge"
    try:
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / "session.lock", is_singleton=True)
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            print(f"waiting for another stembridge, which changes {session}", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise SessionError(
            f"{folder.parent}: cannot be written ({error.strerror or error})"
        ) from error
    try:
        yield
    finally:
        lock.release()


class SessionFile:
    """A session's file as it was read.

    Parameters
    ----------
    path
        The file.
    state
        What tells two contents of it apart; by default a checksum of all of it.
    """

    def __init__(self, path: Path, state: Callable[[Path], Hashable] | None = None) -> None:
        self.path = path
        self._state_of = state or _checksum
        # Taken before anything is read: a save in between then counts as one that came after.
        self._state = self._state_of(path)

    def write(self, target: Path, write: Callable[[Path], object], *, beside: bool = False) -> None:
        """Write a session under a temporary name and move it into place.

        A link stays a link, and what replaces a file gets its mode.

        Parameters
        ----------
        target
            Where to: the file that was read, or one that is not there yet.
        write
            Writes the session into the file it is given.
        beside
            Whether it refers to media relative to its folder and so must stay in it.

        Raises
        ------
        SessionError
            The file was changed since it was read, the target is there already, is in another
            folder, or cannot be written.
        """
        if beside and target.absolute().parent.resolve() != self.path.absolute().parent.resolve():
            raise SessionError(
                f"{target}: write the session into {self.path.parent}, where its media are"
            )
        place = target.resolve()
        with hold_project(place):
            try:
                self._check_free(target, place)
                with temporary_beside(place) as temporary:
                    write(temporary)
                    # Writing may take a while, so it is asked again.
                    self._check_free(target, place)
                    if place.exists():
                        shutil.copymode(place, temporary)
                    replace_file(temporary, place)
                if place == self.path.resolve():
                    self._state = self._state_of(place)
            except OSError as error:
                raise SessionError(
                    f"{target}: cannot be written ({error.strerror or error})"
                ) from error

    def _check_free(self, target: Path, place: Path) -> None:
        if place != self.path.resolve():
            if os.path.lexists(place):
                raise SessionError(f"{target} exists; choose another --out")
        elif not place.exists():
            raise SessionError(
                f"{target} was removed meanwhile; nothing was changed, so save it and try again"
            )
        elif self._state_of(place) != self._state:
            raise SessionError(
                f"{target} was saved by another program meanwhile; it stays as it is now, and "
                "nothing was added, so close it there and try again"
            )


def read_session(path: Path, kind: str) -> bytes:
    """Read the text of a session.

    Raises
    ------
    SessionError
        It cannot be read, is no file, or is too large; `kind` says what was expected.
    """
    try:
        return read_bounded(path, MOST_TEXT_BYTES)
    except OSError as error:
        raise SessionError(
            f"{path}: cannot be read as {kind} ({error.strerror or error})"
        ) from None


def reports_damage(kind: type[_T]) -> type[_T]:
    """Decorate a class of sessions: whatever a damaged file makes it raise is a SessionError.

    A session holds text that anything may have written: malformed numbers, links to elements
    that are missing, chunks in chunks without end. Wherever that surfaces, it is an error of the
    file, which the message names.
    """
    for name, method in vars(kind).items():
        if callable(method) and (name == "__init__" or not name.startswith("_")):
            setattr(kind, name, _reporting(method))
    return kind


def _reporting(method: Callable[..., _T]) -> Callable[..., _T]:
    @functools.wraps(method)
    def reporting(self: object, *arguments: object, **options: object) -> _T:
        try:
            return method(self, *arguments, **options)
        except StembridgeError:
            raise
        except Exception as error:  # there is no list of what damaged text can lead to
            path = getattr(self, "path", None) or (arguments[0] if arguments else "the session")
            what = "too little memory" if isinstance(error, MemoryError) else error or "it ends"
            raise SessionError(
                f"{path}: cannot be used ({type(error).__name__}: {what}); the file is damaged or "
                "of a kind that is not known here, so save it again in the program that wrote it"
            ) from error

    return reporting


def _checksum(path: Path) -> Hashable:
    try:
        return hashlib.sha256(read_bounded(path, MOST_TEXT_BYTES)).digest()
    except OSError:
        return None


_DEEPEST = 200
_MOST_ELEMENTS = 2_000_000


def parse_xml(data: bytes, path: Path) -> ET.Element:
    """Read a session's XML.

    Parameters
    ----------
    data
        The text, in the encoding it declares.
    path
        What to call it in errors.

    Raises
    ------
    SessionError
        It is not XML, declares entities, nests deeper than 200 elements or has more than two
        million.
    """
    depth = count = 0
    root: ET.Element | None = None
    try:
        # Counted while it is read: a tree that is too large or deep is never held.
        for event, element in defusedxml.ElementTree.iterparse(
            io.BytesIO(data), events=("start", "end")
        ):
            if event == "end":
                depth -= 1
                continue
            root = element if root is None else root
            depth, count = depth + 1, count + 1
            if depth > _DEEPEST or count > _MOST_ELEMENTS:
                raise SessionError(
                    f"{path}: {count} elements, nested {depth} deep; expected at most "
                    f"{_MOST_ELEMENTS}, {_DEEPEST} deep"
                )
    except (ET.ParseError, defusedxml.DefusedXmlException, ValueError, LookupError) as error:
        raise SessionError(f"{path}: cannot be read as XML ({error})") from None
    if root is None:
        raise SessionError(f"{path}: cannot be read as XML (it is empty)")
    return root
