"""Video clips that were dropped on prompts, and their masks, which are painted or clicked."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.bundles.bundle import frame_side
from bridge.errors import Cancelled, InputError, StembridgeError, reason_of, with_next_step
from bridge.files import sha256_of_file
from bridge.video import (
    ClipInfo,
    HeldMasks,
    Video,
    probe_video,
    read_frame,
    read_video,
    write_mask,
    write_mask_frames,
)
from plugin_host.panel.document import Click, PromptRow, Shown, StillMask
from presets import Preset
from presets.preset import PresetVideo

SHOWN_WIDTH: Final = 480
"""Pixels across which a frame is shown and painted on, at most; a model looks at fewer."""

TELL_EVERY_S: Final = 0.25
"""How often pages are told, at most, how far following is."""


@dataclass(frozen=True)
class Clip:
    """A clip as the page shows it.

    Attributes
    ----------
    name
        Of the file that was dropped.
    path
        Where it is kept.
    info
        What it is like.
    sha256
        Of the file.
    lasting
        Whether the file is there after the panel too, as one that a preset names is.
    """

    name: str
    path: Path
    info: ClipInfo
    sha256: str
    lasting: bool = False

    @property
    def width(self) -> int:
        """Pixels across its frames as they are shown, and across masks."""
        return min(SHOWN_WIDTH, self.info.width)

    @property
    def height(self) -> int:
        """Pixels from top to bottom of the same."""
        return max(1, round(self.info.height * self.width / self.info.width))


@dataclass
class Following:
    """The way of an object that was clicked on through a clip, while it is looked for and after.

    Attributes
    ----------
    stop
        Set when it is to be given up.
    mask
        The id of the video that masks the clip, once it is there.
    done, total
        Frames it was found in, and frames that are known so far.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    mask: Future[str] = field(default_factory=Future)
    done: int = 0
    total: int = 0

    def view(self) -> dict[str, Any]:
        """Return what a page shows of it."""
        told: dict[str, Any] = {
            "done": self.done,
            "total": self.total,
            "mask": None,
            "error": "",
            "state": "runs",
        }
        if self.mask.done():
            error = self.mask.exception()
            if error is None:
                told |= {"state": "done", "mask": self.mask.result()}
            elif isinstance(error, Cancelled):
                told["state"] = "cancelled"
            else:
                told |= {"state": "failed", "error": _words(error)}
        elif self.stop.is_set():
            told["state"] = "cancelled"
        return told


