"""Stems for a track of a session: read what it plays, separate, add tracks, remember how."""

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.request import RESIDUAL, Prompt, SettingOptions, slug
from bridge.separation import ProgressCallback
from bridge.validation import check_prompts
from plugin_host.audio_files import Audio
from plugin_host.daw.journal import Entry, Journal
from plugin_host.daw.session import Clip, Placement, Range, Session, SessionError, Source
from plugin_host.daw.sources import read_sources
from plugin_host.daw.timeline import cut_clips, spans_in_source
from plugin_host.separators import Separator
from plugin_host.stem_files import StemPlan, write_stems


@dataclass(frozen=True)
class Request:
    """What to do with a track.

    Attributes
    ----------
    track
        Its name.
    prompts, settings
        As for `separate`; spans are seconds of the timeline.
    preset
        Name of the preset they came from; empty without one.
    range_s
        Only what lies in this part of the timeline; clips that go on beyond it are cut.
    mute_source
        Mute the track.
    update
        Replace what an earlier run with the same preset added for the track.
    """

    track: str
    prompts: tuple[Prompt, ...]
    settings: SettingOptions
    preset: str = ""
    range_s: Range | None = None
    mute_source: bool = False
    update: bool = False


@dataclass(frozen=True)
class Applied:
    """What was done: the new tracks by stem name, and their files."""

    group: str
    files: dict[str, list[Path]]
    replaced: bool


def apply(
    session: Session,
    request: Request,
    separator: Separator,
    out: Path,
    progress: Callable[[str], ProgressCallback],
) -> Applied:
    """Separate a track of a session and write the session with the stems.

    Clips that use the same sources are separated together, so that neighbours cut from one
    recording see each other. The new clips are copies of the old ones with other audio: fades,
    gains and positions are those of the track.

    Parameters
    ----------
    session
        The opened session.
    request
        What to do.
    separator
        What computes.
    out
        Where to write the session.
    progress
        Given a title, returns a callback for a job.

    Raises
    ------
    SessionError
        The track or something on it cannot be honoured; the session is as it was.
    InputError
        A prompt or setting cannot be used, or a file not be written.
    """
    clips = session.clips(request.track)
    chosen = clips if request.range_s is None else cut_clips(clips, request.range_s)
    if not chosen:
        msg = f"the track {request.track!r} plays nothing {_where(request.range_s)}"
        raise SessionError(msg)
    if request.mute_source and chosen != clips:
        msg = "muting the track would silence it outside the range too; leave out --mute-source"
        raise SessionError(msg)
    journal = Journal(out.parent)
    earlier = journal.earlier(out.name, request.track, request.preset) if request.update else []
    for entry in earlier:
        session.remove(entry.addition)
    folder = _new_folder(session.media_folder(), request)
    files: dict[str, list[Path]] = defaultdict(list)
    placements: dict[str, list[Placement]] = defaultdict(list)
    groups = list(_by_sources(chosen).items())
    for number, (sources, group) in enumerate(groups, 1):
        start = min(clip.start for clip in group)
        end = max(clip.start + clip.samples for clip in group)
        audio, rate = read_sources(sources, start, end - start)
        title = f"{request.track} {number}/{len(groups)}"
        stems = _separate(
            audio,
            rate,
            clips=group,
            start=start,
            request=request,
            separator=separator,
            progress=progress(title),
        )
        part = folder / f"{number:02d} {slug(group[0].name)[:60] or 'clip'}"
        written = write_stems(
            StemPlan(part, "FLOAT"), stems, rate, subtype="FLOAT", tag="stembridge session"
        )
        for stem, file in session.adopt(written).items():
            files[stem].append(file)
            placements[stem] += [Placement(clip, file, start) for clip in group]
    label = f"{request.track} stems" + (f" ({request.preset})" if request.preset else "")
    addition = session.add_tracks(
        request.track, placements, group=label, mute_source=request.mute_source
    )
    session.write(out)
    base = out.resolve().parent
    journal.append(
        Entry(
            out.name,
            request.track,
            label,
            request.preset,
            addition.tracks,
            addition.muted or next((entry.muted for entry in earlier if entry.muted), None),
            tuple(os.path.relpath(f.resolve(), base) for f in itertools.chain(*files.values())),
        )
    )
    for entry in earlier:
        journal.discard(entry)
    return Applied(label, dict(files), bool(earlier))


def undo(session: Session, out: Path) -> Entry:
    """Take away what the last `apply` added to a session, and write it; audio files stay.

    Raises
    ------
    SessionError
        Nothing was added, or it cannot be written.
    """
    journal = Journal(out.parent)
    entries = journal.entries(out.name)
    if not entries:
        msg = f"{out}: nothing to undo; no stems were added to it from here"
        raise SessionError(msg)
    session.remove(entries[-1].addition)
    session.write(out)
    journal.discard(entries[-1])
    return entries[-1]


def _separate(
    audio: Audio,
    rate: int,
    *,
    clips: Sequence[Clip],
    start: int,
    request: Request,
    separator: Separator,
    progress: ProgressCallback,
) -> dict[str, Audio]:
    duration_s = audio.shape[1] / rate
    prompts = check_prompts(
        [
            Prompt(p.text, p.stem, spans_in_source(p.spans, clips, start, duration_s))
            for p in request.prompts
        ],
        duration_s,
    )
    result = separator.separate(audio, rate, prompts, progress=progress, **request.settings)
    return {**result.stems, RESIDUAL: result.residual}


def _where(range_s: Range | None) -> str:
    return "" if range_s is None else f"from {range_s[0]:g} to {range_s[1]:g} s"


def _by_sources(clips: Sequence[Clip]) -> dict[tuple[Source, ...], list[Clip]]:
    groups: dict[tuple[Source, ...], list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.sources].append(clip)
    return groups


def _new_folder(media: Path, request: Request) -> Path:
    name = slug(request.track)[:60] or "track"
    for number in itertools.count(1):
        folder = media / f"{name} {number}"
        if not folder.exists():
            return folder
    raise AssertionError  # pragma: no cover
