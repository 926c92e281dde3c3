"""How long jobs will wait, learnt from those that were computed."""

from __future__ import annotations

import time

import pytest

from bridge.request import Prompt, Settings
from bridge.separation import Progress, Report
from bridge.service.jobs import Job
from bridge.service.queue import Estimates
from bridge.wire.messages import AudioInfo, ModelRef, Submit
from tests.support.sidecars import RATE, noise, sidecar, wait_until


def record(seconds: int, *, steps: int = 2, model: str = "tiny", seed: int = 0) -> Submit:
    audio = AudioInfo("0" * 64, RATE, 1, seconds * RATE)
    return Submit(
        request=0,
        model=ModelRef(model),
        audio=audio,
        prompts=(Prompt("half"),),
        settings=Settings(seed=seed, steps=steps),
    )


def report(rtf: float) -> Report:
    return Report(
        model="tiny",
        model_sha256="0" * 64,
        sample_rate=RATE,
        channels=1,
        samples=RATE,
        seconds=rtf,
        rtf=rtf,
        nfe=1,
        seed=0,
        steps=2,
        solver="euler",
        window_s=1.0,
        overlap_s=0.25,
        windows=1,
        reconstruct="null",
        provider="CPUExecutionProvider",
        null_depth_db=None,
        stems=("half",),
    )


def job(seconds: int, **options: int) -> Job:
    return Job(str(seconds), record(seconds, **options), "")


def test_jobs_alike_count_first_then_those_of_the_same_model() -> None:
    estimates = Estimates()
    assert estimates.seconds(record(10)) is None
    estimates.learn(record(5, steps=2), report(0.5))
    estimates.learn(record(5, steps=4), report(2.0))
    assert estimates.seconds(record(10, steps=2, seed=7)) == 5.0
    assert estimates.seconds(record(10, steps=9)) == 20.0
    assert estimates.seconds(record(10, model="other")) is None


def test_the_wait_is_that_for_all_jobs_before() -> None:
    estimates = Estimates()
    queue = [job(10), job(20), job(30), job(40)]
    assert estimates.waits(queue, [], 1) == [0.0, None, None, None]
    estimates.learn(record(1), report(1.0))
    assert estimates.waits(queue, [], 1) == [0.0, 10.0, 30.0, 60.0]
    running = job(100)
    running.began = time.monotonic() - 90
    assert estimates.waits(queue, [running], 1) == pytest.approx([10, 20, 40, 70], abs=0.5)
    assert estimates.waits(queue, [running], 2) == pytest.approx([0, 10, 10, 30], abs=0.5)
    # One that takes longer than others did: its stage knows better.
    running.began, running.progress = time.monotonic() - 200, Progress("solve", 1, 2, 15.0)
    assert estimates.waits(queue[:2], [running], 1) == pytest.approx([15, 25], abs=0.5)


def test_news_is_another_place_or_another_time() -> None:
    estimates = Estimates()
    estimates.learn(record(1), report(1.0))
    first, second = job(10), job(20)
    assert estimates.stand([first, second], [], 1) == [first, second]
    assert (second.position, second.progress.seconds_left) == (2, 10.0)
    assert estimates.stand([first, second], [], 1) == []
    assert estimates.stand([second], [], 1) == [second]
    assert (second.position, second.progress.seconds_left) == (1, 0.0)


@pytest.mark.slow
def test_a_client_hears_how_long_it_will_wait() -> None:
    with sidecar() as server, server.client() as client:
        client.separate(noise(20), RATE, ["half"], steps=100)
        handles = [
            client.submit(noise(20, seed=seed), RATE, ["half"], steps=100) for seed in range(1, 4)
        ]
        wait_until(lambda: handles[2].position == 2 and handles[2].progress)
        progress = handles[2].progress
        assert progress is not None
        assert progress.stage == "queued"
        assert progress.seconds_left is not None
        assert progress.seconds_left > 0
        for handle in handles:
            handle.cancel()
