"""Training: mixtures, objective, a run that learns, stops, resumes and becomes a bundle."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bridge.bundles.bundle import load_manifest
from onnx_export import rebuild_blueprint, verify_bundle
from onnx_export.networks.lapped import LappedCodec
from onnx_export.networks.mini import NEGATIVE, SPAN_SLACK_FRAMES, MiniModel
from onnx_export.training import trainer
from onnx_export.training.mixing import TEMPLATES, Mixer, span_ids, stretches
from onnx_export.training.objective import (
    draw_times,
    interpolate,
    learning_rate,
    likeness_loss,
    make_optimisers,
    objective,
    relative_error,
    si_sdr_db,
)
from onnx_export.training.release import load_run, release
from onnx_export.training.run import (
    CURVES,
    TrainConfig,
    carry_over,
    draw_curves,
    tokenise,
    train_tokenizer,
)
from onnx_export.training.sound.families import FAMILIES
from onnx_export.training.stem_pool import StemPool
from onnx_export.training.trainer import train
from tests.support.training_recipe import MODEL, RECIPE


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


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kick, snare and bass of one song."""
    root = tmp_path_factory.mktemp("kit")
    rng = np.random.default_rng(0)
    for family in ("kick-drum", "snare-drum", "bass"):
        folder = root / "train" / family
        folder.mkdir(parents=True)
        noise = rng.standard_normal(16000 * 2) * 8000
        np.save(folder / "s0__test.npy", noise.clip(-32000, 32000).astype(np.int16))
    return root


def test_a_wider_family_is_all_that_is_a_kind_of_it(kit: Path) -> None:
    data = msgspec.structs.replace(
        RECIPE.data, min_sources=3, max_sources=3, same_song=1.0, absent=0.0, hiss=1.0,
        ride=1.0, band_limit=1.0, plain_names=1.0,
    )  # fmt: skip
    mixer = Mixer(StemPool(kit, "train"), MODEL, data)
    targets: dict[str, set[int]] = {}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        stems, whole, noise = mixer._mixture(rng)
        assert noise.abs().max() > 0
        assert whole.shape[:2] == (3, 2)
        for index in range(3):
            family, members = mixer._asked(rng, stems, index)
            targets.setdefault(family, set()).add(len(members))
    assert targets == {"drums": {2}, "kick-drum": {1}, "snare-drum": {1}, "bass": {1}}
    batch = mixer.batch(np.random.default_rng(0), 8)
    assert set(batch.prompts) <= {"drums", "kick", "snare", "bass"}


def test_a_guitar_that_is_driven_is_another_sound(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 330 * np.arange(64000) / 16000) * 8000
    for family in ("acoustic-guitar", "flute"):
        folder = tmp_path / "train" / family
        folder.mkdir(parents=True)
        np.save(folder / "s0__test.npy", tone.astype(np.int16))
    data = msgspec.structs.replace(
        RECIPE.data, min_sources=2, max_sources=2, same_song=1.0, absent=0.0, equaliser=0.0,
        varispeed=0.0, hiss=0.0, driven=1.0, panned=1.0,
    )  # fmt: skip
    mixer = Mixer(StemPool(tmp_path, "train"), MODEL, data)
    own = np.abs(mixer.hertz - 330) < 100
    for seed in range(6):
        stems, whole, _ = mixer._mixture(np.random.default_rng(seed))
        assert {name for name, _ in stems} == {"distorted-guitar", "flute"}
        for (name, _), latents in zip(stems, whole, strict=True):
            energy = latents.pow(2).sum((0, 1)).numpy()
            overtones = 1 - energy[own].sum() / energy.sum()
            assert (overtones > 0.03) == (name == "distorted-guitar")


