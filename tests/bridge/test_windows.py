"""Windows cover a clip without padding, and their masks sum to one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.flow.windows import plan_windows, soft_masks

plans = st.tuples(st.integers(1, 400), st.integers(1, 60)).flatmap(
    lambda sizes: st.tuples(*map(st.just, sizes), st.integers(0, sizes[1] - 1))
)


@given(plans)
def test_windows_are_equal_inside_and_leave_no_gap(sizes):
    frames, window, overlap = sizes
    plan = plan_windows(frames, window, overlap)
    assert plan.length == min(window, frames)
    assert plan.starts[0] == 0
    assert plan.starts[-1] + plan.length == frames
    steps = np.diff(plan.starts)
    assert np.all(steps >= 1)
    assert np.all(steps <= window - overlap)


@given(plans)
def test_masks_sum_to_one_everywhere(sizes):
    plan = plan_windows(*sizes)
    masks = soft_masks(plan)
    total = np.zeros(plan.frames)
    for mask, start in zip(masks, plan.starts, strict=True):
        total[start : start + plan.length] += mask
    np.testing.assert_allclose(total, 1.0, atol=3e-7)
    assert masks.min() > 0


def test_a_frame_under_one_window_keeps_its_weight_exactly():
    plan = plan_windows(250, 100, 20)
    first, *_ = soft_masks(plan)
    np.testing.assert_array_equal(first[:80], 1.0)
    assert np.all(np.diff(first[80:]) < 0)


def test_a_short_clip_is_one_window_of_its_own_length():
    plan = plan_windows(7, 100, 20)
    assert (plan.length, plan.starts) == (7, (0,))
    np.testing.assert_array_equal(soft_masks(plan), np.ones((1, 7), np.float32))


def test_one_window_and_one_frame_makes_two_windows():
    assert plan_windows(101, 100, 20).starts == (0, 1)


@pytest.mark.parametrize("sizes", [(0, 5, 1), (10, 5, 5), (10, 5, -1), (10, 0, 0)])
def test_impossible_windows_are_refused(sizes):
    with pytest.raises(ValueError, match="expected frames >= 1"):
        plan_windows(*sizes)
