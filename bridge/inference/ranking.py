"""Which of several candidates for a stem is the best.

The model's judge decides where it has one. Else the stem's sounding stretches are compared with
the spans of its prompt, given or predicted; and where nothing says when the stem should sound,
the candidate is taken that has the most in common with the others, since what the noise alone put
into one of them is unlikely to be in the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridge.flow.windows import WindowPlan
from bridge.inference.cancellation import Cancellation
from bridge.inference.codec import pad_to_frames
from bridge.inference.model import Model
from bridge.separation import Scores, Selection
from bridge.signal.activity import expected_frames, overlap, sounding_frames

Array = npt.NDArray[np.float32]

Judge = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Ranking:
    """Ranks the candidates of one job.

    Attributes
    ----------
    model : Model
    latents : ndarray of float32, shape (V, T, C)
        Of what is heard of the mixture.
    plan : WindowPlan
        The judge hears so much at a time: it was trained on clips, like the flow.
    judged : bool
        Whether the judge is asked even where there is nothing to choose.
    cancellation : Cancellation
    """

    model: Model
    latents: Array
    plan: WindowPlan
    judged: bool
    cancellation: Cancellation

    def choose(
        self, stem: str, text: str, ids: npt.NDArray[np.int64], waves: Sequence[Array]
    ) -> Selection:
        """Choose among the candidates of a stem.

        Parameters
        ----------
        stem, text : str
            Name and prompt of the stem.
        ids : ndarray of int64, shape (T,)
            Its span ids.
        waves : sequence of ndarray of float32, shape (V, samples)
            The candidates at the model's rate, at least one.
        """
        several = len(waves) > 1
        if self.judged or (several and self.model.has_judge):
            judge = self.model.judge(text, self.cancellation)
            found = [self._scores(judge, wave) for wave in waves]
            best = int(np.argmax([scores.overall for scores in found]))
            return Selection(stem, best, "judge" if several else None, found[best])
        if not several:
            return Selection(stem, 0)
        expected = expected_frames(ids)
        if expected is None:
            return Selection(stem, int(np.argmax(agreement(waves))), "agreement")
        manifest = self.model.manifest
        sizes = (manifest.hop_length, manifest.sample_rate)
        heard = [np.any([sounding_frames(v, *sizes) for v in wave], axis=0) for wave in waves]
        best = int(np.argmax([overlap(frames, expected) for frames in heard]))
        return Selection(stem, best, "spans")

    def _scores(self, judge: Judge, wave: Array) -> Scores:
        """Let the judge hear a candidate window by window, and average."""
        padded = pad_to_frames(wave, self.model.manifest.hop_length)
        coded = self.model.encode(padded, self.cancellation, lambda: None)
        parts = [slice(start, start + self.plan.length) for start in self.plan.starts]
        scores = np.mean(
            [
                judge(mixture[part], stem[part])
                for mixture, stem in zip(self.latents, coded, strict=True)
                for part in parts
            ],
            axis=0,
        )
        return Scores(*(float(score) for score in scores))


def agreement(waves: Sequence[Array]) -> list[float]:
    """Tell for each waveform how close it is to the others.

    Parameters
    ----------
    waves : sequence of ndarray of float32, any one shape

    Returns
    -------
    list of float
        Minus the sum of the energies of its differences from the others; 0 is the best there is.
    """
    return [
        -sum(float(np.square(wave - other, dtype=np.float64).sum()) for other in waves)
        for wave in waves
    ]
