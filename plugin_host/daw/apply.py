"""Stems for a track of a session: read what it plays, separate, add tracks, remember how."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from bridge.files import read_bounded
from bridge.request import RESIDUAL, Prompt, Settings, check_prompts, slug
from bridge.separation import ProgressCallback, Separator
from plugin_host.daw.media import hold_project, probe_source, read_sources
from plugin_host.daw.session import (
    Addition,
    Clip,
    Colour,
    HasTakes,
    Mute,
    NewTracks,
    Placement,
    Range,
    Session,
    SessionError,
    Source,
    SpelledAnew,
    cut_clips,
    spans_in_source,
)
from plugin_host.files.audio_files import Audio, replace_file, temporary_beside
from plugin_host.files.stem_files import StemPlan, write_stems

_FOLDER = ".stembridge"
_NAME = "additions.json"
_MOST_BYTES = 64 << 20


class Entry(msgspec.Struct, frozen=True):
    """One run of ``session apply``.

    Attributes
    ----------
    session
        File name of the session.
    track
        The source track.
    label
        Name of the group of new tracks.
    preset
        The preset used, or an empty string.
    tracks, muted, items, takes, active
        See `plugin_host.daw.session.Addition`.
    files
        Audio that was written for it, relative to the session's folder.
    source
        The session's identifier of the source track; empty if there is none.
    run
        The same in all entries that were made at once.
    written
        Checksum of the session's text as it was written then, if what it was before is kept.
    """

    session: str
    track: str
    label: str
    preset: str
    tracks: tuple[str, ...]
    muted: str | None
    files: tuple[str, ...]
    items: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    source: str = ""
    run: str = ""
    written: str = ""

    @property
    def addition(self) -> Addition:
        """What the session needs to take it away."""
        return Addition(self.tracks, self.muted, self.items, self.takes, self.active)


class Journal:
    """The entries of all sessions in a folder.

    Parameters
    ----------
    folder
        Where the sessions are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _FOLDER / _NAME

    def entries(self, session: str) -> list[Entry]:
        """Return the entries of a session, oldest first."""
        return [entry for entry in self._read() if entry.session == session]

    @contextmanager
    def changing(self, gone: Sequence[Entry] = (), new: Sequence[Entry] = ()) -> Iterator[None]:
        """Take entries away and add others, then run the block; if it fails, all is as before.

        The journal is written first, so that a session never has tracks that it does not know.

        Raises
        ------
        SessionError
            It cannot be read or written; the block is not entered.
        """
        with hold_project(self._folder / _NAME):
            before = self._read()
            if not gone and not new:
                yield
                return
            self._write([*(entry for entry in before if entry not in gone), *new])
            try:
                yield
            except BaseException:
                self._write(before)
                raise

    def keep(self, run: str, text: bytes) -> None:
        """Keep the text of a session as it was before a run.

        Raises
        ------
        SessionError
            It cannot be written.
        """
        file = self._before(run)
        try:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(text)
        except OSError as error:
            raise SessionError(f"{file}: cannot be written ({error.strerror or error})") from error

    def kept(self, entry: Entry, text: bytes) -> bytes | None:
        """Return what a session was before a run, if it still is what that run wrote."""
        if not entry.written or entry.written != checksum(text):
            return None
        try:
            return read_bounded(self._before(entry.run), _MOST_BYTES)
        except OSError:
            return None

    def forget(self, run: str) -> None:
        """Delete what was kept for a run."""
        self._before(run).unlink(missing_ok=True)

    def _before(self, run: str) -> Path:
        # The name comes from a file that anybody may have written.
        return self._path.with_name(f"before-{checksum(run.encode())[:16]}")

    def _read(self) -> list[Entry]:
        try:
            # Not by msgspec: names in another encoding than UTF-8 are kept as lone surrogates,
            # which no strict reader takes.
            content = json.loads(read_bounded(self._path, _MOST_BYTES))
            return msgspec.convert(content, list[Entry])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            raise SessionError(
                f"{self._path}: cannot be read ({error}); move it away to go on without undo"
            ) from None

    def _write(self, entries: list[Entry]) -> None:
        text = json.dumps(msgspec.to_builtins(entries), indent=2)
        try:
            self._path.parent.mkdir(exist_ok=True)
            with temporary_beside(self._path) as temporary:
                temporary.write_text(text, encoding="ascii")
                replace_file(temporary, self._path)
        except OSError as error:
            raise SessionError(
                f"{self._path}: cannot be written ({error.strerror or error})"
            ) from error


