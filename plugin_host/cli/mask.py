"""``stembridge mask``: a mask video of an object that a few clicks mark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.errors import InputError
from bridge.separation import Progress
from bridge.video import decode_video, write_mask_frames
from plugin_host.cli.arguments import SAM_2, NetworkOption
from plugin_host.cli.console import ProgressDisplay, note, say
from plugin_host.cli.models import exporter
from plugin_host.files.stem_files import write_picture

if TYPE_CHECKING:
    from onnx_export.masks import Box, Click, Followed

_EXTRA = "pip install 'stembridge[masks]'"
_NUMBER = r"-?\d+(?:\.\d+)?"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("mask", help="Follow what you click on through a clip, as a mask for it.")(run)


def run(
    clip: Annotated[Path, typer.Argument(help="A video.")],
    click: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y[@S]", help="A point on the object, in pixels, at a time in seconds."
        ),
    ] = None,
    not_click: Annotated[
        list[str] | None, typer.Option(metavar="X,Y[@S]", help="A point that is not on it.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y,X,Y[@S]", help="Opposite corners of a box around it."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="(default: CLIP.mask.mp4)"),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture of the mask. (default: beside it, as PNG)"),
    ] = None,
    network: NetworkOption = SAM_2,
) -> None:
    """Write a video that is white where the object is: --mask of `separate` takes it."""
    target = out or clip.with_name(f"{clip.stem}.mask.mp4")
    picture = preview or target.with_suffix(".png")
    for path in (target, picture):
        if path.exists():
            raise InputError(f"{path} exists; choose another place or delete it first")
    with exporter(_EXTRA):
        from onnx_export.masks import Box, Click, fetch_sam_2, follow, load_sam_2

        marks: list[Click | Box] = []
        for texts, on in ((click, True), (not_click, False)):
            for text in texts or []:
                (x, y), time_s = _numbers(text, 2)
                marks.append(Click(x, y, time_s, on))
        for text in box or []:
            (left, top, right, bottom), time_s = _numbers(text, 4)
            marks.append(
                Box(min(left, right), min(top, bottom), max(left, right), max(top, bottom), time_s)
            )
        found = fetch_sam_2(network)
        model = load_sam_2(found.directory)
        with ProgressDisplay() as display:
            show = display.track(clip.name)
            followed = follow(
                clip, marks, model, progress=lambda done, all_: show(Progress("follow", done, all_))
            )
    write_mask_frames(target, map(followed.mask, range(len(followed.times_s))), followed.times_s)
    say(f"{target}: {len(followed.times_s)} frames; use it with --video {clip} --mask {target}")
    missing = write_picture(picture, lambda: _draw(clip, followed, marks))
    say(f"{picture}: look whether it is what you meant") if missing is None else note(missing)


def _numbers(text: str, count: int) -> tuple[list[float], float]:
    """Read coordinates and, behind an @, a time."""
    places = ",".join([f"({_NUMBER})"] * count)
    found = re.fullmatch(rf"{places}(?:@(\d+(?:\.\d+)?))?", text.replace(" ", ""))
    if found is None:
        shape = ",".join("X,Y" for _ in range(count // 2))
        raise InputError(f"{text!r}: expected {shape}@SECONDS, such as 320,180@1.5")
    *numbers, time_s = found.groups()
    return [float(number) for number in numbers], float(time_s or 0)


def _draw(clip: Path, followed: Followed, marks: list[Click | Box]) -> bytes:
    """Draw the first frame that is marked, its mask, and the marks."""
    from onnx_export.masks import Click
    from plugin_host.files.pictures import draw_mask

    frame = followed.marked[0]
    pixels = next(each for number, (_, each) in enumerate(decode_video(clip)) if number == frame)
    here = [mark for mark in marks if followed.frame_at(mark.time_s) == frame]
    return draw_mask(
        f"{clip.name} at {followed.times_s[frame]:.2f} s",
        pixels,
        followed.mask(frame),
        points=[(mark.x, mark.y, mark.on) for mark in here if isinstance(mark, Click)],
        boxes=[
            (mark.left, mark.top, mark.right, mark.bottom)
            for mark in here
            if not isinstance(mark, Click)
        ],
    )
