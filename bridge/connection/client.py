"""The client: separations computed by a server, with the interface of the engine.

Loads neither ONNX Runtime nor an audio library.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from bridge.connection.connection import Connection
from bridge.connection.job import JobHandle, Request
from bridge.connection.local import LocalSidecar, Location, Remote
from bridge.errors import InputError, ServerError, StembridgeError, foreign_errors
from bridge.request import Prompt, Settings, check_mixture, check_prompts, make_settings
from bridge.scratch import FileArray, LongArray, pieces
from bridge.separation import ProgressCallback, Separation
from bridge.video import Video, Videos, check_videos
from bridge.wire.keys import KeyRing, check_key
from bridge.wire.messages import Attach, AudioInfo, ModelRef, Submit, VideoInfo
from bridge.wire.sockets import Address

Array = npt.NDArray[np.float32]

#: What every way to open a client waits by default.
TIMEOUT_S: Final = 300.0
CONNECT_TIMEOUT_S: Final = 20.0


class Client:
    """A connection to a server, kept alive and renewed as needed. Thread-safe.

    Use `Client.local` or `Client.connect`, and close it, or use it as a context manager.

    Parameters
    ----------
    location : Location
        Where the server is.
    model : ModelRef
        The model of jobs that name none.
    timeout_s : float
        A job that makes no progress for this long is cancelled. Time in the queue does not
        count.
    connect_timeout_s : float
        Open jobs fail when no server has answered for this long.
    """

    def __init__(
        self,
        location: Location,
        model: ModelRef,
        *,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._location = location
        self._model = model
        self._numbers = itertools.count(1)
        self._closed = False
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="stembridge-prepare")
        self._connection = Connection(location, connect_timeout_s, timeout_s)

    @classmethod
    def local(
        cls,
        model: str | os.PathLike[str] = "mini",
        *,
        directory: Path | None = None,
        cache: Path | None = None,
        idle_timeout_s: float = 600.0,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> Client:
        """Use the user's own sidecar, which is started if none runs.

        Parameters
        ----------
        model : str or path
            Name of an installed bundle, or the directory of one.
        directory, cache : Path or None
            Runtime directory and disk store of the sidecar, by default the user's.
        idle_timeout_s : float
            A sidecar started here stops after this long without clients and jobs.
        timeout_s, connect_timeout_s : float
            See `Client`.

        Raises
        ------
        ModelError
            If there is no such model.
        ServerError
            If there is no private directory for the sidecar's sockets, or the system has no more
            files or threads for a client.
        """
        sidecar = LocalSidecar(directory, cache, idle_timeout_s)
        reference = sidecar.reference(model)
        return cls(sidecar, reference, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)

    @classmethod
    def connect(
        cls,
        endpoint: str,
        model: str = "mini",
        *,
        server_key: str | None = None,
        keys: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> Client:
        """Use a server that is already running.

        Parameters
        ----------
        endpoint : str
            Where it was bound: ``tcp://HOST:PORT``.
        model : str
            Name of one of its models.
        server_key : str or None
            Its public key, as ``stembridge keys list`` shows there. This user's own key must be
            authorised by the server.
        keys : Path or None
            Directory of this user's keys, if not the usual one.
        timeout_s, connect_timeout_s : float
            See `Client`.

        Raises
        ------
        InputError
            If `server_key` is malformed, or this user has no key.
        """
        identity = None
        if server_key is not None:
            check_key(server_key)
            identity = KeyRing(keys).identity()
        location = Remote(Address(endpoint, server_key=server_key), identity)
        reference = ModelRef(model)
        return cls(location, reference, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)

    @property
    def connected(self) -> bool:
        """Whether a server answers; jobs may be submitted in any case."""
        return self._connection.connected

    def separate(
        self,
        mixture: npt.ArrayLike | FileArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
        timeout_s: float | None = None,
        video: Videos | None = None,
        revise: bool = False,
        **options: Any,
    ) -> Separation:
        """Extract one stem per prompt from a mixture; see `bridge.Engine.separate`.

        Parameters
        ----------
        mixture : array_like of float32, or FileArray, shape (channels, samples)
            Full scale at 1.0, any number of channels. Where the mixture lies in a file, so do
            the stems.
        sample_rate : int
            In Hz, any.
        prompts : sequence of Prompt or str
            At least one.
        settings : Settings or None
            How to separate; None for the model's defaults.
        progress : callable or None
            Receives a `Progress` after every piece of work, on this thread. An exception that it
            raises cancels the job.
        timeout_s : float or None
            Longest time without progress; None takes the client's.
        video : Video, dict of str to Video, or None
            Shows what is to be extracted; see `bridge.Engine.separate`.
        revise : bool
            Whether the latest job that the server was asked the same of other audio of this length,
            or with other spans, may be revised, as `bridge.Engine.update` does: what was not edited
            keeps its stems to the bit, and the cost is that of the edit. If there is none, or
            most was edited, everything is computed.
        **options
            Fields of `Settings`, in place of those in `settings`.

        Raises
        ------
        InputError
            If the mixture, a prompt or a setting cannot be used.
        ServerError
            If no server answers, or the job makes no progress.
        StembridgeError
            If the job fails otherwise.
        """
        handle = self.submit(
            mixture,
            sample_rate,
            prompts,
            settings,
            timeout_s=timeout_s,
            video=video,
            revise=revise,
            **options,
        )
        try:
            while (news := handle.wait_progress()) is not None:
                for item in news:
                    if progress is not None:
                        progress(item)
            return handle.result()
        except BaseException:
            handle.cancel()
            raise

    def submit(
        self,
        mixture: npt.ArrayLike | FileArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        keep: bool = False,
        partial: bool = False,
        draft_first: bool = False,
        timeout_s: float | None = None,
        video: Videos | None = None,
        revise: bool = False,
        **options: Any,
    ) -> JobHandle:
        """Ask for a separation and return at once.

        Parameters
        ----------
        mixture, sample_rate, prompts, settings, timeout_s, video, revise, **options
            As for `separate`. A float32 array in C order is sent without a copy: do not
            change it until the job is done.
        keep : bool
            Whether the server finishes the job even if this client disconnects.
        partial : bool
            Whether to send stretches of the stems as they are decoded.
        draft_first : bool
            Whether to ask for a draft before: the same stems in the quality ``"draft"``, a job of
            its own, which is the handle's `draft`. Where a draft would be no other than the stems
            themselves, the two are one job to the server.

        Returns
        -------
        JobHandle
            Its `result` raises whatever is wrong with the request.
        """
        self._check_open()
        draft_number, draft = self._new_handle() if draft_first else (0, None)
        number, handle = self._new_handle(draft)

        def prepare() -> None:
            try:
                asked = make_settings(settings, **options)
                audio, rate = check_mixture(mixture, sample_rate)
                checked = check_prompts(prompts, audio.shape[1] / rate)
                seen = check_videos(video, checked)
                opening = Submit(
                    request=number,
                    model=self._model,
                    audio=_describe(audio, rate, seen),
                    prompts=checked,
                    settings=asked,
                    keep=keep,
                    partial=partial,
                    revises="latest" if revise else "",
                )
                if draft is not None:
                    drafted = replace(
                        opening,
                        request=draft_number,
                        settings=make_settings(asked, quality="draft"),
                        keep=False,
                    )
                    self._connection.open(Request(drafted, audio, draft, timeout_s, seen))
                self._connection.open(Request(opening, audio, handle, timeout_s, seen))
            except Exception as error:
                if draft is not None:
                    draft.finish(error)
                handle.finish(error)
                if not isinstance(error, StembridgeError):
                    raise

        with foreign_errors("cannot prepare a job", ServerError):
            self._preparing.submit(prepare)
        return handle

    def _new_handle(self, draft: JobHandle | None = None) -> tuple[int, JobHandle]:
        """Make the handle of a request, and number it."""
        number = next(self._numbers)

        def cancel() -> None:
            if draft is not None:
                draft.cancel()
            self._cancel(number, handle)

        handle = JobHandle(cancel, draft)
        return number, handle

    def attach(self, key: str, *, partial: bool = False) -> JobHandle:
        """Follow a job by its key: one that was kept, or whose stems are still cached."""
        self._check_open()
        number, handle = self._new_handle()
        opening = Attach(request=number, key=key, partial=partial)
        self._connection.open(Request(opening, None, handle))
        return handle

    def close(self) -> None:
        """Close the connection; jobs that were not submitted with `keep` are cancelled."""
        self._closed = True
        self._preparing.shutdown(wait=True)
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the client is closed; open another one for more jobs")

    def _cancel(self, number: int, handle: JobHandle) -> None:
        if not handle.done():
            self._connection.cancel(number, handle)


def _describe(audio: LongArray, sample_rate: int, videos: Mapping[str, Video]) -> AudioInfo:
    channels, samples = audio.shape
    digest = hashlib.sha256()
    for piece in pieces(audio):
        digest.update(piece)
    infos = []
    for stem, video in videos.items():
        for part in video.parts:
            digest.update(part)
        frames, height, width, _ = video.frames.shape
        infos.append(VideoInfo(stem, frames, height, width))
    return AudioInfo(digest.hexdigest(), sample_rate, channels, samples, tuple(infos))