def checksum(text: bytes) -> str:
    """Return what tells two texts apart."""
    return hashlib.sha256(text).hexdigest()


@dataclass(frozen=True)
class Request:
    """What to do with a track.

    Attributes
    ----------
    track
        Its name, number or identifier.
    prompts, settings
        As for `separate`; spans are seconds of the timeline.
    preset
        Name of the preset they came from; empty without one.
    range_s
        Only what lies in this part of the timeline; clips that go on beyond it are cut.
    mute_source
        Mute the track, or, where only some of its items are meant, these.
    update
        Replace what an earlier run with the same preset added for the track.
    items
        Only these items, by their identifier or where they begin, in seconds; None for all.
    selected
        Only the items that are selected.
    as_takes
        Add the stems as takes of the items, in place, instead of tracks.
    colours
        Give the tracks of stems the colours of their families, and the track's height.
    """

    track: str
    prompts: tuple[Prompt, ...]
    settings: Settings
    preset: str = ""
    range_s: Range | None = None
    mute_source: bool = False
    update: bool = False
    items: tuple[str, ...] | None = None
    selected: bool = False
    as_takes: bool = False
    colours: bool = True


@dataclass(frozen=True)
class Applied:
    """What was done: the new tracks by stem name, where their audio is, and notes about it."""

    group: str
    files: dict[str, list[Path]]
    replaced: bool
    notes: tuple[str, ...] = ()


def choose_clips(session: Session, request: Request) -> list[Clip]:
    """Return what of a track a request means, cut to its range.

    Raises
    ------
    SessionError
        That is nothing, or it cannot be honoured.
    """
    clips = session.clips(request.track)
    chosen = [clip for clip in clips if clip.selected] if request.selected else clips
    if request.items is not None:
        meant = [[c for c in clips if _is_item(c, text)] for text in request.items]
        for text, found in zip(request.items, meant, strict=True):
            if not found:
                begins = ", ".join(f"{clip.position_s:g}" for clip in clips) or "none"
                raise SessionError(
                    f"no item {text!r} on the track {request.track!r}; those that play begin at "
                    f"{begins} s"
                )
        chosen = [clip for clip in clips if any(clip in found for found in meant)]
    meant_clips = len(chosen)
    if request.range_s is not None:
        chosen = cut_clips(chosen, request.range_s)
    if not chosen:
        where = "" if request.range_s is None else " from {:g} to {:g} s".format(*request.range_s)
        what = "has no selected item that plays" if request.selected else "plays nothing"
        raise SessionError(f"the track {request.track!r} {what}{where}")
    cut = any(clip not in clips for clip in chosen)
    if request.as_takes:
        _check_takes(session, chosen, cut=cut)
    else:
        _check_mixing(clips, chosen)
    parted = cut or len(chosen) < meant_clips
    if request.mute_source and parted and not session.mutes_beyond_range:
        raise SessionError(
            "muting the track would silence it outside the range too; leave out --mute-source"
        )
    if request.mute_source and len(chosen) < len(clips) and not session.mutes_clips:
        raise SessionError(
            f"{session.path}: single clips are not muted there; leave out --mute-source"
        )
    _check_numbers(chosen)
    return chosen


def apply(
    session: Session,
    request: Request,
    separator: Separator,
    out: Path,
    progress: Callable[[str], ProgressCallback],
) -> Applied:
    """Separate a track of a session and write the session with the stems; see `apply_all`."""
    return apply_all(session, [request], separator, out, progress)[0]


