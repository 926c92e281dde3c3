"""A job of the client: the handle that the caller holds, and the request on the wire behind it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from msgspec.structs import fields

from bridge.errors import Cancelled, ProtocolError, from_code
from bridge.request import RESIDUAL
from bridge.scratch import DEFAULT, FileArray, LongArray, flat
from bridge.separation import Progress, Separation
from bridge.video import Video
from bridge.wire.codec import CHUNK_BYTES, Buffer
from bridge.wire.messages import (
    Accepted,
    Attach,
    Audio,
    Credit,
    Failed,
    Fetch,
    JobProgress,
    JobState,
    Message,
    Partial,
    Release,
    Result,
    SendAudio,
    Stem,
    StemInfo,
    Submit,
)


@dataclass(frozen=True)
class PartialStem:
    """A stretch of a stem as soon as it is decoded: a preview of what `result` returns.

    Attributes
    ----------
    stem : str
        Name of the stem.
    start : int
        First sample of the stretch in the mixture.
    audio : ndarray of float32, shape (channels, samples)
        Before reconstruction, so it may differ from the final stem.
    """

    stem: str
    start: int
    audio: npt.NDArray[np.float32]


class JobHandle(Future[Separation]):
    """A job submitted to a server: a future of its stems, for any thread to wait on.

    Attributes
    ----------
    key : str or None
        The job's key at the server, once it is accepted; see `Client.attach`.
    state : str
        ``"queued"``, ``"running"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
    position : int
        Place in the queue, 1 for the next; 0 if it is not waiting.
    progress : Progress or None
        The latest.
    cached : bool
        Whether the stems were in the server's cache.
    draft : JobHandle or None
        The job of the draft, if one was asked for; it is cancelled with this one, which goes on
        whatever the draft comes to.
    """

    def __init__(self, cancel: Callable[[], None], draft: JobHandle | None = None) -> None:
        super().__init__()
        self.draft = draft
        self.key: str | None = None
        self.state: JobState = "queued"
        self.position = 0
        self.progress: Progress | None = None
        self.cached = False
        self._cancel = cancel
        self._changed = threading.Condition()
        self._ended = False
        self._unseen: deque[Progress] = deque()
        self._partials: deque[PartialStem] = deque()
        self._watchers: list[Callable[[], None]] = []

    def cancel(self) -> bool:
        """Cancel the job; return False if it is done already.

        Returns at once. `result` then raises `bridge.Cancelled`, not the error of other futures.
        """
        was_done = self.done()
        self._cancel()
        return not was_done

    def result(self, timeout_s: float | None = None) -> Separation:
        """Wait for the job and return its stems.

        Parameters
        ----------
        timeout_s : float or None
            How long to wait; None for as long as the job makes progress. The job goes on after
            the wait.

        Raises
        ------
        TimeoutError
            If it is not done in time.
        StembridgeError
            If the job failed or was cancelled.
        """
        try:
            error = self.exception(timeout_s)
        except TimeoutError:
            raise TimeoutError(f"the job is not done after {timeout_s} s; it goes on") from None
        if error is not None:
            # A fresh traceback for every caller.
            raise error.with_traceback(None)
        return super().result()

    def __iter__(self) -> Iterator[PartialStem]:
        """Yield partial stems as they arrive, until the job ends; for a job with ``partial=True``.

        Raises
        ------
        StembridgeError
            If the job failed or was cancelled.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._partials or self.done())
            partials = self.take_partials()
            if not partials:
                self.result()
                return
            yield from partials

    def take_partials(self) -> list[PartialStem]:
        """Return the partial stems that arrived since the last call, without waiting."""
        with self._changed:
            partials = list(self._partials)
            self._partials.clear()
        return partials

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every change of the job; it must be quick."""
        with self._changed:
            self._watchers.append(callback)
        callback()

    def wait_progress(self) -> list[Progress] | None:
        """Wait for new progress; None once the job has ended and all has been returned."""
        with self._changed:
            self._changed.wait_for(lambda: self._unseen or self.done())
            unseen = list(self._unseen)
            self._unseen.clear()
        return unseen or None

    # The methods below are called by the client's threads.

    def note_progress(self, state: JobState, position: int, progress: Progress) -> None:
        """Note a change of state."""
        with self._changed:
            self.state, self.position, self.progress = state, position, progress
            self._unseen.append(progress)
            self._notify()

    def note_partial(self, partial: PartialStem) -> None:
        """Note a partial stem."""
        with self._changed:
            self._partials.append(partial)
            self._notify()

    def finish(self, outcome: Separation | BaseException) -> None:
        """End the job with its stems or an error; only the first call counts."""
        with self._changed:
            if self._ended:
                return
            self._ended = True
            if isinstance(outcome, BaseException):
                self.state = "cancelled" if isinstance(outcome, Cancelled) else "failed"
            else:
                self.state = "done"
        # Without the lock, since this runs the callbacks.
        if isinstance(outcome, BaseException):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)
        with self._changed:
            self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        for watcher in self._watchers:
            watcher()


Outgoing: TypeAlias = tuple[Message, Buffer | None]

_ITEM: Final = 4


class Request:
    """A request from submission to stems.

    Parameters
    ----------
    opening : Submit or Attach
        The message that begins it, at first and after a reconnection.
    mixture : array of float32, shape (channels, samples), or None
        C-contiguous; it is sent without a copy, and must not change until then. The stems
        come to lie as it does, in memory or in files.
    handle : JobHandle
    timeout_s : float or None
        Longest time without progress; None takes the client's.
    videos : dict of str to Video, or None
        By stem; sent after the mixture.
    """

    def __init__(
        self,
        opening: Submit | Attach,
        mixture: LongArray | None,
        handle: JobHandle,
        timeout_s: float | None = None,
        videos: Mapping[str, Video] | None = None,
    ) -> None:
        self.opening = opening
        self.timeout_s = timeout_s
        self.handle = handle
        self.sign_s = time.monotonic()
        self.ends = 0
        self._mixture = mixture
        self._seen = [part for video in (videos or {}).values() for part in video.parts]
        self._sent = 0
        self._result: Result | None = None
        self._stems: dict[str, LongArray] = {}
        self._received: dict[str, int] = {}

    @property
    def number(self) -> int:
        """Number of the request in its session."""
        return self.opening.request

    @property
    def waits(self) -> bool:
        """Whether it is in the queue, where no progress is expected."""
        return self.handle.state == "queued" and self.handle.position > 0

    def begin(self, known_settings: Collection[str]) -> list[Outgoing]:
        """Return the messages that open the request at a server, the first or a later one.

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
        """Handle a message for this request, and return the messages to send.

        Raises
        ------
        ProtocolError
            If the server broke the protocol.
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
            self.handle.finish(from_code(message.code, message.message))
        return []

    def _upload(self, credits: int) -> Iterator[Outgoing]:
        if self._mixture is None or self._sent % _ITEM:
            raise ProtocolError("the server asked for audio that this request does not have")
        for _ in range(credits):
            chunk = self._chunk(self._mixture)
            if not chunk:
                return
            yield Audio(request=self.number, offset=self._sent), chunk
            self._sent += len(chunk)

    def _chunk(self, mixture: LongArray) -> Buffer:
        """Return what is to be sent next: of the mixture as it lies, of the videos a copy."""
        first = self._sent // _ITEM
        samples: Buffer = flat(mixture)[first : first + CHUNK_BYTES // _ITEM].data.cast("B")
        if len(samples) == CHUNK_BYTES or not self._seen:
            return samples
        parts = [samples]
        # Where the rest of the chunk begins, and where each part does.
        at, place = self._sent + len(samples), _ITEM * mixture.size
        room = CHUNK_BYTES - len(samples)
        for part in self._seen:
            inside = max(at - place, 0)
            piece = part[inside : inside + room]
            place += len(part)
            parts.append(piece)
            at, room = at + len(piece), room - len(piece)
        return b"".join(parts)

    def _take_partial(self, message: Partial, payload: Buffer) -> list[Outgoing]:
        samples = np.frombuffer(payload, "<f4").astype(np.float32, copy=False)
        if samples.size != message.channels * message.samples:
            raise ProtocolError(f"a partial stem with {samples.size} samples")
        audio = samples.reshape(message.channels, message.samples)
        self.handle.note_partial(PartialStem(message.stem, message.start, audio))
        return [(Credit(request=self.number, credits=1), None)]

    def _take_result(self, message: Result) -> list[Outgoing]:
        """Allocate the stems; keep what was received before a reconnection if it is the same."""
        earlier = {} if self._result is None else {one.name: one for one in self._result.stems}
        for stem in message.stems:
            if earlier.get(stem.name) != stem or stem.name not in self._stems:
                shape = (stem.channels, stem.samples)
                like = isinstance(self._mixture, FileArray)
                self._stems[stem.name] = DEFAULT.zeros(shape) if like else np.empty(shape, "<f4")
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
                return [(Fetch(request=self.number, stem=stem.name, offset=offset), None)]
        self._deliver(self._result)
        return [(Release(request=self.number), None)]

    def _take_stem(self, message: Stem, payload: Buffer) -> list[Outgoing]:
        info = self._stem_info(message.stem)
        if message.offset != self._received[info.name]:
            raise ProtocolError(f"stem {info.name!r}: a chunk at byte {message.offset}")
        end = message.offset + len(payload)
        if end > info.size_bytes:
            raise ProtocolError(f"stem {info.name!r}: more bytes than it has")
        if end % _ITEM:
            raise ProtocolError(f"stem {info.name!r}: a chunk that ends at byte {end}")
        target = flat(self._stems[info.name])
        target[message.offset // _ITEM : end // _ITEM] = np.frombuffer(payload, "<f4")
        self._received[info.name] = end
        answer: list[Outgoing] = [(Credit(request=self.number, credits=1), None)]
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
        found = cast(dict[str, npt.NDArray[np.float32]], stems)
        rest = cast(npt.NDArray[np.float32], residual)
        self.handle.finish(Separation(found, rest, result.report))
