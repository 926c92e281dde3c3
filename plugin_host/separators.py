"""The one door to a separation: through the user's sidecar, or in this process."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol, Unpack

import numpy as np
from numpy.typing import NDArray

from bridge.request import Prompt, SettingOptions
from bridge.separation import ProgressCallback, Separation


class Separator(Protocol):
    """What a client of the sidecar and the engine have in common."""

    def separate(
        self,
        mixture: NDArray[np.float32],
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        *,
        progress: ProgressCallback | None = None,
        **settings: Unpack[SettingOptions],
    ) -> Separation:
        """Separate a mixture ``(channels, samples)`` into one stem per prompt and a residual."""
        ...


@contextlib.contextmanager
def open_separator(model: str, *, in_process: bool = False) -> Iterator[Separator]:
    """Give a separator for a model and close it afterwards.

    Parameters
    ----------
    model
        Name of an installed model, or the path of a bundle.
    in_process
        Compute here instead of in the sidecar.

    Raises
    ------
    ModelError
        There is no such model, or its files are damaged.
    ServerError
        The sidecar neither runs nor can be started.
    """
    if in_process:
        from bridge.engine import Engine

        with Engine(model) as engine:
            yield engine
        return
    from bridge.client import Client

    with Client.local(model=model) as client:
        yield client
