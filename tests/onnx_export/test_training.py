"""Training: mixtures, objective, a run that learns, stops, resumes and becomes a bundle."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from training_recipe import MODEL, RECIPE

from bridge.bundles import manifest as manifests
from onnx_export import rebuild_blueprint, verify_bundle
from onnx_export.lapped import LappedCodec
from onnx_export.mini import NEGATIVE, SPAN_SLACK_FRAMES, MiniModel
from onnx_export.training.config import TrainConfig
from onnx_export.training.curves import CURVES, draw_curves
from onnx_export.training.families import FAMILIES
from onnx_export.training.mixing import TEMPLATES, Mixer, span_ids, stretches
from onnx_export.training.objective import (
    draw_times,
    interpolate,
    objective,
    relative_error,
    si_sdr_db,
)
from onnx_export.training.optimisation import learning_rate
from onnx_export.training.release import load_run, release
from onnx_export.training.stem_pool import StemPool
from onnx_export.training.train import train
from onnx_export.training.vocabulary import tokenise, train_tokenizer


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Low tones for bass, high ones for the flute, noise bursts for drums."""
    root = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    time = np.arange(16000 * 2) / 16000
    for split in ("train", "valid"):
        for song in range(4):
            stems = {
                "bass": np.sin(2 * np.pi * rng.uniform(60, 200) * time),
                "flute": np.sin(2 * np.pi * rng.uniform(900, 2500) * time),
                "drums": rng.standard_normal(len(time)) * (time % 0.25 < 0.05),
            }
            for family, stem in stems.items():
                folder = root / split / family
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"s{song}__test.npy", (stem * 8000).astype(np.int16))
    return root


def test_batches_depend_on_the_seed_alone(pool: Path) -> None:
    mixer = Mixer(StemPool(pool, "train"), MODEL, RECIPE.data)
    first, again = (mixer.batch(np.random.default_rng(3), 6) for _ in range(2))
    other = mixer.batch(np.random.default_rng(4), 6)
    assert torch.equal(first.mixture, again.mixture)
    assert first.prompts == again.prompts
    assert not torch.equal(first.mixture, other.mixture)
    assert first.mixture.shape == (6, 62, 64)


def test_absent_targets_are_silent_and_not_in_the_mixture(pool: Path) -> None:
    data = msgspec.structs.replace(RECIPE.data, absent=1.0)
    batch = Mixer(StemPool(pool, "train"), MODEL, data).batch(np.random.default_rng(0), 8)
    assert batch.target.abs().max() == 0
    assert batch.mixture.abs().amax((1, 2)).min() > 0
    present = Mixer(StemPool(pool, "train"), MODEL, msgspec.structs.replace(data, absent=0.0))
    assert present.batch(np.random.default_rng(0), 8).target.abs().amax((1, 2)).min() > 0


def test_prompts_name_their_family(pool: Path) -> None:
    batch = Mixer(StemPool(pool, "train"), MODEL, RECIPE.data).batch(np.random.default_rng(1), 32)
    for prompt, family in zip(batch.prompts, batch.families, strict=True):
        assert any(phrase in prompt for phrase in FAMILIES[family].phrasings)
        assert not any(phrase == prompt for phrase in FAMILIES[family].held_out)


def test_no_words_around_a_phrasing_make_one_that_is_held_out() -> None:
    held_out = {phrase for family in FAMILIES.values() for phrase in family.held_out}
    for family in FAMILIES.values():
        said = {template.format(phrase) for phrase in family.phrasings for template in TEMPLATES}
        assert not held_out & (said | set(family.phrasings))


def test_stretches_close_gaps_and_drop_blips() -> None:
    active = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0], bool)
    assert stretches(active, 3).tolist() == [True] * 8 + [False] * 8


def test_spans_mark_where_the_target_sounds() -> None:
    energy = np.zeros(60, np.float32)
    energy[20:40] = 0.01
    only_negative = 0
    for seed in range(20):
        ids = span_ids(np.random.default_rng(seed), energy, 30.0)
        only_negative += not (ids == 1).any()
        # What no "+" span tells of is "-", unless "-" spans are all there is.
        assert (ids[24:36] == (1 if (ids == 1).any() else 0)).all()
        assert (ids[:16] == 2).all()
        assert (ids[44:] == 2).all()
    assert 0 < only_negative < 10
    assert not span_ids(np.random.default_rng(0), np.zeros(60, np.float32), 30.0).any()