class Clips:
    """All clips and masks of a panel, on the disk until it ends. Methods may be used on any thread.

    Parameters
    ----------
    model
        Name of an installed model, or the path of a bundle.
    network
        SAM 2, which follows what is clicked on: a directory or a repository that was fetched.
    changed
        Called, on any thread, when there is something new to show.

    Raises
    ------
    ModelError
        There is no such model.
    """

    def __init__(
        self, model: str, network: str = "", changed: Callable[[], object] = lambda: None
    ) -> None:
        self._model = model
        self._side = frame_side(model)
        self._network = network
        self._changed = changed
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._placing = threading.Lock()
        self._count = 0
        self._clips: dict[str, Clip] = {}
        self._masks: dict[str, NDArray[np.bool_]] = {}
        self._followed: dict[tuple[str, tuple[Click, ...]], Following] = {}
        self._follower = ThreadPoolExecutor(1, "stembridge-masks")
        self._loaded: Any = None
        self._found = self._find_network() if self.sees else None

    @property
    def sees(self) -> bool:
        """Whether the model takes videos at all."""
        return self._side is not None

    @property
    def follows(self) -> bool:
        """Whether what is clicked on can be followed."""
        return self._found is not None

    @property
    def busy(self) -> bool:
        """Whether something is being followed."""
        return any(following.view()["state"] == "runs" for following in self._followed.values())

    def place(self) -> Path:
        """Return a new path to keep a clip at; InputError if the model sees nothing."""
        self._check_sees()
        with self._placing:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="stembridge-panel-")
            self._count += 1
            return Path(self._folder.name) / f"clip{self._count}"

    # -- from files and presets --------------------------------------------------------------

    def add(self, path: Path, name: str, over: Shown | None = None) -> Shown:
        """Take in a clip that was written to its `place`.

        Parameters
        ----------
        path, name
            Where it is, and what it was called.
        over
            What it is the mask of, if it is one.

        Raises
        ------
        InputError
            It is no video that can be decoded, or a mask of another size; the file is gone then.
        """
        try:
            info = probe_video(path)
            if over is not None:
                size = self.get(over.clip).info
                if (info.width, info.height) != (size.width, size.height):
                    raise InputError(
                        f"{name}: {info.width} x {info.height} pixels, and the clip has "
                        f"{size.width} x {size.height}; give a mask of the same size"
                    )
        except InputError as error:
            path.unlink(missing_ok=True)
            raise InputError(str(error).replace(str(path), name)) from None
        self._clips[path.name] = Clip(name, path, info, sha256_of_file(path))
        if self.follows:
            # It takes seconds, which the first click need not wait for; what fails is told then.
            self._follower.submit(self._network_model)
        return Shown(path.name) if over is None else Shown(over.clip, mask_clip=path.name)

    def of_preset(self, preset: Preset) -> tuple[Shown | None, ...]:
        """Return what shows each stem of a preset: the files that it was saved with.

        Raises
        ------
        PresetError
            One of them is gone or was changed.
        InputError
            The model sees nothing.
        """
        return tuple(
            None if stem.video is None else self._kept(stem.video, stem.prompt.stem)
            for stem in preset.stems
        )

    def _kept(self, video: PresetVideo, stem: str) -> Shown:
        self._check_sees()
        video.check(stem, "bring it back, or drop a clip on that prompt and save the preset again")
        mask = None if video.mask is None else self._take_up(Path(video.mask))
        return Shown(self._take_up(Path(video.clip)), mask_clip=mask)

    def _take_up(self, path: Path) -> str:
        """Return the id of a file that stays where it is."""
        digest = sha256_of_file(path)
        for name, clip in self._clips.items():
            if (clip.path, clip.sha256) == (path, digest):
                return name
        name = self.place().name
        self._clips[name] = Clip(path.name, path, probe_video(path), digest, lasting=True)
        return name

    def for_preset(self, shown: Shown, keep: Callable[[Path, str], Path]) -> PresetVideo:
        """Return what a preset says of a clip and its masks.

        Parameters
        ----------
        shown
            What shows a prompt.
        keep
            Given a file and a name, returns a copy that lasts.

        Raises
        ------
        InputError
            Clicks are not followed, or there is no place for the copies.
        """

        def lasting(clip: Clip) -> Path:
            return clip.path if clip.lasting else keep(clip.path, clip.name)

        clip, mask = lasting(self.get(shown.clip)), self._mask(shown)
        if isinstance(mask, Clip):
            return PresetVideo.of_files(clip, lasting(mask))
        if not mask:
            return PresetVideo.of_files(clip)
        path = self.place()
        self.write_mask(shown, path)
        return PresetVideo.of_files(clip, keep(path, "mask.mkv"))

    # -- what is shown -----------------------------------------------------------------------

    def get(self, clip_id: str) -> Clip:
        """Return the clip of an id; InputError if there is none."""
        if clip_id not in self._clips:
            raise InputError("there is no such clip; drop it again")
        return self._clips[clip_id]

    def frame(self, clip_id: str, at_s: float) -> tuple[float, NDArray[np.uint8]]:
        """Return when the frame begins that is seen at a time, and its pixels as they are shown."""
        clip = self.get(clip_id)
        return read_frame(clip.path, at_s, (clip.width, clip.height))

    def paint(self, shown: Shown, at_s: float, pixels: bytes) -> Shown:
        """Return what shows a prompt with another mask from a frame on, instead of a video.

        Parameters
        ----------
        shown
            What shows it now.
        at_s
            When the frame begins.
        pixels
            A byte for each pixel as it is shown, row after row, 0 where it is not masked. Where
            none is, the mask of that frame is taken away.

        Raises
        ------
        InputError
            There are more or fewer pixels.
        """
        clip = self.get(shown.clip)
        if len(pixels) != clip.width * clip.height:
            raise InputError(
                f"a mask of {len(pixels)} pixels; expected {clip.width} x {clip.height}"
            )
        mask = np.frombuffer(pixels, np.uint8).reshape(clip.height, clip.width) > 0
        masks = [other for other in shown.masks if other.at_s != at_s]
        if mask.any():
            digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
            self._masks[digest] = mask
            insort(masks, StillMask(at_s, digest), key=lambda one: one.at_s)
        return Shown(shown.clip, tuple(masks))

    def mask(self, sha256: str) -> NDArray[np.bool_]:
        """Return a mask that was painted; InputError if there is no such one."""
        if sha256 not in self._masks:
            raise InputError("there is no such mask")
        return self._masks[sha256]

    def read(self, shown: Shown, start_s: float, end_s: float) -> Video:
        """Read what a model is to see of a stretch of the song, with times from its beginning.

        Raises
        ------
        InputError
            The clip cannot be decoded, or the model sees nothing.
        """
        side = self._check_sees()
        path, mask = self.get(shown.clip).path, self._mask(shown)
        masked = mask.path if isinstance(mask, Clip) else mask
        video = read_video(path, masked, side, (start_s, end_s))
        return Video(video.frames, video.times_s - start_s)

    def write_mask(self, shown: Shown, target: Path) -> None:
        """Write the masks as a video, for ``separate --mask``; InputError if there are none."""
        mask = self._mask(shown)
        if isinstance(mask, Clip):
            shutil.copyfile(mask.path, target)
        elif mask:
            write_mask(target, self.get(shown.clip).path, mask)
        else:
            raise InputError("there is no mask yet; mark what sounds")

    def digest(self, shown: Shown) -> str:
        """Return the SHA-256 of a clip with its masks."""
        told = [self.get(shown.clip).sha256, *(f"{m.at_s} {m.sha256}" for m in shown.masks)]
        mask = self._mask(shown)
        if isinstance(mask, Clip):
            told.append(mask.sha256)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def view(self, rows: Iterable[PromptRow]) -> dict[str, Any]:
        """Return what a page wants to know of the clips that show prompts.

        Returns
        -------
        dict
            ``clips`` by their ids, and what is ``followed`` by the prompts.
        """
        shown = {row.id: row.shown for row in rows if row.shown is not None}
        clips = {one.clip: self.get(one.clip) for one in shown.values()}
        return {
            "sees": self.sees,
            "follows": self.follows,
            "clips": {
                name: {
                    "name": clip.name,
                    "width": clip.width,
                    "height": clip.height,
                    "pixels": [clip.info.width, clip.info.height],
                    "duration_s": clip.info.duration_s,
                }
                for name, clip in clips.items()
            },
            "followed": {
                key: self._followed[one.clip, one.clicks].view()
                for key, one in shown.items()
                if (one.clip, one.clicks) in self._followed
            },
        }

    # -- clicks ------------------------------------------------------------------------------

    def follow(self, shown: Iterable[Shown | None], *, again: bool = False) -> None:
        """Look for what is clicked on in everything that is shown, and give the rest up.

        Parameters
        ----------
        shown
            All that shows prompts now.
        again
            Whether that which failed or was cancelled is looked for once more.
        """
        wanted = {(one.clip, one.clicks) for one in shown if one is not None and one.clicks}
        for key, following in list(self._followed.items()):
            if key not in wanted and not following.mask.done():
                following.stop.set()
                del self._followed[key]
        for key in wanted:
            known = self._followed.get(key)
            if known is None or (again and known.view()["state"] in ("failed", "cancelled")):
                self._followed[key] = following = Following()
                self._follower.submit(self._run, following, *key)

    def cancel(self, shown: Shown | None) -> None:
        """Give up looking for what is clicked on."""
        if shown is not None and (shown.clip, shown.clicks) in self._followed:
            self._followed[shown.clip, shown.clicks].stop.set()

    def _run(self, following: Following, clip_id: str, clicks: Sequence[Click]) -> None:
        told_s = -TELL_EVERY_S

        def progress(done: int, total: int) -> None:
            nonlocal told_s
            if following.stop.is_set():
                raise Cancelled("the clicks are not followed")
            following.done, following.total = done, total
            # Frames of a small clip come faster than a page is drawn.
            if time.monotonic() - told_s >= TELL_EVERY_S:
                told_s = time.monotonic()
                self._changed()

        try:
            progress(0, 0)
            clip, path = self.get(clip_id), self.place()
            self._follow(clip, clicks, path, progress)
            name = f"{Path(clip.name).stem}.mask.mp4"
            self._clips[path.name] = Clip(name, path, probe_video(path), sha256_of_file(path))
            following.mask.set_result(path.name)
        except Exception as error:  # torch's too: the page has to hear of it, whatever it is
            following.mask.set_exception(error)
        self._changed()

    def _follow(
        self, clip: Clip, clicks: Sequence[Click], path: Path, progress: Callable[[int, int], None]
    ) -> None:
        """Write the mask that the command ``mask`` makes of clicks."""
        model = self._network_model()
        from onnx_export import masks

        marks = [masks.Click(one.x, one.y, one.at_s, one.on) for one in clicks]
        try:
            followed = masks.follow(clip.path, marks, model, progress=progress)
        except InputError as error:
            raise InputError(str(error).replace(str(clip.path), clip.name)) from None
        frames = range(len(followed.times_s))
        write_mask_frames(path, map(followed.mask, frames), followed.times_s)

    def _network_model(self) -> Any:
        if self._found is None:
            raise InputError(
                "what is clicked on is followed where `pip install 'stembridge[masks]'` and "
                f"`stembridge models fetch {self._network}` were run; paint the mask instead"
            )
        from onnx_export.masks import fetch_sam_2, load_sam_2

        if self._loaded is None:
            self._loaded = load_sam_2(fetch_sam_2(self._found).directory)
        return self._loaded

    def _find_network(self) -> Path | None:
        """Return where SAM 2 is, if it is on this machine with what runs it."""
        if not self._network or not all(map(find_spec, ("torch", "transformers", "av"))):
            return None
        directory = Path(self._network).expanduser()
        if directory.is_dir():
            return directory
        from huggingface_hub import try_to_load_from_cache

        with contextlib.suppress(ValueError):  # not the name of a repository
            found = try_to_load_from_cache(self._network, "model.safetensors")
            if isinstance(found, str):
                return Path(found).parent
        return None

    def close(self) -> None:
        """Give up what runs, and remove the clips from the disk."""
        for following in self._followed.values():
            following.stop.set()
        self._follower.shutdown()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.cleanup()

    def _check_sees(self) -> int:
        if self._side is None:
            raise InputError(
                f"the model {self._model} does not see: it has no vision encoder; mark spans "
                "instead, or open the panel with a bundle that has one (--model)"
            )
        return self._side

    def _mask(self, shown: Shown) -> Clip | HeldMasks:
        """Return the video that masks a clip, once it is there, or what was painted."""
        if shown.mask_clip is not None:
            return self.get(shown.mask_clip)
        if not shown.clicks:
            return [(one.at_s, self._masks[one.sha256]) for one in shown.masks]
        following = self._followed.get((shown.clip, shown.clicks))
        if following is None:
            raise InputError("the clicks on the clip were changed before they were followed")
        try:
            return self.get(following.mask.result())
        except Exception as error:
            name = self.get(shown.clip).name
            raise InputError(f"{name}: what was clicked on has no mask: {_words(error)}") from None


def _words(error: BaseException) -> str:
    return with_next_step(error) if isinstance(error, StembridgeError) else reason_of(error)
