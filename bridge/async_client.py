"""The client for asyncio: the same connection, awaited instead of waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Unpack

import numpy.typing as npt

from bridge.client import Client, SubmitOptions
from bridge.connection.handle import JobHandle, PartialStem
from bridge.request import Prompt
from bridge.separation import Progress, ProgressCallback, Separation
from bridge.wire.descriptors import JobState


class AsyncJobHandle:
    """A job, as `bridge.connection.handle.JobHandle`, for one event loop."""

    def __init__(self, handle: JobHandle) -> None:
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        handle.watch(self._wake)

    @property
    def key(self) -> str | None:
        """The job's key at the server, once it is accepted."""
        return self._handle.key

    @property
    def state(self) -> JobState:
        """What has become of it."""
        return self._handle.state

    @property
    def position(self) -> int:
        """Place in the queue, 1 for the next; 0 if it does not wait."""
        return self._handle.position

    @property
    def progress(self) -> Progress | None:
        """The newest progress."""
        return self._handle.progress

    @property
    def cached(self) -> bool:
        """Whether the stems were there already."""
        return self._handle.cached

    def done(self) -> bool:
        """Say whether the job has come to an end, good or bad."""
        return self._handle.done()

    def cancel(self) -> None:
        """Give the job up."""
        self._handle.cancel()

    async def result(self) -> Separation:
        """Wait for the job and return its stems; cancelling the wait does not cancel the job.

        Raises
        ------
        StembridgeError
            What the job came to, if not to stems.
        """
        while not self._handle.done():
            await self._next_change()
        return self._handle.result()

    async def updates(self) -> AsyncIterator[Progress]:
        """Yield the newest progress whenever there is some, until the job ends."""
        seen: Progress | None = None
        while not self._handle.done():
            if (progress := self._handle.progress) is not None and progress is not seen:
                seen = progress
                yield progress
            else:
                await self._next_change()

    async def __aiter__(self) -> AsyncIterator[PartialStem]:
        """Yield partial stems as they come, until the job ends; see `JobHandle.__iter__`."""
        while True:
            ended = self._handle.done()
            for partial in self._handle.take_partials():
                yield partial
            if ended:
                self._handle.result()
                return
            await self._next_change()

    async def _next_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _wake(self) -> None:
        # The loop may be closed before the job ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)


class AsyncClient:
    """A connection to a server for asyncio; see `bridge.client.Client` for all arguments.

    Parameters
    ----------
    client : Client
        The connection to use; closed with this one.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    def local(cls, model: str | os.PathLike[str] = "mini", **options: Any) -> AsyncClient:
        """Use the user's own sidecar, which is started if none runs."""
        return cls(Client.local(model, **options))

    @classmethod
    def connect(cls, endpoint: str, model: str = "mini", **options: Any) -> AsyncClient:
        """Use a server that runs somewhere."""
        return cls(Client.connect(endpoint, model, **options))

    async def separate(
        self,
        mixture: npt.ArrayLike,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Separation:
        """Extract one stem per prompt; cancelling the task cancels the job."""
        handle = self.submit(mixture, sample_rate, prompts, **options)
        try:
            async for item in handle.updates():
                if progress is not None:
                    progress(item)
            return await handle.result()
        except BaseException:
            handle.cancel()
            raise

    def submit(
        self,
        mixture: npt.ArrayLike,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        **options: Unpack[SubmitOptions],
    ) -> AsyncJobHandle:
        """Ask for a separation and return at once."""
        return AsyncJobHandle(self._client.submit(mixture, sample_rate, prompts, **options))

    def attach(self, key: str, *, partial: bool = False) -> AsyncJobHandle:
        """Take up a job by its key."""
        return AsyncJobHandle(self._client.attach(key, partial=partial))

    async def close(self) -> None:
        """Leave the server."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