def test_a_voice_in_a_studio_gets_a_room_in_both_channels(tmp_path: Path) -> None:
    click = np.zeros(64000, np.int16)
    click[::3000] = 20000
    for family in ("speech", "flute"):
        folder = tmp_path / "train" / family
        folder.mkdir(parents=True)
        np.save(folder / "s0__test.npy", click)
    data = msgspec.structs.replace(
        RECIPE.data, min_sources=2, max_sources=2, same_song=1.0, absent=0.0, equaliser=0.0,
        varispeed=0.0, hiss=0.0, studio=1.0, panned=1.0, spread=0.0,
    )  # fmt: skip
    mixer = Mixer(StemPool(tmp_path, "train"), MODEL, data)
    alike: dict[str, list[float]] = {"speech": [], "flute": []}
    for seed in range(8):
        stems, whole, _ = mixer._mixture(np.random.default_rng(seed))
        for (name, _), (own, beside) in zip(stems, whole, strict=True):
            alike[name].append(float((own * beside).sum().abs() / (own.norm() * beside.norm())))
    assert min(alike["flute"]) > 0.999  # panned, and the same in both
    assert min(alike["speech"]) < 0.99 < max(alike["speech"])  # most of them in a room


def test_a_narrow_family_is_not_asked_for_beside_one_that_may_hold_it(tmp_path: Path) -> None:
    for family in ("kick-drum", "drums", "bass"):
        folder = tmp_path / "train" / family
        folder.mkdir(parents=True)
        np.save(folder / "s0__test.npy", (np.random.default_rng(1).standard_normal(32000) * 8000)
                .clip(-32000, 32000).astype(np.int16))  # fmt: skip
    data = msgspec.structs.replace(
        RECIPE.data, min_sources=3, max_sources=3, same_song=1.0, absent=0.0
    )
    mixer = Mixer(StemPool(tmp_path, "train"), MODEL, data)
    batch = mixer.batch(np.random.default_rng(0), 16)
    assert set(batch.families) == {"drums", "bass"}
    absent = Mixer(mixer.pool, MODEL, msgspec.structs.replace(data, absent=1.0))
    # All that the pool has may be sounding, so nothing is surely absent.
    assert set(absent.batch(np.random.default_rng(0), 16).families) == {"drums", "bass"}


def test_stems_are_played_at_the_rate_of_the_model(pool: Path) -> None:
    fast = replace(MODEL, sample_rate=32000)
    ends = []
    for model in (MODEL, fast):
        stems = StemPool(pool, "train")
        mixer = Mixer(stems, model, msgspec.structs.replace(RECIPE.data, varispeed=0.0))
        wav = mixer._crop(np.random.default_rng(0), [stems.any_stem(np.random.default_rng(0),
                          "flute")], together=True)[0]  # fmt: skip
        spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav))))
        ends.append(spectrum.argmax() * model.sample_rate / len(wav))
    assert ends[0] == pytest.approx(ends[1], rel=0.02)


def test_a_new_tokenizer_begins_with_what_the_old_one_knew() -> None:
    old = train_tokenizer(["drums", "bass drum", "the bass"], 200)
    new = train_tokenizer(["drums", "bass drum", "the bass", "helicopter", "a bass"], 400)
    known = torch.randn(old.get_vocab_size(), 8)
    carried = carry_over(known, old, new, 500)
    assert carried.shape == (500, 8)
    assert not carried[new.get_vocab_size() :].any()
    for word in ("drums", "bass"):
        ids, theirs = new.encode(word).ids, old.encode(word).ids
        torch.testing.assert_close(carried[ids], known[theirs])
    assert carried[new.encode("helicopter").ids].abs().sum(-1).min() > 0


@pytest.mark.parametrize(
    ("bfloat16_s", "expected"),
    [(0.1, torch.bfloat16), (0.99, torch.float32), (108.0, torch.float32)],
)
def test_the_quicker_precision_is_chosen(
    monkeypatch: pytest.MonkeyPatch, bfloat16_s: float, expected: torch.dtype
) -> None:
    taken = {torch.float32: 1.0, torch.bfloat16: bfloat16_s}
    monkeypatch.setattr(trainer, "_seconds", lambda _device, dtype: taken[dtype])
    assert trainer.quickest_precision(torch.device("cpu")) == expected


@pytest.mark.slow
def test_products_are_timed_in_both_precisions() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert 0 < trainer._seconds(torch.device("cpu"), dtype) < 60


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


