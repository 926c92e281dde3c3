"""A trial of an extension for Ableton Live 12.4: ``python -m plugin_host.cli.ableton``.

Live's Extensions SDK is JavaScript inside Live; the package ``ableton-extensions`` hands its calls
to Python through a bridge that is installed in Live once (``ableton-ext install-bridge``). This
process has to run beside Live: what the package builds for distribution is Python as WebAssembly,
which can load neither ONNX Runtime nor a sidecar.

It has been run against a stand-in for the bridge only, never in Live. A clip of the arrangement is
rendered before the track's effects, so that warps and gains are in it, and its stems become tracks
or take lanes at its place; the clip is deactivated if it becomes tracks. The SDK can neither copy a
track's devices nor group tracks, so the new ones do not sound through the track's effects.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event
from typing import Any

from bridge.errors import Cancelled, StembridgeError
from bridge.request import RESIDUAL
from bridge.separation import Progress, Separator
from plugin_host.cli.arguments import parse_prompt
from plugin_host.effects.separators import open_separator
from plugin_host.files.audio_files import read_audio
from plugin_host.files.stem_files import StemPlan, write_stems

_PLACES = ("tracks", "take lanes")


def make_extension(
    extension: Any, separator: Callable[[], AbstractContextManager[Separator]]
) -> Callable[[Any], None]:
    """Add the action to an `ableton_extensions.Extension`, and return it.

    Parameters
    ----------
    extension
        The extension, connected or not.
    separator
        Opens what computes.
    """

    def separate(clip: Any) -> None:
        try:
            _separate_clip(extension, clip, separator)
        except Cancelled:
            return
        except StembridgeError as error:
            extension.ui.confirm(f"stembridge: {error}")

    extension.context_menu("AudioClip", "Separate with stembridge")(separate)
    return separate


def _separate_clip(
    extension: Any, clip: Any, separator: Callable[[], AbstractContextManager[Separator]]
) -> None:
    track = clip.parent
    if not hasattr(track, "create_audio_clip") or not hasattr(track, "create_take_lane"):
        extension.ui.confirm("stembridge: choose a clip of the arrangement, not of a session slot")
        return
    text = extension.ui.prompt("Prompts, divided by ;", "vocals")
    if not text:
        return
    place = extension.ui.choose("Stems as", list(_PLACES))
    if place not in _PLACES:
        return
    prompts = [parse_prompt(part.strip()) for part in text.split(";") if part.strip()]
    start, end = clip.start_time, clip.end_time

    def work(update: Callable[[str, float | None], None], abort: Event) -> dict[str, Path]:
        update("rendering the clip", None)
        rendered = Path(extension.resources.render_pre_fx_audio(track, start, end))
        audio, info = read_audio(rendered)

        def tell(progress: Progress) -> None:
            if abort.is_set():
                raise Cancelled("cancelled in Live")
            share = 100.0 * progress.done / progress.total if progress.total else None
            update(progress.stage, share)

        with separator() as computing:
            result = computing.separate(audio, info.sample_rate, prompts, progress=tell)
        stems = {**result.stems, RESIDUAL: result.residual}
        folder = Path(tempfile.mkdtemp(prefix="stembridge-")) / "stems"
        files = write_stems(
            StemPlan(folder, "FLOAT"),
            stems,
            info.sample_rate,
            subtype="FLOAT",
            tag="stembridge live",
        )
        # Live takes a copy into the project, so that the set does not refer to this folder.
        return {
            stem: Path(extension.resources.import_into_project(str(file)))
            for stem, file in files.items()
        }

    files = extension.ui.progress("stembridge", work)
    _put_in(extension, track, clip, files, place=place)


def _put_in(extension: Any, track: Any, clip: Any, files: dict[str, Path], *, place: str) -> None:
    # What is made inside a transaction cannot be used there, so lanes and tracks come before.
    song, tracks = extension.song, place == "tracks"
    made = [song.create_audio_track() if tracks else track.create_take_lane() for _ in files]
    names = [f"{clip.name or track.name} {stem}" for stem in files]
    start, length = clip.start_time, clip.end_time - clip.start_time
    with extension.transaction():
        for target, name, file in zip(made, names, files.values(), strict=True):
            target.name = name
            # Not warped: it is as long as what was rendered.
            target.create_audio_clip(str(file), start, length, is_warped=False)
        if tracks:
            clip.muted = True


def main(arguments: Sequence[str] = ()) -> int:
    """Wait for the action to be chosen in Live; the first argument is a model."""
    from ableton_extensions import Extension

    model = next(itertools.chain(arguments, ["mini"]))
    extension = Extension("stembridge", author="stembridge")
    make_extension(extension, lambda: open_separator(model))
    extension.run()
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
