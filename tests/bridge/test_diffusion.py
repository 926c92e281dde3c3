"""Multi-diffusion: where windows agree, merging them must not be seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.flow.diffusion import Conditions, make_scheme, merged_velocity, plan_batches, solve
from bridge.flow.windows import plan_windows

FRAMES, CHANNELS = 137, 4
SOLVERS = ["euler", "midpoint", "ab2", "unipc", "cubic"]


def pointwise(*, x, t, latents, text, text_mask, spans):
    """Depend on flow time, and frame by frame on the state, the mixture, the text and the ids.

    With the frame's index as the mixture, it is a function of absolute time.
    """
    assert text_mask.all()
    place = np.concatenate([np.sin(0.1 * latents), np.cos(0.07 * latents)], axis=-1)
    said = text.mean(axis=(1, 2))[:, None, None]
    return place * (1 + t[:, None, None]) + said * np.tanh(x) - 0.1 * spans[..., None] * x


def conditions(prompts=3):
    rng = np.random.default_rng(5)
    absolute = np.repeat(np.arange(FRAMES, dtype=np.float32)[:, None], CHANNELS, axis=1)
    lengths = [2, 5, 2, 3][:prompts]
    return Conditions(
        latents=np.stack([absolute, 3 + absolute[::-1]]),
        views=(0, 1, 0, 1)[:prompts],
        texts=tuple(rng.normal(size=(n, 6)).astype(np.float32) for n in lengths),
        spans=rng.integers(0, 3, size=(prompts, FRAMES)),
    )


def integrate(plan, given_conditions, batch=1, solver="midpoint"):
    field = merged_velocity(pointwise, plan, given_conditions, batch, lambda: None)
    rng = np.random.default_rng(6)
    start = rng.normal(size=(len(given_conditions.texts), FRAMES, 2 * CHANNELS))
    return solve(field, start.astype(np.float32), make_scheme(solver, 4))


@settings(max_examples=40)
@given(st.integers(1, 90), st.floats(0, 0.99), st.sampled_from(SOLVERS))
def test_windowed_equals_unwindowed_for_a_field_of_absolute_time(window, share, solver):
    whole = integrate(plan_windows(FRAMES, FRAMES, 0), conditions(), solver=solver)
    overlap = min(int(window * share), window - 1)
    windowed = integrate(plan_windows(FRAMES, window, overlap), conditions(), solver=solver)
    assert np.abs(windowed - whole).max() <= 1e-5


def test_every_evaluation_is_merged_not_only_the_last():
    """A network whose answer depends on its window: neighbours must still move together."""

    def shaped(*, x, t, latents, text, text_mask, spans):  # noqa: ARG001
        # The index within the window shows in the velocity: a field that does not merge.
        return x * np.linspace(0, 1, x.shape[1], dtype=np.float32)[None, :, None]

    plan = plan_windows(10, 6, 2)
    given_conditions = conditions(1)
    field = merged_velocity(shaped, plan, given_conditions, 1, lambda: None)
    velocity = field(np.ones((1, 10, 8), np.float32), 0.0)[0, :, 0]
    ramp = np.linspace(0, 1, 6)
    weights = np.sin((np.arange(2) + 0.5) * np.pi / 4) ** 2
    np.testing.assert_allclose(velocity[:4], ramp[:4], atol=1e-6)
    blended = ramp[4:] * weights[::-1] + ramp[:2] * weights
    np.testing.assert_allclose(velocity[4:6], blended, atol=1e-6)
    np.testing.assert_allclose(velocity[6:], ramp[2:], atol=1e-6)


@pytest.mark.parametrize("batch", [2, 3, 7, 100])
def test_batches_do_not_change_a_bit(batch):
    plan = plan_windows(FRAMES, 40, 10)
    alone = integrate(plan, conditions())
    np.testing.assert_array_equal(integrate(plan, conditions(), batch), alone)


def test_another_prompt_does_not_change_a_bit():
    plan = plan_windows(FRAMES, 40, 10)
    everything = conditions(4)
    for prompt in range(4):
        alone = Conditions(
            everything.latents,
            everything.views[prompt : prompt + 1],
            everything.texts[prompt : prompt + 1],
            everything.spans[[prompt]],
        )
        field = merged_velocity(pointwise, plan, alone, 8, lambda: None)
        together = merged_velocity(pointwise, plan, everything, 8, lambda: None)
        x = np.random.default_rng(1).normal(size=(4, FRAMES, 2 * CHANNELS)).astype(np.float32)
        np.testing.assert_array_equal(field(x[[prompt]], 0.3)[0], together(x, 0.3)[prompt])


def test_a_row_hears_its_own_view():
    given_conditions = conditions(2)
    x = np.random.default_rng(2).normal(size=(2, FRAMES, 2 * CHANNELS)).astype(np.float32)
    for row, view in enumerate(given_conditions.views):
        alone = Conditions(
            given_conditions.latents[[view]],
            (0,),
            given_conditions.texts[row : row + 1],
            given_conditions.spans[[row]],
        )
        plan = plan_windows(FRAMES, 40, 10)
        expected = merged_velocity(pointwise, plan, alone, 1, lambda: None)(x[[row]], 0.5)[0]
        together = merged_velocity(pointwise, plan, given_conditions, 1, lambda: None)(x, 0.5)
        np.testing.assert_array_equal(together[row], expected)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 8))
def test_batches_hold_every_window_once_and_never_pad_a_text(lengths, windows, batch):
    texts = [np.zeros((length, 2), np.float32) for length in lengths]
    batches = plan_batches(texts, windows, batch)
    items = [item for group in batches for item in group]
    expected = [(prompt, window) for prompt in range(len(texts)) for window in range(windows)]
    assert sorted(items) == expected
    for group in batches:
        assert len(group) <= batch
        assert len({lengths[prompt] for prompt, _ in group}) == 1
    for prompt in range(len(texts)):
        assert [w for p, w in items if p == prompt] == list(range(windows))
