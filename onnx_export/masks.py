"""Masks by clicks: SAM 2 follows an object through a clip, through transformers (extra ``masks``).

The pictures are prepared here, as transformers' own processor does it, which wants torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bridge.errors import InputError
from bridge.video import decode_video
from onnx_export.checkpoints.official import locate
from onnx_export.networks.phrases import check_model_type, load_pretrained

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

Frames = npt.NDArray[np.bool_]

SAM_2: Final = "facebook/sam2.1-hiera-tiny"
_FILES: Final = ("config.json", "model.safetensors")
#: Of the pictures that it was trained on.
_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)
#: Corners of a box, among labels that are 1 on the object and 0 off it.
_CORNERS: Final = (2, 3)
_MOST_BYTES: Final = 8 << 30  # of all frames, as they are kept


@dataclass(frozen=True)
class Click:
    """A point on the object, or beside it.

    Attributes
    ----------
    x, y : float
        In pixels of the clip, from its left upper corner.
    time_s : float
        From the start of the clip; the frame that is shown then is meant.
    on : bool
        Whether the object is there.
    """

    x: float
    y: float
    time_s: float = 0.0
    on: bool = True


@dataclass(frozen=True)
class Box:
    """A box around the object: its left upper and right lower corners, and when."""

    left: float
    top: float
    right: float
    bottom: float
    time_s: float = 0.0


@dataclass(frozen=True)
class Followed:
    """Where an object is in each frame of a clip.

    Attributes
    ----------
    times_s : ndarray of float64, shape (frames,)
    width, height : int
        Of the clip.
    logits : ndarray of float32, shape (frames, h, w)
        Above 0 where the object is, in the resolution of the network.
    marked : tuple of int
        Frames with clicks or boxes.
    """

    times_s: npt.NDArray[np.float64]
    width: int
    height: int
    logits: npt.NDArray[np.float32]
    marked: tuple[int, ...]

    def frame_at(self, time_s: float) -> int:
        """Return the frame that is shown at a time."""
        return frame_at(self.times_s, time_s)

    def mask(self, frame: int) -> Frames:
        """Return the mask of a frame in the clip's resolution: (height, width)."""
        logits = torch.from_numpy(self.logits[frame])[None, None]
        size = (self.height, self.width)
        wide = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        return np.asarray((wide[0, 0] > 0).numpy())


def frame_at(times_s: npt.NDArray[np.float64], time_s: float) -> int:
    """Return which of the frames that begin at some times is shown at a time."""
    return max(0, int(np.searchsorted(times_s, time_s + 1e-3, side="right")) - 1)


def fetch_sam_2(source: str | Path = SAM_2, revision: str | None = None) -> Any:
    """Find SAM 2 in a directory, or download it: a `onnx_export.checkpoints.official.Source`.

    Raises
    ------
    ModelError
        If it is not there, or is another model.
    """
    found = locate(source, _FILES, "SAM 2", revision)
    check_model_type(found.directory, "sam2_video", f"SAM 2 (such as {SAM_2})")
    return found


def load_sam_2(directory: Path) -> Sam2VideoModel:
    """Load SAM 2 from a transformers directory, in evaluation mode and float32.

    Raises
    ------
    ModelError
        If weights are missing or cannot be read.
    """
    from transformers import Sam2VideoModel

    found: Sam2VideoModel = load_pretrained(
        directory, Sam2VideoModel, "sam2_video", "SAM 2", "SAM 2's"
    )
    return found.eval().requires_grad_(False)


class _Pictures(dict[int, Tensor]):
    """Frames as the network takes them; they are kept in bytes, a quarter of that."""

    def __getitem__(self, frame: int) -> Tensor:
        picture = super().__getitem__(frame).float() / 255
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (_MEAN, _DEVIATION))
        return (picture - mean) / deviation


