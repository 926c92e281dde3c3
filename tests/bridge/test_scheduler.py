"""Fair turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.service.queue import FairQueue


def drain(queue: FairQueue) -> list[str]:
    taken = []
    while (key := queue.pop()) is not None:
        taken.append(key)
    return taken


def test_clients_take_turns_and_keep_their_own_order() -> None:
    queue = FairQueue()
    for key in ("a1", "a2", "a3"):
        queue.push("a", key)
    for key in ("b1", "b2"):
        queue.push("b", key)
    assert drain(queue) == ["a1", "b1", "a2", "b2", "a3"]


def test_who_comes_late_waits_behind_one_job_of_another() -> None:
    queue = FairQueue()
    for key in ("a1", "a2", "a3"):
        queue.push("a", key)
    assert queue.pop() == "a1"  # and is computed now
    queue.push("b", "b1")
    assert drain(queue) == ["b1", "a2", "a3"]


def test_a_job_that_was_begun_goes_first_again() -> None:
    queue = FairQueue()
    queue.push("a", "a1")
    queue.push("a", "a2")
    queue.push("a", "a0", first=True)
    assert drain(queue) == ["a0", "a1", "a2"]


def test_a_shared_job_is_in_every_line_once() -> None:
    queue = FairQueue()
    queue.push("a", "a1")
    queue.push("a", "shared")
    queue.push("b", "shared")
    queue.push("b", "shared")
    assert len(queue) == 2
    assert drain(queue) == ["a1", "shared"]
    queue.push("a", "shared")
    queue.push("b", "shared")
    queue.withdraw("a", "shared")
    assert "shared" in queue
    queue.forget("b")
    assert "shared" not in queue
    assert len(queue) == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abcd"), st.integers(0, 30)),
            st.just(None),  # take one
        ),
        max_size=60,
    )
)
def test_no_job_waits_behind_more_than_one_of_another_client(
    events: list[tuple[str, int] | None],
) -> None:
    queue = FairQueue()
    # What others were served since each waiting client was served last, or began to wait.
    overtakers: dict[str, dict[str, int]] = {}
    waiting: dict[str, list[str]] = {}
    for event in [*events, *[None] * len(events)]:
        if event is None:
            assert queue.order()[:1] == ([] if len(queue) == 0 else [queue.order()[0]])
            predicted = queue.order()
            key = queue.pop()
            assert key == (predicted[0] if predicted else None)
            if key is None:
                continue
            owner = key[0]
            waiting[owner].remove(key)
            overtakers[owner] = {}
            for other, keys in waiting.items():
                if other != owner and keys:
                    counts = overtakers.setdefault(other, {})
                    counts[owner] = counts.get(owner, 0) + 1
                    assert counts[owner] <= 1
        else:
            owner, number = event
            key = f"{owner}{number}"
            if key in waiting.setdefault(owner, []):
                continue
            if not waiting[owner]:
                overtakers[owner] = {}
            waiting[owner].append(key)
            queue.push(owner, key)
    assert not any(waiting.values())
