"""The memory of the live insert, without JACK: moves, loops and edits of the transport."""

import numpy as np
import pytest

from bridge import Engine
from plugin_host import Separate
from plugin_host.cli.live import LiveTake
from plugin_host.effects.segments import separate_segment
from tests.support.host_audio import RATE, music

SEGMENT_S = 0.25
BLOCK = 256


class Session:
    """A transport that plays a song through the take, and a worker that separates."""

    def __init__(self, engine, song):
        self.effect = Separate("half", separator=engine, segment_s=SEGMENT_S)
        self.song = song.copy()
        length = round(SEGMENT_S * RATE)
        self.take = LiveTake(2, length, RATE, self.effect.mix)
        self.separated = 0

    def play(self, start, stop):
        out = [
            self.take.pass_through(at, self.song[:, at : min(at + BLOCK, stop)])
            for at in range(start, stop, BLOCK)
        ]
        return np.concatenate(out, axis=1)

    def work(self):
        while tasks := self.take.tasks():
            for task in tasks:
                self.separated += 1
                lanes = separate_segment(
                    self.effect.separator, self.effect.plan, task.audio, RATE, task.start
                )
                self.take.put(task, lanes)

    def offline(self):
        return self.effect(self.song, RATE)


@pytest.fixture(scope="module")
def engine(bundle):
    with Engine(bundle, threads=1) as engine:
        yield engine


@pytest.fixture
def session(engine):
    return Session(engine, music(1.4))


def end_of(session):
    return session.song.shape[1]


def test_the_first_pass_is_dry_and_the_second_is_the_offline_stem(session):
    end = end_of(session)
    assert np.array_equal(session.play(0, end), session.song)
    session.work()
    assert np.array_equal(session.play(0, end), session.offline())
    assert session.take.ready_samples() == end


def test_playing_in_pieces_and_loops_gives_the_same(session):
    end = end_of(session)
    third = end // 3 // BLOCK * BLOCK
    for start, stop in [(third, 2 * third), (0, third), (0, third), (2 * third, end)]:
        session.play(start, stop)
        session.work()
    assert np.array_equal(session.play(0, end), session.offline())
    middle = slice(third, 2 * third)
    assert np.array_equal(session.play(third, 2 * third), session.offline()[:, middle])


def test_changed_audio_is_dry_at_once_and_only_it_is_separated_anew(session):
    end = end_of(session)
    session.play(0, end)
    session.work()
    segments = session.separated
    at = round(0.1 * RATE) // BLOCK * BLOCK
    session.song[:, at : at + BLOCK] *= 0.5
    assert np.array_equal(session.play(at, at + BLOCK), session.song[:, at : at + BLOCK])
    session.work()
    assert np.array_equal(session.play(0, end), session.offline())
    assert 0 < session.separated - segments < segments


def test_audio_that_starts_late_is_separated_too(session):
    end = end_of(session)
    start = round(0.4 * RATE)
    session.play(start, end)
    session.work()
    out = session.play(start, end)
    assert not np.array_equal(out, session.song[:, start:])
    assert session.take.ready_samples() == end - start


def test_a_result_for_audio_that_has_changed_is_dropped(session):
    end = end_of(session)
    session.play(0, end)
    (task, *_) = session.take.tasks()
    lanes = separate_segment(
        session.effect.separator, session.effect.plan, task.audio, RATE, task.start
    )
    session.song[:, :BLOCK] = 0.25
    session.play(0, BLOCK)
    session.take.put(task, lanes)
    assert session.take.ready_samples() == 0


def test_what_is_being_heard_is_left_alone(session):
    session.play(0, round(0.9 * RATE))
    numbers = {task.number for task in session.take.tasks(rolling_at=round(0.9 * RATE))}
    assert numbers
    assert max(numbers) < 3
    assert {task.number for task in session.take.tasks()} > numbers
