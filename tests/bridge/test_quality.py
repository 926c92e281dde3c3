"""What ``quality`` stands for: the bundle's word, and never beside what it chooses."""

import hashlib

import msgspec
import pytest

from bridge.bundles.bundle import find_bundle, load_manifest, write_manifest
from bridge.bundles.manifest import SAM_AUDIO_QUALITY, Level, resolve
from bridge.engine import Engine
from bridge.errors import InputError, ModelError
from bridge.flow.diffusion import count_evaluations
from bridge.request import Settings, make_settings
from tests.support.host_audio import music
from tests.support.tiny_bundle import build

RATE = 16_000
NEW = ("qualities", "grid", "tuned", "after", "attention")
LEVELS = {
    "draft": Level(solver="ab2", steps=3, grid="sway", reconstruct="mask", mask_exponent=2.0),
    "best": Level(solver="midpoint", steps=5, candidates=2),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = build(tmp_path_factory.mktemp("quality") / "tiny")
    described = msgspec.structs.replace(load_manifest(directory), qualities=LEVELS)
    write_manifest(described, directory)
    return directory


@pytest.mark.parametrize(("name", "value"), [("steps", 3), ("solver", "euler"), ("grid", "sway")])
def test_beside_what_it_chooses_it_is_refused_with_what_would_win(name, value):
    expected = f"quality is 'draft', but {name} is {value} as well, and would win; leave out one"
    with pytest.raises(InputError, match=expected):
        make_settings(quality="draft", **{name: value})


def test_what_is_asked_for_now_takes_the_place_of_what_a_preset_says():
    assert make_settings(Settings(quality="best"), steps=3) == Settings(steps=3)
    pinned = Settings(seed=4, solver="ab2", steps=3, grid="sway")
    assert make_settings(pinned, quality="best") == Settings(seed=4, quality="best")
    assert make_settings(Settings(quality="best"), seed=2) == Settings(seed=2, quality="best")


def test_a_bundle_says_what_it_means(tiny):
    manifest = load_manifest(tiny)
    draft = resolve(Settings(quality="draft"), manifest)
    assert (draft.solver, draft.steps, draft.grid, draft.candidates) == ("ab2", 3, "sway", 1)
    best = resolve(Settings(quality="best"), manifest)
    assert (best.solver, best.steps, best.grid, best.candidates) == ("midpoint", 5, "uniform", 2)
    assert resolve(Settings(quality="best", candidates=3), manifest).candidates == 3
    assert (draft.reconstruct, draft.mask_exponent) == ("mask", 2.0)
    assert best.mask_exponent == manifest.reconstruction.exponent != 2.0
    assert resolve(Settings(quality="draft", mask_exponent=1.5), manifest).mask_exponent == 1.5
    # A quality of which it says nothing, and none at all, are its defaults.
    assert resolve(Settings(quality="good"), manifest) == resolve(Settings(), manifest)


def test_the_report_tells_the_numbers_and_they_make_the_same_stems(tiny):
    audio = music(1, RATE)
    with Engine(tiny) as engine:
        drafted = engine.separate(audio, RATE, ["half"], quality="draft")
        assert (drafted.report.nfe, drafted.report.quality) == (3, None)
        again = engine.separate(audio, RATE, ["half"], drafted.report.settings)
        softer = engine.separate(audio, RATE, ["half"], drafted.report.settings, mask_exponent=1)
    assert (again.stems["half"] == drafted.stems["half"]).all()
    assert (softer.stems["half"] != drafted.stems["half"]).any()


def test_sam_audio_exported_before_there_were_qualities_has_them(tiny):
    manifest = msgspec.structs.replace(
        load_manifest(tiny), qualities={}, solver="midpoint", steps=16
    )
    for quality, level in SAM_AUDIO_QUALITY.items():
        resolved = resolve(Settings(quality=quality), manifest)
        assert (resolved.solver, resolved.steps, resolved.grid) == (
            level.solver,
            level.steps,
            level.grid,
        )
    spent = {name: count_evaluations(q.solver, q.steps) for name, q in SAM_AUDIO_QUALITY.items()}
    assert spent["draft"] <= 4
    assert spent["good"] <= 12
    assert spent["best"] == 32


def test_every_quality_of_the_bundled_model_is_one_step():
    manifest = load_manifest(find_bundle("mini"))
    for quality in ("draft", "good", "best"):
        assert resolve(Settings(quality=quality), manifest).steps == 1


def test_a_level_out_of_range_is_refused(tiny):
    manifest = load_manifest(tiny)
    for level, field in ((Level(steps=0), "steps"), (Level(mask_exponent=0), "mask_exponent")):
        wrong = msgspec.structs.replace(manifest, qualities={"good": level})
        with pytest.raises(ModelError, match=rf"\$\.qualities\.good\.{field} is"):
            write_manifest(wrong, tiny)


def test_a_bundle_without_them_keeps_its_checksum(tiny):
    """Presets and caches name bundles by it: a field that says nothing must not change it."""
    plain = msgspec.structs.replace(load_manifest(tiny), qualities={})
    numbers = msgspec.to_builtins(
        msgspec.structs.replace(plain, name="", licence="", provenance="")
    )
    numbers = {k: v for k, v in numbers.items() if k not in NEW} | {"sounds": []}
    text = msgspec.json.encode(numbers, order="deterministic")
    assert plain.sha256 == hashlib.sha256(text).hexdigest()
    assert plain.sha256 != load_manifest(tiny).sha256
