"""Video clips and their masks as visual prompts; decoding is PyAV's."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bridge.errors import InputError
from bridge.signal.pictures import resize
from bridge.video import Video, mask_out

_EXTRA = "pip install 'stembridge[video]'"
_MASKED = 127  # brighter is masked


def read_video(clip: Path, mask: Path | None, side: int) -> Video:
    """Read the frames of a clip with the thing that sounds masked out.

    Frames are reduced as they are decoded, so that a long clip fits in memory.

    Parameters
    ----------
    clip
        A video that starts with the mixture.
    mask
        A video of the same size with as many frames, bright where the thing is; None if the
        clip's frames are masked already.
    side
        Width and height to bring the frames to, in pixels.

    Raises
    ------
    InputError
        If a file can't be decoded, or the two don't fit each other.
    """
    frames, times_s = [], []
    pairs = zip_longest(_decode(clip), () if mask is None else _decode(mask))
    for shown, covered in pairs:
        if shown is None or (mask is not None and covered is None):
            msg = f"{mask}: not as many frames as {clip}; give a mask for each of its frames"
            raise InputError(msg)
        time_s, picture = shown
        if covered is not None:
            picture = mask_out(picture, covered[1].mean(axis=-1) > _MASKED)
        reduced = np.round(255 * resize(picture, side)).astype(np.uint8)
        frames.append(reduced.transpose(1, 2, 0))
        times_s.append(time_s)
    return Video(np.stack(frames), np.array(times_s))


def _decode(path: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield when each frame of a file is shown, and its pixels (height, width, 3)."""
    try:
        import av
    except ModuleNotFoundError:
        msg = f"videos need the package av, which comes with: {_EXTRA}"
        raise InputError(msg) from None
    found = 0
    try:
        with av.open(str(path)) as container:
            for stream in container.streams.video[:1]:
                for frame in container.decode(stream):
                    time_s = found / float(stream.average_rate or 25)
                    yield (
                        time_s if frame.time is None else frame.time,
                        frame.to_ndarray(format="rgb24"),
                    )
                    found += 1
    except (OSError, av.FFmpegError) as error:
        msg = f"{path}: cannot be read as a video ({error})"
        raise InputError(msg) from error
    if not found:
        msg = f"{path}: has no video in it"
        raise InputError(msg)
