"""What a separation can remember outside of itself: encoded audio, text, and how far it came.

The engine asks its journal before it encodes, and tells it what it made; the sidecar's workers
keep that on disk. Nothing in a journal changes a result: what is recalled are the very arrays
that would be computed.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

LATENTS: Final = "latents"
TEXTS: Final = "texts"


class Journal:
    """A journal that remembers nothing; the base of those that do.

    Attributes
    ----------
    previews : bool
        Whether anybody looks at what `preview` shows.
    """

    previews = False

    def recall(self, kind: str, key: str) -> Array | None:
        """Return an array kept earlier under a kind and a key, or None."""

    def keep(self, kind: str, key: str, value: Array) -> None:
        """Keep an array for later jobs."""

    def resume(self) -> tuple[int, Array] | None:
        """Return the steps that an earlier attempt at this job made, and its state after them."""

    def checkpoint(self, step: int, state: Array) -> None:
        """Take note of the flow's state after so many steps."""

    def preview(self, stem: str, start: int, audio: Array) -> None:
        """Show a decoded stretch (channels, samples) of a stem, from sample `start` on."""


def fingerprint(data: npt.NDArray[Any], model_sha256: str) -> str:
    """Key of what a model makes of some data: a checksum over both."""
    digest = hashlib.sha256(f"{model_sha256} {data.dtype.str} {data.shape} ".encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()
