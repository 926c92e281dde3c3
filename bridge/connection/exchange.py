"""One request as the client carries it through: send audio, follow the job, fetch the stems.

No sockets here: messages come in, messages to send go out, so that a lost connection only
means to `begin` again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec.structs import fields

from bridge.connection.handle import JobHandle, PartialStem
from bridge.errors import ProtocolError, from_code
from bridge.protocol import CHUNK_BYTES, Buffer
from bridge.request import RESIDUAL
from bridge.separation import Progress, Separation
from bridge.wire.descriptors import StemInfo
from bridge.wire.messages import (
    Accepted,
    Attach,
    Audio,
    Credit,
    Failed,
    Fetch,
    JobProgress,
    Message,
    Partial,
    Release,
    Result,
    SendAudio,
    Stem,
    Submit,
)

Outgoing: TypeAlias = tuple[Message, Buffer | None]


class Exchange:
    """A request from submission to stems.

    Parameters
    ----------
    opening : Submit or Attach
        The message that begins it, also after a reconnection.
    mixture : ndarray of float32, shape (channels, samples), or None
        C-contiguous; it is sent from where it lies, and must not change meanwhile.
    handle : JobHandle
    timeout_s : float or None
        Longest time without a sign of progress; None takes the client's.
    """

    def __init__(
        self,
        opening: Submit | Attach,
        mixture: npt.NDArray[np.float32] | None,
        handle: JobHandle,
        timeout_s: float | None = None,
    ) -> None:
        self.opening = opening
        self.timeout_s = timeout_s
        self.handle = handle
        self.sign_s = time.monotonic()
        self._audio = None if mixture is None else mixture.data.cast("B")
        self._sent = 0
        self._result: Result | None = None
        self._stems: dict[str, npt.NDArray[np.float32]] = {}
        self._received: dict[str, int] = {}

    @property
    def request(self) -> int:
        """Number of the request in its session."""
        return self.opening.request

    @property
    def waits(self) -> bool:
        """Whether it is in the queue, where no progress is expected."""
        return self.handle.state == "queued" and self.handle.position > 0

    def begin(self, known_settings: Collection[str]) -> list[Outgoing]:
        """Return what opens the request at a server, the first or another.

        Raises
        ------
        ProtocolError
            If the request uses a setting that this server would ignore.
        """
        self.sign_s = time.monotonic()
        if isinstance(self.opening, Submit):
            asked = self.opening.settings
            for field in fields(asked):
                if field.name not in known_settings and getattr(asked, field.name) != field.default:
                    raise ProtocolError(
                        f"the server does not know the setting {field.name!r}; update it, or do "
                        "without the setting"
                    )
        return [(self.opening, None)]

    def take(self, message: Message, payload: Buffer | None) -> list[Outgoing]:
        """Take a message for this request and return what to send.

        Raises
        ------
        ProtocolError
            If the server did what it may not.
        """
        self.sign_s = time.monotonic()
        if isinstance(message, Accepted):
            self.handle.key = message.key
        elif isinstance(message, SendAudio):
            self._sent = message.offset
            return list(self._upload(message.credits))
        elif isinstance(message, Credit):
            return list(self._upload(message.credits))
        elif isinstance(message, JobProgress):
            progress = Progress(message.stage, message.done, message.total, message.seconds_left)
            self.handle.note_progress(message.state, message.position, progress)
        elif isinstance(message, Partial):
            return self._take_partial(message, payload or b"")
        elif isinstance(message, Result):
            return self._take_result(message)
        elif isinstance(message, Stem):
            return self._take_stem(message, payload or b"")
        elif isinstance(message, Failed):
            self.handle.finish(None, from_code(message.code, message.message))
        return []

    def _upload(self, credits: int) -> Iterator[Outgoing]:
        if self._audio is None:
            raise ProtocolError("the server asked for audio that this request does not have")
        for _ in range(credits):
            chunk = self._audio[self._sent : self._sent + CHUNK_BYTES]
            if not chunk:
                return
            yield Audio(request=self.request, offset=self._sent), chunk
            self._sent += len(chunk)

    def _take_partial(self, message: Partial, payload: Buffer) -> list[Outgoing]:
        samples = np.frombuffer(payload, "<f4").astype(np.float32, copy=False)
        if samples.size != message.channels * message.samples:
            raise ProtocolError(f"a partial stem with {samples.size} samples")
        audio = samples.reshape(message.channels, message.samples)
        self.handle.note_partial(PartialStem(message.stem, message.start, audio))
        return [(Credit(request=self.request, credits=1), None)]

    def _take_result(self, message: Result) -> list[Outgoing]:
        """Make room for the stems; what came before a reconnection stays if it is the same."""
        earlier = {} if self._result is None else {one.name: one for one in self._result.stems}
        for stem in message.stems:
            if earlier.get(stem.name) != stem or stem.name not in self._stems:
                self._stems[stem.name] = np.empty((stem.channels, stem.samples), np.float32)
                self._received[stem.name] = 0
        self._result = message
        self.handle.cached = message.cached
        return self._fetch_next()

    def _fetch_next(self) -> list[Outgoing]:
        if self._result is None:
            return []
        for stem in self._result.stems:
            offset = self._received[stem.name]
            if offset < stem.size_bytes:
                return [(Fetch(request=self.request, stem=stem.name, offset=offset), None)]
        self._deliver(self._result)
        return [(Release(request=self.request), None)]

    def _take_stem(self, message: Stem, payload: Buffer) -> list[Outgoing]:
        info = self._stem_info(message.stem)
        if message.offset != self._received[info.name]:
            raise ProtocolError(f"stem {info.name!r}: a chunk at byte {message.offset}")
        end = message.offset + len(payload)
        if end > info.size_bytes:
            raise ProtocolError(f"stem {info.name!r}: more bytes than it has")
        target = self._stems[info.name].data.cast("B")
        target[message.offset : end] = payload
        self._received[info.name] = end
        answer: list[Outgoing] = [(Credit(request=self.request, credits=1), None)]
        return answer + (self._fetch_next() if end == info.size_bytes else [])

    def _stem_info(self, name: str) -> StemInfo:
        stems = () if self._result is None else self._result.stems
        for info in stems:
            if info.name == name:
                return info
        raise ProtocolError(f"the server sent a stem {name!r}, which was not asked for")

    def _deliver(self, result: Result) -> None:
        stems = {info.name: self._stems[info.name] for info in result.stems}
        residual = stems.pop(RESIDUAL, None)
        if residual is None:
            raise ProtocolError("the server's result has no residual")
        self.handle.finish(Separation(stems, residual, result.report))
