"""A piece of audio that is open in the panel, with everything that was done to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from bridge.errors import InputError
from bridge.request import RESIDUAL, Settings
from plugin_host.files import riff
from plugin_host.files.audio_files import (
    Audio,
    AudioInfo,
    read_audio,
    temporary_beside,
    write_audio,
)
from plugin_host.files.stem_files import (
    fit_integers,
    job_tag,
    plan_tracks,
    refuse_foreign_files,
    refuse_sources,
    write_stems,
)
from plugin_host.panel.clips import Clips
from plugin_host.panel.document import Document, History, Shown, Strip
from plugin_host.panel.drawing import (
    heard_gains,
    loudest_stretch,
    loudness_lufs,
    mix,
    overview,
)
from plugin_host.panel.takes import Sound, Take, Takes
from presets import Preset, ResidualStem
from presets.preset import stems_from_prompts

ORIGINAL: Final = "original"
OUTPUT_FOLDER: Final = "stembridge-out"


@dataclass(frozen=True)
class Material:
    """What was opened.

    Attributes
    ----------
    title
        As the page shows it.
    audio, info
        The samples, float32 ``(channels, samples)``, and the header of the file, or what it would
        be of what a track plays.
    folder
        Where stems are written, in a folder of their own.
    project
        The file whose presets are those of the project.
    sources
        The files it was read from, none of which is ever written to.
    metadata
        Chunks of the file that its stems get too.
    """

    title: str
    audio: Audio
    info: AudioInfo
    folder: Path
    project: Path
    sources: tuple[Path, ...]
    metadata: list[tuple[bytes, bytes]] | None = None

    @classmethod
    def of_file(cls, path: Path, folder: Path | None = None) -> Material:
        """Read an audio file; InputError if it is none."""
        audio, info = read_audio(path)
        return cls(
            path.name,
            audio,
            info,
            folder or path.resolve().parent / OUTPUT_FOLDER,
            path.resolve(),
            (path,),
            riff.read_metadata(path),
        )


def demo_mixture() -> Path:
    """Return the bundled mixture, for a panel that is opened without a file."""
    return Path(__file__).parent.parent / "demo" / "mixture.flac"


class Song:
    """See the module. To be used on the event loop, but for methods that say otherwise.

    Parameters
    ----------
    material
        What was opened.
    settings
        For the takes to come.
    changed
        Called whenever there is something new to show.
    clips
        What shows prompts.
    key
        Which of a session's recordings it is; empty for a file.
    number
        Which of the songs that were opened, from 1.
    """

    def __init__(
        self,
        material: Material,
        settings: Settings,
        changed: Callable[[], object],
        clips: Clips,
        *,
        key: str = "",
        number: int = 1,
    ) -> None:
        self.key = key
        self.material = material
        self.rate = material.info.sample_rate
        self.samples = material.audio.shape[1]
        self.original = Sound.of(material.audio)
        for tile in overview(self.samples):  # a page will ask for them
            self.original.tile(*tile, self.rate)
        self.history = History(Document(), self.samples / self.rate)
        # Among several songs, takes are told apart too.
        prefix = f"s{number}" if number > 1 else ""
        self.takes = Takes(material.audio, self.rate, changed, clips, prefix)
        self._clips = clips
        self.strips: dict[str, Strip] = {}
        self.selection: tuple[float, float] | None = None
        self.settings = settings
        self.current: str | None = None

    def select(self, stretch: tuple[float, float] | None) -> None:
        """Select a stretch in seconds, or nothing."""
        if stretch is not None:
            low, high = sorted(min(max(s, 0.0), self.samples / self.rate) for s in stretch)
            stretch = (low, high) if high - low > 1.0 / self.rate else None
        self.selection = stretch

    def preview_stretch(self) -> range:
        """Return the samples of the selection, or of the loudest 15 s."""
        if self.selection is None:
            return loudest_stretch(self.material.audio, self.rate)
        start, stop = (round(second * self.rate) for second in self.selection)
        return range(start, max(min(stop, self.samples), start + 1))

    def sound(self, take_id: str, key: str) -> Sound:
        """Return what a page wants to see or hear; InputError if there is no such sound."""
        if take_id == ORIGINAL:
            return self.original
        sounds = self.takes.get(take_id).sounds
        if key not in sounds:
            raise InputError("that take has no such stem")
        return sounds[key]

    def finished(self, take_id: str | None) -> Take:
        """Return a take that has stems; InputError if it has none."""
        take = self.audible(take_id)
        if take.state != "done":
            raise InputError("that take is not finished; wait for it")
        return take

    def audible(self, take_id: str | None) -> Take:
        """Return a take that has stems, be it drafts of them; InputError if it has none."""
        if take_id is None:
            raise InputError("nothing is separated yet; take a preview, or separate the song")
        take = self.takes.get(take_id)
        if not take.audible:
            raise InputError("that take is not finished; wait for it")
        return take

    def heard(self, take: Take, stretch: range) -> Audio:
        """Return a stretch of a take, mixed as it is heard. Any thread."""
        gains = heard_gains({key: self.strips.get(key, Strip()) for key in take.sounds})
        return mix(
            [
                (sound.read(stretch.start, len(stretch)), gains[key])
                for key, sound in take.sounds.items()
            ]
        )

    def loudness(self, take: Take, stretch: range) -> dict[str, float | None]:
        """Return how loud the original and the mix are in a stretch; None for silence."""
        first = max(stretch.start, take.start)
        last = min(stretch.stop, take.start + take.samples)
        if first >= last:
            return {"original": None, "heard": None}
        both = {
            "original": self.material.audio[:, first:last],
            "heard": self.heard(take, range(first, last)),
        }
        levels = {name: loudness_lufs(audio, self.rate) for name, audio in both.items()}
        return {name: level if np.isfinite(level) else None for name, level in levels.items()}

    def tag(self, take: Take, model: str) -> str:
        """Return the comment that ``separate`` writes into the stems of such a job."""
        audio = self.material.audio[:, take.start : take.start + take.samples]
        decides = {**asdict(take.settings), "model": model}
        shown = {take.stem(row.id): row.shown for row in take.rows if row.shown is not None}
        if shown:
            decides["videos"] = {stem: self._clips.digest(one) for stem, one in shown.items()}
        return job_tag(audio, self.material.info, take.prompts, decides)

    def write_stem(self, take: Take, key: str, model: str, target: Path) -> None:
        """Write one stem as ``separate`` writes it. Any thread."""
        audio = self.sound(take.id, key).read(take.start, take.samples)
        with temporary_beside(target) as temporary:
            write_audio(
                temporary,
                np.ascontiguousarray(audio),
                self.rate,
                comment=self.tag(take, model),
                metadata=self.material.metadata if take.whole else None,
            )
            temporary.replace(target)

    def save_stems(self, take: Take, model: str, *, overwrite: bool) -> dict[str, Path]:
        """Write all stems of a take beside the song, as ``separate`` does. Any thread.

        Raises
        ------
        InputError
            The take is a preview, a file is in the way, or the disk is full.
        """
        if not take.whole:
            raise InputError(
                "a preview is a part of the song; separate the whole song to write its stems"
            )
        (plan,) = plan_tracks([self.material.info], self.material.folder, "FLOAT", len(take.sounds))
        tag = self.tag(take, model)
        stems = {
            take.stem(key): np.asarray(sound.read(0, self.samples))
            for key, sound in take.sounds.items()
        }
        targets = [plan.path(name) for name in stems]
        refuse_sources(targets, self.material.sources)
        refuse_foreign_files(targets, tag, overwrite=overwrite)
        written, subtype = fit_integers(self.material.audio, stems, plan.subtype, sums=True)
        return write_stems(
            plan,
            written,
            self.rate,
            subtype=subtype,
            tag=tag,
            overwrite=overwrite,
            metadata=self.material.metadata,
        )

    def preset(self, description: str, model: str, keep: Callable[[Path, str], Path]) -> Preset:
        """Return prompts, clips, settings and levels as a preset, with the model that was used.

        May be called on any thread; for `keep` and errors see `Clips.for_preset`.
        """
        rows = [row for row in self.history.document.prompts if row.says_something]
        stems = tuple(
            stem
            if row.shown is None
            else replace(stem, video=self._clips.for_preset(row.shown, keep))
            for stem, row in zip(stems_from_prompts(row.prompt for row in rows), rows, strict=True)
        )
        strips = [self.strips.get(key, Strip()) for key in (*(r.id for r in rows), RESIDUAL)]
        levelled = tuple(
            replace(stem, gain_db=strip.gain_db, mute=strip.mute)
            for stem, strip in zip(stems, strips, strict=False)
        )
        reports = [take.report for take in self.takes.all if take.report is not None]
        return Preset(
            **asdict(self.settings),
            description=description,
            stems=levelled,
            residual=ResidualStem(gain_db=strips[-1].gain_db, mute=strips[-1].mute),
            model=model,
            model_sha256=reports[-1].model_sha256 if reports else None,
        )

    def take_preset(self, preset: Preset, shown: Sequence[Shown | None] = ()) -> None:
        """Replace prompts, seed and levels by those of a preset, and what shows its stems."""
        self.history.replace_prompts(preset.prompts, shown)
        self.settings = preset.settings
        rows = self.history.document.prompts
        levels: dict[str, tuple[float, bool]] = {
            row.id: (stem.gain_db, stem.mute) for row, stem in zip(rows, preset.stems, strict=True)
        }
        levels[RESIDUAL] = (preset.residual.gain_db, preset.residual.mute)
        for key, (gain_db, mute) in levels.items():
            self.strips[key] = Strip(gain_db=min(max(gain_db, -60.0), 12.0), mute=mute)

    def view(self) -> dict[str, Any]:
        """Return what a page shows, as JSON has it."""
        document = self.history.document
        info = self.material.info
        return {
            "song": self.key,
            "title": self.material.title,
            "folder": str(self.material.folder / (info.path.stem or info.path.name)),
            "sample_rate": self.rate,
            "channels": info.channels,
            "samples": self.samples,
            "peak": self.original.peaks.loudest,
            "prompts": [
                {**msgspec.to_builtins(row), "stem": _stem_of(row.prompt.stem)}
                for row in document.prompts
            ],
            "strips": msgspec.to_builtins(self.strips),
            "selection": self.selection,
            "seed": self.settings.seed,
            "can_undo": self.history.can_undo,
            "can_redo": self.history.can_redo,
            **self._clips.view(document.prompts),
            "current": self.current,
            "takes": [self._take_view(take) for take in self.takes.all],
        }

    def _take_view(self, take: Take) -> dict[str, Any]:
        report, progress = take.report, take.progress
        selected = {one.stem: one for one in report.selections} if report else {}
        notes = {one.stem: one.text for one in report.notes} if report else {}
        return {
            "id": take.id,
            "name": take.name,
            "kept": take.kept,
            "whole": take.whole,
            "start": take.start,
            "samples": take.samples,
            "seed": take.settings.seed,
            "state": take.state,
            "draft": take.draft,
            "audible": take.audible,
            "position": take.position,
            "error": take.error,
            "progress": msgspec.to_builtins(progress) if progress and take.open else None,
            "report": None
            if report is None
            else {
                "model": report.model,
                "seconds": report.seconds,
                "rtf": report.rtf,
                "provider": report.provider,
                "null_depth_db": report.null_depth_db,
                "nfe": report.nfe,
            },
            "stems": [
                {
                    "key": key,
                    "stem": take.stem(key),
                    "prompt": next(
                        (msgspec.to_builtins(row) for row in take.rows if row.id == key), None
                    ),
                    "version": sound.version,
                    "edition": sound.edition,
                    "level_db": take.levels_db.get(key),
                    "note": notes.get(take.stem(key), ""),
                    "scores": _scores(selected.get(take.stem(key))),
                }
                for key, sound in take.sounds.items()
            ],
        }


def _scores(selection: Any) -> Mapping[str, float] | None:
    scores = getattr(selection, "scores", None)
    return None if scores is None else dict(msgspec.to_builtins(scores))


def _stem_of(name: str) -> str:
    return name or "?"
