"""The parity table: our SAM Audio against the official code's numbers, in PyTorch and in ONNX.

``python -m tests.support.parity`` builds the seeded checkpoint in a temporary directory, loads
it, exports it, runs the exported graphs with the engine's own solver and span mapping, and prints
the largest absolute difference of every quantity beside its bound.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bridge.bundles.bundle import load_manifest
from bridge.flow.diffusion import make_scheme, solve
from bridge.inference import model as chunked
from bridge.inference.graphs import ort
from bridge.request import Span
from bridge.signal.spans import frame_ids
from onnx_export import (
    Provenance,
    SamAudio,
    TextEncoder,
    export_bundle,
    load_checkpoint,
    sam_audio_blueprint,
)
from tests.support import seeded

HERE = Path(__file__).parents[1] / "reference"
STEPS = 16


@dataclass(frozen=True)
class Row:
    """One quantity: where it was computed, and how far it is from the official number."""

    quantity: str
    where: str
    difference: float
    bound: float


def references() -> dict[str, np.ndarray]:
    """The official numbers, by name."""
    with np.load(HERE / "sam_audio_tiny.npz") as stored:
        return dict(stored)


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the seeded checkpoint."""
    listed = json.loads((HERE / "sam_audio_tiny.shapes.json").read_text())
    return {name: tuple(shape) for name, shape in listed.items()}


