"""Networks that read a phrase, through transformers: T5's encoder, PE-A-Frame and CLAP.

T5 is SAM Audio's ``t5-base`` or the bundled model's own small encoder.

PE-A-Frame hears where in a clip a phrase is true: ``PeAudioFrameLevelModel`` scores every frame of
a clip against a text. Its audio encoder begins with the encoder of SAM Audio's own codec, so the
graph takes the mixture's latents, which the engine has anyway, and the codec's weights in the
checkpoint are not needed.

CLAP says how alike a sound and a text are. `Clap` is the whole way from a waveform and a text to
their similarity as one module: the log-mel spectrogram that ``ClapFeatureExtractor`` computes in
NumPy is part of it, so that a bundle needs no numbers beside the graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bridge.bundles.manifest import CLAP_RATE
from bridge.errors import ModelError

if TYPE_CHECKING:
    from transformers import ClapModel, PeAudioFrameLevelModel, T5EncoderModel

TOKENIZER_FILE = "tokenizer.json"


class TextEncoder(nn.Module):
    """A T5 encoder with the inputs and the output that a bundle's text graph has.

    Parameters
    ----------
    t5 : transformers.T5EncoderModel
    """

    def __init__(self, t5: T5EncoderModel) -> None:
        super().__init__()
        # The fused attention's layout of strides can't be traced with a dynamic length.
        t5.set_attn_implementation("eager")
        self.t5 = t5

    @property
    def dim(self) -> int:
        """Width D of the features."""
        return int(self.t5.config.d_model)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.t5.config.vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens.

        Parameters
        ----------
        input_ids : Tensor
            (B, S) int64.
        attention_mask : Tensor
            (B, S) bool, true at real tokens.

        Returns
        -------
        Tensor
            (B, S, D) float32, the last hidden state.
        """
        out: Tensor = self.t5(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return out


def check_model_type(directory: Path, expected: str, what: str) -> None:
    """Refuse a transformers directory that holds another kind of model.

    Raises
    ------
    ModelError
        If its ``config.json`` can't be read, or names another `expected` ``model_type``.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: not a transformers configuration ({error})") from error
    if found != expected:
        raise ModelError(
            f"{directory}: cannot load {what}: expected a model of the type {expected!r}, "
            f"got {found!r}"
        )


def load_pretrained(
    directory: Path, model_class: type[Any], expected: str, what: str, title: str
) -> Any:
    """Load a model of transformers from a directory, with every weight that it has.

    Parameters
    ----------
    directory : Path
        With ``config.json`` and the weights.
    model_class : type
        Of transformers.
    expected : str
        Its ``model_type``.
    what, title : str
        What errors call the model after "cannot load", and as the owner of its weights.

    Returns
    -------
    transformers.PreTrainedModel
        In float32.

    Raises
    ------
    ModelError
        If the directory holds another model, or weights are missing or cannot be read.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    check_model_type(directory, expected, what)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its table of missing weights; the error below names them
    try:
        model, report = model_class.from_pretrained(
            directory, local_files_only=True, output_loading_info=True, dtype="float32"
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{directory}: cannot load {what} ({reason[:200]})") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{directory}: {title} weights lack {len(missing)} tensors, among them {missing[0]}"
        )
    return model


def load_text_encoder(directory: Path) -> TextEncoder:
    """Load a T5 encoder from a local transformers directory.

    Parameters
    ----------
    directory : Path
        With ``config.json``, the weights, and ``tokenizer.json``.

    Returns
    -------
    TextEncoder
        In evaluation mode, float32.

    Raises
    ------
    ModelError
        If the directory is no T5 model, or holds no ``tokenizer.json``.
    """
    from transformers import T5EncoderModel

    if not (directory / TOKENIZER_FILE).is_file():
        raise ModelError(
            f"{directory}: no {TOKENIZER_FILE}; give a transformers directory with a fast "
            "tokenizer (save one with AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    t5 = load_pretrained(directory, T5EncoderModel, "t5", "a text encoder", "the text encoder's")
    return TextEncoder(t5).eval().requires_grad_(False)


class SpanPredictor(nn.Module):
    """Per-frame logits of a text being heard.

    Parameters
    ----------
    model : transformers.PeAudioFrameLevelModel
        Its parts are used, not copied.
    """

    def __init__(self, model: PeAudioFrameLevelModel) -> None:
        super().__init__()
        # As for T5: strides of the fused attention can't be traced with a dynamic length.
        model.set_attn_implementation("eager")
        self.config: dict[str, Any] = model.config.to_dict()
        audio = model.audio_encoder
        self.project = audio.embedder.data_proj
        self.patch_embedder = audio.patch_embedder
        self.layers = audio.layers
        self.rotary = audio.rotary_emb
        self.norm = audio.norm
        self.output = audio.output
        self.audio_head = model.audio_head
        self.text_model = model.text_model
        self.text_head = model.text_audio_head
        self.scale = model.text_audio_logit_scale
        self.bias = model.text_audio_logit_bias

    @property
    def channels(self) -> int:
        """Latent channels C that it takes."""
        return int(self.project.in_features)

    @property
    def vocab_size(self) -> int:
        """Number of token ids of its own tokenizer."""
        return int(self.text_model.config.vocab_size)

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens."""
        return int(self.text_model.config.max_position_embeddings)

    def forward(self, latents: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score frames.

        Parameters
        ----------
        latents : Tensor
            (B, T, C) float32, the mixture, without padding.
        input_ids : Tensor
            (B, S) int64, the text in the predictor's own tokens.
        attention_mask : Tensor
            (B, S) bool, true at real tokens.

        Returns
        -------
        Tensor
            (B, T) float32 logits.
        """
        h, _ = self.patch_embedder(self.project(latents))
        positions = torch.arange(h.shape[1], device=h.device)[None]
        rotary = self.rotary(h, positions)
        for layer in self.layers:
            h = layer(h, attention_mask=None, position_embeddings=rotary)
        frames = self.audio_head(self.output(self.norm(h))[:, 1:])  # without the class token
        text = self.text_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        phrase = self.text_head(text.hidden_states[-1][:, 0])
        logits: Tensor = (frames @ phrase[:, :, None])[..., 0] * self.scale + self.bias
        return logits


def load_span_predictor(directory: Path) -> SpanPredictor:
    """Load PE-A-Frame from a transformers directory.

    Returns
    -------
    SpanPredictor
        In evaluation mode, float32.

    Raises
    ------
    ModelError
        If the directory holds another model, or weights are missing.
    """
    from transformers import PeAudioFrameLevelModel

    model = load_pretrained(
        directory,
        PeAudioFrameLevelModel,
        "pe_audio",
        "a span predictor",
        "the span predictor's",
    )
    return SpanPredictor(model).eval().requires_grad_(False)


PREPROCESSOR_FILE: Final = "preprocessor_config.json"
#: Of the feature extractor's settings, those that decide what it computes.
_SETTINGS: Final = (
    "sampling_rate", "feature_size", "fft_window_size", "hop_length", "max_length_s",
    "frequency_min", "frequency_max",
)  # fmt: skip
_LEAST_POWER: Final = 1e-10  # below, decibels end


class LogMel(nn.Module):
    """The log-mel spectrogram of CLAP without fusion: slaney's filters, in dB.

    Parameters
    ----------
    settings : mapping
        Of a ``ClapFeatureExtractor``.
    """

    waves: Tensor
    filters: Tensor

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import ClapFeatureExtractor

        extractor = ClapFeatureExtractor(
            **{name: settings[name] for name in _SETTINGS if name in settings}
        )
        self.settings = {name: getattr(extractor, name) for name in _SETTINGS}
        self.samples = round(extractor.nb_max_samples)
        self.hop, self.size = int(extractor.hop_length), int(extractor.fft_window_size)
        times = np.arange(self.size)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * times / self.size)
        angles = 2 * np.pi * np.outer(np.arange(self.size // 2 + 1), times) / self.size
        waves = np.concatenate([np.cos(angles), -np.sin(angles)]) * window
        # Computed again wherever the module is built: these are no weights.
        self.register_buffer(
            "waves", torch.from_numpy(waves[:, None].astype(np.float32)), persistent=False
        )
        self.register_buffer(
            "filters",
            torch.from_numpy(extractor.mel_filters_slaney.astype(np.float32)),
            persistent=False,
        )

    def forward(self, wav: Tensor) -> Tensor:
        """Map waveforms (B, samples) to spectrograms (B, 1, frames, mels)."""
        around = functional.pad(wav[:, None], (self.size // 2, self.size // 2), mode="reflect")
        parts = functional.conv1d(around, self.waves, stride=self.hop)
        real, imaginary = parts.chunk(2, dim=1)
        power = (real.square() + imaginary.square()).transpose(1, 2)
        mels = (power @ self.filters).clamp(min=_LEAST_POWER)
        return 10 * torch.log10(mels)[:, None]


class Clap(nn.Module):
    """Similarity of sounds and texts.

    Parameters
    ----------
    model : transformers.ClapModel
        Its parts are used, not copied. It must be one without fusion.
    settings : mapping
        Of its ``ClapFeatureExtractor``.
    """

    def __init__(self, model: ClapModel, settings: Mapping[str, Any]) -> None:
        super().__init__()
        # As for T5: strides of the fused attention can't be traced with a dynamic length.
        model.set_attn_implementation("eager")
        self.mel = LogMel(settings)
        self.config: dict[str, Any] = {
            "model": model.config.to_dict(),
            "preprocessor": self.mel.settings,
        }
        self.audio_model, self.audio_head = model.audio_model, model.audio_projection
        self.text_model, self.text_head = model.text_model, model.text_projection

    @property
    def vocab_size(self) -> int:
        """Number of token ids of its own tokenizer."""
        return int(self.text_model.config.vocab_size)

    def forward(self, wav: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compare sounds with texts.

        Parameters
        ----------
        wav : Tensor
            (B, samples) float32 at 48 kHz, of the length that it was trained on.
        input_ids : Tensor
            (B, S) int64, the texts in its own tokens.
        attention_mask : Tensor
            (B, S) bool, true at real tokens.

        Returns
        -------
        Tensor
            (B,) float32, the cosine of the angle between their embeddings: -1 to 1.
        """
        heard = self.audio_model(input_features=self.mel(wav)).pooler_output
        said = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return functional.cosine_similarity(self.audio_head(heard), self.text_head(said), dim=-1)


def load_clap(directory: Path) -> Clap:
    """Load CLAP from a transformers directory, such as laion/clap-htsat-unfused.

    Returns
    -------
    Clap
        In evaluation mode, float32.

    Raises
    ------
    ModelError
        If the directory holds another model, one with fusion or another rate, or weights are
        missing.
    """
    from transformers import ClapModel

    model = load_pretrained(directory, ClapModel, "clap", "CLAP", "CLAP's")
    path = directory / PREPROCESSOR_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        kind = (settings.get("truncation"), settings.get("padding"), settings["sampling_rate"])
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise ModelError(f"{path}: not the settings of a feature extractor ({error})") from error
    if kind != ("rand_trunc", "repeatpad", CLAP_RATE):
        raise ModelError(
            f"{path}: truncation, padding and rate are {', '.join(map(str, kind))}; expected "
            f"rand_trunc, repeatpad, {CLAP_RATE}, as laion/clap-htsat-unfused has them"
        )
    if model.config.audio_config.enable_fusion:
        raise ModelError(f"{directory}: a CLAP with fusion; give laion/clap-htsat-unfused")
    return Clap(model, settings).eval().requires_grad_(False)
