"""Visual prompts: frames of a video in which the sounding object is masked out.

Clips and their masks are read and written by PyAV (extra ``video``), loaded when a clip is read.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError, foreign_errors
from bridge.files import check_regular, replacing
from bridge.request import Prompt


@dataclass(frozen=True, eq=False)
class Video:
    """Masked frames of a video that belongs to a mixture.

    Attributes
    ----------
    frames : ndarray of uint8, shape (frames, height, width, 3)
        RGB, at least one; black where the object to extract is.
    times_s : ndarray of float64, shape (frames,)
        When each is shown, in seconds from the start of the mixture, not decreasing.

    Raises
    ------
    InputError
        If a shape or type is not as described.
    """

    frames: npt.NDArray[np.uint8]
    times_s: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        frames, times = self.frames, self.times_s
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise InputError(
                f"video has frames of the type {frames.dtype} and the shape {frames.shape}; "
                "expected uint8 (frames, height, width, 3)"
            )
        if times.shape != frames.shape[:1]:
            raise InputError(
                f"video has {len(frames)} frames and times of the shape {times.shape}; "
                "expected one time for each frame"
            )
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise InputError("the times of a video's frames are not finite and in order")

    @property
    def parts(self) -> tuple[memoryview, memoryview]:
        """The bytes that travel: times as little-endian float64, then the frames."""
        times = np.ascontiguousarray(self.times_s, "<f8")
        frames = np.ascontiguousarray(self.frames)
        return times.data.cast("B"), frames.data.cast("B")

    def shown(self, frames: int, frame_rate_hz: float) -> npt.NDArray[np.int64]:
        """Return for each latent frame the video frame nearest to its start.

        Parameters
        ----------
        frames : int
            Latent frames T.
        frame_rate_hz : float
            Latent frames per second.

        Returns
        -------
        ndarray of int64, shape (T,)
            Indices into `frames`; of two equally near ones, the earlier.
        """
        wanted = np.arange(frames) / frame_rate_hz
        after = np.clip(np.searchsorted(self.times_s, wanted), 1, max(1, len(self.times_s) - 1))
        after = np.minimum(after, len(self.times_s) - 1)
        before = np.maximum(after - 1, 0)
        nearer = self.times_s[after] - wanted < wanted - self.times_s[before]
        return np.where(nearer, after, before).astype(np.int64)


Videos: TypeAlias = Video | Mapping[str, Video]
"""A video for the one prompt there is, or one for each stem that has one, by its name."""


def check_videos(videos: Videos | None, prompts: Sequence[Prompt]) -> dict[str, Video]:
    """Return the video of each stem that has one.

    Raises
    ------
    InputError
        If there is one for several prompts, or one for a stem that no prompt makes.
    """
    if videos is None:
        return {}
    stems = [prompt.stem for prompt in prompts]
    if isinstance(videos, Video):
        if len(stems) > 1:
            raise InputError(
                f"a video shows what one stem is, but there are {len(stems)} prompts; say which "
                "by a dict from the names of stems to their videos"
            )
        return {stems[0]: videos}
    if not isinstance(videos, Mapping):
        raise InputError(f"video: expected a Video or a dict of them, got {type(videos).__name__}")
    for stem, video in videos.items():
        if stem not in stems:
            raise InputError(f"a video for the stem {stem!r}; expected one of {', '.join(stems)}")
        if not isinstance(video, Video):
            raise InputError(f"video of {stem!r}: expected a Video, got {type(video).__name__}")
    return dict(videos)


def mask_out(frame: npt.NDArray[np.uint8], mask: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Blacken the pixels of a frame (height, width, 3) where a mask (height, width) is true.

    Raises
    ------
    InputError
        If they differ in size.
    """
    if frame.shape[:2] != mask.shape:
        raise InputError(
            f"a frame has {frame.shape[1]} x {frame.shape[0]} pixels and its mask "
            f"{mask.shape[1]} x {mask.shape[0]}; give a mask of the same size"
        )
    return np.where(mask[..., np.newaxis], np.uint8(0), frame)


