"""From the flow's final states to one waveform per stem, the best of its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError
from bridge.flow.noise import message_bits, number_bits
from bridge.inference.cancellation import Cancellation
from bridge.inference.codec import count_chunks
from bridge.inference.journal import Journal
from bridge.inference.model import Model
from bridge.inference.progress import Stage
from bridge.inference.ranking import Ranking
from bridge.request import RESIDUAL, Prompt, ResolvedSettings
from bridge.separation import ProgressCallback, Selection
from bridge.signal.reconstruct import remainder
from bridge.signal.resampling import resample
from bridge.signal.views import Views

Array = npt.NDArray[np.float32]


def choose_message(model: Model, settings: ResolvedSettings) -> tuple[Array, int | None]:
    """Decide what the decoder's watermark says.

    Returns
    -------
    bits : ndarray of float32, shape (message length,)
    number : int or None
        The same as a number, the first bit its highest; None for a model without a watermark.

    Raises
    ------
    InputError
        If a message was asked for that the model cannot write.
    """
    length = model.message_length
    asked = settings.watermark
    if asked is None:
        bits = message_bits(settings.seed, length)
    elif asked < 1 << length:
        bits = number_bits(asked, length)
    else:
        raise InputError(
            f"watermark is {asked}, but the model {model.manifest.name!r} "
            + (f"writes {length} bits; give a smaller number" if length else "writes none")
        )
    number = int("".join(str(int(bit)) for bit in bits), 2) if length else None
    return bits, number


@dataclass(frozen=True)
class Preview:
    """Shows the parts of a stem as they are decoded, at the mixture's rate.

    Attributes
    ----------
    journal : Journal
        Shows them.
    gain : ndarray of float32, shape (V, 1)
        What each view was multiplied by for the model.
    model_rate, sample_rate : int
        Of the model and the mixture, in Hz.
    views : Views
        Of the mixture.
    """

    journal: Journal
    gain: Array
    model_rate: int
    sample_rate: int
    views: Views

    def show(self, stem: str, start: int, part: Array) -> None:
        """Show what begins at a sample `start` of the model's rate, shape (V, samples)."""
        first = start * self.sample_rate // self.model_rate
        waves = np.stack(
            [resample(view, self.model_rate, self.sample_rate) for view in part / self.gain]
        )
        waves = waves[:, : self.views.signals.shape[1] - first]
        if waves.size:
            self.journal.preview(stem, first, self.views.to_channels(waves))


@dataclass(frozen=True)
class Decoding:
    """The decoding stage of one job.

    Attributes
    ----------
    model, prompts, settings, progress, cancellation, journal
        Of the job.
    ranking : Ranking
    message : ndarray of float32
        Bits of the watermark.
    preview : Preview
    """

    model: Model
    prompts: tuple[Prompt, ...]
    settings: ResolvedSettings
    progress: ProgressCallback | None
    cancellation: Cancellation
    journal: Journal
    ranking: Ranking
    message: Array
    preview: Preview

    def run(
        self, flow: Array, spans: npt.NDArray[np.int64], heard: Array
    ) -> tuple[list[Array], tuple[Selection, ...]]:
        """Decode.

        With one prompt the model says itself what is left, where the reconstruction asks. Of
        several, no residual of the model is the rest of them all: it is the mixture without the
        targets.

        Parameters
        ----------
        flow : ndarray of float32, shape (P, K, V, T, 2C)
            Final states of the K candidates of P prompts to V views.
        spans : ndarray of int64, shape (P, T)
        heard : ndarray of float32, shape (V, samples)
            What the model heard of the mixture, at its rate.

        Returns
        -------
        waveforms : list of ndarray of float32, shape (V, samples)
            The targets, and then what is left.
        selections : tuple of Selection
            One per prompt; empty where there was nothing to choose or to judge.
        """
        channels = self.model.manifest.latent_channels
        prompts, candidates, _, frames, _ = flow.shape
        own_rest = prompts == 1 and self.settings.reconstruct != "null"
        chunks = count_chunks(frames, self.model.manifest.codec)
        stage = Stage(self.progress, "decode", chunks * (prompts * candidates + own_rest))

        def decode(coded: Array, shown_as: str | None) -> Array:
            show = None if shown_as is None else partial(self.preview.show, shown_as)
            on_chunk = stage.advance
            wave = self.model.decode(coded, self.message, self.cancellation, on_chunk, show)
            return wave[:, : heard.shape[1]]

        waveforms, selections = [], []
        for number, prompt in enumerate(self.prompts):
            # While several are decoded, nobody knows yet which of them is the stem.
            shown_as = prompt.stem if self.journal.previews and candidates == 1 else None
            waves = [decode(state[..., :channels], shown_as) for state in flow[number]]
            chosen = self.ranking.choose(prompt.stem, prompt.text, spans[number], waves)
            waveforms.append(waves[chosen.candidate])
            selections.append(chosen)
        if own_rest:
            rest = flow[0, selections[0].candidate, ..., channels:]
            waveforms.append(decode(rest, RESIDUAL if self.journal.previews else None))
        else:
            waveforms.append(remainder(heard, waveforms))
        telling = candidates > 1 or self.settings.judge
        return waveforms, tuple(selections) if telling else ()
