"""The alignment loss with a small tagger of random weights."""

import msgspec
import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from onnx_export.networks.mini import MiniModel
from onnx_export.training.__main__ import RECIPE as BUNDLED
from onnx_export.training.objective import HEAD, Alignment
from onnx_export.training.release import load_run
from onnx_export.training.run import AlignConfig, load_recipe
from onnx_export.training.trainer import CHECKPOINT, train
from tests.support.training_recipe import MODEL, RECIPE

RECIPES = BUNDLED.parent


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A directory as transformers writes it."""
    folder = tmp_path_factory.mktemp("tagger")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(8, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tagger_of_recipe(tmp_path_factory):
    """The kind of tagger that the recipe names, with small random weights."""
    folder = tmp_path_factory.mktemp("ast")
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_length=64,
    )  # fmt: skip
    ASTModel(config).save_pretrained(folder)
    ASTFeatureExtractor(max_length=64).save_pretrained(folder)
    return folder


# What the extractor of AST says about its own mel bands.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_the_recipe_aligns_the_bundled_model_with_its_kind_of_tagger(tagger_of_recipe):
    recipe = load_recipe(RECIPES / "mini_aligned.toml")
    plain = load_recipe(RECIPES / "mini_real.toml")
    assert (recipe.model, recipe.data) == (plain.model, plain.data)
    align = msgspec.structs.replace(recipe.align, tagger=str(tagger_of_recipe), layer=0)
    assert recipe.align.tagger.startswith("MIT/ast-")
    assert 0 <= recipe.align.layer < recipe.model.n_layers
    first, last = distances(align, steps=15)
    assert 0 <= last < 0.5 * first


def evaluate(model, batch=2, frames=40):
    generator = torch.Generator().manual_seed(1)
    channels = MODEL.latent_channels
    return model.velocity.clean(
        torch.randn(batch, frames, 2 * channels, generator=generator),
        torch.zeros(batch),
        torch.randn(batch, frames, channels, generator=generator),
        torch.randn(batch, 3, MODEL.text.dim, generator=generator),
        torch.ones(batch, 3, dtype=torch.bool),
        torch.zeros(batch, frames, dtype=torch.int64),
    )


def distances(align, steps):
    """The first and the last distance of a small model that learns nothing else."""
    model = MiniModel(MODEL)
    alignment = Alignment(align, model, torch.device("cpu"))
    alignment.watch()
    wav = torch.randn(2, 5120, generator=torch.Generator().manual_seed(2))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    found = []
    for _ in range(steps):
        evaluate(model)
        loss = alignment.loss(wav)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    return found[0], found[-1]


def test_the_loss_is_a_cosine_distance_that_training_lowers(tagger):
    model = MiniModel(MODEL)
    alignment = Alignment(AlignConfig(str(tagger), layer=0), model, torch.device("cpu"))
    alignment.watch()
    wav = torch.randn(2, 5120, generator=torch.Generator().manual_seed(2))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        evaluate(model)
        loss = alignment.loss(wav)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert 0 <= losses[-1] < 0.5 * losses[0] <= 1.0
    reached = model.velocity.transformer.layers[0].feed_forward.w2.weight.grad
    assert reached.abs().max() > 0
    assert not any(p.requires_grad for p in alignment._tagger.parameters())


def test_silent_targets_do_not_count(tagger):
    model = MiniModel(MODEL)
    alignment = Alignment(AlignConfig(str(tagger), layer=0), model, torch.device("cpu"))
    alignment.watch()
    wav = torch.randn(2, 5120, generator=torch.Generator().manual_seed(2))
    evaluate(model)
    both = alignment.loss(wav).detach()
    evaluate(model)
    first = alignment.loss(wav * torch.tensor([[1.0], [0.0]])).detach()
    evaluate(model)
    second = alignment.loss(wav * torch.tensor([[0.0], [1.0]])).detach()
    assert float(both) == pytest.approx(float(first + second) / 2, abs=1e-5)
    evaluate(model)
    assert float(alignment.loss(0 * wav).detach()) == 0.0


def test_what_cannot_be_aligned_is_refused(tagger, tmp_path):
    model = MiniModel(MODEL)
    with pytest.raises(ValueError, match=r"align\.layer: expected 0 to 0"):
        Alignment(AlignConfig(str(tagger), layer=1), model, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"align\.tagger"):
        Alignment(AlignConfig(str(tmp_path), layer=0), model, torch.device("cpu"))
    alignment = Alignment(AlignConfig(str(tagger), layer=0), model, torch.device("cpu"))
    with pytest.raises(RuntimeError, match=r"watch\(\)"):
        alignment.loss(torch.zeros(1, 512))


@pytest.mark.slow
def test_a_run_trains_with_it_resumes_and_releases_without_it(tagger, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        for family in ("bass", "drums"):
            folder = tmp_path / "pool" / split / family
            folder.mkdir(parents=True)
            np.save(folder / "s__x.npy", (rng.standard_normal(16000) * 5000).astype(np.int16))
    settings = msgspec.structs.replace(RECIPE.train, steps=2, validate_every=2)
    recipe = msgspec.structs.replace(
        RECIPE, train=settings, align=AlignConfig(str(tagger), layer=0)
    )
    out = tmp_path / "run"
    train(recipe, tmp_path / "pool", out)
    longer = msgspec.structs.replace(recipe, train=msgspec.structs.replace(settings, steps=4))
    train(longer, tmp_path / "pool", out)
    state = torch.load(out / CHECKPOINT, weights_only=True)
    assert state["step"] == 4
    assert state["model"][f"{HEAD}.weight"].shape == (24, MODEL.dim)
    model, loaded, _ = load_run(out)
    assert loaded.align.weight == 0.1
    assert not hasattr(model, HEAD)
