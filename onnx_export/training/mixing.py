"""Training examples: random mixtures of pool stems, as latents, with prompts and spans.

Mixing happens in the codec's own domain, where it is linear: gains and smooth equalisers are
products with the coefficients, and levels are read from frame energies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pedalboard
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_export.networks.lapped import LappedCodec
from onnx_export.networks.mini import NEGATIVE, MiniConfig
from onnx_export.training.run import DataConfig
from onnx_export.training.sound.families import (
    EXTRA_FAMILIES,
    MAIN_FAMILIES,
    NARROW_FAMILIES,
    SOUND_FAMILIES,
    ancestors,
    related,
)
from onnx_export.training.stem_pool import Stem, StemPool

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
#: How often a family is asked for where a narrower one would do as well, next to once for others;
#: the narrowest weighs as much.
ASKED = {"vocals": 4.0, "lead-vocals": 4.0, "music": 1.0, "voice": 0.5, "electric-guitar": 3.0}
NARROWEST, MAIN = 3.0, 2.5
#: Share of the prompts that are a stem's own phrase, where it has one.
OWN_WORDS = 0.25
#: What becomes of a guitar that is driven.
DRIVEN = "distorted-guitar"
#: Families that are in the middle more often than not, and how often.
MIDDLE = frozenset({"lead-vocals", "male-singer", "female-singer", "rap", "speech", "kick-drum",
                    "snare-drum", "bass", "electric-bass", "synth-bass"})  # fmt: skip
MIDDLE_SHARE = 0.7
#: Those that fill the stereo field.
WIDE = frozenset({"music", "backing-vocals", "choir", "synth-pad", "strings", "rain", "crowd",
                  DRIVEN})  # fmt: skip
SOUNDS = tuple(family.name for family in SOUND_FAMILIES)
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


def amplified(rng: np.random.Generator, wav: NDArray[np.float32]) -> NDArray[np.float32]:
    """Drive a stem (samples,) hard: a lopsided clipper behind 10 to 45 dB of gain."""
    rms = float(np.sqrt(np.mean(np.square(wav), dtype=np.float64)))
    gain = 10 ** (rng.uniform(10, 45) / 20) / max(rms, 1e-4)
    lean = rng.uniform(0, 0.4)
    return np.asarray(np.tanh(np.float32(gain) * wav + lean) - np.tanh(lean), np.float32)


def cabinet_curve(rng: np.random.Generator, hertz: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gain of a guitar cabinet at these frequencies: little below 100 Hz and above 5 kHz."""
    low, high = rng.uniform(60, 140), rng.uniform(3500, 7000)
    presence, width = rng.uniform(1800, 3500), rng.uniform(0.3, 0.8)
    boost_db = rng.uniform(0, 9) * np.exp(-((np.log2(hertz / presence) / width) ** 2))
    band = 1 / np.sqrt((1 + (low / hertz) ** 4) * (1 + (hertz / high) ** 8))
    return np.asarray(band * 10 ** (boost_db / 20), np.float32)


