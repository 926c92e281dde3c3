"""Stems for a track of a running Audacity."""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from bridge.request import RESIDUAL, Prompt, Span
from bridge.separation import ProgressCallback
from bridge.validation import check_prompts
from plugin_host.audio_files import read_audio
from plugin_host.daw.apply import Request
from plugin_host.daw.audacity import Audacity
from plugin_host.daw.journal import Entry, Journal
from plugin_host.daw.session import Clip, Marks, SessionError, TrackInfo
from plugin_host.separators import Separator
from plugin_host.stem_files import StemPlan, write_stems

_PROJECT = "audacity"


def list_tracks(audacity: Audacity) -> list[TrackInfo]:
    """Return the audio tracks of the open project, in order."""
    return [
        TrackInfo(str(t["name"]), 1, int(t.get("channels", 1)), bool(t.get("mute")))
        for t in audacity.info("Tracks")
        if t.get("kind") == "wave"
    ]


def marks(audacity: Audacity) -> Marks:
    """Return the labels of the open project; Audacity tells nobody its selection or loop."""
    return Marks(labels=audacity.labels())


def playing(audacity: Audacity, track: str) -> Clip:
    """Return what a track plays as one clip, without its audio.

    Raises
    ------
    SessionError
        There is no such track, or nothing on it.
    """
    info = audacity.info("Tracks")[audacity.track_index(track)]
    start_s, end_s = float(info.get("start", 0.0)), float(info.get("end", 0.0))
    if info.get("kind") != "wave" or end_s <= start_s:
        msg = f"the track {track!r} plays nothing"
        raise SessionError(msg)
    return Clip(track, (), 0, 0, 0, start_s, end_s - start_s, "")


def add_stems(
    audacity: Audacity, request: Request, separator: Separator, progress: ProgressCallback
) -> dict[str, Path]:
    """Separate a stretch of a track and add a track for every stem at the same place.

    Parameters
    ----------
    audacity
        The connection.
    request
        What to do; spans that lie outside the stretch are left out.
    separator, progress
        What computes, and who is told.

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
    clip = playing(audacity, request.track)
    low, high = request.range_s or (clip.position_s, clip.end_s)
    start_s, end_s = max(clip.position_s, low), min(clip.end_s, high)
    if end_s <= start_s:
        msg = f"the track {request.track!r} plays nothing there"
        raise SessionError(msg)
    number = audacity.track_index(request.track)
    before = audacity.info("Tracks")[number]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "selection.wav"
        # Audacity exports nothing of a muted track.
        if before.get("mute"):
            audacity.mute(number, muted=False)
        try:
            audacity.export(number, start_s, end_s, file, int(before.get("channels", 1)))
        finally:
            if before.get("mute"):
                audacity.mute(number, muted=True)
        mixture, heard = read_audio(file)
    moved = [
        Prompt(prompt.text, prompt.stem, _within(prompt.spans, start_s, heard.duration_s))
        for prompt in request.prompts
    ]
    result = separator.separate(
        mixture,
        heard.sample_rate,
        check_prompts(moved, heard.duration_s),
        progress=progress,
        **request.settings,
    )
    media = _media_folder()
    # Audacity may refer to what it imported, so the files stay.
    files = write_stems(
        StemPlan(Path(tempfile.mkdtemp(prefix="stems-", dir=media)), "FLOAT"),
        {**result.stems, RESIDUAL: result.residual},
        heard.sample_rate,
        subtype="FLOAT",
        tag="stembridge session",
    )
    journal = Journal(media)
    earlier = journal.earlier(_PROJECT, request.track, request.preset) if request.update else []
    for entry in earlier:
        _remove(audacity, entry)
        journal.discard(entry)
    names = []
    for stem, path in files.items():
        names.append(_free_name(audacity, f"{request.track} {stem}"))
        audacity.add_track(path, names[-1], start_s)
    number = audacity.track_index(request.track)
    silence = request.mute_source and not audacity.info("Tracks")[number].get("mute")
    if silence:
        audacity.mute(number, muted=True)
    shown = tuple(str(path.relative_to(media)) for path in files.values())
    muted = request.track if silence else None
    journal.append(
        Entry(_PROJECT, request.track, request.track, request.preset, tuple(names), muted, shown)
    )
    return files


def undo_stems(audacity: Audacity) -> Entry:
    """Take away the tracks that the last `add_stems` added, and the mute; audio files stay.

    Raises
    ------
    SessionError
        Nothing was added, or the open project does not have the tracks.
    """
    journal = Journal(_media_folder())
    entries = journal.entries(_PROJECT)
    if not entries:
        msg = "nothing to undo; no stems were added to Audacity from here"
        raise SessionError(msg)
    _remove(audacity, entries[-1])
    journal.discard(entries[-1])
    return entries[-1]


def _media_folder() -> Path:
    media = Path(platformdirs.user_data_dir("stembridge", appauthor=False)) / "audacity"
    media.mkdir(parents=True, exist_ok=True)
    return media


def _names(audacity: Audacity) -> list[str]:
    return [str(track.get("name", "")) for track in audacity.info("Tracks")]


def _free_name(audacity: Audacity, wanted: str) -> str:
    taken = _names(audacity)
    numbered = (f"{wanted} {number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)


def _remove(audacity: Audacity, entry: Entry) -> None:
    here = [name for name in entry.tracks if name in _names(audacity)]
    if not here:
        msg = f"the open project has no track {entry.tracks[0]!r}; open the one it was added to"
        raise SessionError(msg)
    for name in here:
        audacity.remove_track(audacity.track_index(name))
    if entry.muted is not None and entry.muted in _names(audacity):
        audacity.mute(audacity.track_index(entry.muted), muted=False)


def _within(spans: Sequence[Span], start_s: float, duration_s: float) -> tuple[Span, ...]:
    moved = [
        Span(max(s.start_s - start_s, 0.0), min(s.end_s - start_s, duration_s), s.polarity)
        for s in spans
    ]
    return tuple(span for span in moved if span.start_s < span.end_s)
