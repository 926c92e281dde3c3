"""A solver fitted to flows: better where it was not fitted, and stored as what it is."""

import msgspec
import numpy as np
import pytest

from bridge.bundles.bundle import load_manifest, write_manifest
from bridge.bundles.manifest import Tuned, resolve
from bridge.engine import Engine
from bridge.errors import InputError, ModelError
from bridge.flow.diffusion import Scheme, make_scheme, solve
from bridge.inference.tuning import Flows, errors, tune
from bridge.request import Settings
from plugin_host.cli import main
from tests.support.host_audio import music
from tests.support.tiny_bundle import build

RATE = 16_000
STORED = Tuned((0.0, 0.25), ((0.25,), (0.9, -0.15)), 0.01, 0.02)


def bending(seed, rows=30):
    """Flows from noise to a mixture of two ends, which bend late in different directions."""
    rng = np.random.default_rng(seed)
    ends = rng.normal(size=(2, rows, 6, 4)).astype(np.float32)

    def field(x, t):
        pull = 1 / (1 + np.exp(-4 * (x * ends[0]).mean(axis=(1, 2), keepdims=True)))
        clean = pull * ends[0] + (1 - pull) * ends[1] * np.float32(np.cos(3 * t))
        return ((clean - x) / np.float32(1.1 - t)).astype(np.float32)

    return Flows(field, rng.normal(size=(rows, 6, 4)).astype(np.float32))


@pytest.mark.parametrize("evaluations", [3, 6])
def test_it_is_better_on_flows_that_were_not_fitted(evaluations):
    flows = bending(0)
    tuned = tune(flows, evaluations)
    assert len(tuned.times) == len(tuned.weights) == evaluations
    assert tuned.error < 0.7 * tuned.error_before
    # The same on others of the kind, by the table alone.
    others = bending(1)
    wanted = solve(others.field, others.noise, make_scheme("midpoint", 128))
    scheme = Scheme(tuned.times, tuned.weights)
    found = np.median(errors(solve(others.field, others.noise, scheme), wanted))
    plain = [
        np.median(errors(solve(others.field, others.noise, start), wanted))
        for grid in ("uniform", "sway", "pruned", "cosine")
        for solver in ("unipc", "cubic")
        for start in [make_scheme(solver, evaluations, grid)]
    ]
    assert found < min(plain)


@pytest.fixture
def tiny(tmp_path):
    directory = build(tmp_path / "tiny")
    write_manifest(msgspec.structs.replace(load_manifest(directory), tuned=STORED), directory)
    return directory


def test_a_bundle_brings_its_solver(tiny):
    resolved = resolve(Settings(solver="tuned"), load_manifest(tiny))
    assert (resolved.solver, resolved.steps) == ("tuned", 2)
    with Engine(tiny) as engine:
        report = engine.separate(music(1, RATE), RATE, ["half"], solver="tuned").report
    assert (report.solver, report.steps, report.nfe) == ("tuned", 2, 2)


def test_it_says_how_many_steps_it_makes(tiny, tmp_path):
    with pytest.raises(InputError, match=r"steps is 3, but the tuned solver .* makes 2"):
        resolve(Settings(solver="tuned", steps=3), load_manifest(tiny))
    plain = load_manifest(build(tmp_path / "plain"))
    with pytest.raises(InputError, match="no tuned solver; make one with"):
        resolve(Settings(solver="tuned"), plain)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"times": (0.0,)}, "1 times and 2 rows"),
        ({"times": (0.25, 0.0)}, "go forward"),
        ({"weights": ((0.5, 0.5), (1.0,))}, "not evaluated yet"),
        ({"weights": ((0.5,), (float("nan"),))}, "beyond -100 to 100"),
    ],
)
def test_a_solver_that_is_none_is_refused(tiny, change, fault):
    tuned = msgspec.structs.replace(STORED, **change)
    with pytest.raises(ModelError, match=fault):
        write_manifest(msgspec.structs.replace(load_manifest(tiny), tuned=tuned), tiny)


def test_the_command_stores_what_gains_and_nothing_else(tiny, capsys):
    """The model of formulas flows in straight lines, which every solver follows exactly."""
    before = (tiny / "manifest.json").read_bytes()
    code = main(["models", "tune", str(tiny), "--evaluations", "3", "-p", "half", "--windows", "3"])
    assert code != 0
    assert "nothing was stored" in " ".join(capsys.readouterr().err.split())
    assert (tiny / "manifest.json").read_bytes() == before
