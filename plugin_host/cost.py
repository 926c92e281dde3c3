"""What a bundle costs on this machine, measured once, and the quality chosen for it here."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bridge.bundles.bundle import find_bundle, load_manifest
from bridge.bundles.manifest import BundleManifest, Manifest
from bridge.errors import InputError
from bridge.files import cache_directory, config_directory
from bridge.inference.budget import count_need
from bridge.request import Quality, Settings

SONG_S: Final = 180.0
"""The length of a song, for numbers that anybody can picture."""

_FILE: Final = "costs.json"
_RATE_HZ: Final = 44_100
_CHANNELS: Final = 2
_QUICK_S: Final = 2.0
_MORE_WINDOWS: Final = 3


class Cost(Struct, frozen=True):
    """What a 3-minute stereo song with one prompt costs.

    Attributes
    ----------
    song_s
        Computing seconds.
    load_s
        Seconds until the model is ready, on top of that, the first time.
    memory_bytes
        What the process needs at its peak, about.
    provider
        What it was measured on.
    """

    song_s: float
    load_s: float
    memory_bytes: int
    provider: str


def song_memory_bytes(manifest: BundleManifest) -> int:
    """Estimate what a 3-minute stereo song with one prompt needs, with the weights."""
    # Weights that are stored in 16 bits are computed in 32 on the CPU.
    wider = 2 if manifest.precision == "fp16-weights" else 1
    weights = wider * sum(info.size_bytes for info in manifest.files.values())
    samples = round(SONG_S * _RATE_HZ)
    if not isinstance(manifest, Manifest):
        # The mixture, the residual and a stem, twice: as they are and as the model has them.
        return weights + 4 * 6 * _CHANNELS * samples
    need = count_need(
        manifest,
        channels=_CHANNELS,
        samples=samples,
        sample_rate=_RATE_HZ,
        prompts=1,
        window=round(manifest.window_s * manifest.frame_rate_hz),
        views=_CHANNELS if manifest.listen == "channels" else 1,
    )
    return weights + need.least_bytes


def measure_cost(directory: Path) -> Cost:
    """Separate a little noise with a bundle, take the time, and remember the result.

    One window is computed to load the model and once more for the time; where that was quick, a
    longer stretch, which has a song's share of overlaps.

    Raises
    ------
    ModelError
        The bundle is damaged.
    ProviderError
        It cannot be computed where it should be.
    """
    from bridge.engine import Engine

    manifest = load_manifest(directory)
    stride_s = manifest.window_s - manifest.overlap_s
    phrase = manifest.sounds[0].phrases[0] if manifest.sounds else "music"
    noise = np.random.default_rng(0)

    def run(engine: Engine, seconds: float) -> float:
        shape = (_CHANNELS, round(seconds * _RATE_HZ))
        audio = (0.1 * noise.standard_normal(shape)).astype(np.float32)
        begun = time.perf_counter()
        engine.separate(audio, _RATE_HZ, [phrase])
        return time.perf_counter() - begun

    with Engine(directory) as engine:
        first_s = run(engine, manifest.window_s)
        # A window of a song brings only its stride.
        length_s, taken_s = stride_s, run(engine, manifest.window_s)
        if taken_s < _QUICK_S:
            length_s = manifest.window_s + _MORE_WINDOWS * stride_s
            taken_s = run(engine, length_s)
        cost = Cost(
            song_s=taken_s * SONG_S / length_s,
            load_s=max(first_s - taken_s, 0.0),
            memory_bytes=song_memory_bytes(manifest),
            provider=engine.provider,
        )
    _remember(manifest, cost)
    return cost


def remembered_cost(manifest: BundleManifest) -> Cost | None:
    """Return what was measured of a bundle before, or None."""
    return _all().get(manifest.sha256)


def time_told(cost: Cost) -> str:
    """Say how long a 3-minute song takes."""
    times = f"{SONG_S / cost.song_s:.1f} times faster than it plays"
    if cost.song_s > SONG_S:
        times = f"{cost.song_s / SONG_S:.1f} times as long as it plays"
    minutes, seconds = divmod(round(cost.song_s), 60)
    told = f"{minutes} min {seconds} s" if minutes else f"{max(seconds, 1)} s"
    return f"about {told} for a 3-minute song with one prompt on {cost.provider} ({times})"


def chosen_quality(manifest: BundleManifest) -> Quality | None:
    """Return the quality that the user chose for a bundle, or None for the bundle's own default."""
    return _chosen().get(manifest.name)


def choose_quality(manifest: BundleManifest, quality: Quality | None) -> None:
    """Remember the quality for a bundle, under its name; None forgets it.

    Raises
    ------
    InputError
        It cannot be written.
    """
    chosen = {name: kept for name, kept in _chosen().items() if name != manifest.name}
    if quality is not None:
        chosen[manifest.name] = quality
    path = _choices()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        partial.write_bytes(msgspec.json.encode(chosen))
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def with_chosen_quality(settings: Settings, model: str) -> Settings:
    """Return settings with the quality chosen for a model, where they say nothing of their own.

    Raises
    ------
    ModelError
        There is no such model.
    """
    own = (settings.quality, settings.steps, settings.solver, settings.grid)
    if any(value is not None for value in own):
        return settings
    quality = chosen_quality(load_manifest(find_bundle(model)))
    return settings if quality is None else replace(settings, quality=quality)


def _choices() -> Path:
    return config_directory() / "qualities.json"


def _chosen() -> dict[str, Quality]:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(_choices().read_bytes(), type=dict[str, Quality])
    return {}


def _all() -> dict[str, Cost]:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((cache_directory() / _FILE).read_bytes(), type=dict[str, Cost])
    return {}


def _remember(manifest: BundleManifest, cost: Cost) -> None:
    path = cache_directory() / _FILE
    # It can be measured again: a full disk is no reason to fail.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_suffix(".new")
        partial.write_bytes(msgspec.json.encode({**_all(), manifest.sha256: cost}))
        partial.replace(path)