def in_a_studio(
    rng: np.random.Generator, wav: NDArray[np.float32], rate: int
) -> NDArray[np.float32]:
    """Treat a voice (samples,) as productions do: (2, samples).

    With a compressor, some dirt, a doubling chorus, an echo and a room.
    """
    rms_db = 20 * np.log10(max(float(np.sqrt(np.mean(np.square(wav), dtype=np.float64))), 1e-4))
    chain: list[pedalboard.Plugin] = [pedalboard.HighpassFilter(float(rng.uniform(40, 160)))]
    if rng.random() < 0.7:
        threshold_db = rms_db + rng.uniform(-10, 6)
        chain.append(pedalboard.Compressor(float(threshold_db), float(rng.uniform(1.5, 8))))
    if rng.random() < 0.15:
        chain.append(pedalboard.Distortion(float(rng.uniform(2, 14))))
    if rng.random() < 0.15:
        chain.append(
            pedalboard.Chorus(
                rate_hz=float(rng.uniform(0.2, 1.5)),
                depth=float(rng.uniform(0.05, 0.3)),
                centre_delay_ms=float(rng.uniform(6, 20)),
                mix=float(rng.uniform(0.1, 0.5)),
            )
        )
    if rng.random() < 0.25:
        chain.append(
            pedalboard.Delay(
                delay_seconds=float(rng.uniform(0.08, 0.6)),
                feedback=float(rng.uniform(0, 0.5)),
                mix=float(rng.uniform(0.05, 0.3)),
            )
        )
    if rng.random() < 0.8:
        chain.append(
            pedalboard.Reverb(
                room_size=float(rng.uniform(0.05, 0.9)),
                damping=float(rng.uniform(0.1, 0.9)),
                wet_level=float(10 ** rng.uniform(-2, -0.6)),
                dry_level=0.4,
                width=float(rng.uniform(0.3, 1)),
            )
        )
    treated = pedalboard.Pedalboard(chain)(np.stack([wav, wav]), rate)
    return np.asarray(treated, np.float32)


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
        #: Frequency of each channel.
        self.hertz = (np.arange(model.latent_channels) + 0.5) * self.rate / (2 * self.hop)

    def _weights(self, families: list[str]) -> NDArray[np.float64]:
        # What a user brings is what the user wants.
        rare = dict.fromkeys(EXTRA_FAMILIES, self.data.extra_families)
        rare |= {family.name: 1.0 for family in NARROW_FAMILIES}
        rare["music"] = 0.0  # a whole band leaves nothing to tell apart
        weights = np.array([rare.get(f, 1.0) for f in families])
        return np.asarray(weights / weights.sum())

    def _any(self, rng: np.random.Generator, *families: str, count: int = 1) -> list[Stem]:
        """Choose stems of different kinds of some families."""
        kinds = self.pool.kinds_of(*families)
        picked = rng.choice(len(kinds), size=min(count, len(kinds)), replace=False)
        return [(kinds[i], self.pool.any_stem(rng, kinds[i])) for i in picked]

    def _sources(self, rng: np.random.Generator) -> tuple[list[Stem], bool]:
        """Choose stems; also say whether they belong to one song, all of them."""
        scene = rng.random()
        if scene < self.data.singing and self.pool.kinds_of("lead-vocals"):
            return self._singing(rng), False
        if scene < self.data.singing + self.data.sounds and self.pool.kinds_of(*SOUNDS):
            return self._sounds(rng), False
        count = int(rng.integers(self.data.min_sources, self.data.max_sources + 1))
        together = bool(rng.random() < self.data.same_song)
        if together:
            stems = self.pool.song(rng)
        else:
            stems = [(name, self.pool.any_stem(rng, name)) for name in self.pool.families]
        weights = self._weights([name for name, _ in stems])
        count = min(count, int((weights > 0).sum()))
        chosen = rng.choice(len(stems), size=count, replace=False, p=weights)
        return [stems[i] for i in chosen], together

    def _singing(self, rng: np.random.Generator) -> list[Stem]:
        """Choose a singer, or somebody who speaks, over a band or some of its instruments."""
        speaks = rng.random() < 0.2
        stems = self._any(rng, *(("speech",) if speaks else ("lead-vocals",)))
        if rng.random() < 0.25:
            stems += self._any(rng, "backing-vocals", "choir")
        if rng.random() < 0.12:
            stems += self._any(rng, "lead-vocals" if speaks else "speech")
        if rng.random() < 0.05:
            stems += self._any(rng, "rap", "whisper", "vocal-shouts")
        if rng.random() < 0.6 and self.pool.kinds_of("music"):
            band = [("music", self.pool.any_stem(rng, "music"))] if (
                "music" in self.pool.families
            ) else []  # fmt: skip
        else:
            song = [stem for stem in self.pool.song(rng) if "music" in ancestors(stem[0])]
            order = rng.permutation(len(song))[: int(rng.integers(1, 6))]
            band = [song[i] for i in order]
        if not band:
            band = self._any(rng, "music", count=2)
        if rng.random() < 0.1:
            band += self._any(rng, *SOUNDS)
        return stems + band

    def _sounds(self, rng: np.random.Generator) -> list[Stem]:
        """Choose two or three general sounds, some with music or voices beside them."""
        stems = self._any(rng, *SOUNDS, count=int(rng.integers(2, 4)))
        if rng.random() < 0.25:
            stems += self._any(rng, "music", "speech", "lead-vocals")
        return stems

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
            needed = int(np.ceil(length * speed * self.pool.rate / self.rate)) + 1
            stem = np.load(path, mmap_mode="r")
            start = int(place * max(0, len(stem) - needed))
            piece = stem[start : start + needed].astype(np.float32) / 32768
            if self.pool.rate != self.rate:
                piece = soxr.resample(piece, self.pool.rate, self.rate)
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
        musical = {"music", "vocals"} & ancestors(name)
        half = self.data.music_level_db if musical else self.data.other_level_db
        sign = float(rng.choice([-1.0, 1.0]))
        return sign * float(10 ** (rng.uniform(-half, half) / 20)) / rms

    def _spread(
        self,
        rng: np.random.Generator,
        name: str,
        wav: NDArray[np.float32],
        latents: Tensor,
        beside: Tensor,
        cabinet: Tensor,
    ) -> Tensor:
        """Put a stem somewhere in the stereo field: latents of both channels (2, T, C).

        Some are spread as well: one channel has them later and with another timbre, as rooms,
        pairs of microphones and choruses do.
        """
        centred = MIDDLE_SHARE if name in MIDDLE else CENTRED
        angle = np.pi / 4 if rng.random() < centred else rng.uniform(*PANS)
        if rng.random() < (0.7 if name in WIDE else self.data.spread):
            late = int(rng.integers(1, round(LATEST_S * self.rate)))
            moved = np.concatenate([np.zeros(late, np.float32), wav[:-late]])
            late_one = self.codec.encode(torch.from_numpy(moved)[None, None])[0] * cabinet
            late_one = late_one * torch.from_numpy(equaliser_curve(rng, latents.shape[-1]))
            own = float(rng.uniform(0, 1))  # what both channels share
            beside = own * beside + (1 - own) * late_one
        both = [float(np.cos(angle)) * latents, float(np.sin(angle)) * beside]
        return torch.stack(both if rng.random() < 0.5 else both[::-1])

    def _mixture(self, rng: np.random.Generator) -> tuple[list[Stem], Tensor, Tensor]:
        """One mixture: what sounds, its latents (sources, 2, T, C), and noise beside (2, T, C)."""
        for _ in range(20):
            chosen, together = self._sources(rng)
            panned = rng.random() < self.data.panned
            wav = self._crop(rng, [path for _, path in chosen], together)
            cabinets = torch.ones(len(chosen), len(self.hertz))
            for index, (name, path) in enumerate(chosen):
                if "guitar" in ancestors(name) and rng.random() < self.data.driven:
                    wav[index] = amplified(rng, wav[index])
                    cabinets[index] = torch.from_numpy(cabinet_curve(rng, self.hertz))
                    chosen[index] = (DRIVEN, path)
            other_side = wav.copy()
            for index, (name, _) in enumerate(chosen):
                if {"vocals", "voice"} & ancestors(name) and rng.random() < self.data.studio:
                    wav[index], other_side[index] = in_a_studio(rng, wav[index], self.rate)
            latents, other_latents = (
                self.codec.encode(torch.from_numpy(side)[:, None]) for side in (wav, other_side)
            )
            stems = []
            kept = []
            for stem, samples, own, other, cabinet in zip(
                chosen, wav, latents, other_latents, cabinets, strict=True
            ):
                toned = rng.random() < self.data.equaliser
                curve = equaliser_curve(rng, own.shape[-1]) if toned else np.ones(1, np.float32)
                tone = cabinet * torch.from_numpy(curve)
                mono, beside = own * tone, other * tone
                gain = self._gain(rng, stem[0], mono)
                if gain:
                    both = (
                        self._spread(rng, stem[0], samples, mono, beside, tone)
                        if panned
                        else mono.expand(2, -1, -1)
                    )
                    stems.append(gain * both)
                    kept.append(stem)
            if len(stems) >= self.data.min_sources:
                whole = torch.stack(stems)
                rms = float((whole.sum(0)[0].pow(2).sum(-1) / self.hop).mean().sqrt())
                level = MIXTURE_RMS * 10 ** (rng.uniform(*LEVEL_JITTER_DB) / 20)
                whole = self._master(rng, whole * (level / max(rms, 1e-4)))
                return kept, whole, self._hiss(rng, whole)
        raise ValueError("the stem pool has too few sounding stems to mix")

    def _master(self, rng: np.random.Generator, whole: Tensor) -> Tensor:
        """Do to all stems alike what a bus does: a compressor's gain, a band that ends early."""
        if rng.random() < self.data.ride:
            energy = whole.sum(0).pow(2).mean((0, 2))
            smooth = torch.nn.functional.avg_pool1d(
                energy[None, None], 9, 1, 4, count_include_pad=False
            )[0, 0]
            ratio = float(rng.uniform(0.1, 0.45))
            gain = (smooth / smooth.max().clamp(min=1e-12)).clamp(min=1e-4) ** (-ratio / 2)
            whole = whole * gain[:, None]
        if rng.random() < self.data.band_limit:
            channels = whole.shape[-1]
            edge = float(rng.uniform(0.25, 0.95)) * channels
            slope = float(rng.uniform(0.005, 0.05)) * channels
            k = torch.arange(channels, dtype=torch.float32)
            whole = whole * torch.sigmoid((edge - k) / slope)
        return whole

    def _hiss(self, rng: np.random.Generator, whole: Tensor) -> Tensor:
        """Draw faint noise that no stem holds, or none."""
        noise = torch.zeros(whole.shape[1:])
        if rng.random() < self.data.hiss:
            seed = int(rng.integers(2**31))
            noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
            tilt = torch.from_numpy(equaliser_curve(rng, noise.shape[-1]))
            level = float(whole.sum(0).pow(2).mean().sqrt())
            noise = noise * tilt * (level * 10 ** (rng.uniform(-45, -15) / 20))
        return noise

    def _asked(
        self, rng: np.random.Generator, stems: list[Stem], index: int
    ) -> tuple[str, list[int]]:
        """Choose a family that names a stem: also which stems are of that family.

        A narrow family is not asked for where it is unclear whether another stem belongs to it.
        """
        name = stems[index][0]
        candidates = []
        for family in sorted(ancestors(name)):
            members = [i for i, (other, _) in enumerate(stems) if family in ancestors(other)]
            doubtful = any(
                related(family, other) for i, (other, _) in enumerate(stems) if i not in members
            )
            if not doubtful and len(members) < len(stems):
                candidates.append((family, members))
        if not candidates:
            return name, [i for i, (other, _) in enumerate(stems) if name in ancestors(other)]
        weights = np.array([self._weight_of(family, name) for family, _ in candidates])
        return candidates[int(rng.choice(len(candidates), p=weights / weights.sum()))]

    def _weight_of(self, family: str, name: str) -> float:
        """Say how often a family is asked for that names what `name` is a kind of."""
        default = NARROWEST if family == name else MAIN if family in MAIN_FAMILIES else 1.0
        return ASKED.get(family, default)

    def prompt(self, rng: np.random.Generator, family: str, own: str | None = None) -> str:
        """Choose one of the family's training phrasings, the first of them most often.

        `own` is the phrase that describes the one stem that is asked for.
        """
        phrasings = self.pool.phrasings(family)
        if rng.random() < self.data.plain_names:
            return phrasings[0]
        if own is not None and rng.random() < OWN_WORDS:
            return own
        phrase = str(rng.choice(phrasings))
        return str(rng.choice(TEMPLATES)).format(phrase) if rng.random() < WORDS_SHARE else phrase

    def _absent(self, rng: np.random.Generator, stems: list[Stem]) -> str | None:
        """Choose a family that surely does not sound, voices and instruments most often."""
        others = [
            family
            for family in self.pool.prompted
            if not any(related(family, name) for name, _ in stems)
        ]
        if not others:
            return None
        likely = [family for family in others if {"voice", "music"} & ancestors(family)]
        return str(rng.choice(likely if likely and rng.random() < 0.7 else others))

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw ``size`` examples, two prompts to each mixture."""
        mixtures: list[Tensor] = []
        besides: list[Tensor] = []
        targets: list[Tensor] = []
        spans: list[Tensor] = []
        prompts: list[str] = []
        families: list[str] = []
        while len(prompts) < size:
            stems, whole, noise = self._mixture(rng)
            mixture, beside = whole.sum(0) + noise
            asked: list[str] = []
            for index in rng.permutation(len(stems)):
                family, members = self._asked(rng, stems, int(index))
                if family in asked or len(members) == len(stems):
                    continue
                asked.append(family)
                target = whole[members, 0].sum(0)
                own = self.pool.text(stems[members[0]][1]) if len(members) == 1 else None
                if rng.random() < self.data.absent:
                    absent = self._absent(rng, stems)
                    if absent is not None:
                        family, own, target = absent, None, torch.zeros_like(target)
                energy = (target.pow(2).sum(-1) / self.hop).numpy()
                ids = np.zeros(self.frames, np.int64)
                if rng.random() < self.data.spans:
                    ids = span_ids(rng, energy, self.rate / self.hop)
                mixtures.append(mixture)
                besides.append(beside)
                targets.append(target)
                spans.append(torch.from_numpy(ids))
                families.append(family)
                prompts.append(self.prompt(rng, family, own))
                if len(asked) == 2:
                    break
        return Batch(
            torch.stack(mixtures[:size]),
            torch.stack(besides[:size]),
            torch.stack(targets[:size]),
            torch.stack(spans[:size]),
            prompts[:size],
            families[:size],
        )
