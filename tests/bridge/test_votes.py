"""Places that vote: unsure masks are settled by what shares their place, sure ones are kept."""

import numpy as np
import pytest

from bridge.signal.spatial import PLACES, PlaceVotes

FRAMES, BINS, TOP = 40, 60, 50
BLOCK_S = 1.0


def spectra_of(owner, angles, seed=0):
    """Bins that each belong to one source (an index per bin), panned to that source's angle."""
    rng = np.random.default_rng(seed)
    wave = rng.normal(size=owner.shape) + 1j * rng.normal(size=owner.shape)
    angle = np.asarray(angles)[owner]
    return [(gain * wave).astype(np.complex64) for gain in (np.cos(angle), np.sin(angle))]


def owners(seed=1, sources=2):
    return np.random.default_rng(seed).integers(0, sources, (FRAMES, BINS))


def both(mask):
    mask = np.asarray(mask, np.float32)
    return [mask, 1 - mask]


def refined(masks, spectra, blocks=1):
    votes = PlaceVotes(len(masks), blocks, BLOCK_S, TOP)
    for block in range(blocks):
        votes.learn(block, masks, spectra)
    return votes.refine(0, masks, spectra)


def test_unsure_masks_become_sure_where_places_differ():
    owner = owners()
    noise = np.random.default_rng(2).uniform(-0.2, 0.2, owner.shape)
    unsure = np.where(owner == 0, 0.6, 0.4) + noise  # a fifth of them on the wrong side
    target, rest = refined(both(unsure), spectra_of(owner, [0.3, 1.2]))
    assert np.where(owner == 0, target, rest).mean() > 0.7
    assert (np.where(owner == 0, target, rest) > 0.5).mean() > 0.99
    np.testing.assert_allclose(target + rest, 1, atol=1e-5)


def test_at_one_place_masks_stay_what_they_are():
    owner = owners()
    masks = both(np.random.default_rng(3).uniform(0, 1, owner.shape))
    target, _ = refined(masks, spectra_of(owner, [0.8, 0.8]))
    np.testing.assert_allclose(target, masks[0], atol=1e-3)


def test_sources_that_the_network_tells_apart_at_one_place_stay_apart():
    """Two share the middle, where the masks are sure; the third is elsewhere."""
    owner = owners(sources=3)
    sure = np.where(owner == 0, 0.98, 0.02)
    target, _ = refined(both(sure), spectra_of(owner, [0.8, 0.8, 1.4]))
    assert target[owner == 0].min() > 0.9
    assert target[owner == 1].max() < 0.1


def test_three_sources_vote_together():
    owner = owners(sources=3)
    masks = [np.where(owner == k, 0.5, 0.25).astype(np.float32) for k in range(3)]
    found = refined(masks, spectra_of(owner, [0.2, 0.8, 1.4]))
    np.testing.assert_allclose(np.sum(found, axis=0), 1, atol=1e-5)
    for k, mask in enumerate(found):
        assert mask[owner == k].mean() > 0.7


def test_where_a_source_rests_votes_do_not_make_it_sound():
    owner = owners()
    mask = np.where(owner == 0, 0.9, 0.1)
    mask[FRAMES // 2 :] = 0  # silent by a span, though its place goes on
    target, rest = refined(both(mask), spectra_of(owner, [0.3, 1.2]))
    assert not target[FRAMES // 2 :].any()
    np.testing.assert_array_equal(rest[FRAMES // 2 :], 1)
    assert target[: FRAMES // 2][owner[: FRAMES // 2] == 0].mean() > 0.9


@pytest.mark.parametrize("level", [1e-5, 0.0])
def test_what_is_absent_stays_absent(level):
    owner = owners()
    noise = np.random.default_rng(4).uniform(0.5, 2, owner.shape)
    target, _ = refined(both(level * noise), spectra_of(owner, [0.3, 1.2]))
    assert target.max() <= 20 * level


def test_silence_is_nobodys():
    silence = [np.zeros((FRAMES, BINS), np.complex64)] * 2
    target, rest = refined(both(np.zeros((FRAMES, BINS))), silence)
    assert not target.any()
    np.testing.assert_array_equal(rest, 1)


def test_a_place_may_change_hands_in_time():
    """Far from each other in time two blocks vote for themselves; side by side they share votes."""
    owner = owners()
    spectra = spectra_of(owner, [0.3, 1.2])
    first, other = both(np.where(owner == 0, 0.7, 0.3)), both(np.where(owner == 0, 0.3, 0.7))
    far, near = (PlaceVotes(2, blocks, BLOCK_S, TOP) for blocks in (30, 2))
    for votes, last in ((far, 29), (near, 1)):
        votes.learn(0, first, spectra)
        votes.learn(last, other, spectra)
    gained = far.refine(0, first, spectra)[0] - near.refine(0, first, spectra)[0]
    assert gained[owner == 0].mean() > 0.1


def test_bins_above_the_band_follow_but_do_not_vote():
    owner = owners()
    mask = np.where(owner == 0, 0.7, 0.3)
    mask[:, TOP:] = 0.5  # what a model without these bins says of them
    spectra = spectra_of(owner, [0.3, 1.2])
    target, _ = refined(both(mask), spectra)
    high = owner[:, TOP:]
    assert target[:, TOP:][high == 0].mean() > target[:, TOP:][high == 1].mean() + 0.5
    changed = mask.copy()
    changed[:, TOP:] = 1 - owner[:, TOP:]
    again, _ = refined(both(changed), spectra)
    np.testing.assert_array_equal(again[:, :TOP], target[:, :TOP])


@pytest.mark.parametrize("angle", [0.0, np.pi / 2])
def test_the_ends_of_the_field_are_places(angle):
    owner = np.zeros((FRAMES, BINS), int)
    masks = both(np.full(owner.shape, 0.3))
    target, _ = refined(masks, spectra_of(owner, [angle]))
    np.testing.assert_allclose(target, 0.3, atol=1e-3)
    assert PLACES % 2 == 1  # the middle is a place, not between two


def test_a_source_that_no_place_votes_for_is_not_raised():
    """A little is claimed everywhere, somewhat more of it at one place: no sign of the source."""
    owner = owners()
    noise = np.random.default_rng(5).uniform(0.5, 1.5, owner.shape)
    mask = np.where(owner == 0, 0.04, 0.01) * noise
    target, _ = refined(both(mask), spectra_of(owner, [0.3, 1.2]))
    assert target.mean() <= mask.mean() * 1.2
