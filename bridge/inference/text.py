"""Prompt texts to token ids, within the limits of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bridge.errors import InputError, ModelError


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``; neither padding nor silent truncation stay switched on.

    Raises
    ------
    ModelError
        If the file is not a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ModelError(f"{path}: not a tokenizer ({error}); fetch the model again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def token_ids(tokenizer: Tokenizer, text: str, max_tokens: int) -> npt.NDArray[np.int64]:
    """Tokenize a prompt.

    Returns
    -------
    ndarray of int64, shape (S,)
        S is 1 to `max_tokens`.

    Raises
    ------
    InputError
        If the prompt is too long for the model.
    """
    ids = tokenizer.encode(text.lower().strip()).ids
    if len(ids) > max_tokens:
        raise InputError(
            f"the prompt {text[:40] + '...' if len(text) > 40 else text!r} has {len(ids)} tokens; "
            f"this model takes at most {max_tokens} (prompt.max_tokens): use fewer words"
        )
    if not ids:
        raise InputError(f"the prompt {text!r} has no words that this model knows; rephrase it")
    return np.asarray(ids, dtype=np.int64)