def apply_all(
    session: Session,
    requests: Sequence[Request],
    separator: Separator,
    out: Path,
    progress: Callable[[str], ProgressCallback],
    *,
    remember: bool = True,
) -> list[Applied]:
    """Separate tracks of a session and write the session with the stems, as one step of undo.

    Clips that use the same sources are separated together, so that neighbours cut from one
    recording see each other. The new clips are copies of the old ones with other audio: fades,
    gains and positions are those of the track.

    Parameters
    ----------
    session
        The opened session.
    requests
        What to do, track by track.
    separator
        What computes.
    out
        Where to write the session.
    progress
        Given a title, returns a callback for a job.
    remember
        Whether `undo` is to know of it.

    Raises
    ------
    SessionError
        A track or something on it cannot be honoured, or the session was saved by another
        program meanwhile. The session is as it was then, and no audio is left.
    InputError
        A prompt or setting cannot be used, or a file cannot be written; nothing is left either.
    """
    with hold_project(out), _removed_on_failure(session.media_folder()) as written:
        # All is looked at before anything is computed.
        chosen = [choose_clips(session, request) for request in requests]
        tracks = [session.find(request.track) for request in requests]
        journal = Journal(out.parent)
        entries = journal.entries(out.name)
        run = uuid.uuid4().hex
        done, new, gone = list[Applied](), list[Entry](), list[Entry]()
        for request, track, clips in zip(requests, tracks, chosen, strict=True):
            name = track.shown
            notes = list[str]()
            stems = _separate_clips(
                session, request, name, clips, separator, progress, written, notes
            )
            earlier = [
                entry
                for entry in entries
                if request.update
                and entry.preset == request.preset
                and (entry.source or entry.track) == (track.identity or name)
            ]
            for entry in earlier:
                session.remove(entry.addition)
            label = f"{name} stems" + (f" ({request.preset})" if request.preset else "")
            addition = _add(session, request, stems, clips, label)
            told = {
                stem: list(dict.fromkeys(session.location(p.file, out) for p in placements))
                for stem, placements in stems.items()
            }
            base = out.absolute().parent
            files = itertools.chain(*told.values())
            paths = tuple(os.path.relpath(path.absolute(), base) for path in files)
            # What an earlier run muted stays muted, and is heard again when this one is undone.
            before = [entry.addition for entry in earlier]
            addition = replace(
                addition,
                muted=addition.muted or next((a.muted for a in before if a.muted), None),
                items=addition.items or next((a.items for a in before if a.items), ()),
            )
            new.append(
                Entry(
                    out.name,
                    name,
                    label,
                    request.preset,
                    addition.tracks,
                    addition.muted,
                    paths,
                    addition.items,
                    addition.takes,
                    addition.active,
                    track.identity,
                    run,
                )
            )
            gone += earlier
            done.append(Applied(label, told, bool(earlier), tuple(dict.fromkeys(notes))))
        if not remember:
            session.write(out)
            return done
        if isinstance(session, SpelledAnew) and not gone:
            # Undo could not bring it back to the byte from what it says.
            spelling = session.spelling()
            journal.keep(run, spelling.read)
            new = [msgspec.structs.replace(e, written=checksum(spelling.written)) for e in new]
        try:
            with journal.changing(gone=gone, new=new):
                session.write(out)
        except BaseException:
            journal.forget(run)
            raise
        for entry in gone:
            journal.forget(entry.run)
    return done


