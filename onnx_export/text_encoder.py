"""The T5 text encoder, for SAM Audio's ``t5-base`` and the bundled model's own small one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from bridge.errors import ModelError

if TYPE_CHECKING:
    from transformers import T5EncoderModel

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
    from transformers.utils import logging

    if not (directory / TOKENIZER_FILE).is_file():
        raise ModelError(
            f"{directory}: no {TOKENIZER_FILE}; give a transformers directory with a fast "
            "tokenizer (save one with AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    check_model_type(directory, "t5", "a text encoder")
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its table of missing weights; the error below names them
    try:
        t5, report = T5EncoderModel.from_pretrained(
            directory, local_files_only=True, output_loading_info=True, dtype="float32"
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{directory}: cannot load a T5 encoder ({reason[:200]})") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{directory}: the T5 weights lack {len(missing)} tensors, among them {missing[0]}"
        )
    return TextEncoder(t5).eval().requires_grad_(False)
