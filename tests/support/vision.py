"""Numbers of the vision tower: a small Perception Encoder with seeded weights, as timm computes it.

``python -m tests.support.vision`` writes ``pe_vision.npz``; it needs timm, the tests don't.
"""

import numpy as np

from tests.support import seeded

SETTINGS = {"name": "PE-Core-of-the-tests", "normalize_feature": True}
WIDTH, LAYERS, PATCH, GRID, HIDDEN, DIM = 128, 2, 8, 5, 192, 24
FRAMES = 3


def shapes(dim: int = DIM) -> dict[str, tuple[int, ...]]:
    """Every tensor of the tower, in the names of the Perception Encoder."""
    block = {
        "ln_1.weight": (WIDTH,), "ln_1.bias": (WIDTH,),
        "ln_2.weight": (WIDTH,), "ln_2.bias": (WIDTH,),
        "attn.in_proj_weight": (3 * WIDTH, WIDTH), "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH), "attn.out_proj.bias": (WIDTH,),
        "mlp.c_fc.weight": (HIDDEN, WIDTH), "mlp.c_fc.bias": (HIDDEN,),
        "mlp.c_proj.weight": (WIDTH, HIDDEN), "mlp.c_proj.bias": (WIDTH,),
    }  # fmt: skip
    pool = {name: shape for name, shape in block.items() if name.startswith("mlp.")}
    pool |= {name: shape for name, shape in block.items() if name.startswith("attn.")}
    pool |= {"layernorm.weight": (WIDTH,), "layernorm.bias": (WIDTH,), "probe": (1, 1, WIDTH)}
    found = {
        "conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "class_embedding": (WIDTH,),
        "positional_embedding": (GRID * GRID + 1, WIDTH),
        "proj": (WIDTH, dim),
    }
    found |= {
        f"ln_{end}.{leaf}": (WIDTH,) for end in ("pre", "post") for leaf in ("weight", "bias")
    }
    for layer in range(LAYERS):
        found |= {f"transformer.resblocks.{layer}.{n}": shape for n, shape in block.items()}
    return found | {f"attn_pool.{name}": shape for name, shape in pool.items()}


def tensors(dim: int = DIM) -> dict[str, np.ndarray]:
    """The tower's weights."""
    return {
        name: np.asarray(seeded.tensor(name, shape, "vision"), np.float32)
        for name, shape in shapes(dim).items()
    }


def frames() -> np.ndarray:
    """RGB frames in [0, 1], (FRAMES, 3, side, side)."""
    rng = np.random.default_rng(7)
    return rng.random((FRAMES, 3, GRID * PATCH, GRID * PATCH), dtype=np.float32)


def main() -> None:
    """Write the numbers that timm computes."""
    from functools import partial
    from pathlib import Path

    import timm
    import torch
    from timm.models.eva import Eva, checkpoint_filter_fn

    model = Eva(
        img_size=GRID * PATCH, patch_size=PATCH, embed_dim=WIDTH, depth=LAYERS,
        num_heads=WIDTH // 64, mlp_ratio=HIDDEN / WIDTH, num_classes=DIM, global_pool="map",
        attn_type="rope", use_pre_transformer_norm=True, use_rot_pos_emb=True,
        ref_feat_shape=(GRID, GRID), rope_grid_offset=1.0, rope_grid_indexing="xy",
        attn_pool_num_heads=8, attn_pool_mlp_ratio=HIDDEN / WIDTH,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    ).eval()  # fmt: skip
    state = {f"visual.{name}": torch.from_numpy(value) for name, value in tensors().items()}
    model.load_state_dict(checkpoint_filter_fn(state, model))
    with torch.inference_mode():
        features = model(2 * torch.from_numpy(frames()) - 1)
    features = torch.nn.functional.normalize(features, dim=-1).numpy()
    path = Path(__file__).parents[1] / "reference" / "pe_vision.npz"
    np.savez_compressed(path, features=features, timm=np.array(timm.__version__))


if __name__ == "__main__":
    main()
