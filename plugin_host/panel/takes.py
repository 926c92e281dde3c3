"""Takes: runs of the separation over the song or a part of it, with the stems they came to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bridge import Client, Progress, Prompt, Report, Separation
from bridge.connection.job import JobHandle
from bridge.errors import Cancelled, InputError, StembridgeError, reason_of, with_next_step
from bridge.request import RESIDUAL, Settings, check_prompts
from bridge.video import Video
from plugin_host.files.audio_files import Audio
from plugin_host.panel.clips import Clips
from plugin_host.panel.document import PromptRow
from plugin_host.panel.drawing import Peaks, spectrogram_tile

_PAINTERS: Final = ThreadPoolExecutor(os.cpu_count(), "spectrogram")
"""More at a time than there are cores get in each other's way, and all are late."""

TakeState = Literal["queued", "running", "done", "failed", "cancelled"]

_SILENT_DB: Final = -120.0
_DRAFT_FROM_S: Final = 30.0
"""What is shorter is separated soon enough; of what is longer a draft is drawn and heard first."""


@dataclass
class Sound:
    """Something to see and hear: the song itself or a stem.

    Attributes
    ----------
    peaks
        On the time axis of the song; grow while the stem is computed.
    audio
        Float32 ``(channels, samples)``; None until it is computed.
    start
        Where it begins in the song, in samples.
    version
        Changes whenever there is more to see.
    edition
        How often `audio` was set: of a draft, and of the stem.
    """

    peaks: Peaks
    audio: Audio | None = None
    start: int = 0
    version: int = 0
    edition: int = 0
    _tiles: dict[tuple[int, int], Future[NDArray[np.uint8]]] = field(default_factory=dict)

    @classmethod
    def of(cls, audio: Audio) -> Sound:
        """Return audio that fills the time axis, with its peaks."""
        return cls(Peaks.of(audio), audio, edition=1)

    def read(self, start: int, samples: int) -> Audio:
        """Return a stretch of the song as this sounds there: silent where it has nothing.

        Raises
        ------
        InputError
            It is not computed yet.
        """
        if self.audio is None:
            raise InputError("this stem is not computed yet")
        channels, length = self.audio.shape
        first = max(start, self.start)
        last = min(start + samples, self.start + length)
        if (first, last) == (start, start + samples):
            return self.audio[:, start - self.start : last - self.start]
        stretch = np.zeros((channels, samples), np.float32)
        if first < last:
            inside = self.audio[:, first - self.start : last - self.start]
            stretch[:, first - start : last - start] = inside
        return stretch

    def tile(self, level: int, index: int, sample_rate: int) -> Future[NDArray[np.uint8]]:
        """Have a tile of the spectrogram computed, once for each edition.

        Raises
        ------
        InputError
            The audio is not computed yet.
        """
        if self.audio is None:
            raise InputError("this stem is not computed yet")
        key = (level, index)
        if key not in self._tiles:
            self._tiles[key] = _PAINTERS.submit(
                spectrogram_tile, self.audio, sample_rate, *key, offset=self.start
            )
        return self._tiles[key]

    def replace(self, audio: Audio, start: int, peaks: Peaks) -> None:
        """Set the audio, from where it begins in the song, and all that is seen of it."""
        self.audio, self.start, self.peaks = audio, start, peaks
        self._tiles = {}
        self.edition += 1
        self.version += 1


@dataclass
class Take:
    """One run.

    Attributes
    ----------
    id
        Its own, for as long as the panel runs.
    rows
        The prompts, as they were when it was started.
    prompts
        The same as they were submitted: checked, with spans in seconds of the stretch.
    settings
        Those that were asked for.
    start, samples
        Which part of the song.
    whole
        Whether that is all of it.
    state, position, progress, error
        How far it is, or why it came to nothing.
    report
        How it was computed.
    sounds
        By prompt id, and ``"residual"``.
    levels_db
        RMS of each stem against that of the mixture.
    name
        Given by the user, or empty.
    kept
        Whether the user said so.
    draft
        Whether a draft is computed before.
    """

    id: str
    rows: tuple[PromptRow, ...]
    prompts: tuple[Prompt, ...]
    settings: Settings
    start: int
    samples: int
    whole: bool
    sounds: dict[str, Sound]
    state: TakeState = "queued"
    position: int = 0
    progress: Progress | None = None
    error: str = ""
    report: Report | None = None
    levels_db: dict[str, float] = field(default_factory=dict)
    name: str = ""
    kept: bool = False
    draft: bool = False
    handle: JobHandle | None = None
    looking: asyncio.Task[None] | None = None
    keeping: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def open(self) -> bool:
        """Whether it is still to be computed."""
        return self.state in ("queued", "running")

    @property
    def audible(self) -> bool:
        """Whether all of its stems can be heard, be it as a draft."""
        return all(sound.audio is not None for sound in self.sounds.values())

    def stem(self, key: str) -> str:
        """Return the name of the stem with that key."""
        if key == RESIDUAL:
            return RESIDUAL
        pairs = zip(self.rows, self.prompts, strict=True)
        return next(prompt.stem for row, prompt in pairs if row.id == key)


