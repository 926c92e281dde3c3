"""Stems for a track of a running Audacity."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from bridge.request import RESIDUAL, Prompt, SettingOptions, Span
from bridge.separation import ProgressCallback
from bridge.validation import check_prompts
from plugin_host.audio_files import read_audio
from plugin_host.daw.audacity import Audacity
from plugin_host.daw.session import SessionError, TrackInfo
from plugin_host.separators import Separator
from plugin_host.span_files import prompts_from_labels
from plugin_host.stem_files import StemPlan, write_stems


def list_tracks(audacity: Audacity) -> list[TrackInfo]:
    """Return the audio tracks of the open project, in order."""
    return [
        TrackInfo(str(t["name"]), 1, int(t.get("channels", 1)), bool(t.get("mute")))
        for t in audacity.info("Tracks")
        if t.get("kind") == "wave"
    ]


def label_prompts(audacity: Audacity) -> tuple[Prompt, ...]:
    """Return the prompts that the project's labels say, with their spans on the timeline."""
    return prompts_from_labels(audacity.labels())


def add_stems(
    audacity: Audacity,
    track: str,
    *,
    prompts: Sequence[Prompt],
    settings: SettingOptions,
    separator: Separator,
    progress: ProgressCallback,
    range_s: tuple[float, float] | None = None,
    mute_source: bool = False,
) -> dict[str, Path]:
    """Separate a stretch of a track and add a track for every stem at the same place.

    Parameters
    ----------
    audacity
        The connection.
    track
        Name of the track.
    prompts, settings
        As for `separate`; spans are seconds of the timeline, and those outside are left out.
    separator, progress
        What computes, and who is told.
    range_s
        Part of the timeline; None for all that the track holds.
    mute_source
        Mute the track.

    Returns
    -------
    Stem to the file that Audacity imported, which its project may go on to use.

    Raises
    ------
    SessionError
        Audacity refuses or does not answer, or there is nothing in the range.
    InputError
        A prompt or a setting cannot be used.
    """
    number = audacity.track_index(track)
    info = audacity.info("Tracks")[number]
    start_s, end_s = float(info.get("start", 0.0)), float(info.get("end", 0.0))
    if range_s is not None:
        start_s, end_s = max(start_s, range_s[0]), min(end_s, range_s[1])
    if info.get("kind") != "wave" or end_s <= start_s:
        msg = f"the track {track!r} plays nothing there"
        raise SessionError(msg)
    channels = int(info.get("channels", 1))
    media = Path(platformdirs.user_data_dir("stembridge", appauthor=False)) / "audacity"
    media.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "selection.wav"
        audacity.export(number, start_s, end_s, file, channels)
        mixture, heard = read_audio(file)
    moved = [
        Prompt(prompt.text, prompt.stem, _within(prompt.spans, start_s, heard.duration_s))
        for prompt in prompts
    ]
    checked = check_prompts(moved, heard.duration_s)
    result = separator.separate(mixture, heard.sample_rate, checked, progress=progress, **settings)
    stems = {**result.stems, RESIDUAL: result.residual}
    # Audacity may refer to what it imported, so the files stay.
    place = Path(tempfile.mkdtemp(prefix="stems-", dir=media))
    files = write_stems(
        StemPlan(place, "FLOAT"),
        stems,
        heard.sample_rate,
        subtype="FLOAT",
        tag="stembridge session",
    )
    for name, path in files.items():
        audacity.add_track(path, f"{track} {name}", start_s)
    if mute_source:
        audacity.mute(number)
    return files


def _within(spans: Sequence[Span], start_s: float, duration_s: float) -> tuple[Span, ...]:
    moved = [
        Span(max(s.start_s - start_s, 0.0), min(s.end_s - start_s, duration_s), s.polarity)
        for s in spans
    ]
    return tuple(span for span in moved if span.start_s < span.end_s)
