"""What belongs to a training run beside its weights: recipe, tokenizer, log and curves.

The recipe is one TOML file; the tokenizer is a lower-case byte-pair encoding learnt from the
phrasings.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

from bridge.files import replacing
from onnx_export.networks.mini import MiniConfig

#: Copy of the recipe in the directory of a run.
RECIPE_FILE = "recipe.json"
#: Losses and scores of a run, a JSON object a line.
LOG_FILE = "log.jsonl"


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How stems become mixtures; the comments of `mini.toml` say what each field means.

    Attributes
    ----------
    pools : dict of str to float
        Other pools, by their paths, and the share of stems and songs that come from each; those of
        `Recipe.late_data` are not read.
    """

    crop_s: float = 4.0
    batch: int = 32
    min_sources: int = 2
    max_sources: int = 4
    same_song: float = 0.6
    singing: float = 0.0
    sounds: float = 0.0
    music_level_db: float = 5.0
    other_level_db: float = 10.0
    panned: float = 0.0
    spread: float = 0.0
    absent: float = 0.08
    plain_names: float = 0.2
    spans: float = 0.4
    equaliser: float = 0.5
    varispeed: float = 0.5
    extra_families: float = 0.25
    hiss: float = 0.0
    band_limit: float = 0.0
    ride: float = 0.0
    pools: dict[str, float] = {}
    driven: float = 0.0
    studio: float = 0.0


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the weights are found."""

    seed: int = 1
    steps: int = 8000
    warmup: int = 200
    decay: float = 0.3
    rate: float = 1.5e-3
    carried: float = 1.0
    weight_decay: float = 0.05
    optimiser: Literal["adamw", "muon"] = "adamw"
    ema: float = 0.999
    at_zero: float = 0.6
    loss_floor: float = 0.03
    likeness: float = 0.0
    validate_every: int = 500
    late_from: int = 0
    workers: int = 2
    compile: bool = True


class AlignConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The auxiliary alignment loss, see `onnx_export.training.objective`; off without a tagger.

    Attributes
    ----------
    tagger : str or None
        A transformers audio model: a directory, or an id on the hub.
    weight : float
        Of the cosine distance in the loss.
    layer : int
        Block whose features are aligned, from 0.
    """

    tagger: str | None = None
    weight: float = 0.1
    layer: int = 1


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Model, data and training settings together."""

    model: MiniConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    align: AlignConfig = AlignConfig()
    late_data: DataConfig | None = None  # takes the place of `data` from step `late_from` on


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    ValueError
        If the file is not TOML, or has a field that is unknown or of the wrong type; the message
        has its path.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}") from None


CURVES = "curves.png"
_BACKGROUND, _INK, _FAINT = "#14151a", "#e8e8ec", "#8b8d98"
_COLOURS = ("#5fb2d3", "#f2b14c")


def _read(log: Path) -> dict[str, dict[int, float]]:
    """Read numbers by name and step; after a resumed run repeats steps, the later ones count."""
    series: dict[str, dict[int, float]] = {}
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut off when the run was stopped
        for name in ("loss", "median_db", "mean_db"):
            if name in entry:
                series.setdefault(name, {})[int(entry["step"])] = float(entry[name])
        for family, value in entry.get("families", {}).items():
            series.setdefault(f"family {family}", {})[int(entry["step"])] = float(value)
    return series


def draw_curves(log: Path) -> bytes:
    """Draw the loss above, and below it the improvement on held-out timbres.

    Parameters
    ----------
    log : Path
        The run's ``log.jsonl``.

    Returns
    -------
    bytes
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = _read(log)
    figure = Figure(figsize=(9, 7), dpi=110, facecolor=_BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    lines = {name: sorted(points.items()) for name, points in series.items()}
    if "loss" in lines:
        upper.plot(*zip(*lines["loss"], strict=True), color=_COLOURS[0], linewidth=1.2)
    for name, points in lines.items():
        if name.startswith("family "):
            lower.plot(*zip(*points, strict=True), color=_FAINT, linewidth=0.8, alpha=0.8)
            lower.annotate(name.removeprefix("family "), points[-1], (3, 0), color=_FAINT,
                           textcoords="offset points", fontsize=7, va="center")  # fmt: skip
    for name, colour in zip(("median_db", "mean_db"), _COLOURS, strict=True):
        if name in lines:
            lower.plot(*zip(*lines[name], strict=True), color=colour, linewidth=2,
                       marker=".", label=name.removesuffix("_db"))  # fmt: skip
    upper.set_ylabel("loss (log of relative error)", color=_INK)
    lower.set_ylabel("SI-SDR improvement, validation (dB)", color=_INK)
    lower.set_xlabel("step", color=_INK)
    if "median_db" in lines:
        lower.legend(facecolor=_BACKGROUND, edgecolor=_FAINT, labelcolor=_INK, loc="upper left")
    for axis in (upper, lower):
        axis.set_facecolor(_BACKGROUND)
        axis.tick_params(colors=_FAINT)
        axis.grid(color=_FAINT, alpha=0.2)
        for edge in axis.spines.values():
            edge.set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=_BACKGROUND, metadata={"Software": "stembridge"})
    return png.getvalue()


def write_curves(run: Path) -> Path:
    """Draw the curves of a run into its directory; returns the picture."""
    partial = run / f".{CURVES}.part"
    partial.write_bytes(draw_curves(run / LOG_FILE))
    return partial.replace(run / CURVES)


PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def train_tokenizer(phrases: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a tokenizer that ends every prompt with `EOS`, as T5's does.

    Parameters
    ----------
    phrases : iterable of str
        Prompts.
    vocab_size : int
        Upper bound.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, UNKNOWN],
        initial_alphabet=list("▁abcdefghijklmnopqrstuvwxyz0123456789,-'&."),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(phrases), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return tokenizer


def keep_tokenizer(path: Path, phrases: Iterable[str], vocab_size: int) -> None:
    """Learn a run's tokenizer and save it, unless the run has one: its weights go with that."""
    if not path.is_file():
        with replacing(path) as partial:
            train_tokenizer(phrases, vocab_size).save(str(partial))


def tokenise(tokenizer: Tokenizer, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Encode prompts as ids and mask, both (B, length): one shape, so one compilation."""
    encodings = [encoding.ids[:length] for encoding in tokenizer.encode_batch(prompts)]
    ids = torch.zeros(len(encodings), length, dtype=torch.int64)
    mask = torch.zeros(len(encodings), length, dtype=torch.bool)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = torch.tensor(encoding)
        mask[row, : len(encoding)] = True
    return ids, mask


def carry_over(embedding: Tensor, old: Tokenizer, new: Tokenizer, rows: int) -> Tensor:
    """Give the tokens of a new tokenizer the vectors that an old one's had.

    A token that is new begins as the mean of the old tokens that spell it.

    Parameters
    ----------
    embedding : Tensor, shape (old rows, dim)
    old, new : Tokenizer
    rows : int
        Of the result; those without a token are zero.

    Returns
    -------
    Tensor, shape (rows, dim)
    """
    known = old.get_vocab()
    result = embedding.new_zeros(rows, embedding.shape[1])
    for token, number in new.get_vocab().items():
        pieces = _spell(token, known)
        if pieces:
            result[number] = embedding[pieces].mean(0)
    return result


def _spell(token: str, known: dict[str, int]) -> list[int]:
    """Spell a token by the longest known ones from its beginning; what none spells is left out."""
    pieces = []
    while token:
        for length in range(len(token), 0, -1):
            if token[:length] in known:
                pieces.append(known[token[:length]])
                break
        token = token[length:]
    return pieces
