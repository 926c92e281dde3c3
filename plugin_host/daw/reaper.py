"""REAPER projects: items read, stem tracks added, everything else left byte for byte."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from plugin_host.daw.media import SessionFile, probe_source, read_session, reports_damage
from plugin_host.daw.reaper_tracks import (
    STEM_LINES,
    add_takes,
    copy_item,
    copy_sends,
    depth_of,
    folder_like,
    guid_of,
    guid_of_item,
    holds_audio,
    insert_tracks,
    is_stretched,
    new_track,
    playing_takes,
    read_item,
    remove_takes,
    remove_tracks,
    tracks_of,
)
from plugin_host.daw.rpp import Chunk, parse, replace_fields, word
from plugin_host.daw.session import (
    Addition,
    Clip,
    HasTakes,
    HoldsPresets,
    Marks,
    NewTracks,
    Placement,
    Range,
    SessionError,
    TrackInfo,
    TrackName,
    choose_track,
)
from plugin_host.files.span_files import Label, check_label_count

_STATE = "STEMBRIDGE"
_LANES: Final = frozenset({"FREEMODE", "FIXEDLANES", "LANESOLO", "LANENAME", "ITEMLANES"})


@reports_damage
class ReaperSession(HoldsPresets, HasTakes):
    """A ``.RPP`` file.

    Parameters
    ----------
    path
        The project.

    Raises
    ------
    SessionError
        It cannot be read or is no complete project.
    """

    mutes_clips = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = SessionFile(path)
        data = read_session(path, "a REAPER project")
        # Old projects may hold bytes of another encoding; they come back as they were.
        try:
            self._root = parse(data.decode("utf-8", "surrogateescape"))
        except SessionError as error:
            raise SessionError(f"{path}: {error}") from None
        self._chosen: dict[str, Chunk] = {}
        self._project = self._root.chunks("REAPER_PROJECT")[0]
        self._end = "\r\n" if self._project.opening.endswith("\r\n") else "\n"

    def text(self) -> str:
        """Return the project as it would be written."""
        return self._root.text()

    def tracks(self) -> list[TrackInfo]:
        """Return all tracks with items of audio, in order."""
        listed = []
        for number, track in enumerate(tracks_of(self._project), 1):
            items = track.chunks("ITEM")
            if not any(map(holds_audio, items)):
                continue
            try:
                note, playing = "", len({c.tag.split(".")[0] for c in self._clips(track)})
            except SessionError as error:
                note, playing = str(error), sum(bool(playing_takes(item)) for item in items)
            listed.append(
                TrackInfo(
                    _name(track),
                    playing,
                    self._channels(track),
                    _is_muted(track),
                    note,
                    number,
                    guid_of(track),
                )
            )
        return listed

    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays; muted items and lanes are left out.

        Raises
        ------
        SessionError
            There is no such track, a file is missing, or an item has something that cannot be
            honoured: MIDI, video, reverse, stretch markers, take effects, edited samples or
            spectra.
        """
        return self._clips(self._find(track))

    def remarks(self, track: str) -> list[str]:
        """Return what the stems of a track will not have, or not exactly."""
        chunk = self._find(track)
        told = []
        groups = [f for key in ("GROUP_FLAGS", "GROUP_FLAGS_HIGH") for f in chunk.fields(key) or []]
        if any(field != "0" for field in groups):
            told.append("left behind: the track's place in its groups (Track > Grouping)")
        stretched = sum(map(is_stretched, chunk.chunks("ITEM")))
        if stretched:
            told.append(
                f"{stretched} of its items are stretched or tuned, which REAPER does for each stem "
                "by itself; there their sum is only nearly the track"
            )
        return told

    def marks(self) -> Marks:
        """Return the project's time selection, loop points, markers and regions."""
        labels, open_regions = [], dict[str, Label]()
        lines = [c for c in self._project.children if isinstance(c, str) and "MARKER" in c[:20]]
        check_label_count(self.path, len(lines))
        for _, fields in self._project.lines("MARKER"):
            # Number, time, name, kind; a region is two lines of one number, of which the first
            # has its name and the second its end.
            _, number, at, text, kind = (*fields[:5], *("", "0", "", "0")[len(fields) - 1 :])
            point = Label(text, float(at), float(at))
            if not int(kind) & 1:
                labels.append(point)
            elif number not in open_regions:
                open_regions[number] = point
            else:
                begin = open_regions.pop(number)
                labels.append(Label(begin.text, begin.start_s, point.end_s))
        labels.sort(key=lambda label: label.start_s)
        return Marks(self._times("SELECTION"), self._times("SELECTION2"), tuple(labels))

    def media_folder(self) -> Path:
        """Return the folder for the audio of new tracks, beside the project."""
        return self.path.parent / "stembridge"

    def add_tracks(self, new: NewTracks) -> Addition:
        """Add a folder with a track per stem after the source track, in the same parent.

        The folder takes the fader, effects, envelopes and sends of the source. If that is a folder
        itself, the new one lies in it, and the items are muted instead of the track.
        """
        track, stems, colours = self._find(new.source), new.stems, new.colours
        inside = depth_of(track) > 0
        channels = (track.fields("NCHAN") or ["2"])[0]
        if inside:
            parent = new_track(new.group, ["ISBUS 1 1", f"NCHAN {channels}"], self._end)
        else:
            parent = folder_like(track, new.group, self._end, receives=new.mute == "track")
        added = [parent]
        for index, (name, placements) in enumerate(stems.items()):
            depth = "2 -1" if index == len(stems) - 1 else "0 0"
            lines = [f"ISBUS {depth}", f"NCHAN {channels}"]
            taken = {*STEM_LINES, *(["TRACKHEIGHT"] if name in colours else [])}
            lines += [str(child).strip() for child in track.children if word(child) in taken]
            if name in colours:
                red, green, blue = colours[name]
                lines.append(f"PEAKCOL {1 << 24 | blue << 16 | green << 8 | red}")
            items = track.chunks("ITEM")
            by_item = _by_item(placements)
            mode = _placing(track, [items[number] for number in by_item])
            lines += mode
            added.append(new_track(name, lines, self._end))
            left_out = {*([] if mode else ["YPOS"]), *(["COLOR"] if colours else [])}
            for number, takes in by_item.items():
                added[-1].children.append(
                    copy_item(items[number], takes, name, self.path, self._end, without=left_out)
                )
        number = next(i for i, t in enumerate(tracks_of(self._project)) if t is track)
        insert_tracks(self._project, number + 1, added)
        if not inside:
            copy_sends(self._project, track, parent)
        names = tuple(guid_of(chunk) for chunk in added)
        if new.mute == "nothing" or _is_muted(track):
            return Addition(names, None)
        if inside or new.mute == "clips":
            tags = {p.clip.tag for placements in stems.values() for p in placements}
            return Addition(names, None, self._mute_items(track, tags))
        self._set_mute(track, muted=True)
        return Addition(names, _identity(track))

    def add_takes(self, source: str, stems: Mapping[str, Sequence[Placement]]) -> Addition:
        """Add a take for every stem to the items of a track; the first one plays."""
        items = self._find(source).chunks("ITEM")
        by_item: dict[int, dict[str, Placement]] = defaultdict(dict)
        for name, placements in stems.items():
            for number, (placement, *_) in _by_item(placements).items():
                by_item[number][name] = placement
        made = [add_takes(items[n], p, self.path, self._end) for n, p in by_item.items()]
        names = tuple(name for new, _ in made for name in new)
        return Addition((), None, takes=names, active=tuple(old for _, old in made))

    def remove(self, addition: Addition) -> int:
        """Take away the tracks and takes that were added, and the mute; see `Session.remove`."""
        tracks = tracks_of(self._project)
        first = next(
            (i for i, t in enumerate(tracks) if guid_of(t) in addition.tracks), len(tracks)
        )
        # Old projects have several tracks of one identifier; the stems lie after theirs.
        nearest = [*reversed(tracks[:first]), *tracks[first:]]
        muted = next((t for t in nearest if _identity(t) == addition.muted), None)
        removed = remove_tracks(self._project, addition.tracks)
        if muted is not None:
            self._set_mute(muted, muted=False)
        mutes = {words[0]: words[1:] for words in map(str.split, addition.items)}
        for item, name in self._items() if mutes or addition.takes else ():
            if name in mutes:
                self._set_item_mute(item, mutes[name])
            removed += remove_takes(item, addition.takes, addition.active)
        return removed

    def write(self, path: Path) -> None:
        """Write the project atomically.

        Raises
        ------
        SessionError
            The folder is not writable, or another one, where relative paths would break.
        """
        data = self.text().encode("utf-8", "surrogateescape")
        self._file.write(path, lambda file: file.write_bytes(data), beside=True)

    def preset_texts(self) -> dict[str, str]:
        """Return the presets inside the project by name."""
        texts = {}
        for state in self._project.chunks("EXTSTATE"):
            for ours in state.chunks(_STATE):
                for line in filter(str.strip, map(str, ours.children)):
                    word, _, value = line.strip().partition(" ")
                    texts[_decode(word)] = _decode(value)
        return texts

    def set_preset_texts(self, texts: Mapping[str, str]) -> None:
        """Put presets into the project's extension state, replacing those that were there."""
        states = self._project.chunks("EXTSTATE")
        end = self._end
        for state in states:
            state.children = [
                c for c in state.children if not (isinstance(c, Chunk) and c.kind == _STATE)
            ]
        if texts:
            if not states:
                states = [Chunk(f"  <EXTSTATE{end}", [], f"  >{end}")]
                self._project.children.append(states[0])
            lines = [f"      {_encode(k)} {_encode(v)}{end}" for k, v in sorted(texts.items())]
            states[0].children.append(Chunk(f"    <{_STATE}{end}", [*lines], f"    >{end}"))
        self._project.children = [
            c
            for c in self._project.children
            if not (isinstance(c, Chunk) and c.kind == "EXTSTATE" and not c.children)
        ]

    def _times(self, key: str) -> Range | None:
        start, end = (float(field) for field in (self._project.fields(key) or ["0", "0"])[:2])
        return (start, end) if start < end else None

    def names(self) -> list[TrackName]:
        """Return what all tracks are called, in order."""
        tracks = tracks_of(self._project)
        return [TrackName(_name(t), number, guid_of(t)) for number, t in enumerate(tracks, 1)]

    def _find(self, wanted: str) -> Chunk:
        # The same words mean the same track, whatever is added before it.
        if wanted not in self._chosen:
            self._chosen[wanted] = tracks_of(self._project)[choose_track(self.names(), wanted)]
        return self._chosen[wanted]

    def _clips(self, track: Chunk) -> list[Clip]:
        lanes = _playing_lanes(track)
        # 1: all items mix; 0: those inside others replace them, 2: later ones earlier ones. Where
        # they are placed freely or lie in lanes, they mix in any case.
        mixed = (self._project.fields("ITEMMIX") or ["1"])[0] == "1"
        mixed = mixed or (track.fields("FREEMODE") or ["0"])[0] != "0"
        return [
            replace(clip, mixed=mixed)
            for index, item in enumerate(track.chunks("ITEM"))
            if lanes is None or _lane(item) in lanes
            for clip in read_item(item, index, self.path)
        ]

    def _channels(self, track: Chunk) -> int:
        counts = []
        for item in track.chunks("ITEM"):
            for take in playing_takes(item):
                file = ((take.source or take.lines).fields("FILE") or [""])[0]
                try:
                    path = self.path.parent / file.replace("\\", "/")
                    counts.append(probe_source(path, self.path)[1])
                except SessionError:
                    continue
        return max(counts, default=int((track.fields("NCHAN") or ["2"])[0]))

    def _set_mute(self, track: Chunk, *, muted: bool) -> None:
        added = f"    MUTESOLO 1 0 0{self._end}"
        if not muted and track.children[0] == added:
            # The name comes first in a track that REAPER wrote.
            del track.children[0]
            return
        for index, _ in track.lines("MUTESOLO"):
            line = str(track.children[index])
            track.children[index] = replace_fields(line, {1: str(int(muted))})
            return
        if muted:
            track.children.insert(0, added)

    def _items(self) -> list[tuple[Chunk, str]]:
        """Return all items, each with its identifier, numbered where others have it too."""
        found = []
        counts: dict[str, int] = defaultdict(int)
        for track in tracks_of(self._project):
            for item in track.chunks("ITEM"):
                guid = guid_of_item(item)
                found.append((item, f"{guid}/{counts[guid]}" if counts[guid] else guid))
                counts[guid] += 1
        return found

    def _mute_items(self, track: Chunk, tags: Collection[str]) -> tuple[str, ...]:
        """Mute items; return their identifiers, each with what its ``MUTE`` line was."""
        items = track.chunks("ITEM")
        playing = [items[number] for number in sorted({int(tag.split(".")[0]) for tag in tags})]
        if not all(map(guid_of_item, playing)):
            raise SessionError(
                f"the track {_name(track)!r} has items without an identifier; leave out "
                "--mute-source and mute them by hand"
            )
        meant = {id(item) for item in playing}
        before = [
            " ".join([name, *(item.fields("MUTE") or [])])
            for item, name in self._items()
            if id(item) in meant
        ]
        for item in playing:
            # That an item is soloed comes before its mute.
            self._set_item_mute(item, ["1", "0"])
        return tuple(before)

    def _set_item_mute(self, item: Chunk, fields: Sequence[str]) -> None:
        """Set the fields of an item's ``MUTE`` line; without any, take the line away."""
        for index, _ in item.lines("MUTE"):
            if fields:
                values = dict(enumerate(fields, 1))
                item.children[index] = replace_fields(str(item.children[index]), values)
            else:
                del item.children[index]
            return
        item.children.insert(0, f"      MUTE {' '.join(fields)}{self._end}")


