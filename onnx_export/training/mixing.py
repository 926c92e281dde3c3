"""Training examples: random mixtures of pool stems, as latents, with prompts and spans.

Mixing happens in the codec's own domain, where it is linear: gains and smooth equalisers are
products with the coefficients, and levels are read from frame energies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_export.lapped import LappedCodec
from onnx_export.mini import NEGATIVE, MiniConfig
from onnx_export.training.config import DataConfig
from onnx_export.training.families import EXTRA_FAMILIES
from onnx_export.training.stem_pool import StemPool

#: Mixtures have this RMS (-20 dBFS), give or take `LEVEL_JITTER_DB`.
MIXTURE_RMS = 0.1
LEVEL_JITTER_DB = (-9.0, 5.0)
#: Spans follow the paper: below -40 dBFS is silence, and a stretch lasts at least 250 ms.
SILENCE_RMS = 0.01
MIN_SPAN_S = 0.25
#: Share of the prompts with spans that have "-" spans alone.
ONLY_NEGATIVE = 0.2
#: Angles of sources between the channel that is heard and the other, as constant-power panning
#: has them: the farthest comes 18 dB weaker.
PANS = (0.1, np.pi / 2 - 0.12)
#: Share of the sources of a stereo field that are in the middle.
CENTRED = 0.15
#: How late one channel may hear a source that is spread.
LATEST_S = 0.02
#: Slowest and fastest that a stem is played.
SPEEDS = (0.84, 1.19)
#: A stem whose loudest frame has less mean square than this (-46 dBFS) is at rest.
AT_REST = 2.5e-5
NOT_MUSIC = frozenset({"speech", "noise", "hum", "siren", "clicks"})
#: Words around a phrasing that say nothing about what is meant. None makes a held-out phrasing.
TEMPLATES = (
    "the {}", "{} track", "{} stem", "{} sound", "isolated {}", "only {}", "{} part",
    "just the {}", "solo {}", "{} in the mix", "sound of {}", "a {}", "some {}",
    "{} please", "all of the {}", "the {} of this song", "{} only", "loud {}", "soft {}",
    "{} from the band", "extract the {}", "{} recording", "get me the {}",
    "{} on its own", "the sound of a {}", "live {}", "{} music", "every {}",
)  # fmt: skip
#: Share of the prompts other than plain names that have such words.
WORDS_SHARE = 0.4


@dataclass(frozen=True)
class Batch:
    """Examples ready for the network.

    Attributes
    ----------
    mixture : Tensor, shape (B, T, C)
        Unscaled latents (divide by the codec's scale) of the channel that is heard.
    beside : Tensor, shape (B, T, C)
        The mixture in the channel beside that; the same for a mono mixture.
    target : Tensor, shape (B, T, C)
        Unscaled latents of what the prompt names; the rest is ``mixture - target``.
    spans : Tensor of int64, shape (B, T)
    prompts : list of str
    families : list of str
        The family each prompt names.
    """

    mixture: Tensor
    beside: Tensor
    target: Tensor
    spans: Tensor
    prompts: list[str]
    families: list[str]


def equaliser_curve(rng: np.random.Generator, channels: int) -> NDArray[np.float32]:
    """Smooth random gain over the channels: a tilt and three slow cosines in log frequency."""
    octave = np.log2(1 + np.arange(channels) / 4) / np.log2(1 + channels / 4)
    curve_db = rng.normal(0, 4) * (octave - 0.5)
    for waves in (1, 2, 3):
        curve_db = curve_db + rng.normal(0, 2.5) * np.cos(
            np.pi * waves * octave + rng.uniform(0, 2 * np.pi)
        )
    return np.asarray(10 ** (np.clip(curve_db, -15, 10) / 20), np.float32)


def stretches(active: NDArray[np.bool_], shortest: int) -> NDArray[np.bool_]:
    """Close gaps and drop stretches shorter than ``shortest`` frames."""
    result = active.copy()
    for value in (False, True):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], result == value, [False]])))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop - start < shortest:
                result[start:stop] = not value
    return result


def span_ids(
    rng: np.random.Generator, energy: NDArray[np.float32], frames_per_s: float
) -> NDArray[np.int64]:
    """Spans as a user would mark them: where the target sounds, with edges not quite exact.

    What "+" spans leave is "-", as in a bundle whose manifest says that they are complete. Some
    users only say where the target does not sound.

    Parameters
    ----------
    energy : ndarray, shape (T,)
        Mean square of the target per frame.
    """
    shortest = max(1, round(MIN_SPAN_S * frames_per_s))
    active = stretches(energy > SILENCE_RMS**2, shortest)
    if not active.any():
        return np.zeros(len(active), np.int64)
    if rng.random() < ONLY_NEGATIVE:
        return np.where(active, 0, NEGATIVE)
    ids = np.full(len(active), NEGATIVE, np.int64)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]])))
    slack = max(1, shortest // 3)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        lo, hi = start + rng.integers(-slack, slack + 1), stop + rng.integers(-slack, slack + 1)
        ids[max(0, lo) : max(0, hi)] = 1
    return ids


class Mixer:
    """Draw batches from a stem pool.

    Parameters
    ----------
    pool : StemPool
        Stems by family and song.
    model : MiniConfig
        Rates and sizes.
    data : DataConfig
        Shares and ranges.
    """

    def __init__(self, pool: StemPool, model: MiniConfig, data: DataConfig) -> None:
        self.pool, self.data = pool, data
        self.hop = model.hop_length
        self.rate = model.sample_rate
        self.frames = round(data.crop_s * model.sample_rate / model.hop_length)
        self.codec = LappedCodec(model.hop_length, model.latent_channels)

    def _weights(self, families: list[str]) -> NDArray[np.float64]:
        # What a user brings is what the user wants.
        weights = np.array([self.data.extra_families if f in EXTRA_FAMILIES else 1.0
                            for f in families])  # fmt: skip
        return np.asarray(weights / weights.sum())

    def _sources(self, rng: np.random.Generator) -> tuple[list[tuple[str, Path]], bool]:
        """Choose stems of different families; also say whether they belong to one song."""
        count = int(rng.integers(self.data.min_sources, self.data.max_sources + 1))
        together = bool(rng.random() < self.data.same_song)
        if together:
            by_family = self.pool.song(rng)
        else:
            by_family = {name: self.pool.any_stem(rng, name) for name in self.pool.families}
        names = sorted(by_family)
        chosen = rng.choice(
            len(names), size=min(count, len(names)), replace=False, p=self._weights(names)
        )
        return [(names[i], by_family[names[i]]) for i in chosen], together

    def _crop(
        self, rng: np.random.Generator, paths: list[Path], together: bool
    ) -> NDArray[np.float32]:
        """Cut the same stretch from all stems, those of one song played at one random speed."""
        length = self.frames * self.hop
        speeds = [rng.uniform(*SPEEDS) if rng.random() < self.data.varispeed else 1.0
                  for _ in paths]  # fmt: skip
        if together:
            speeds = speeds[:1] * len(paths)
        place = rng.random()
        out = np.zeros((len(paths), length), np.float32)
        for row, (path, speed) in enumerate(zip(paths, speeds, strict=True)):
            needed = int(np.ceil(length * speed)) + 1
            stem = np.load(path, mmap_mode="r")
            start = int(place * max(0, len(stem) - needed))
            piece = stem[start : start + needed].astype(np.float32) / 32768
            if speed != 1.0:
                at = np.arange(length, dtype=np.float32) * np.float32(speed)
                piece = np.interp(at, np.arange(len(piece)), piece, right=0).astype(np.float32)
            out[row, : min(length, len(piece))] = piece[:length]
        return out

    def _gain(self, rng: np.random.Generator, name: str, latents: Tensor) -> float:
        """Bring a stem's latents (T, C) to a random level where they sound; 0 for one at rest."""
        energy = latents.pow(2).sum(-1) / self.hop
        # A stem at rest is left out: raising its tail to full level teaches noise.
        if energy.max() <= AT_REST:
            return 0.0
        rms = float(energy[energy > energy.max() * 1e-3].mean().sqrt())
        half = self.data.other_level_db if name in NOT_MUSIC else self.data.music_level_db
        sign = float(rng.choice([-1.0, 1.0]))
        return sign * float(10 ** (rng.uniform(-half, half) / 20)) / rms

    def _spread(
        self, rng: np.random.Generator, wav: NDArray[np.float32], latents: Tensor
    ) -> Tensor:
        """Put a stem somewhere in the stereo field: latents of both channels (2, T, C).

        Some are spread as well: one channel has them later and with another timbre, as rooms,
        pairs of microphones and choruses do.
        """
        angle = np.pi / 4 if rng.random() < CENTRED else rng.uniform(*PANS)
        beside = latents
        if rng.random() < self.data.spread:
            late = int(rng.integers(1, round(LATEST_S * self.rate)))
            moved = np.concatenate([np.zeros(late, np.float32), wav[:-late]])
            beside = self.codec.encode(torch.from_numpy(moved)[None, None])[0]
            beside = beside * torch.from_numpy(equaliser_curve(rng, latents.shape[-1]))
            own = float(rng.uniform(0, 1))  # what both channels share
            beside = own * latents + (1 - own) * beside
        both = [float(np.cos(angle)) * latents, float(np.sin(angle)) * beside]
        return torch.stack(both if rng.random() < 0.5 else both[::-1])

    def _mixture(self, rng: np.random.Generator) -> tuple[list[str], Tensor]:
        """One mixture's stems as unscaled latents, (sources, 2, T, C), none of them silent."""
        for _ in range(20):
            chosen, together = self._sources(rng)
            panned = rng.random() < self.data.panned
            wav = self._crop(rng, [path for _, path in chosen], together)
            latents = self.codec.encode(torch.from_numpy(wav)[:, None])
            stems = []
            names = []
            for (name, _), samples, dry in zip(chosen, wav, latents, strict=True):
                toned = rng.random() < self.data.equaliser
                curve = equaliser_curve(rng, dry.shape[-1]) if toned else np.ones(1, np.float32)
                mono = dry * torch.from_numpy(curve)
                gain = self._gain(rng, name, mono)
                if gain:
                    both = self._spread(rng, samples, mono) if panned else mono.expand(2, -1, -1)
                    stems.append(gain * both)
                    names.append(name)
            if len(stems) >= self.data.min_sources:
                whole = torch.stack(stems)
                rms = float((whole.sum(0)[0].pow(2).sum(-1) / self.hop).mean().sqrt())
                level = MIXTURE_RMS * 10 ** (rng.uniform(*LEVEL_JITTER_DB) / 20)
                return names, whole * (level / max(rms, 1e-4))
        raise ValueError("the stem pool has too few sounding stems to mix")

    def prompt(self, rng: np.random.Generator, family: str) -> str:
        """Choose one of the family's training phrasings, the first of them most often."""
        phrasings = self.pool.phrasings(family)
        if rng.random() < self.data.plain_names:
            return phrasings[0]
        phrase = str(rng.choice(phrasings))
        return str(rng.choice(TEMPLATES)).format(phrase) if rng.random() < WORDS_SHARE else phrase

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw ``size`` examples, two prompts to each mixture."""
        mixtures: list[Tensor] = []
        besides: list[Tensor] = []
        targets: list[Tensor] = []
        spans: list[Tensor] = []
        prompts: list[str] = []
        families: list[str] = []
        while len(prompts) < size:
            names, stems = self._mixture(rng)
            mixture, beside = stems.sum(0)
            for index in rng.permutation(len(names))[:2]:
                family, target = names[index], stems[index, 0]
                others = sorted(set(self.pool.families) - set(names))
                if rng.random() < self.data.absent and others:
                    family = str(rng.choice(others, p=self._weights(others)))
                    target = torch.zeros_like(target)
                energy = (target.pow(2).sum(-1) / self.hop).numpy()
                ids = np.zeros(self.frames, np.int64)
                if rng.random() < self.data.spans:
                    ids = span_ids(rng, energy, self.rate / self.hop)
                mixtures.append(mixture)
                besides.append(beside)
                targets.append(target)
                spans.append(torch.from_numpy(ids))
                families.append(family)
                prompts.append(self.prompt(rng, family))
        return Batch(
            torch.stack(mixtures[:size]),
            torch.stack(besides[:size]),
            torch.stack(targets[:size]),
            torch.stack(spans[:size]),
            prompts[:size],
            families[:size],
        )
