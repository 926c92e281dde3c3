"""The tokenizer of a trained model: lower-case byte-pair encoding learnt from the phrasings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

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
        partial = path.with_suffix(".part")
        train_tokenizer(phrases, vocab_size).save(str(partial))
        partial.replace(path)


def tokenise(tokenizer: Tokenizer, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Encode prompts as ids and mask, both (B, length): one shape, so one compilation."""
    encodings = [encoding.ids[:length] for encoding in tokenizer.encode_batch(prompts)]
    ids = torch.zeros(len(encodings), length, dtype=torch.int64)
    mask = torch.zeros(len(encodings), length, dtype=torch.bool)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = torch.tensor(encoding)
        mask[row, : len(encoding)] = True
    return ids, mask