def follow(
    clip: Path,
    marks: Sequence[Click | Box],
    model: Sam2VideoModel,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Followed:
    """Follow an object through a clip, forwards and backwards from where it is marked first.

    Parameters
    ----------
    clip : Path
    marks : sequence of Click or Box
        At least one click on the object, or a box; one box at a frame.
    model : transformers.Sam2VideoModel
    progress : callable
        Called with ``(frames done, frames)``, of which more are found while the clip is decoded;
        what it raises ends the work.

    Raises
    ------
    InputError
        If the clip cannot be decoded or is too long, or a mark lies outside of it.
    """
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    size = model.config.image_size
    side = int(size if isinstance(size, int) else size[0])
    times: list[float] = []
    pictures, height, width = _Pictures(), 0, 0
    for time_s, pixels in decode_video(clip):
        height, width = pixels.shape[:2]
        pictures[len(times)] = _prepared(pixels, side)
        times.append(time_s)
        progress(0, len(times))
        if len(times) * 3 * side * side > _MOST_BYTES:
            raise InputError(f"{clip}: longer than {time_s:.0f} s; cut it to the mixture")
    times_s = np.array(times)
    by_frame = _by_frame(clip, marks, times_s, width, height)
    session = Sam2VideoInferenceSession(
        video_height=height,
        video_width=width,
        inference_device="cpu",
        inference_state_device="cpu",
        video_storage_device="cpu",
        dtype=torch.float32,
    )
    session.processed_frames = pictures
    number = session.obj_id_to_idx(1)
    scale = torch.tensor([side / width, side / height])
    first = min(by_frame)
    logits = np.zeros((len(times), 1, 1), np.float32)
    done = 0
    with torch.inference_mode():
        for frame, (points, labels) in sorted(by_frame.items()):
            inputs = {
                "point_coords": torch.tensor(points)[None, None] * scale,
                "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
            }
            session.add_point_inputs(number, frame, inputs)
            session.obj_with_new_inputs = [1]
            model(session, frame_idx=frame)
        for found in _everywhere(model, session, first):
            mask = found.pred_masks[0, 0].float().numpy()
            if logits.shape[1:] != mask.shape:
                logits = np.zeros((len(times), *mask.shape), np.float32)
            logits[found.frame_idx] = mask
            done += 1
            progress(min(done, len(times)), len(times))
    return Followed(times_s, width, height, logits, tuple(sorted(by_frame)))


def _everywhere(model: Sam2VideoModel, session: Any, first: int) -> Iterator[Any]:
    yield from model.propagate_in_video_iterator(session, start_frame_idx=first)
    if first > 0:
        yield from model.propagate_in_video_iterator(session, start_frame_idx=first, reverse=True)


def _prepared(frame: npt.NDArray[np.uint8], side: int) -> Tensor:
    """Resize a frame (height, width, 3) to bytes (3, side, side)."""
    picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    reduced = functional.interpolate(
        picture, (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return reduced[0].round().clamp(0, 255).byte()


def _by_frame(
    clip: Path,
    marks: Sequence[Click | Box],
    times_s: npt.NDArray[np.float64],
    width: int,
    height: int,
) -> dict[int, tuple[list[list[float]], list[int]]]:
    """Return points and labels for each frame that is marked; corners of a box come first."""
    if not any(isinstance(mark, Box) or mark.on for mark in marks):
        raise InputError(f"{clip}: nothing marks the object; give a click on it, or a box")
    found: dict[int, tuple[list[list[float]], list[int]]] = {}
    for mark in sorted(marks, key=lambda mark: isinstance(mark, Click)):
        corners = (
            [[mark.x, mark.y]]
            if isinstance(mark, Click)
            else [[mark.left, mark.top], [mark.right, mark.bottom]]
        )
        if not all(0 <= x < width and 0 <= y < height for x, y in corners):
            raise InputError(
                f"{clip}: {corners[0][0]:g},{corners[0][1]:g} to {corners[-1][0]:g},"
                f"{corners[-1][1]:g} is not within its {width} x {height} pixels"
            )
        if not 0 <= mark.time_s <= times_s[-1] + 1:
            raise InputError(f"{clip}: {mark.time_s:g} s is not within its {times_s[-1]:.1f} s")
        frame = frame_at(times_s, mark.time_s)
        points, labels = found.setdefault(frame, ([], []))
        if isinstance(mark, Box) and labels:
            raise InputError(f"{clip}: two boxes at {mark.time_s:g} s; give one")
        points += corners
        labels += [int(mark.on)] if isinstance(mark, Click) else _CORNERS
    return found
