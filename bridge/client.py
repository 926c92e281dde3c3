"""The client: separations computed by a server, as if they were computed here.

Loads neither ONNX Runtime nor an audio library.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Unpack

import numpy as np
import numpy.typing as npt

from bridge.connection.exchange import Exchange
from bridge.connection.handle import JobHandle
from bridge.connection.link import Link
from bridge.connection.local import LocalSidecar, Place, Remote
from bridge.errors import StembridgeError
from bridge.request import Prompt, SettingOptions
from bridge.separation import ProgressCallback, Separation
from bridge.validation import check_mixture, check_prompts, settings_from_options
from bridge.wire.descriptors import AudioInfo, ModelRef
from bridge.wire.endpoints import Address
from bridge.wire.keys import KeyRing, check_key
from bridge.wire.messages import Attach, Submit

Array = npt.NDArray[np.float32]


class SubmitOptions(SettingOptions, total=False):
    """Keyword arguments of `Client.submit`: those named there, and the settings."""

    keep: bool
    partial: bool
    timeout_s: float | None


class Client:
    """A connection to a server, kept alive and remade as needed. Thread-safe.

    Use `Client.local` or `Client.connect`, and close it, or use it as a context manager.

    Parameters
    ----------
    place : Place
        Where the server is.
    model : ModelRef
        The model of jobs that name none.
    timeout_s : float
        A job without any sign of progress for so long is given up. The time that a job waits
        in the queue does not count.
    connect_timeout_s : float
        Open jobs fail when no server has answered for so long.
    """

    def __init__(
        self,
        place: Place,
        model: ModelRef,
        *,
        timeout_s: float = 300.0,
        connect_timeout_s: float = 20.0,
    ) -> None:
        self._place = place
        self._model = model
        self._numbers = itertools.count(1)
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="stembridge-prepare")
        self._link = Link(place, connect_timeout_s, timeout_s)

    @classmethod
    def local(
        cls,
        model: str | os.PathLike[str] = "mini",
        *,
        directory: Path | None = None,
        cache: Path | None = None,
        idle_timeout_s: float = 600.0,
        timeout_s: float = 300.0,
        connect_timeout_s: float = 20.0,
    ) -> Client:
        """Use the user's own sidecar, which is started if none runs.

        Parameters
        ----------
        model : str or path
            Name of an installed bundle, or the directory of one.
        directory, cache : Path or None
            Runtime directory and disk store of the sidecar, by default the user's.
        idle_timeout_s : float
            A sidecar started here leaves after so long without clients and jobs.
        timeout_s, connect_timeout_s : float
            See `Client`.

        Raises
        ------
        ModelError
            If there is no such model.
        ServerError
            If there is no private directory for the sidecar's sockets.
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
        timeout_s: float = 300.0,
        connect_timeout_s: float = 20.0,
    ) -> Client:
        """Use a server that runs somewhere.

        Parameters
        ----------
        endpoint : str
            Where it was bound: ``tcp://HOST:PORT``.
        model : str
            Name of a model that it has.
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
            If the server's key is none, or this user has no key.
        """
        identity = None
        if server_key is not None:
            check_key(server_key)
            identity = KeyRing(keys).identity()
        place = Remote(Address(endpoint, server_key=server_key), identity)
        reference = ModelRef(model)
        return cls(place, reference, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)

    @property
    def connected(self) -> bool:
        """Whether a server answers now; jobs may be submitted at any time."""
        return self._link.connected

    def separate(
        self,
        mixture: npt.ArrayLike,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        timeout_s: float | None = None,
        **settings: Unpack[SettingOptions],
    ) -> Separation:
        """Extract one stem per prompt from a mixture; see `bridge.Engine.separate`.

        Parameters
        ----------
        mixture : array_like of float32, shape (channels, samples)
            Full scale at 1.0, any number of channels.
        sample_rate : int
            In Hz, any.
        prompts : sequence of Prompt or str
            At least one.
        progress : callable or None
            Receives a `Progress` after every piece of work, on this thread. What it raises
            cancels the job.
        timeout_s : float or None
            Longest time without progress; None takes the client's.
        **settings
            Fields of `Settings`.

        Raises
        ------
        InputError
            If the mixture, a prompt or a setting cannot be used.
        ServerError
            If no server answers, or the job makes no progress.
        StembridgeError
            Whatever else the job came to.
        """
        handle = self.submit(mixture, sample_rate, prompts, timeout_s=timeout_s, **settings)
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
        mixture: npt.ArrayLike,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        keep: bool = False,
        partial: bool = False,
        timeout_s: float | None = None,
        **settings: Unpack[SettingOptions],
    ) -> JobHandle:
        """Ask for a separation and return at once.

        Parameters
        ----------
        mixture, sample_rate, prompts, timeout_s, **settings
            As for `separate`. A float32 array in C order is sent from where it lies: leave it
            alone until the job is done.
        keep : bool
            Whether the server is to finish the job even if this client goes.
        partial : bool
            Whether to send stretches of the stems as they are decoded.

        Returns
        -------
        JobHandle
            Whatever is wrong with the request shows when its result is asked for.
        """
        number = next(self._numbers)
        handle = JobHandle(lambda: self._cancel(number, handle))

        def prepare() -> None:
            try:
                options = settings_from_options(settings)
                audio, rate = check_mixture(mixture, sample_rate)
                checked = check_prompts(prompts, audio.shape[1] / rate)
                opening = Submit(
                    request=number,
                    model=self._model,
                    audio=_describe(audio, rate),
                    prompts=checked,
                    settings=options,
                    keep=keep,
                    partial=partial,
                )
                self._link.open(Exchange(opening, audio, handle, timeout_s))
            except StembridgeError as error:
                handle.finish(None, error)
            except Exception as error:
                handle.finish(None, error)
                raise

        self._preparing.submit(prepare)
        return handle

    def attach(self, key: str, *, partial: bool = False) -> JobHandle:
        """Take up a job by its key: one that was kept, or whose stems are still there."""
        number = next(self._numbers)
        handle = JobHandle(lambda: self._cancel(number, handle))
        opening = Attach(request=number, key=key, partial=partial)
        self._link.open(Exchange(opening, None, handle))
        return handle

    def close(self) -> None:
        """Leave the server; jobs that were not submitted to be kept are cancelled."""
        self._preparing.shutdown(wait=True)
        self._link.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cancel(self, number: int, handle: JobHandle) -> None:
        if not handle.done():
            self._link.cancel(number, handle)


def _describe(audio: Array, sample_rate: int) -> AudioInfo:
    channels, samples = audio.shape
    return AudioInfo(hashlib.sha256(audio.data).hexdigest(), sample_rate, channels, samples)
