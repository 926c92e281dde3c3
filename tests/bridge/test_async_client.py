"""The asyncio twin, partial stems, and what a second prompt on the same audio saves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from bridge.connection.async_client import AsyncClient
from bridge.engine import Engine
from bridge.errors import Cancelled, InputError
from bridge.separation import Progress
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[Sidecar]:
    with sidecar() as running:
        yield running


def connect(server: Sidecar) -> AsyncClient:
    return AsyncClient.local(server.bundle, directory=server.directory, cache=server.cache)


def test_jobs_run_side_by_side_with_the_loop(server: Sidecar) -> None:
    mixtures = [noise(2, seed=seed) for seed in range(4)]
    seen: list[Progress] = []

    async def run() -> list[np.ndarray]:
        async with connect(server) as client:
            results = await asyncio.gather(
                *(
                    client.separate(mixture, RATE, ["half"], progress=seen.append)
                    for mixture in mixtures
                )
            )
        return [result.stems["half"] for result in results]

    stems = asyncio.run(run())
    with Engine(server.bundle) as engine:
        for mixture, stem in zip(mixtures, stems, strict=True):
            assert np.array_equal(stem, engine.separate(mixture, RATE, ["half"]).stems["half"])
    assert seen


def test_errors_and_cancelling(server: Sidecar) -> None:
    async def run() -> None:
        async with connect(server) as client:
            with pytest.raises(InputError, match="no prompts"):
                await client.separate(noise(1), RATE, [])
            task = asyncio.create_task(
                client.separate(noise(20, seed=9), RATE, ["half"], steps=1000)
            )
            async with asyncio.timeout(30):
                while not server.status().running:
                    await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            handle = client.submit(noise(20, seed=10), RATE, ["half"], steps=1000)
            handle.cancel()
            with pytest.raises(Cancelled):
                await handle.result()

    asyncio.run(run())
    wait_until(lambda: server.status().running == 0)


def test_partial_stems_come_before_the_result_and_make_it_up(server: Sidecar) -> None:
    mixture = noise(10, seed=11)

    async def run() -> tuple[np.ndarray, list[str]]:
        async with connect(server) as client:
            handle = client.submit(mixture, RATE, ["everything"], partial=True, reconstruct="raw")
            heard = np.full_like(mixture, np.nan)
            states = []
            async for part in handle:
                if part.stem == "everything":
                    heard[:, part.start : part.start + part.audio.shape[1]] = part.audio
                states.append(handle.state)
            result = await handle.result()
            assert np.abs(heard - result.stems["everything"]).max() < 1e-5
            return heard, states

    heard, states = asyncio.run(run())
    assert not np.isnan(heard).any()
    assert states[0] == "running"


def test_partial_stems_also_come_to_plain_loops(server: Sidecar) -> None:
    mixture = noise(10, seed=12)
    with server.client() as client:
        parts = list(client.submit(mixture, RATE, ["half"], partial=True))
    assert {part.stem for part in parts} == {"half", "residual"}
    ends = [part.start + part.audio.shape[1] for part in parts if part.stem == "half"]
    assert ends == sorted(ends)
    assert ends[-1] == mixture.shape[1]


def test_a_second_prompt_on_the_same_audio_encodes_nothing(server: Sidecar) -> None:
    mixture = noise(5, seed=13)

    def stages(text: str, **settings: int) -> list[str]:
        seen: list[Progress] = []
        client.separate(mixture, RATE, [text], progress=seen.append, **settings)
        return [item.stage for item in seen]

    with server.client() as client, Engine(server.bundle) as engine:
        assert "encode" in stages("half")
        again = stages("everything")
        assert "encode" not in again
        assert "solve" in again
        assert "encode" not in stages("half", seed=4)
        result = client.separate(mixture, RATE, ["half"], seed=4)
        expected = engine.separate(mixture, RATE, ["half"], seed=4)
        assert np.array_equal(result.residual, expected.residual)
