"""A user's own stems: imported, trained on, prompted by their own words."""

import json

import msgspec
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from bridge.errors import InputError
from onnx_export.training.__main__ import app
from onnx_export.training.mixing import Mixer
from onnx_export.training.release import load_run
from onnx_export.training.run import train_tokenizer
from onnx_export.training.stem_pool import POOL_RATE, StemPool, import_stems
from onnx_export.training.trainer import TOKENIZER, train
from tests.support.training_recipe import RECIPE

RATE = 22050


@pytest.fixture
def folder(tmp_path):
    """Two songs of a theremin and a gong that no built-in family knows, and drums that one does."""
    time = np.arange(RATE * 4) / RATE
    rng = np.random.default_rng(0)
    for number, song in enumerate(("First Song", "second_song")):
        place = tmp_path / "own" / song
        place.mkdir(parents=True)
        stems = {
            "My Theremin": 0.3 * np.sin(2 * np.pi * (900 + 100 * number) * time),
            "gong": 0.2 * np.sin(2 * np.pi * 130 * time),
            "drums": 0.2 * rng.standard_normal(len(time)) * (time % 0.5 < 0.1),
        }
        stems["mixture"] = np.sum(list(stems.values()), axis=0)
        for name, audio in stems.items():
            soundfile.write(place / f"{name}.wav", np.stack([audio, audio], axis=1), RATE)
    (tmp_path / "own" / "prompts.toml").write_text(
        '"My Theremin" = ["theremin", "a ghostly theremin"]\n'
    )
    return tmp_path / "own"


def test_stems_become_a_pool_with_prompts(folder, tmp_path):
    pool = tmp_path / "pool"
    assert import_stems(folder, pool) == {"drums": 4, "gong": 4, "my-theremin": 4}
    stems = StemPool(pool, "train")
    assert stems.families == ["drums", "gong", "my-theremin"]
    assert stems.phrasings("my-theremin") == ("theremin", "a ghostly theremin")
    assert stems.phrasings("gong") == ("gong",)
    assert "drum kit" in stems.phrasings("drums")
    assert {"gong", "a ghostly theremin", "violin"} <= set(stems.vocabulary())
    audio = np.load(pool / "train" / "my-theremin" / "first-song__own.npy")
    assert len(audio) == pytest.approx(POOL_RATE * 4 * 0.85, abs=2)  # the end is for validation
    strongest = np.argmax(np.abs(np.fft.rfft(audio[:POOL_RATE])))
    assert strongest == 900


def test_of_many_songs_whole_ones_are_held_back(folder, tmp_path):
    for number in range(3, 6):
        (folder / "second_song").rename(folder / "moved")
        (folder / f"song {number}").mkdir()
        for path in (folder / "moved").iterdir():
            (folder / f"song {number}" / path.name).write_bytes(path.read_bytes())
        (folder / "moved").rename(folder / "second_song")
    import_stems(folder, tmp_path / "pool")
    songs = {
        split: {p.name.split("__")[0] for p in (tmp_path / "pool" / split).glob("*/*.npy")}
        for split in ("train", "valid")
    }
    assert songs["valid"]
    assert songs["train"]
    assert not songs["train"] & songs["valid"]


def test_what_is_no_folder_of_stems_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="<song>/<stem name>"):
        import_stems(tmp_path / "nothing", tmp_path / "pool")
    (folder / "prompts.toml").write_text("gong = 1")
    with pytest.raises(InputError, match="gong"):
        import_stems(folder, tmp_path / "pool")


def test_a_pool_of_the_projects_families_keeps_its_tokenizer(tmp_path):
    for family in ("bass", "drums"):
        (tmp_path / "train" / family).mkdir(parents=True)
        np.save(tmp_path / "train" / family / "s__x.npy", np.ones(10, np.int16))
    from onnx_export.training.sound.families import FAMILIES

    plain = [phrase for family in FAMILIES.values() for phrase in family.phrasings]
    assert StemPool(tmp_path, "train").vocabulary() == sorted(plain)


@pytest.mark.slow
def test_an_instrument_of_ones_own_is_learnt_and_prompted(folder, tmp_path):
    pool, out = tmp_path / "pool", tmp_path / "run"
    result = CliRunner().invoke(app, ["import", str(folder), "--out", str(pool)])
    assert result.exit_code == 0, result.output
    assert "my-theremin: 4" in result.output
    settings = msgspec.structs.replace(RECIPE.train, steps=40, validate_every=40)
    # With every family in the mixture none is left that could be absent.
    data = msgspec.structs.replace(RECIPE.data, max_sources=3, min_sources=3, absent=0.5)
    recipe = msgspec.structs.replace(RECIPE, train=settings, data=data)
    prompts = Mixer(StemPool(pool, "train"), recipe.model, data).batch(
        np.random.default_rng(0), 24
    ).prompts  # fmt: skip
    assert any("theremin" in prompt for prompt in prompts)
    train(recipe, pool, out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    families = next(line["families"] for line in lines if "families" in line)
    assert set(families) == {"drums", "gong", "my-theremin"}
    assert families["my-theremin"] > 1.0
    assert load_run(out)[2] == 40
    words = StemPool(pool, "train").vocabulary()
    expected = train_tokenizer(words, recipe.model.text.vocab_size).get_vocab()
    assert json.loads((out / TOKENIZER).read_text())["model"]["vocab"] == expected