def test_negative_spans_silence_the_target_but_for_their_ends() -> None:
    torch.manual_seed(0)
    model = MiniModel(MODEL).eval()
    channels = MODEL.latent_channels
    mixture, text = torch.randn(1, 40, channels), torch.randn(1, 3, MODEL.text.dim)
    spans = torch.ones(1, 40, dtype=torch.int64)
    spans[:, 10:30] = NEGATIVE
    inside = slice(10 + SPAN_SLACK_FRAMES, 30 - SPAN_SLACK_FRAMES)
    state, mask = torch.zeros(1, 40, 2 * channels), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        clean = model.velocity.clean(state, torch.zeros(1), mixture, text, mask, spans)
    target, residual = clean.chunk(2, dim=-1)
    assert target[:, inside].abs().max() == 0
    assert torch.equal(residual[:, inside], mixture[:, inside])
    outside = torch.ones(40, dtype=torch.bool)
    outside[inside] = False
    assert target[:, outside].abs().amax(-1).min() > 0


def test_spans_without_contrast_change_nothing() -> None:
    torch.manual_seed(0)
    model = MiniModel(MODEL).eval()
    torch.nn.init.normal_(model.velocity.transformer.output.weight)
    channels = MODEL.latent_channels
    mixture, text = torch.randn(1, 40, channels), torch.randn(1, 3, MODEL.text.dim)
    rest = (torch.zeros(1), mixture, text, torch.ones(1, 3, dtype=torch.bool))

    def answer(spans: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.velocity.clean(torch.zeros(1, 40, 2 * channels), *rest, spans)

    nothing = torch.zeros(1, 40, dtype=torch.int64)
    assert torch.equal(answer(torch.ones_like(nothing)), answer(nothing))
    some = torch.ones_like(nothing)
    some[:, 20:] = NEGATIVE
    assert not torch.allclose(answer(some)[:, :20], answer(nothing)[:, :20])


def test_quiet_mixtures_are_separated_like_loud_ones() -> None:
    torch.manual_seed(0)
    model = MiniModel(MODEL).eval()
    channels = MODEL.latent_channels
    mixture, text = torch.randn(1, 40, channels), torch.randn(1, 3, MODEL.text.dim)
    rest = (text, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 40, dtype=torch.int64))
    state = torch.zeros(1, 40, 2 * channels)
    with torch.no_grad():
        loud, quiet = (
            model.velocity.clean(state, torch.zeros(1), gain * mixture, *rest)
            for gain in (1.0, 0.01)
        )
    assert torch.allclose(quiet, 0.01 * loud, atol=1e-6)


def test_the_relative_error_is_the_improvement() -> None:
    generator = torch.Generator().manual_seed(0)
    target, rest = torch.randn(2, 3, 10, 8, generator=generator)
    mixture = target + rest
    unsplit = relative_error(torch.cat([mixture, 0 * rest], -1), target, mixture, torch.ones(8))
    assert torch.allclose(unsplit, rest.pow(2).sum((1, 2)) / torch.minimum(
        target.pow(2).sum((1, 2)), rest.pow(2).sum((1, 2))), rtol=1e-4)  # fmt: skip
    perfect = relative_error(torch.cat([target, rest], -1), target, mixture, torch.ones(8))
    assert perfect.max() < 1e-6
    assert objective(perfect, 0.03) < objective(unsplit, 0.03)


def test_flow_path_and_times() -> None:
    generator = torch.Generator().manual_seed(0)
    t = draw_times(4000, 0.5, generator)
    assert 0.47 < (t == 0).float().mean() < 0.53
    assert t.max() <= 1
    clean, noise = torch.randn(2, 3, 4, 2, generator=generator)
    ends = torch.tensor([0.0, 1.0, 0.5])
    x = interpolate(clean, noise, ends)
    assert torch.equal(x[0], noise[0])
    assert torch.equal(x[1], clean[1])
    assert torch.allclose(x[2], (clean[2] + noise[2]) / 2)


def test_si_sdr_of_a_known_ratio() -> None:
    reference = torch.zeros(1, 4, 2)
    reference[0, :2] = 1.0
    noise = torch.zeros(1, 4, 2)
    noise[0, 2:] = 0.1
    assert si_sdr_db(3 * (reference + noise), reference).item() == pytest.approx(20.0, abs=1e-3)


def test_tokens_are_padded_to_one_length() -> None:
    tokenizer = train_tokenizer(["drum kit", "bass guitar", "a person speaking"], 200)
    ids, mask = tokenise(tokenizer, ["Drum Kit", "zither & Bass"], 12)
    assert ids.shape == mask.shape == (2, 12)
    assert mask.sum(1).tolist()[0] == 3  # two words and the end
    assert tokenise(tokenizer, ["drum kit"], 12)[0].equal(ids[:1])