def test_likeness_counts_the_source_and_not_its_level() -> None:
    generator = torch.Generator().manual_seed(0)
    target, rest = torch.randn(2, 3, 10, 8, generator=generator)
    weight = torch.ones(8)
    mixture = likeness_loss(target + rest, target, weight)
    # What SI-SDR says of the mixture, for noise and signal at one level.
    expected = -si_sdr_db(target + rest, target).mean() * np.log(10) / 10
    assert torch.allclose(mixture, expected, atol=0.15)
    assert torch.allclose(likeness_loss(0.01 * (target + rest), target, weight), mixture, atol=1e-3)
    right, wrong = (likeness_loss(0.01 * x, target, weight) for x in (target, rest))
    assert right < mixture < wrong
    # An absent target has no likeness, and is left to the error.
    absent = torch.cat([target[:2], torch.zeros(1, 10, 8)])
    two = likeness_loss(target[:2] + rest[:2], target[:2], weight)
    assert torch.allclose(likeness_loss(target + rest, absent, weight), two)


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


@pytest.fixture(scope="module")
def released(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(run, tmp_path_factory.mktemp("bundle") / "tiny", progress=lambda _line: None)


@pytest.mark.slow
def test_a_run_learns(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scores = [line["median_db"] for line in lines if "median_db" in line]
    assert len(scores) == 2
    assert scores[-1] > 3.0  # tones and bursts in separate bands


@pytest.mark.slow
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


def test_what_a_bundle_brought_learns_at_a_share_of_the_rate() -> None:
    model = MiniModel(replace(MODEL, refine_width=4))
    for optimiser in make_optimisers(model, msgspec.structs.replace(RECIPE.train, carried=0.2)):
        shares = {id(p): group["share"] for group in optimiser.param_groups
                  for p in group["params"]}  # fmt: skip
    for name, parameter in model.named_parameters():
        assert shares.pop(id(parameter)) == (1.0 if name.startswith("velocity.refine.") else 0.2)
    assert not shares


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_becomes_a_verified_bundle(released: Path) -> None:
    differences = verify_bundle(released, rebuild_blueprint(released))
    assert {d.role for d in differences} == {
        "text_encoder", "codec_encoder", "codec_decoder", "velocity",
    }  # fmt: skip
    assert all(difference.passed for difference in differences), differences
    assert "seed 1" in load_manifest(released).provenance


@pytest.mark.slow
def test_a_run_may_begin_with_the_weights_of_a_bundle(
    run: Path, released: Path, pool: Path, tmp_path: Path
) -> None:
    untouched = msgspec.structs.replace(RECIPE.train, steps=0)
    train(msgspec.structs.replace(RECIPE, train=untouched), pool, tmp_path / "more", released)
    taught, recipe, step = load_run(tmp_path / "more")
    assert step == 0
    again = release(tmp_path / "more", tmp_path / "again", progress=lambda _line: None)
    assert load_manifest(again).provenance.startswith("trained on by onnx_export.training, 0 steps")
    assert load_manifest(released).provenance in load_manifest(again).provenance
    for before, after in zip(load_run(run)[0].parameters(), taught.parameters(), strict=True):
        assert torch.allclose(before, after, rtol=1e-3, atol=1e-6)  # a bundle's are rounded
    other = msgspec.structs.replace(recipe, model=replace(recipe.model, dim=32))
    with pytest.raises(ValueError, match="dim=32"):
        train(other, pool, tmp_path / "other", released)


@pytest.mark.slow
def test_a_run_may_teach_a_mono_bundle_to_hear_the_channel_beside(
    released: Path, pool: Path, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(
        RECIPE,
        model=replace(RECIPE.model, stereo=True),
        data=msgspec.structs.replace(RECIPE.data, panned=0.8, spread=0.5),
        train=msgspec.structs.replace(RECIPE.train, steps=2),
    )
    train(recipe, pool, tmp_path / "more", released)
    taught, _, step = load_run(tmp_path / "more")
    assert step == 2
    new = taught.velocity.proj.weight[:, 4 * MODEL.latent_channels :]
    assert new.abs().max() > 0  # it has begun to listen
    stereo = release(tmp_path / "more", tmp_path / "stereo", progress=lambda _line: None)
    assert load_manifest(stereo).hears_beside
    assert not load_manifest(released).hears_beside


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"recipe\.json"):
        load_run(tmp_path)