def resize(picture: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
    """Resize a picture to a square, bicubically and without aliasing.

    The kernel is Keys' with a = -1/2, widened by the factor of a reduction, and weights are
    normalised at the borders, as Pillow and PyTorch do it.

    Parameters
    ----------
    picture : ndarray of uint8, shape (height, width, 3)
    side : int
        Pixels of the result.

    Returns
    -------
    ndarray of float32, shape (3, side, side)
        0 to 1.
    """
    height, width, _ = picture.shape
    rows, columns = _weights(height, side), _weights(width, side)
    values = picture.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    resized: npt.NDArray[np.float32] = rows @ values @ columns.T
    return resized.clip(0, 1)


def _weights(size: int, wanted: int) -> npt.NDArray[np.float32]:
    """Return the weights (wanted, size) that resample an axis."""
    factor = size / wanted
    stretch = max(factor, 1.0)
    centres = (np.arange(wanted) + 0.5) * factor
    distance = np.abs(np.arange(size) + 0.5 - centres[:, np.newaxis]) / stretch
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    normalised: npt.NDArray[np.float32] = weights / weights.sum(axis=1, keepdims=True)
    return normalised.astype(np.float32)


_EXTRA = "pip install 'stembridge[video]'"
_ADVICE = "expected frames of at most 7680 x 4320 pixels, in a format that FFmpeg reads"
_SAME_S = 1e-6  # times of one frame, which were rounded on the way
_MASKED = 127  # brighter is masked
# Of a frame; a picture of a few kilobytes can have millions of times that.
_MOST_PIXELS = 7680 * 4320
_MOST_BYTES = 8 << 30  # of all frames, as they are kept

HeldMasks: TypeAlias = Sequence[tuple[float, npt.NDArray[np.bool_]]]
"""Masks of any size that stand still: from a second on until the next one; in order of time, the
first also before. They are stretched to the frames."""


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is like.

    Attributes
    ----------
    width, height
        Of its frames, in pixels.
    duration_s
        When its last frame ends.
    """

    width: int
    height: int
    duration_s: float


def read_video(
    clip: Path,
    mask: Path | HeldMasks | None,
    side: int,
    stretch_s: tuple[float, float] = (0.0, math.inf),
) -> Video:
    """Read the frames of a clip with the thing that sounds masked out.

    Frames are reduced as they are decoded, so that a long clip fits in memory.

    Parameters
    ----------
    clip
        A video that starts with the mixture.
    mask
        A video of the same size with as many frames, bright where the thing is, or masks that
        stand still; None if the clip's frames are masked already.
    side
        Width and height to bring the frames to, in pixels.
    stretch_s
        What is needed, in seconds; frames further away are left out.

    Raises
    ------
    InputError
        If a file can't be decoded, or the two don't fit each other.
    """
    frames: list[npt.NDArray[np.uint8]] = []
    times_s: list[float] = []
    for time_s, picture in _masked(clip, mask, stretch_s[0]):
        if time_s <= stretch_s[0]:  # a later one is shown by then
            frames.clear()
            times_s.clear()
        reduced = np.round(255 * resize(picture, side)).astype(np.uint8)
        times_s.append(time_s)
        frames.append(reduced.transpose(1, 2, 0))
        if len(frames) * reduced.nbytes > _MOST_BYTES:
            raise InputError(f"{clip}: longer than {times_s[-1]:.0f} s; cut it to the mixture")
        if time_s >= stretch_s[1]:
            break
    return Video(np.stack(frames), np.array(times_s))


def probe_video(clip: Path) -> ClipInfo:
    """Tell what a clip is like, from its first frame and its packets.

    Raises
    ------
    InputError
        It can't be decoded.
    """
    _, first = next(decode_video(clip))
    end_s = 0.0
    with _opened(clip) as (container, stream):
        for packet in container.demux(stream):
            if packet.pts is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return ClipInfo(first.shape[1], first.shape[0], end_s)


def read_frame(
    clip: Path, at_s: float, size: tuple[int, int]
) -> tuple[float, npt.NDArray[np.uint8]]:
    """Read what a clip shows at a time.

    Parameters
    ----------
    clip
        A video.
    at_s
        In seconds.
    size
        Width and height to bring the frame to.

    Returns
    -------
    time_s
        When that frame begins: at `at_s` or before it, where the clip has begun by then.
    picture
        Uint8 of shape (height, width, 3).

    Raises
    ------
    InputError
        It can't be decoded.
    """
    shown = None
    for time_s, frame in _frames(clip, at_s):
        if shown is not None and time_s > at_s + _SAME_S:
            break
        shown = time_s, frame
    if shown is None:
        raise InputError(f"{clip}: has no video in it")
    width, height = size
    return shown[0], shown[1].to_ndarray(format="rgb24", width=width, height=height)


def write_mask(path: Path, clip: Path, masks: HeldMasks) -> None:
    """Write masks as a video for `read_video`, as many frames as a clip has, without loss.

    Raises
    ------
    InputError
        The clip can't be decoded.
    """
    held = _holder(masks)
    info = probe_video(clip)
    with _opened(clip) as (_, stream):
        rate = stream.average_rate or 25
    import av

    with (
        foreign_errors(f"{path}: the mask cannot be written"),
        # Without numbers drawn at random: the same masks are the same bytes.
        av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container,
    ):
        written = container.add_stream("ffv1", rate=rate)
        written.width, written.height, written.pix_fmt = info.width, info.height, "gray"
        for time_s, picture in decode_video(clip):
            bright = 255 * held(time_s, picture.shape[:2]).astype(np.uint8)
            container.mux(written.encode(av.VideoFrame.from_ndarray(bright, format="gray")))
        container.mux(written.encode())


def write_mask_frames(
    path: Path, masks: Iterable[npt.NDArray[np.bool_]], times_s: npt.NDArray[np.float64]
) -> None:
    """Write a mask for each frame as an MP4, white where it is true.

    Parameters
    ----------
    path
    masks
        (height, width) each, all of one size.
    times_s
        When each is shown.

    Raises
    ------
    InputError
        If it cannot be written, or PyAV is missing.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise InputError(f"videos need the package av, which comes with: {_EXTRA}") from None
    clock = Fraction(1, 90_000)
    with (
        foreign_errors(f"{path}: cannot be written as a video", advice="choose another place"),
        replacing(path) as partial,
        av.open(str(partial), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libx264", options={"crf": "10", "preset": "veryfast"})
        # Colour in full resolution has no use here, but takes sizes that are odd.
        stream.pix_fmt, stream.time_base = "yuv444p", clock
        stream.codec_context.time_base = clock
        for mask, time_s in zip(masks, times_s - times_s[0], strict=True):
            white = np.repeat(mask[..., np.newaxis] * np.uint8(255), 3, axis=-1)
            if not stream.codec_context.is_open:
                stream.height, stream.width = mask.shape
            frame = av.VideoFrame.from_ndarray(white, format="rgb24")
            frame.time_base, frame.pts = clock, round(time_s / clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _masked(
    clip: Path, mask: Path | HeldMasks | None, near_s: float
) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Yield when each frame of a clip is shown, and its pixels with the mask in black.

    They begin somewhere before `near_s`.
    """
    if not isinstance(mask, Path):
        held = _holder(mask) if mask else None
        for time_s, picture in decode_video(clip, near_s):
            size = picture.shape[:2]
            yield time_s, picture if held is None else mask_out(picture, held(time_s, size))
        return
    for shown, covered in zip_longest(decode_video(clip), decode_video(mask)):
        if shown is None or covered is None:
            raise InputError(
                f"{mask}: not as many frames as {clip}; give a mask for each of its frames"
            )
        yield shown[0], mask_out(shown[1], covered[1].mean(axis=-1) > _MASKED)


def _holder(masks: HeldMasks) -> Callable[[float, tuple[int, ...]], npt.NDArray[np.bool_]]:
    """Return what gives the mask of a frame by its time and its height and width."""
    begins = [begin_s for begin_s, _ in masks]

    def held(time_s: float, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        mask = masks[max(0, bisect_right(begins, time_s + _SAME_S) - 1)][1]
        rows, columns = (
            np.arange(wanted) * there // wanted
            for wanted, there in zip(size, mask.shape, strict=True)
        )
        stretched: npt.NDArray[np.bool_] = mask[rows[:, np.newaxis], columns]
        return stretched

    return held


def decode_video(path: Path, near_s: float = 0.0) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Yield what `_frames` does, with the pixels of each frame (height, width, 3)."""
    for time_s, frame in _frames(path, near_s):
        yield time_s, frame.to_ndarray(format="rgb24")


def _frames(path: Path, near_s: float = 0.0) -> Iterator[tuple[float, Any]]:
    """Yield when each frame of a file is shown, and the frame of PyAV.

    They begin with the last frame before `near_s` that can be decoded by itself.
    """
    found = 0
    with _opened(path) as (container, stream):
        if near_s > 0:
            container.seek(int(near_s * 1_000_000))
        for frame in container.decode(stream):
            time_s = found / float(stream.average_rate or 25)
            yield (time_s if frame.time is None else frame.time), frame
            found += 1
    if not found:
        raise InputError(f"{path}: has no video in it")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file for PyAV; give the container and its first stream of pictures."""
    try:
        import av
    except ModuleNotFoundError:
        raise InputError(f"videos need the package av, which comes with: {_EXTRA}") from None
    with foreign_errors(f"{path}: cannot be read as a video", advice=_ADVICE):
        check_regular(path)
        # PyAV takes names as text, which not every name is.
        # Playlists name other files and addresses; what is named here is one file.
        limit = {"max_pixels": str(_MOST_PIXELS), "protocol_whitelist": "none"}
        with (
            path.open("rb") as file,
            # For looking at what is in it, which may decode a frame, and for decoding.
            av.open(file, options=limit, stream_options=[limit] * 8) as container,
        ):
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise InputError(f"{path}: has no video in it")
            stream.codec_context.options = limit
            yield container, stream