class Takes:
    """All takes of a song, oldest first. To be used on the event loop only.

    Parameters
    ----------
    mixture, sample_rate
        The song, float32 ``(channels, samples)``.
    changed
        Called whenever there is something new to show.
    clips
        What shows prompts.
    prefix
        What the ids of takes begin with.
    """

    def __init__(
        self,
        mixture: Audio,
        sample_rate: int,
        changed: Callable[[], object],
        clips: Clips,
        prefix: str = "",
    ) -> None:
        self._clips = clips
        self._prefix = prefix
        self._mixture = mixture
        self._rate = sample_rate
        self._changed = changed
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._finishing: set[asyncio.Task[None]] = set()
        self._count = 0
        self.all: list[Take] = []

    def get(self, take_id: str) -> Take:
        """Return the take of an id; InputError if it is gone."""
        for take in self.all:
            if take.id == take_id:
                return take
        raise InputError("that take is not there any more; it was thrown away")

    def begin(
        self,
        client: Client,
        rows: Sequence[PromptRow],
        stretch: range,
        settings: Settings,
    ) -> Take:
        """Start a separation of a stretch of the song and return its take at once.

        A take that has the same stems already is returned instead.

        Raises
        ------
        InputError
            A prompt cannot be used.
        """
        rows = tuple(row for row in rows if row.says_something)
        prompts = prompts_within([row.prompt for row in rows], stretch, self._rate)
        ids = [row.id for row in rows]
        seen = [row.shown for row in rows]
        for take in self.all:
            same = ([row.id for row in take.rows], take.prompts) == (ids, prompts)
            same = same and [row.shown for row in take.rows] == seen
            same = same and (take.start, take.samples) == (stretch.start, len(stretch))
            if same and take.settings == settings and (take.open or take.state == "done"):
                return take
        self._count += 1
        samples = self._mixture.shape[1]
        take = Take(
            id=f"{self._prefix}t{self._count}",
            rows=rows,
            prompts=prompts,
            settings=settings,
            start=stretch.start,
            samples=len(stretch),
            whole=len(stretch) == samples,
            sounds={key: Sound(Peaks(samples)) for key in (*ids, RESIDUAL)},
        )
        self.all.append(take)
        if any(seen):
            take.looking = asyncio.create_task(self._look(client, take))
        else:
            self._submit(client, take, {})
        self._changed()
        return take

    async def _look(self, client: Client, take: Take) -> None:
        """Read what shows the prompts of a take, and submit it."""
        start_s, end_s = take.start / self._rate, (take.start + take.samples) / self._rate
        try:
            videos = {
                take.stem(row.id): await asyncio.to_thread(
                    self._clips.read, row.shown, start_s, end_s
                )
                for row in take.rows
                if row.shown is not None
            }
            self._submit(client, take, videos)
        except asyncio.CancelledError:
            take.state = "cancelled"
        except StembridgeError as error:
            take.state, take.error = "failed", with_next_step(error)
        finally:
            take.looking = None
            self._changed()

    def _submit(self, client: Client, take: Take, videos: Mapping[str, Video]) -> None:
        take.draft = (
            take.whole
            and take.samples > _DRAFT_FROM_S * self._rate
            and take.settings.quality != "draft"
        )
        take.handle = client.submit(
            self._mixture[:, take.start : take.start + take.samples],
            self._rate,
            take.prompts,
            take.settings,
            partial=True,
            draft_first=take.draft,
            video=videos,
        )
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # The loop may be closed already when the last job is given up.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._follow, take)

        for handle in (take.handle, take.handle.draft):
            if handle is not None:
                handle.watch(wake)

    def cancel(self, take: Take) -> None:
        """Give a take up."""
        if take.looking is not None:
            take.looking.cancel()
        if take.handle is not None and take.open:
            take.handle.cancel()

    def discard(self, take: Take) -> None:
        """Throw a take away, with its stems."""
        self.cancel(take)
        self.all.remove(take)
        for path in (*self._files(take, draft=False), *self._files(take, draft=True)):
            path.unlink(missing_ok=True)
        self._changed()

    async def close(self) -> None:
        """Give up what runs and remove the stems from the disk."""
        for take in self.all:
            self.cancel(take)
        looking = [take.looking for take in self.all if take.looking is not None]
        await asyncio.gather(*looking, *self._finishing, return_exceptions=True)
        self.all.clear()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.cleanup()

    def _follow(self, take: Take) -> None:
        handle = take.handle
        if handle is None or not take.open:
            return
        now = handle if handle.draft is None or handle.draft.done() else handle.draft
        keys = {take.stem(row.id): row.id for row in take.rows}
        for partial in now.take_partials():
            sound = take.sounds[keys.get(partial.stem, RESIDUAL)]
            sound.peaks.update(take.start + partial.start, partial.audio)
            sound.version += 1
        if handle.done():
            take.handle = None
            self._soon(self._finish(take, handle))
            return
        if take.draft and now is handle:
            take.draft = False
            draft = handle.draft
            # With a bundle that has no draft of its own, it is the same job.
            if draft is not None and draft.exception() is None and draft.key != handle.key:
                self._soon(self._show_draft(take, draft))
        take.state = "running" if now.state == "running" else "queued"
        take.position, take.progress = now.position, now.progress
        self._changed()

    def _soon(self, ending: Coroutine[Any, Any, None]) -> None:
        """Have a job's end dealt with, after the ends before it."""
        task = asyncio.create_task(ending)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _show_draft(self, take: Take, draft: JobHandle) -> None:
        """Let the draft of a take be heard until its stems are there."""
        with contextlib.suppress(StembridgeError, OSError):
            async with take.keeping:
                if take.open:
                    await asyncio.to_thread(self._keep, take, draft.result(), draft=True)
        self._changed()

    async def _finish(self, take: Take, handle: JobHandle) -> None:
        try:
            result = handle.result()
            async with take.keeping:
                await asyncio.to_thread(self._keep, take, result)
            take.report, take.state = result.report, "done"
        except Cancelled:
            take.state = "cancelled"
        except StembridgeError as error:
            take.state, take.error = "failed", with_next_step(error)
        except Exception as error:
            # A full disk, no memory: the page has to hear of it, whatever it is.
            take.state, take.error = "failed", f"the stems cannot be kept ({reason_of(error)})"
        take.draft = False
        self._changed()

    def _keep(self, take: Take, result: Separation, *, draft: bool = False) -> None:
        """Write the stems to the disk, where takes of long songs fit, and measure them."""
        mixture = self._mixture[:, take.start : take.start + take.samples]
        mixture_db = _rms_db(mixture)
        stems = {row.id: result.stems[take.stem(row.id)] for row in take.rows}
        stems[RESIDUAL] = result.residual
        for (key, audio), path in zip(stems.items(), self._files(take, draft), strict=True):
            audio.tofile(path)
            sound = take.sounds[key]
            peaks = Peaks(self._mixture.shape[1])
            peaks.update(take.start, audio)
            mapped = np.memmap(path, np.float32, "r", shape=audio.shape)
            sound.replace(mapped, take.start, peaks)
            take.levels_db[key] = max(_rms_db(audio) - mixture_db, _SILENT_DB)
        if not draft:
            for path in self._files(take, draft=True):
                path.unlink(missing_ok=True)

    def _files(self, take: Take, draft: bool) -> list[Path]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="stembridge-panel-")
        names = [*range(len(take.rows)), RESIDUAL]
        kind = "draft" if draft else "f32"
        return [Path(self._folder.name) / f"{take.id}-{name}.{kind}" for name in names]


def prompts_within(
    prompts: Sequence[Prompt], stretch: range, sample_rate: int
) -> tuple[Prompt, ...]:
    """Return checked prompts for a stretch of samples, as ``separate`` makes them for a file.

    Raises
    ------
    InputError
        There is none, or one cannot be used.
    """
    if not prompts:
        raise InputError("no prompt: say what to extract, such as drums")
    start_s, stop_s = stretch.start / sample_rate, stretch.stop / sample_rate
    cut = [prompt.within(start_s, stop_s) for prompt in prompts]
    return check_prompts(cut, len(stretch) / sample_rate)


def _rms_db(audio: Audio) -> float:
    mean = sum(float(np.vdot(channel, channel)) for channel in audio) / audio.size
    return float(10.0 * np.log10(max(mean, 1e-20)))