def by_recording(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Group clips by the sources that they play, in order; each group is separated as one."""
    groups: dict[tuple[Source, ...], list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.sources].append(clip)
    return list(groups.values())


def read_recording(session: Session, clips: Sequence[Clip]) -> tuple[Audio, int, int]:
    """Read what clips of the same sources use, with room to move their edges.

    Returns
    -------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Of the sources.
    start
        The sample of the sources where the audio begins.

    Raises
    ------
    InputError
        A source is missing, cannot be read, or is shorter.
    """
    sources, rate = clips[0].sources, clips[0].sample_rate
    frames = min(probe_source(source.path, session.path)[2] for source in sources)
    handle = round(session.handle_s * rate)
    start = max(min(clip.start for clip in clips) - handle, 0)
    end = max(clip.start + clip.samples for clip in clips)
    spare = max(min(handle, frames - end), 0)
    audio, rate = read_sources(sources, start, end + spare - start, spare=spare)
    return audio, rate, start


def undo(session: Session, out: Path) -> list[Entry]:
    """Take away what the last run added to a session, and write it; audio files stay.

    Raises
    ------
    SessionError
        Nothing was added, or nothing of it is there any more, or it cannot be written.
    """
    with hold_project(out):
        journal = Journal(out.parent)
        entries = journal.entries(out.name)
        if not entries:
            raise SessionError(f"{out}: nothing to undo; no stems were added to it from here")
        last = entries[-1]
        run = [e for e in entries if e is last or (e.run and e.run == last.run)]
        removed = sum(session.remove(entry.addition) for entry in reversed(run))
        if isinstance(session, SpelledAnew):
            before = journal.kept(last, session.spelling().read)
            if before is not None:
                session.restore(before)
        if not removed:
            with journal.changing(gone=run):
                pass
            labels = " and ".join(repr(entry.label) for entry in run)
            raise SessionError(
                f"{out}: {labels} is not in it any more, so nothing was taken away; it was deleted "
                "by hand, or the program saved the session without it (close it there before)"
            )
        with journal.changing(gone=run):
            session.write(out)
        journal.forget(last.run)
    return run


def _is_item(clip: Clip, text: str) -> bool:
    if clip.item and clip.item.casefold() == text.strip().casefold():
        return True
    try:
        return abs(clip.position_s - float(text)) < 0.001
    except ValueError:
        return False


def _separate_clips(
    session: Session,
    request: Request,
    name: str,
    clips: Sequence[Clip],
    separator: Separator,
    progress: Callable[[str], ProgressCallback],
    written: list[Path],
    notes: list[str],
) -> dict[str, list[Placement]]:
    folder = _new_folder(session.media_folder(), name)
    stems: dict[str, list[Placement]] = defaultdict(list)
    groups = by_recording(clips)
    for number, group in enumerate(groups, 1):
        audio, rate, start = read_recording(session, group)
        made = _separate(
            audio,
            rate,
            clips=group,
            start=start,
            request=request,
            separator=separator,
            progress=progress(f"{name} {number}/{len(groups)}"),
            notes=notes,
        )
        part = folder / f"{number:02d} {_folder_name(group[0].name)}"
        paths = write_stems(
            StemPlan(part, "FLOAT"), made, rate, subtype="FLOAT", tag="stembridge session"
        )
        written.extend(paths.values())
        adopted = session.adopt(paths)
        written.extend(adopted.values())
        for stem, file in adopted.items():
            stems[stem] += [Placement(clip, file, start) for clip in group]
    return dict(stems)


def _add(
    session: Session,
    request: Request,
    stems: Mapping[str, Sequence[Placement]],
    clips: Sequence[Clip],
    label: str,
) -> Addition:
    if request.as_takes:
        assert isinstance(session, HasTakes)  # checked before anything was separated
        return session.add_takes(request.track, stems)
    mute: Mute = "nothing"
    if request.mute_source:
        parted = len(clips) < len(session.clips(request.track))
        mute = "clips" if parted else "track"
    prompts = {prompt.stem: prompt.text for prompt in request.prompts}
    colours = {stem: family_colour(stem, prompts.get(stem, "")) for stem in stems}
    shown = colours if request.colours else {}
    return session.add_tracks(NewTracks(request.track, stems, label, mute, shown))


@contextlib.contextmanager
def _removed_on_failure(media: Path) -> Iterator[list[Path]]:
    """Yield a list to note files in as they are made; if the block fails, they are deleted."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        below = {f for file in written for f in file.parents if f.is_relative_to(media)}
        for folder in sorted(below, reverse=True):
            with contextlib.suppress(OSError):  # What others put there keeps it.
                folder.rmdir()
        raise


def _check_takes(session: Session, clips: Sequence[Clip], *, cut: bool) -> None:
    places = [(clip.item, clip.position_s) for clip in clips]
    if not isinstance(session, HasTakes):
        msg = f"{session.path}: only items of REAPER have takes; leave out --as takes"
    elif cut:
        msg = "a take is as long as its item; leave out --range, or --as takes"
    elif len(set(places)) < len(places):
        name = next(c.name for c, at in zip(clips, places, strict=True) if places.count(at) > 1)
        msg = f"the item of {name!r} plays all of its takes; leave out --as takes"
    else:
        return
    raise SessionError(msg)


def _check_mixing(clips: Sequence[Clip], chosen: Sequence[Clip]) -> None:
    """Refuse if clips would replace each other in another way than they do now."""
    whole = {clip.tag: clip for clip in clips}
    # In the order of the timeline, as they will lie and as those lie that are left out.
    lying = {**whole, **{clip.tag: clip for clip in chosen}}
    kept = {clip.tag for clip in chosen if clip == whole[clip.tag]}
    meant = {clip.tag for clip in chosen}
    order = sorted((c for c in lying.values() if not c.mixed), key=lambda clip: clip.position_s)
    for number, clip in enumerate(order):
        for other in order[number + 1 :]:
            if other.position_s >= clip.end_s:
                break
            same_item = (clip.item, clip.position_s) == (other.item, other.position_s)
            pair = {clip.tag, other.tag}
            if pair & meant and not pair <= kept and not same_item:
                raise SessionError(
                    f"{clip.name!r} and {other.name!r} overlap, and one replaces "
                    "the other; take both as a whole, or let items mix (Project settings > "
                    "Advanced > Item mix behavior)"
                )


def _check_numbers(clips: Sequence[Clip]) -> None:
    for clip in clips:
        times = (clip.position_s, clip.length_s, clip.speed, clip.fade_in_s, clip.fade_out_s)
        if not all(map(math.isfinite, times)) or clip.samples <= 0 or clip.start < 0:
            raise SessionError(
                f"the clip {clip.name!r} lies at {clip.position_s:g} s, is {clip.length_s:g} s "
                f"long and plays {clip.samples} samples from {clip.start}, which cannot be; "
                "save the session again in the program that wrote it"
            )


def _separate(
    audio: Audio,
    rate: int,
    *,
    clips: Sequence[Clip],
    start: int,
    request: Request,
    separator: Separator,
    progress: ProgressCallback,
    notes: list[str],
) -> dict[str, Audio]:
    duration_s = audio.shape[1] / rate
    prompts = check_prompts(
        [
            prompt.heard_in(spans_in_source(prompt.spans, clips, start, duration_s), duration_s)
            for prompt in request.prompts
        ],
        duration_s,
    )
    result = separator.separate(audio, rate, prompts, request.settings, progress=progress)
    notes += [note.text for note in result.report.notes]
    return {**result.stems, RESIDUAL: result.residual}


def _new_folder(media: Path, track: str) -> Path:
    name = slug(track)[:60] or "track"
    for number in itertools.count(1):
        folder = media / f"{name} {number}"
        if not folder.exists():
            return folder
    raise AssertionError  # pragma: no cover


def _folder_name(clip: str) -> str:
    """Return a name for the folder of a clip's stems, which is not that of an audio file."""
    stem, dot, suffix = clip.rpartition(".")
    bare = stem if dot and suffix.isalnum() and len(suffix) <= 4 else clip
    return slug(bare)[:60] or "clip"


_FAMILIES: Final[tuple[tuple[Colour, str], ...]] = (
    ((214, 90, 90), r"drum|percussion|kick|snare|hi-?hat|cymbal|tom|clap|beat"),
    ((214, 150, 70), r"bass"),
    ((90, 150, 220), r"vox|vocal|voice|sing|choir|speech|speak|rap|person|man|woman|dialog"),
    ((110, 180, 100), r"guitar|gtr|banjo|ukulele|mandolin"),
    ((160, 120, 210), r"piano|key|organ|synth|pad|rhodes|accordion"),
    ((200, 170, 90), r"string|violin|viola|cello|orchestra|harp"),
    ((90, 190, 190), r"brass|horn|trumpet|trombone|sax|flute|clarinet|oboe|wind"),
    ((150, 150, 150), r"residual|rest|other|noise|ambien"),
)
_OTHER: Final = (190, 190, 130)


def family_colour(name: str, prompt: str = "") -> Colour:
    """Return the colour of the family that a stem's name or else its prompt speaks of.

    "vox" and "lead vocals" are of one family; what is of none has a colour of its own.
    """
    for text in (name, prompt):
        for colour, words in _FAMILIES:
            if re.search(rf"\b(?:{words})", text.casefold()):
                return colour
    return _OTHER
