import math

import numpy as np
import pytest

from plugin_host.scores import si_sdr_db, si_sdr_improvement_db


def signals(seed=0):
    rng = np.random.default_rng(seed)
    s = rng.standard_normal(50000)
    n = rng.standard_normal(50000)
    n -= n.mean()
    s -= s.mean()
    n -= s * (n @ s) / (s @ s)
    return s, n


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0])
@pytest.mark.parametrize("scale", [0.01, -3.0])
def test_orthogonal_noise_gives_its_ratio_at_any_scale(snr_db, scale):
    s, n = signals()
    n *= np.linalg.norm(s) / np.linalg.norm(n) / 10 ** (snr_db / 20)
    assert si_sdr_db(scale * (s + n), s) == pytest.approx(snr_db, abs=1e-6)


def test_an_offset_does_not_count():
    s, n = signals()
    assert si_sdr_db(s + n + 5.0, s) == pytest.approx(si_sdr_db(s + n, s))


def test_a_wrong_stereo_image_costs():
    s, n = signals()
    reference = np.stack([s, 0.2 * s])
    swapped = np.stack([0.2 * s, s]) + 0.01 * np.stack([n, n])
    assert si_sdr_db(swapped, reference) < 0 < si_sdr_db(reference + 0.01 * n, reference)


def test_the_ends():
    s, n = signals()
    assert si_sdr_db(np.zeros_like(s), s) == -math.inf
    assert si_sdr_db(s, s) > 200
    with pytest.raises(ValueError, match="silent"):
        si_sdr_db(s, np.zeros_like(s))
    with pytest.raises(ValueError, match="one shape"):
        si_sdr_db(s, s[:-1])
    assert si_sdr_improvement_db(s + n, s, s + 10 * n) == pytest.approx(20, abs=1e-6)
