"""A model and a recipe small enough to train in a test."""

from onnx_export.networks.mini import MiniConfig, TextConfig
from onnx_export.training.run import DataConfig, Recipe, TrainConfig

MODEL = MiniConfig(
    hop_length=128, latent_channels=64, span_dim=8, dim=64, n_heads=2, n_layers=1,
    text=TextConfig(dim=32, n_layers=1, n_heads=2, ffn_dim=32),
)  # fmt: skip
RECIPE = Recipe(
    model=MODEL,
    data=DataConfig(crop_s=0.5, batch=8, max_sources=2, absent=0.1),
    train=TrainConfig(
        steps=80, warmup=5, rate=3e-3, validate_every=40, workers=1, compile=False, ema=0.9
    ),
)
