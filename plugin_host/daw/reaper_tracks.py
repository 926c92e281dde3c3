"""Tracks and items of a REAPER project: sends and folders kept right, copies of items made.

An item holds its own lines, those of its first take among them, and then further takes, each of
which begins with ``TAKE``. One take plays, the one of ``TAKE SEL`` or else the first, unless the
item plays all. Of a take that does not play, nothing reaches what is read or copied.

Folders are written as steps: a track opens a level for those after it, or closes some. Sends stand
on the track that receives, which names the sender by its number. So adding or removing tracks means
adjusting both.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugin_host.daw.media import mp3_padding, probe_source
from plugin_host.daw.rpp import Chunk, quote, replace_fields, word
from plugin_host.daw.session import Clip, Placement, SessionError, Source

_AUDIO: Final = ("WAVE", "FLAC", "MP3", "VORBIS", "OPUS")
_UNREAD: Final = ("WAVPACK", "VIDEO")
_SILENT: Final = ("EMPTY", "VIDEOEFFECT")
_OFFLINE: Final = "_OFFLINE_"

ITEM_LINES: Final = frozenset(
    {
        "POSITION", "SNAPOFFS", "LENGTH", "LOOP", "ALLTAKES", "FADEIN", "FADEOUT", "FADEFLAG",
        "MUTE", "SEL", "COLOR", "BEAT", "LOCK", "GROUP", "YPOS", "IGUID", "IID", "NOTES",
        "RESOURCEFN", "IMGRESOURCEFLAGS", "NOTESWND", "COMP", "EXTI",
    }
)  # fmt: skip
"""What belongs to an item whatever take plays; all other lines are those of a take."""

_REPLACED: Final = frozenset(
    {"TAKE", "SOURCE", "NAME", "SOFFS", "GUID", "CHANMODE", "TAKECOLOR", "VOLPAN", "TAKEVOLPAN",
     "TKM"}
)  # fmt: skip

_GLUE: Final = "glue it first (Item > Glue items)"
_RENDER: Final = "render it to audio first (Item > Render items to new take)"


@dataclass(frozen=True)
class Take:
    """A take of an item with the lines that the item has for all of them.

    Attributes
    ----------
    number
        Its place among the takes, from 0.
    lines
        The item's lines and the take's, as a chunk.
    volpan
        The fields of the ``VOLPAN`` line of an item with this take alone: the item's volume, the
        take's pan, volume and pan law.
    """

    number: int
    lines: Chunk
    volpan: tuple[str, str, str, str]

    @property
    def source(self) -> Chunk | None:
        """What it plays; None for an empty take."""
        return next(iter(self.lines.chunks("SOURCE")), None)

    @property
    def kind(self) -> str:
        """The kind of what it plays, that of the inner one for a section; "" for nothing."""
        source = self.source
        if source is None:
            return ""
        if _kind(source) == "SECTION":
            inner = source.chunks("SOURCE")
            return _kind(inner[0]) if inner else "SECTION"
        if _kind(source) == "VIDEO" and (source.fields("AUDIO") or ["1"])[0] == "0":
            return ""
        return _kind(source)

    @property
    def guid(self) -> str:
        """Its identifier."""
        return (self.lines.fields("GUID") or [""])[0].upper()


def takes(item: Chunk) -> tuple[list[Take], int]:
    """Return the takes of an item and the number of the active one."""
    parts: list[list[str | Chunk]] = [[]]
    active = 0
    for child in item.children:
        if word(child) == "TAKE" and isinstance(child, str):
            parts.append([])
            if "SEL" in child.split():
                active = len(parts) - 1
        parts[-1].append(child)
    own = [child for child in parts[0] if word(child) in ITEM_LINES]
    first = (item.fields("VOLPAN") or [])[:4]
    volume, pan, take_volume, law = (*first, *("1", "0", "1", "-1")[len(first) :])
    found = [Take(0, Chunk(item.opening, parts[0], item.closing), (volume, pan, take_volume, law))]
    for number, part in enumerate(parts[1:], 1):
        lines = Chunk(item.opening, own + part, item.closing)
        fields = (lines.fields("TAKEVOLPAN") or [])[:3]
        pan, take_volume, law = (*fields, *("0", "1", "-1")[len(fields) :])
        found.append(Take(number, lines, (volume, pan, take_volume, law)))
    return found, active


def playing_takes(item: Chunk) -> list[Take]:
    """Return the takes of an item that make a sound: one, all of them, or none."""
    found, active = takes(item)
    if is_muted(item):
        return []
    chosen = found if (item.fields("ALLTAKES") or ["0"])[0] == "1" else [found[active]]
    return [t for t in chosen if t.kind not in ("", *_SILENT) and not t.kind.startswith(_OFFLINE)]


def is_muted(item: Chunk) -> bool:
    """Return whether an item is muted; that it is soloed or others are comes first."""
    fields = item.fields("MUTE") or ["0"]
    solo = fields[1] if len(fields) > 1 else "0"
    return solo == "1" or (solo != "-1" and fields[0] != "0")


def holds_audio(item: Chunk) -> bool:
    """Return whether a take of an item is a file with sound, playing or not."""
    return any(take.kind.removeprefix(_OFFLINE) in _AUDIO + _UNREAD for take in takes(item)[0])


def read_item(item: Chunk, index: int, project: Path) -> Iterator[Clip]:
    """Yield what an item plays.

    Parameters
    ----------
    item
        The item's chunk.
    index
        Its number on the track, with which the tags begin.
    project
        The project's file, which relative paths are relative to.

    Raises
    ------
    SessionError
        A file is missing, or something cannot be honoured: MIDI, video, reverse, stretch
        markers, take effects, edited samples or spectra.
    """
    for take in playing_takes(item):
        yield _read_take(item, take, f"{index}.{take.number}", project)


def _read_take(item: Chunk, take: Take, tag: str, project: Path) -> Clip:
    lines = take.lines
    name = (lines.fields("NAME") or ["item"])[0]
    _refuse(name, item, take)
    position = float((item.fields("POSITION") or ["0"])[0])
    length = float((item.fields("LENGTH") or ["0"])[0])
    rate = float((lines.fields("PLAYRATE") or ["1"])[0])
    file, *flags = (take.source or lines).fields("FILE") or [""]
    path = project.parent / file.replace("\\", "/") if file else project.parent
    sample_rate, channels, frames = probe_source(path, project)
    sources = _heard(path, int((lines.fields("CHANMODE") or ["0"])[0]), channels)
    if sources is None:
        position_s = (item.fields("POSITION") or ["0"])[0]
        raise SessionError(
            f"the item {name!r} at {position_s} s plays channels its file does not have; {_GLUE}"
        )
    before, after = (0, 0) if take.kind != "MP3" or flags[:1] == ["1"] else mp3_padding(path)
    first = round(_start_offset_s(lines) * sample_rate) - before
    # The item's length is project time: at rate r it plays r times as much of its source.
    samples = round(length * rate * sample_rate)
    # One that loops, or shows silence around its source, uses all of it.
    whole = first < 0 or first + samples > frames
    loops = whole and (item.fields("LOOP") or ["0"])[0] == "1"
    if before and loops:
        loops = first < -before or first + samples > frames + after
        if loops:
            raise SessionError(
                f"the item {name!r} at {position:g} s loops an MP3 with the silence that its "
                f"encoder put around it; {_GLUE}"
            )
    return Clip(
        name,
        sources,
        sample_rate,
        0 if whole else first,
        frames if whole else samples,
        position,
        length,
        tag,
        speed=rate,
        first=first if whole else None,
        loops=loops,
        fade_in_s=_fade_s(item, "FADEIN"),
        fade_out_s=_fade_s(item, "FADEOUT"),
        envelope=any(is_envelope(child) and is_active(child) for child in lines.children),
        item=guid_of_item(item),
        selected=(item.fields("SEL") or ["0"])[0] == "1",
    )


def guid_of_item(item: Chunk) -> str:
    """Return the identifier of an item, or an empty string."""
    return (item.fields("IGUID") or [""])[0].upper()


def is_stretched(item: Chunk) -> bool:
    """Return whether the pitch of what an item plays is worked on, so that stems do not add up."""
    for take in playing_takes(item):
        fields = (take.lines.fields("PLAYRATE") or [])[:3]
        rate, keeps, pitch = (float(f) for f in (*fields, *("1", "1", "0")[len(fields) :]))
        moved = any(map(is_active, take.lines.chunks("PITCHENV")))
        if pitch or moved or (keeps and rate != 1.0):
            return True
    return False


def copy_item(
    item: Chunk,
    placements: Sequence[Placement],
    stem: str,
    project: Path,
    end: str,
    *,
    without: Collection[str],
) -> Chunk:
    """Return a copy of an item with some of its takes alone, which play other files.

    Takes that play at once stay together: overlapping items would replace each other in
    projects that are set so.

    Parameters
    ----------
    item
        The item that the placements' clips were read from.
    placements
        What to play, and where; one for each take.
    stem
        For the new item's name.
    project
        The project's file; what lies beside it is named relative to it.
    end
        The project's line end.
    without
        Lines of the item to leave out.
    """
    found = takes(item)[0]
    changed = {
        "SEL": {1: "0"},
        "ALLTAKES": {1: str(int(len(placements) > 1))},
        "MUTE": {1: "0", 2: "0"},
        "LOOP": {1: str(int(any(placement.clip.loops for placement in placements)))},
        **_cut_lines(placements[0].clip),
    }
    new = Chunk(item.opening, [], item.closing)
    for child in found[0].lines.children:
        key = word(child)
        if key in ITEM_LINES - {"IGUID", "IID", "COMP", *without}:
            line = (
                child if isinstance(child, Chunk) else replace_fields(child, changed.get(key, {}))
            )
            new.children.append(line)
    new.children.append(f"      IGUID {new_guid()}{end}")
    for number, placement in enumerate(placements):
        clip = placement.clip
        take = found[int(clip.tag.split(".")[1])]
        volpan = f"VOLPAN {' '.join(take.volpan)}"
        if number:
            volpan = f"TAKEVOLPAN {' '.join(take.volpan[1:])}"
            new.children.append(f"      TAKE{end}")
        name = f"{clip.name} - {stem}"
        new.children += _take_lines(take, placement, name, volpan, project, end)
    return new


def add_takes(
    item: Chunk, stems: Mapping[str, Placement], project: Path, end: str
) -> tuple[list[str], str]:
    """Add takes to an item that are like its active one and play other files; the first plays.

    Parameters
    ----------
    item
        The item, which is changed.
    stems
        Stem to what to play, all of the same clip.
    project, end
        As in `copy_item`.

    Returns
    -------
    The identifiers of the new takes, and what played before: the first of them, and the identifier
    of the take that played, or its number if it has none of its own.

    Raises
    ------
    SessionError
        All takes of the item play at once.
    """
    found, active = takes(item)
    old = found[active]
    if (item.fields("ALLTAKES") or ["0"])[0] == "1":
        name = (old.lines.fields("NAME") or ["item"])[0]
        raise SessionError(f"the item {name!r} plays all of its takes; leave out --as takes")
    _select_take(item, 0)
    names = []
    for stem, placement in stems.items():
        volpan = f"TAKEVOLPAN {' '.join(old.volpan[1:])}"
        name = f"{placement.clip.name} - {stem}"
        lines = _take_lines(old, placement, name, volpan, project, end)
        item.children += [f"      TAKE{end}", *lines]
        names.append(takes(item)[0][-1].guid)
    _select_take(item, len(found))
    alone = sum(take.guid == old.guid for take in found) == 1
    return names, f"{names[0]} {old.guid if old.guid and alone else active}"


def remove_takes(item: Chunk, gone: Collection[str], active: Collection[str]) -> int:
    """Remove takes and let one play that did before; return how many there were."""
    found, playing = takes(item)
    numbers = {take.number for take in found if take.number and take.guid in gone}
    if not numbers:
        return 0
    kept: list[str | Chunk] = []
    number = 0
    for child in item.children:
        number += word(child) == "TAKE" and isinstance(child, str)
        if number not in numbers:
            kept.append(child)
    item.children = kept
    if playing in numbers:
        before = dict(entry.split(" ", 1) for entry in active)
        olds = {before[take.guid] for take in found if take.guid in before}
        wanted = [t.number for t in found if t.guid in olds or str(t.number) in olds]
        _select_take(item, wanted[0] if wanted else 0)
    return len(numbers)


def _select_take(item: Chunk, wanted: int) -> None:
    """Let the take of a number play."""
    number = 0
    for index, child in enumerate(item.children):
        if isinstance(child, str) and word(child) == "TAKE":
            number += 1
            bare = re.sub(r" SEL\b", "", child)
            item.children[index] = (
                re.sub(r"(TAKE(?: NULL)?)", r"\1 SEL", bare) if number == wanted else bare
            )


def _take_lines(
    take: Take, placement: Placement, name: str, volpan: str, project: Path, end: str
) -> list[str | Chunk]:
    """Return the lines of a take that is like another but for what it plays."""
    file, folder = placement.file.resolve(), project.resolve().parent
    shown = str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
    mode = (take.lines.fields("CHANMODE") or ["0"])[0]
    kept = [c for c in take.lines.children if word(c) not in ITEM_LINES | _REPLACED]
    source = Chunk(
        f"      <SOURCE WAVE{end}", [f"        FILE {quote(shown)}{end}"], f"      >{end}"
    )
    return [
        f"      NAME {quote(name)}{end}",
        f"      {volpan}{end}",
        f"      SOFFS {_new_offset(take.lines, placement)}{end}",
        *(line for line in kept if isinstance(line, str)),
        f"      CHANMODE {'2' if mode == '2' else '0'}{end}",
        f"      GUID {new_guid()}{end}",
        source,
        *(with_new_guids(chunk) for chunk in kept if isinstance(chunk, Chunk)),
    ]


def new_guid() -> str:
    """Return an identifier as REAPER writes them."""
    return "{" + str(uuid.uuid4()).upper() + "}"


def is_envelope(child: str | Chunk) -> bool:
    """Return whether a chunk is an envelope."""
    return isinstance(child, Chunk) and "ENV" in child.kind


def is_active(child: str | Chunk) -> bool:
    """Return whether an envelope is not bypassed."""
    return isinstance(child, Chunk) and (child.fields("ACT") or ["1"])[0] != "0"


def with_new_guids(chunk: Chunk) -> str:
    """Return the text of a copied chunk, its envelopes and effects under new identifiers."""
    return re.sub(
        r"(?m)^([ \t]*(?:EGUID|FXID) )\{[^}]*\}", lambda found: found[1] + new_guid(), chunk.text()
    )


def _kind(source: Chunk) -> str:
    words = source.opening.split()
    return words[1] if len(words) > 1 else ""


def _heard(path: Path, mode: int, channels: int) -> tuple[Source, ...] | None:
    """Return the channels of a file that a channel mode lets through; None if it lacks them."""
    if mode in (0, 2):
        return (Source(path),)
    if mode == 1:
        if channels > 2:
            return None
        return (Source(path, 1), Source(path, 0)) if channels == 2 else (Source(path),)
    # One channel, or a pair: up to the 64th, and beyond.
    begins = ((3, 67, 0, 1), (67, 131, 0, 2), (131, 195, 64, 1), (195, 258, 64, 2))
    for low, high, first, width in begins:
        if low <= mode < high:
            wanted = range(first + mode - low, first + mode - low + width)
            return tuple(Source(path, c) for c in wanted) if wanted[-1] < channels else None
    return None


def _start_offset_s(take: Chunk) -> float:
    return float((take.fields("SOFFS") or ["0"])[0])


def _fade_s(item: Chunk, key: str) -> float:
    """Return the length of a fade: the one set by hand or the automatic one."""
    return max(0.0, *map(float, (item.fields(key) or ["0", "0", "0"])[1:3]), 0.0)


def _cut_lines(clip: Clip) -> Mapping[str, Mapping[int, str]]:
    """Return which fields of which lines differ in an item that is cut to a range."""
    changed: dict[str, dict[int, str]] = {}
    if clip.cut_front or clip.cut_back:
        changed["LENGTH"] = {1: f"{clip.length_s:.14g}"}
    if clip.cut_front:
        changed |= {
            "POSITION": {1: f"{clip.position_s:.14g}"},
            "SNAPOFFS": {1: "0"},
            "FADEIN": {2: "0", 3: "0"},
        }
    if clip.cut_back:
        changed["FADEOUT"] = {2: "0", 3: "0"}
    return changed


def _new_offset(take: Chunk, placement: Placement) -> str:
    old = _start_offset_s(take)
    clip = placement.clip
    # Whole samples are added, so that a fraction of one stays as the item has it.
    moved = clip.origin - round(old * clip.sample_rate) - placement.start
    if not moved:
        return (take.fields("SOFFS") or ["0"])[0]
    return f"{old + moved / clip.sample_rate:.14g}"


def _refuse(name: str, item: Chunk, take: Take) -> None:
    why = None
    if take.source is not None and _kind(take.source) == "SECTION":
        why = f"plays a section or reversed; {_GLUE}"
    elif take.kind.startswith("MIDI"):
        why = "plays MIDI; freeze the track, or render it to audio, first"
    elif take.kind not in _AUDIO:
        why = f"plays what is not read here ({take.kind}); {_RENDER}"
    elif any(True for _ in take.lines.lines("SM")):
        why = f"has stretch markers; {_GLUE}"
    elif any(isinstance(c, Chunk) for fx in take.lines.chunks("TAKEFX") for c in fx.children):
        why = f"has take effects; {_GLUE}"
    elif take.lines.fields("SPECTRAL_EDIT") is not None:
        why = f"has spectral edits; {_GLUE}"
    elif take.lines.chunks("SPLS") and (take.lines.fields("SAMPLEEDITS") or ["1"])[0] != "0":
        why = f"has edited samples; {_GLUE}"
    if why:
        position = (item.fields("POSITION") or ["0"])[0]
        raise SessionError(f"the item {name!r} at {position} s {why}")


FOLDER_LINES: Final = frozenset(
    {
        "PEAKCOL", "BEAT", "AUTOMODE", "VOLPAN", "PANMODE", "PANLAWFLAGS", "IPHASE", "MUTESOLO",
        "NCHAN", "FX", "MAINSEND", "HWOUT",
    }
)  # fmt: skip
"""The lines of a track that say how its sound is worked on, which a folder takes over."""

STEM_LINES: Final = frozenset({"BEAT", "PLAYOFFS"})
"""The lines of a track that say when its items play, which the tracks inside take over."""


def tracks_of(project: Chunk) -> list[Chunk]:
    """Return the tracks of a project."""
    return project.chunks("TRACK")


def guid_of(track: Chunk) -> str:
    """Return the identifier of a track, or an empty string."""
    found = re.search(r"\{[^}]*\}", track.opening) or re.search(
        r"\{[^}]*\}", " ".join(track.fields("TRACKID") or [])
    )
    return found.group().upper() if found else ""


def depth_of(track: Chunk) -> int:
    """Return by how much a track changes the level of those after it."""
    fields = track.fields("ISBUS") or []
    return int(fields[1]) if len(fields) > 1 else 0


def insert_tracks(project: Chunk, number: int, new: Sequence[Chunk]) -> None:
    """Put tracks before the track of a number, or after the last.

    The track before them hands the folders that it closes to the last of them, so that they lie
    where it lies. New tracks name others by the numbers that those had.
    """
    tracks = tracks_of(project)
    before = tracks[number - 1]
    closes = min(depth_of(before), 0)
    if closes:
        _set_depth(before, 0)
        _set_depth(new[-1], depth_of(new[-1]) + closes)
    place = next(i for i, child in enumerate(project.children) if child is before) + 1
    project.children[place:place] = new
    _renumber(
        project, {old: old + len(new) if old >= number else old for old in range(len(tracks))}
    )


def remove_tracks(project: Chunk, gone: Collection[str]) -> int:
    """Take out the tracks of some identifiers, with their sends; return how many there were."""
    tracks = tracks_of(project)
    numbers = [number for number, track in enumerate(tracks) if guid_of(track) in gone]
    _close_up(tracks, numbers)
    out = {id(tracks[number]) for number in numbers}
    project.children = [child for child in project.children if id(child) not in out]
    kept = [number for number in range(len(tracks)) if number not in numbers]
    moved: dict[int, int | None] = dict.fromkeys(numbers)
    _renumber(project, moved | {old: new for new, old in enumerate(kept)})
    return len(numbers)


def _close_up(tracks: Sequence[Chunk], numbers: Sequence[int]) -> None:
    """Let the tracks that stay lie in the folders that stay, when those of some numbers go."""
    step = sum(depth_of(tracks[number]) for number in numbers)
    if step <= 0 and numbers and numbers[-1] - numbers[0] + 1 == len(numbers):
        # As they were put in: what they close was handed on by the track before them.
        if step and numbers[0]:
            before = tracks[numbers[0] - 1]
            _set_depth(before, depth_of(before) + step)
        return
    folders: list[bool] = []
    levels, inside = [], []
    for number, track in enumerate(tracks):
        levels.append(sum(folders))
        inside.append(not all(folders))
        step = depth_of(track)
        folders = folders[: max(len(folders) + step, 0)] + [number not in numbers] * max(step, 0)
    levels.append(sum(folders))
    kept = [number for number in range(len(tracks)) if number not in numbers]
    for number, after in zip(kept, [*kept[1:], len(tracks)], strict=True):
        step = levels[after] - levels[number]
        if step != depth_of(tracks[number]) and (inside[number] or number + 1 in numbers):
            _set_depth(tracks[number], step)


def copy_sends(project: Chunk, source: Chunk, target: Chunk) -> None:
    """Let a track send to all that another one sends to."""
    tracks = tracks_of(project)
    numbers = [next(i for i, track in enumerate(tracks) if track is t) for t in (source, target)]
    for track in tracks:
        if track is target:
            continue
        for group in reversed(list(_receives(track))):
            line = str(track.children[group.start])
            if _sender(line) != numbers[0]:
                continue
            copies: list[str | Chunk] = [replace_fields(line, {1: str(numbers[1])})]
            for child in track.children[group.start + 1 : group.stop]:
                copies.append(with_new_guids(child) if isinstance(child, Chunk) else child)
            track.children[group.stop : group.stop] = copies


def new_track(name: str, lines: Sequence[str], end: str) -> Chunk:
    """Return a track with a name and some lines."""
    guid = new_guid()
    wanted = [f"NAME {quote(name)}", *lines, f"TRACKID {guid}", "MAINSEND 1 0"]
    return Chunk(f"  <TRACK {guid}{end}", [f"    {line}{end}" for line in wanted], f"  >{end}")


def folder_like(source: Chunk, name: str, end: str, *, receives: bool) -> Chunk:
    """Return a folder that works on sound as a track does.

    Parameters
    ----------
    source
        The track, whose fader, effects, envelopes and hardware outputs it takes.
    name, end
        Its name, and the project's line end.
    receives
        Whether it receives what the track receives, too.
    """
    guid = new_guid()
    folder = Chunk(f"  <TRACK {guid}{end}", [f"    NAME {quote(name)}{end}"], f"  >{end}")
    received = {i for group in _receives(source) for i in range(group.start, group.stop)}
    for index, child in enumerate(source.children):
        key = word(child)
        if index in received:
            wanted = receives
        else:
            wanted = key in FOLDER_LINES or is_envelope(child) or key == "FXCHAIN"
        if not wanted:
            continue
        if isinstance(child, Chunk):
            folder.children.append(with_new_guids(child))
        else:
            folder.children.append(replace_fields(child, {1: "0"} if key == "MUTESOLO" else {}))
    there = {word(child) for child in folder.children}
    lines = ("ISBUS 1 1", "NCHAN 2", f"TRACKID {guid}", "MAINSEND 1 0")
    folder.children[1:1] = [f"    {line}{end}" for line in lines if word(line) not in there]
    return folder


def _set_depth(track: Chunk, depth: int) -> None:
    """Let a track open or close levels; its line is there if that changes anything."""
    kind = "1" if depth > 0 else "2" if depth < 0 else "0"
    for index, _ in track.lines("ISBUS"):
        line = str(track.children[index])
        track.children[index] = replace_fields(line, {1: kind, 2: str(depth)})
        return


def _receives(track: Chunk) -> Iterator[range]:
    """Yield where the receives of a track stand, each with its envelopes."""
    for index, _ in track.lines("AUXRECV"):
        stop = index + 1
        while stop < len(track.children) and word(track.children[stop]).startswith("AUX"):
            if word(track.children[stop]) == "AUXRECV":
                break
            stop += 1
        yield range(index, stop)


def _sender(line: str) -> int:
    fields = line.split()
    return int(fields[1]) if len(fields) > 1 and fields[1].isdecimal() else -1


def _renumber(project: Chunk, numbers: Mapping[int, int | None]) -> None:
    """Let receives name their senders by new numbers; those of senders that are gone go too."""
    for track in tracks_of(project):
        for group in reversed(list(_receives(track))):
            line = str(track.children[group.start])
            sender = _sender(line)
            new = numbers.get(sender, sender)
            if new is None:
                del track.children[group.start : group.stop]
            elif new != sender:
                track.children[group.start] = replace_fields(line, {1: str(new)})