def write_checkpoint(directory: Path) -> Path:
    """Write the seeded checkpoint in the official layout."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.from_numpy(np.asarray(seeded.tensor(name, shape, "a"), np.float32))
        for name, shape in shapes().items()
    }
    torch.save(tensors, directory / "checkpoint.pt")
    shutil.copy(HERE / "sam_audio_tiny.config.json", directory / "config.json")
    return directory


def write_text_encoder(directory: Path, dim: int = 768) -> Path:
    """Write a small random T5 encoder with a tokenizer, in the layout of transformers."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    T5EncoderModel(
        T5Config(vocab_size=32, d_model=dim, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    ).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path) -> None:
    """Write a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ("<pad>", "</s>", "<unk>", "drums", "bass", "a", "man", "speaking")
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))


def write_span_predictor(directory: Path) -> Path:
    """Write a small random PE-A-Frame whose logits spread over the threshold."""
    from transformers import PeAudioConfig, PeAudioFrameLevelModel

    from onnx_export.networks.phrases import SpanPredictor

    text = {
        "model_type": "modernbert", "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 16, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1,
        "max_position_embeddings": 64,
    }  # fmt: skip
    codec = {
        "model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 8, 10, 12],
        "codebook_dim": 128, "hidden_size": 64,
    }  # fmt: skip
    audio = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "head_dim": 16, "dac_config": codec,
    }  # fmt: skip
    torch.manual_seed(0)
    model = PeAudioFrameLevelModel(PeAudioConfig(text_config=text, audio_config=audio)).eval()
    with torch.no_grad():
        model.text_audio_logit_scale.fill_(20.0)
        model.text_audio_logit_bias.zero_()
        # Half of the frames of random latents shall be above the threshold of "drums".
        drums, latents = torch.tensor([[3, 1]]), 0.1 * torch.randn(1, 100, 128)
        logits = SpanPredictor(model)(latents, drums, torch.ones(1, 2, dtype=torch.bool))
        model.text_audio_logit_bias.fill_(float(np.log(0.3 / 0.7) - logits.median()))
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def write_clap(directory: Path) -> Path:
    """Write a small random CLAP that hears 10 s in 64 mel bands as the real one does."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    text = {
        "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 80,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [2, 2],
        "num_attention_heads": [2, 4],
    }  # fmt: skip
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn_like(value) if value.ndim > 1 else value)
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.fill_(-40)
        norm.running_var.fill_(400)
    model.save_pretrained(directory)
    ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def frames_of(reference: dict[str, np.ndarray]) -> np.ndarray:
    """Mask of real frames, (B, T): the second clip is shorter."""
    frames = reference["latents"].shape[1]
    lengths = -(-reference["lens"] // 1920)
    return np.arange(frames) < lengths[:, None]


def pytorch_rows(model: SamAudio, reference: dict[str, np.ndarray]) -> list[Row]:
    """Compare the PyTorch modules, both clips, the second with its mask."""
    tensor = {name: torch.from_numpy(value) for name, value in reference.items()}
    mask = torch.from_numpy(frames_of(reference))
    ids = tensor["anchor_ids"].gather(1, tensor["anchor_alignment"])
    batch = len(ids)
    rows = []

    def compare(name: str, got: torch.Tensor, bound: float) -> None:
        difference = float((got.reshape(tensor[name].shape) - tensor[name]).abs().max())
        rows.append(Row(name, "PyTorch", difference, bound))

    def velocity(x: torch.Tensor, t: float, **conditions: torch.Tensor) -> torch.Tensor:
        return model.velocity(
            x, torch.full((batch,), t), tensor["latents"], tensor["text_features"],
            tensor["text_mask"], mask=mask, **conditions,
        )  # fmt: skip

    with torch.inference_mode():
        compare("latents", model.encode(tensor["wav"]), 2e-4)
        noise, video = tensor["noise"], tensor["video_features"]
        compare("velocity_plain", velocity(noise, 0.3), 2e-4)
        compare("velocity_spans", velocity(noise, 0.3, spans=ids), 2e-4)
        compare("velocity_video", velocity(noise, 0.3, spans=ids, video=video), 2e-4)
        x = noise.numpy()
        field = lambda x, t: velocity(torch.from_numpy(x), t, spans=ids).numpy()  # noqa: E731
        x = solve(field, x, make_scheme("midpoint", STEPS))
        compare("generated", torch.from_numpy(x), 1e-3)
        stems = _as_stems(tensor["generated"])
        bits = tensor["message"].repeat_interleave(2, dim=0)
        compare("stems", model.decode(stems, bits), 1e-3)
        compare("stems_unmarked", model.decode_unmarked(stems), 1e-3)
        compare("roundtrip", model.decode(tensor["latents"], tensor["message"]), 1e-3)
    return rows


def _as_stems(generated: torch.Tensor) -> torch.Tensor:
    """Target and residual of every clip as a batch: (B, T, 2C) to (2B, T, C)."""
    batch, frames, channels = generated.shape
    stems = generated.reshape(batch, frames, 2, channels // 2).transpose(1, 2)
    return stems.reshape(2 * batch, frames, channels // 2)


def onnx_rows(bundle: Path, reference: dict[str, np.ndarray]) -> list[Row]:
    """Compare the exported graphs under the engine's solver and spans, on the first clip.

    The engine never pads, so that the second clip, which is padded, is none of its cases.
    """
    manifest = load_manifest(bundle)
    first = {name: value[:1] for name, value in reference.items()}
    frames = first["latents"].shape[1]
    rows = []

    def run(role: str, **feeds: np.ndarray) -> np.ndarray:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if role not in sessions:
            path = bundle / manifest.graphs[role].file
            sessions[role] = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        return sessions[role].run(None, feeds)[0]

    def compare(name: str, got: np.ndarray, bound: float, wanted: np.ndarray) -> None:
        difference = float(np.abs(got.reshape(wanted.shape) - wanted).max())
        rows.append(Row(name, "ONNX", difference, bound))

    sessions: dict[str, ort.InferenceSession] = {}
    spans = json.loads((HERE / "sam_audio_tiny.config.json").read_text())["spans"][0]
    asked = [Span(start_s, end_s, polarity) for polarity, start_s, end_s in spans]
    ids = frame_ids(asked, frames, manifest.sample_rate, manifest.hop_length)[np.newaxis]
    silent = np.zeros_like(first["video_features"])

    def velocity(
        x: np.ndarray, t: float, spans: np.ndarray = ids, video: np.ndarray = silent
    ) -> np.ndarray:
        return run(
            "velocity", x=x, t=np.full(1, t, np.float32), latents=first["latents"],
            text=first["text_features"], text_mask=first["text_mask"], spans=spans, video=video,
        )  # fmt: skip

    wav, hop, channels = first["wav"][0], manifest.hop_length, manifest.latent_channels
    latents = chunked.encode(
        lambda part: run("codec_encoder", wav=part), wav, hop, channels, manifest.codec
    )
    compare("latents", latents, 2e-4, first["latents"])
    noise = first["noise"]
    plain = velocity(noise, 0.3, spans=np.zeros_like(ids))
    compare("velocity_plain", plain, 2e-4, first["velocity_plain"])
    compare("velocity_spans", velocity(noise, 0.3), 2e-4, first["velocity_spans"])
    seen = velocity(noise, 0.3, video=first["video_features"])
    compare("velocity_video", seen, 2e-4, first["velocity_video"])
    generated = solve(velocity, noise, make_scheme("midpoint", STEPS))
    compare("generated", generated, 1e-3, first["generated"])

    def decode(latents: np.ndarray) -> np.ndarray:
        return chunked.decode(
            lambda part: run("codec_decoder", latents=part, message=first["message"]),
            latents, hop, manifest.codec,
        )  # fmt: skip

    stems = np.stack([decode(half)[0] for half in np.split(generated, 2, axis=-1)])
    compare("stems", stems, 1e-3, first["stems"][0])
    compare("roundtrip", decode(first["latents"]), 1e-3, first["roundtrip"][0])
    return rows


def export(model: SamAudio, directory: Path) -> Path:
    """Export a model with a small stand-in for its text encoder."""
    from onnx_export import load_text_encoder

    t5 = write_text_encoder(directory / "t5", model.config.text_dim)
    encoder: TextEncoder = load_text_encoder(t5)
    provenance = Provenance("seeded", "none", "seeded weights of the tests")
    blueprint = sam_audio_blueprint(model, encoder, t5 / "tokenizer.json", provenance)
    return export_bundle(blueprint, directory / "bundle")


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [f"{'quantity':16} {'where':8} {'largest difference':>18} {'bound':>7}"]
    lines += [
        f"{row.quantity:16} {row.where:8} {row.difference:18.2e} {row.bound:7.0e}"
        + ("" if row.difference <= row.bound else "  EXCEEDED")
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Print the table; 1 if a bound is exceeded."""
    with tempfile.TemporaryDirectory() as scratch:
        model = load_checkpoint(write_checkpoint(Path(scratch) / "checkpoint"))
        rows = pytorch_rows(model, references())
        rows += onnx_rows(export(model, Path(scratch)), references())
    print(table(rows))
    return int(any(row.difference > row.bound for row in rows))


if __name__ == "__main__":
    sys.exit(main())