def _encode(text: str) -> str:
    # Extension state is lines of a key and a value, which take neither spaces nor line ends.
    return base64.b64encode(text.encode()).decode()


def _decode(word: str) -> str:
    try:
        return base64.b64decode(word, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise SessionError(f"a preset in the project cannot be read ({error})") from None


def _name(track: Chunk) -> str:
    return (track.fields("NAME") or [""])[0]


def _identity(track: Chunk) -> str:
    """Return what an addition calls a track; the oldest projects have no identifiers."""
    return guid_of(track) or "the one before"


def _is_muted(track: Chunk) -> bool:
    return (track.fields("MUTESOLO") or ["0"])[0] == "1"


def _playing_lanes(track: Chunk) -> frozenset[int] | None:
    """Return the numbers of the fixed lanes that play; None if all items do.

    Raises
    ------
    SessionError
        What plays cannot be told.
    """
    if (track.fields("FREEMODE") or ["0"])[0] != "2":
        return None
    solo = track.fields("LANESOLO")
    if solo is None:
        lanes = None
    else:
        words = [int(field) for field in solo[:8]]
        lanes = frozenset(
            32 * n + bit for n, w in enumerate(words) for bit in range(32) if w >> bit & 1
        )
    settings = [*(track.fields("FIXEDLANES") or []), *["0"] * 5]
    items = [item for item in track.chunks("ITEM") if playing_takes(item)]
    heard = {_lane(item) for item in items} if lanes is None else lanes & {_lane(i) for i in items}
    if settings[2] == "1" and (lanes is None or len(lanes) != 1):
        why = "shows one lane alone, but plays several"
    elif (
        settings[3] == "1"
        and len(heard) > 1
        and any(a != b for a, b in _overlaps([i for i in items if _lane(i) in heard]))
    ):
        why = "has lanes that mask others where they overlap"
    else:
        return lanes
    raise SessionError(
        f"the track {_name(track)!r} {why}; play one lane (Track lanes > Play only lane) and save "
        "again"
    )


def _lane(item: Chunk) -> int:
    """Return the number of the lane that an item lies in, from 0."""
    fields = item.fields("YPOS") or ["0", "1"]
    height = float(fields[1]) if len(fields) > 1 else 1.0
    return round(float(fields[0]) / height) if height > 0.0 else 0


def _by_item(placements: Sequence[Placement]) -> dict[int, list[Placement]]:
    """Return placements by the number of their item on the track."""
    found: dict[int, list[Placement]] = defaultdict(list)
    for placement in placements:
        found[int(placement.clip.tag.split(".")[0])].append(placement)
    return found


def _placing(track: Chunk, items: Sequence[Chunk]) -> list[str]:
    """Return the lines that say how items lie on a track, or none if they simply lie there.

    Items that are placed freely or lie in lanes are mixed, also those of one lane; without that,
    they might replace each other.
    """
    mode = (track.fields("FREEMODE") or ["0"])[0]
    if mode == "1":
        return ["FREEMODE 1"]
    several = len({_lane(item) for item in items}) > 1
    if mode != "2" or not (several or any(True for _ in _overlaps(items))):
        return []
    return [str(child).strip() for child in track.children if word(child) in _LANES]


def _overlaps(items: Sequence[Chunk]) -> Iterator[tuple[int, int]]:
    """Yield the lanes of any two items that overlap."""
    times = sorted(
        (
            float((i.fields("POSITION") or ["0"])[0]),
            float((i.fields("LENGTH") or ["0"])[0]),
            _lane(i),
        )
        for i in items
    )
    for number, (start, length, lane) in enumerate(times):
        for later in times[number + 1 :]:
            if later[0] >= start + length:
                break
            yield lane, later[2]
