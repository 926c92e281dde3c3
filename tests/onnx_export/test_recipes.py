"""Recipes of the bundled model: read strictly, and each goes on from the one before."""

from pathlib import Path

import pytest

from onnx_export.training.run import load_recipe
from onnx_export.training.trainer import train


def test_recipes_refuse_unknown_fields(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[model]\n[train]\nstepz = 3\n")
    with pytest.raises(ValueError, match=r"stepz.*train"):
        load_recipe(path)
    first, more, stereo, real, sure, refined = (
        load_recipe(Path(train.__code__.co_filename).with_name(name))
        for name in (
            "mini.toml",
            "mini_more.toml",
            "mini_stereo.toml",
            "mini_real.toml",
            "mini_sure.toml",
            "mini_refined.toml",
        )
    )
    assert first.model.name == "mini"
    assert more.model.extends(first.model)  # each run goes on from the one before
    assert stereo.model.extends(more.model)
    assert not more.model.extends(stereo.model)
    assert real.model.extends(stereo.model)
    assert not stereo.model.extends(real.model)
    assert sure.model == real.model
    assert refined.model.extends(sure.model)
    assert not sure.model.extends(refined.model)