def test_the_rate_warms_up_holds_and_falls() -> None:
    recipe = msgspec.structs.replace(RECIPE, train=TrainConfig(steps=1000, warmup=100, decay=0.2))
    rates = [learning_rate(step, recipe) / recipe.train.rate for step in (0, 49, 500, 900, 1000)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.5, 0.0])


def test_a_pool_without_stems_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two families"):
        StemPool(tmp_path, "train")


@pytest.fixture(scope="module")
def run(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(RECIPE, pool, out)
    return out


def test_a_run_learns(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scores = [line["median_db"] for line in lines if "median_db" in line]
    assert len(scores) == 2
    assert scores[-1] > 3.0  # tones and bursts in separate bands


def test_a_run_draws_its_curves(run: Path, tmp_path: Path) -> None:
    assert (run / CURVES).read_bytes().startswith(b"\x89PNG")
    whole = (run / "log.jsonl").read_text()
    log = tmp_path / "log.jsonl"
    log.write_text(whole)
    once = draw_curves(log)
    # A resumed run repeats steps, a stopped one leaves half a line.
    log.write_text(whole.replace('"loss": ', '"loss": 9') + whole + '{"step": 4')
    assert draw_curves(log) == once
    log.write_text(whole.replace('"loss": ', '"loss": 9'))
    assert draw_curves(log) != once


def test_a_stopped_run_goes_on_as_if_it_had_not(pool: Path, tmp_path: Path) -> None:
    # The rate depends on the number of steps, so it is held until the stop.
    settings = msgspec.structs.replace(RECIPE.train, decay=0.0, steps=20, validate_every=20)
    whole = msgspec.structs.replace(RECIPE, train=settings)
    half = msgspec.structs.replace(whole, train=msgspec.structs.replace(settings, steps=10))
    train(whole, pool, tmp_path / "whole")
    train(half, pool, tmp_path / "halves")
    train(whole, pool, tmp_path / "halves")
    first, second = (load_run(tmp_path / name) for name in ("whole", "halves"))
    assert first[2] == second[2] == 20
    for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(first[0].codec, LappedCodec)


def test_a_run_becomes_a_verified_bundle(run: Path, tmp_path: Path) -> None:
    bundle = release(run, tmp_path / "tiny", progress=lambda _line: None)
    differences = verify_bundle(bundle, rebuild_blueprint(bundle))
    assert {d.role for d in differences} == {
        "text_encoder", "codec_encoder", "codec_decoder", "velocity",
    }  # fmt: skip
    assert all(difference.passed for difference in differences), differences
    assert "seed 1" in manifests.load(bundle).provenance


def test_a_run_may_begin_with_the_weights_of_a_bundle(
    run: Path, pool: Path, tmp_path: Path
) -> None:
    bundle = release(run, tmp_path / "tiny", progress=lambda _line: None)
    untouched = msgspec.structs.replace(RECIPE.train, steps=0)
    train(msgspec.structs.replace(RECIPE, train=untouched), pool, tmp_path / "more", bundle)
    taught, recipe, step = load_run(tmp_path / "more")
    assert step == 0
    again = release(tmp_path / "more", tmp_path / "again", progress=lambda _line: None)
    assert manifests.load(again).provenance.startswith(
        "trained on by onnx_export.training, 0 steps"
    )
    assert manifests.load(bundle).provenance in manifests.load(again).provenance
    for before, after in zip(load_run(run)[0].parameters(), taught.parameters(), strict=True):
        assert torch.allclose(before, after, rtol=1e-3, atol=1e-6)  # a bundle's are rounded
    other = msgspec.structs.replace(recipe, model=replace(recipe.model, dim=32))
    with pytest.raises(ValueError, match="dim=32"):
        train(other, pool, tmp_path / "other", bundle)


def test_a_run_may_teach_a_mono_bundle_to_hear_the_channel_beside(
    run: Path, pool: Path, tmp_path: Path
) -> None:
    bundle = release(run, tmp_path / "tiny", progress=lambda _line: None)
    recipe = msgspec.structs.replace(
        RECIPE,
        model=replace(RECIPE.model, stereo=True),
        data=msgspec.structs.replace(RECIPE.data, panned=0.8, spread=0.5),
        train=msgspec.structs.replace(RECIPE.train, steps=2),
    )
    train(recipe, pool, tmp_path / "more", bundle)
    taught, _, step = load_run(tmp_path / "more")
    assert step == 2
    new = taught.velocity.proj.weight[:, 4 * MODEL.latent_channels :]
    assert new.abs().max() > 0  # it has begun to listen
    stereo = release(tmp_path / "more", tmp_path / "stereo", progress=lambda _line: None)
    assert manifests.load(stereo).hears_beside
    assert not manifests.load(bundle).hears_beside


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"recipe\.json"):
        load_run(tmp_path)
