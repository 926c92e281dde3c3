"""The client for asyncio: the same connection, with results to await."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import Any

import numpy.typing as npt

from bridge.connection.client import Client
from bridge.connection.job import JobHandle, PartialStem
from bridge.request import Prompt, Settings
from bridge.scratch import FileArray
from bridge.separation import Progress, ProgressCallback, Separation
from bridge.wire.messages import JobState


class AsyncJobHandle:
    """A job like `bridge.connection.job.JobHandle`, for use in one event loop."""

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
        """State of the job; see `JobHandle`."""
        return self._handle.state

    @property
    def position(self) -> int:
        """Place in the queue, 1 for the next; 0 if it is not waiting."""
        return self._handle.position

    @property
    def progress(self) -> Progress | None:
        """The latest progress."""
        return self._handle.progress

    @property
    def cached(self) -> bool:
        """Whether the stems were there already."""
        return self._handle.cached

    @cached_property
    def draft(self) -> AsyncJobHandle | None:
        """The job of the draft, where one was asked for first."""
        return None if self._handle.draft is None else AsyncJobHandle(self._handle.draft)

    def done(self) -> bool:
        """Say whether the job has come to an end, good or bad."""
        return self._handle.done()

    def cancel(self) -> None:
        """Cancel the job."""
        self._handle.cancel()

    async def result(self) -> Separation:
        """Wait for the job and return its stems; cancelling the wait does not cancel the job.

        Raises
        ------
        StembridgeError
            If the job failed or was cancelled.
        """
        return await asyncio.shield(asyncio.wrap_future(self._handle))

    async def updates(self) -> AsyncIterator[Progress]:
        """Yield the latest progress whenever it changes, until the job ends."""
        seen: Progress | None = None
        while not self._handle.done():
            if (progress := self._handle.progress) is not None and progress is not seen:
                seen = progress
                yield progress
            else:
                await self._next_change()

    async def __aiter__(self) -> AsyncIterator[PartialStem]:
        """Yield partial stems as they arrive, until the job ends; see `JobHandle.__iter__`."""
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
    """A connection to a server for asyncio; its arguments are those of `Client`.

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
        """Use a server that is already running."""
        return cls(Client.connect(endpoint, model, **options))

    async def separate(
        self,
        mixture: npt.ArrayLike | FileArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
        **options: Any,
    ) -> Separation:
        """Extract one stem per prompt; cancelling the task cancels the job."""
        handle = self.submit(mixture, sample_rate, prompts, settings, **options)
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
        mixture: npt.ArrayLike | FileArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        **options: Any,
    ) -> AsyncJobHandle:
        """Ask for a separation and return at once."""
        return AsyncJobHandle(
            self._client.submit(mixture, sample_rate, prompts, settings, **options)
        )

    def attach(self, key: str, *, partial: bool = False) -> AsyncJobHandle:
        """Follow a job by its key."""
        return AsyncJobHandle(self._client.attach(key, partial=partial))

    async def close(self) -> None:
        """Close the connection."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
