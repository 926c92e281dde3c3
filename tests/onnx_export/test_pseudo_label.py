"""Stems that a teacher makes of recordings: what is kept, what is refused and why, and training."""

import json

import msgspec
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from bridge import Engine
from bridge.errors import InputError
from onnx_export.training.__main__ import app
from onnx_export.training.mixing import Mixer
from onnx_export.training.pseudo_label import LABELS_FILE, Limits, pseudo_label, tally
from onnx_export.training.stem_pool import POOL_RATE, StemPool, open_pool, write_stem
from onnx_export.training.trainer import TOKENIZER, train
from tests.support import tiny_bundle
from tests.support.training_recipe import RECIPE

RATE = tiny_bundle.SAMPLE_RATE
PROMPTS = {"All of it": ("everything", "the lot"), "bass": ("half",), "drums": ("nothing",)}


@pytest.fixture
def recordings(tmp_path):
    """A recording of 5 s in stereo, whose last 3 s are hardly heard, and one of 3 s."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "found"
    (folder / "sub").mkdir(parents=True)
    long = 0.2 * rng.standard_normal((5 * RATE, 2))
    long[2 * RATE :] *= 0.01
    soundfile.write(folder / "sub" / "First Take.wav", long, RATE, subtype="FLOAT")
    soundfile.write(folder / "second.flac", 0.1 * rng.standard_normal(3 * RATE), RATE)
    (folder / "notes.txt").write_text("no audio")
    return folder


def teacher(tmp_path, **options):
    path = tiny_bundle.build(tmp_path / "teacher", tiny_bundle.Tiny(input_rms_db=None, **options))
    return Engine(path, threads=1)


def label(recordings, tmp_path, limits=None, **options):
    with teacher(tmp_path, **options) as engine:
        labels = pseudo_label(
            recordings, tmp_path / "pool", PROMPTS, engine, limits or Limits(1.5), piece_s=2.0
        )
    return {(one.recording, one.start_s, one.family): one for one in labels}


def test_a_stem_is_kept_if_it_sounds_and_the_rest_holds_no_more_of_it(recordings, tmp_path):
    found = label(recordings, tmp_path)
    take = "sub/First Take.wav"
    assert len(found) == 3 * (3 + 2)
    kept = found[take, 0.0, "all-of-it"]
    assert (kept.reason, kept.seconds, kept.prompt) == ("", 2.0, "everything")
    assert kept.active_s == pytest.approx(2.0)
    # Half of it is found in the first pass, and half of what is left in the second.
    half = found[take, 0.0, "bass"]
    assert half.left_db == pytest.approx(-6.0, abs=0.2)
    assert half.reason.startswith("left behind: -6.0 dB, expected -12 dB")
    for late, reason in (
        (found[take, 2.0, "all-of-it"], "sounds too shortly"),
        (found["second.flac", 2.0, "all-of-it"], "sounds too shortly: 1.00 s, expected 1.5 s"),
        (found[take, 0.0, "drums"], "sounds too shortly: 0.00 s"),
    ):
        assert late.path is None
        assert late.reason.startswith(reason)
    audio = np.load(tmp_path / "pool" / kept.path)
    assert len(audio) == 2 * POOL_RATE
    original, _ = soundfile.read(recordings / take)
    expected = original[: 2 * RATE].mean(axis=1)
    heard = np.interp(np.arange(2 * RATE) / RATE, np.arange(len(audio)) / POOL_RATE, audio)
    assert np.corrcoef(heard, expected)[0, 1] > 0.8
    counts = tally(list(found.values()))
    assert counts["bass"] == {"left behind": 2, "sounds too shortly": 3}
    assert counts["all-of-it"][""] == 2


def test_each_label_says_where_it_comes_from_and_is_made_once(recordings, tmp_path):
    found = label(recordings, tmp_path)
    lines = (tmp_path / "pool" / LABELS_FILE).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(found)
    assert {row["teacher"] for row in rows} == {"teacher"}
    assert {len(row["sha256"]) for row in rows} == {64}
    assert {row["licence"] for row in rows} == {"GPL-3.0-or-later"}
    with teacher(tmp_path / "again") as engine:
        again = pseudo_label(recordings, tmp_path / "pool", PROMPTS, engine, piece_s=2.0)
        assert len(again) == len(found)
        assert len((tmp_path / "pool" / LABELS_FILE).read_text().splitlines()) == len(rows)
        with pytest.raises(InputError, match="found 0 files"):
            pseudo_label(tmp_path / "pool", tmp_path / "other", PROMPTS, engine)
        (tmp_path / "pool" / LABELS_FILE).write_text("{}")
        with pytest.raises(InputError, match="not the labels of a pool"):
            pseudo_label(recordings, tmp_path / "pool", PROMPTS, engine)


@pytest.mark.parametrize(
    ("part", "limits", "reason"),
    [
        ("judge", Limits(1.5, judge=0.5), "judged badly: "),
        ("clap", Limits(1.5, similarity=0.99), "unlike its prompt: 0.8"),
    ],
)
def test_judge_and_clap_refuse_where_the_teacher_has_them(
    recordings, tmp_path, part, limits, reason
):
    found = label(recordings, tmp_path, limits, **{part: True})
    first = found["sub/First Take.wav", 0.0, "all-of-it"]
    assert first.reason.startswith(reason)
    assert (first.judge is None) == (part == "clap")
    assert (first.similarity is None) == (part == "judge")


def noise_pool(root, families, seed):
    open_pool(root)
    rng = np.random.default_rng(seed)
    for split in ("train", "valid"):
        for family in families:
            stem = rng.standard_normal(POOL_RATE).astype(np.float32)
            write_stem(root / split / family, "s", "x", stem)
    return root


def test_pools_are_mixed_at_given_shares(tmp_path):
    own = noise_pool(tmp_path / "own", ("bass", "drums"), 1)
    other = noise_pool(tmp_path / "other", ("bass",), 2)
    (other / "prompts.toml").write_text('bass = ["the low end"]\n')
    stems = StemPool(own, "train", {str(other): 0.3})
    rng = np.random.default_rng(3)
    drawn = [stems.any_stem(rng, "bass").is_relative_to(other) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.03)
    assert not any(stems.any_stem(rng, "drums").is_relative_to(other) for _ in range(20))
    assert (stems.families, len(stems)) == (["bass", "drums"], 3)
    assert "the low end" in stems.vocabulary()
    # One pool alone is drawn from as before there were shares.
    first, second = (np.random.default_rng(4) for _ in range(2))
    StemPool(own, "train").any_stem(first, "bass")
    second.integers(1)
    assert first.random() == second.random()
    for shares in ({str(other): 1.0}, {str(other): 0.0}):
        with pytest.raises(ValueError, match=r"data\.pools: expected shares"):
            StemPool(own, "train", shares)
    (other / "pool.json").write_text('{"sample_rate": 16000}')
    with pytest.raises(ValueError, match="expected stems at 24000 Hz"):
        StemPool(own, "train", {str(other): 0.3})


@pytest.mark.slow
def test_the_command_makes_a_pool_that_training_mixes_in(recordings, tmp_path):
    bundle = tiny_bundle.build(tmp_path / "tiny", tiny_bundle.Tiny(input_rms_db=None))
    (tmp_path / "prompts.toml").write_text('"sea waves" = ["everything", "the sea"]\n')
    pool = tmp_path / "pseudo"
    arguments = [
        "pseudo-label", str(recordings), "--prompts", str(tmp_path / "prompts.toml"),
        "--out", str(pool), "--teacher", str(bundle), "--piece", "2", "--active", "1",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "sea-waves: 3 of 5 kept, 2 sounds too shortly" in done.output
    own = noise_pool(tmp_path / "own", ("bass", "drums"), 1)
    data = msgspec.structs.replace(RECIPE.data, pools={str(pool): 0.5})
    recipe = msgspec.structs.replace(
        RECIPE,
        data=data,
        train=msgspec.structs.replace(RECIPE.train, steps=2, validate_every=2),
    )
    stems = StemPool(own, "train", data.pools)
    mixer = Mixer(stems, recipe.model, data)
    assert "sea-waves" in mixer.batch(np.random.default_rng(0), 32).families
    train(recipe, own, tmp_path / "run")
    assert "sea" in (tmp_path / "run" / TOKENIZER).read_text()
