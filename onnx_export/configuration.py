"""``config.json`` of a SAM Audio checkpoint, read into the sizes our modules need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridge.errors import ModelError
from onnx_export.dacvae import CodecConfig
from onnx_export.dit import DiTConfig
from onnx_export.sam_audio import SamAudioConfig

#: Switches of the official transformer, and the one setting that every release has.
_FIXED = {"swiglu": True, "qk_norm": True, "fc_bias": False}
_COUNTS = (
    "dim", "n_heads", "n_layers", "out_channels", "context_dim", "multiple_of",
    "max_positions", "frequency_embedding_dim",
)  # fmt: skip
_REALS = ("ffn_exp", "ffn_dim_multiplier", "norm_eps")


def read_config(path: Path) -> SamAudioConfig:
    """Read the sizes of a model; keys that we don't need are ignored.

    Raises
    ------
    ModelError
        If the file is missing or no JSON object, or a size is missing, of the wrong kind, or one
        that the modules can't have.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read ({error.strerror or error}); give the directory of a checkpoint"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); download it again") from error
    return parse_config(raw, path)


def parse_config(raw: Any, path: Path) -> SamAudioConfig:
    """Read the sizes of a model from the decoded file; `path` is what errors name.

    Raises
    ------
    ModelError
        See `read_config`.
    """
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected an object, got {type(raw).__name__}")
    config = _Section(raw, path, "")
    codec, text = _codec(config.section("audio_codec")), config.section("text_encoder")
    transformer = _transformer(config.section("transformer"), 2 * codec.codebook_dim)
    wanted, given = 6 * codec.codebook_dim, config.count("in_channels", 6 * codec.codebook_dim)
    if given != wanted:
        raise ModelError(f"{path}: in_channels is {given}, expected {wanted} (6 codebook_dim)")
    return SamAudioConfig(
        codec=codec,
        transformer=transformer,
        text_dim=text.count("dim", 768),
        text_encoder=text.text("name", "t5-base"),
        max_tokens=text.count("max_length", 512),
        video_dim=config.section("vision_encoder").count("dim", 1024),
        span_dim=config.count("anchor_embedding_dim", 128),
        raw=raw,
    )


class _Section:
    """One object of the configuration, whose values are checked as they are read."""

    def __init__(self, values: dict[str, Any], path: Path, prefix: str) -> None:
        self.values, self._path, self._prefix = values, path, prefix

    def fail(self, key: str, wanted: str) -> ModelError:
        """Make the error for a value that isn't as wanted."""
        got = self.values.get(key)
        return ModelError(f"{self._path}: {self._prefix}{key}: expected {wanted}, got {got!r}")

    def section(self, key: str) -> _Section:
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return _Section(value, self._path, f"{self._prefix}{key}.")

    def count(self, key: str, default: int) -> int:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.fail(key, "a positive whole number")
        return value

    def real(self, key: str, default: float) -> float:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise self.fail(key, "a positive number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "a name")
        return value

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.values.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(v, int) and v > 0 for v in value):
            raise self.fail(key, "a list of positive whole numbers")
        return tuple(value)


def _codec(section: _Section) -> CodecConfig:
    default = CodecConfig()
    config = CodecConfig(
        encoder_dim=section.count("encoder_dim", default.encoder_dim),
        encoder_rates=section.counts("encoder_rates", default.encoder_rates),
        latent_dim=section.count("latent_dim", default.latent_dim),
        decoder_dim=section.count("decoder_dim", default.decoder_dim),
        decoder_rates=section.counts("decoder_rates", default.decoder_rates),
        codebook_dim=section.count("codebook_dim", default.codebook_dim),
        sample_rate=section.count("sample_rate", default.sample_rate),
    )
    if len(config.decoder_rates) != 4:
        raise section.fail("decoder_rates", "four rates, as the watermark's layers have")
    if sorted(config.decoder_rates) != sorted(config.encoder_rates):
        raise section.fail("decoder_rates", f"the encoder's {list(config.encoder_rates)} reversed")
    return config


def _transformer(section: _Section, out_channels: int) -> DiTConfig:
    default = DiTConfig()
    for key, value in _FIXED.items():
        if section.values.get(key, value) != value:
            raise section.fail(key, f"{value}; no other kind of transformer is known")
    values: dict[str, Any] = {}
    for key in _COUNTS:
        if section.values.get(key) is not None:
            values[key] = section.count(key, 1)
    for key in _REALS:
        values[key] = section.real(key, getattr(default, key))
    config = DiTConfig(**values)
    if config.dim % config.n_heads or config.head_dim % 2:
        raise section.fail("n_heads", f"a number that divides dim {config.dim} into even parts")
    if config.out_channels != out_channels:
        raise section.fail("out_channels", f"{out_channels}, twice the codec's codebook_dim")
    return config
