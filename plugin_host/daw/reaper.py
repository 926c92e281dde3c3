"""REAPER projects: items read, stem tracks added, everything else left byte for byte."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from plugin_host.daw.reaper_items import copy_item, is_muted, new_guid, read_item
from plugin_host.daw.rpp import Chunk, parse, quote
from plugin_host.daw.session import (
    Addition,
    Clip,
    Marks,
    Placement,
    Range,
    SessionError,
    TrackInfo,
    one_named,
)
from plugin_host.daw.session_file import write_session
from plugin_host.span_files import Label

_STATE = "STEMBRIDGE"


class ReaperSession:
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

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = path.read_bytes()
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror or error})"
            raise SessionError(msg) from None
        # Old projects may hold bytes of another encoding; they come back as they were.
        self._root = parse(data.decode("utf-8", "surrogateescape"))
        self._project = self._root.chunks("REAPER_PROJECT")[0]
        self._end = "\r\n" if self._project.opening.endswith("\r\n") else "\n"

    def text(self) -> str:
        """Return the project as it would be written."""
        return self._root.text()

    def tracks(self) -> list[TrackInfo]:
        """Return all tracks with items, in order."""
        listed = []
        for chunk in self._project.chunks("TRACK"):
            items = chunk.chunks("ITEM")
            if items:
                muted = (chunk.fields("MUTESOLO") or ["0"])[0] == "1"
                channels = 2
                listed.append(TrackInfo(_name(chunk), len(items), channels, muted))
        return listed

    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays; muted items are left out.

        Raises
        ------
        SessionError
            There is no such track, a file is missing, or an item has something that cannot be
            honoured: MIDI, reverse, stretch markers, take effects, a channel mode.
        """
        return [
            read_item(item, f"{index}", self.path)
            for index, item in enumerate(self._find(track).chunks("ITEM"))
            if not is_muted(item)
        ]

    def marks(self) -> Marks:
        """Return the project's time selection, loop points, markers and regions."""
        labels, open_regions = [], dict[str, Label]()
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

    def adopt(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Leave the files where they are."""
        return dict(files)

    def add_tracks(
        self,
        source: str,
        stems: Mapping[str, Sequence[Placement]],
        *,
        group: str,
        mute_source: bool,
    ) -> Addition:
        """Add a folder track with a track per stem at the end of the project."""
        track = self._find(source)
        items = track.chunks("ITEM")
        parent = self._new_track(group, ["ISBUS 1 1"], volpan=track.fields("VOLPAN"))
        added = [parent]
        for index, (name, placements) in enumerate(stems.items()):
            last = index == len(stems) - 1
            child = self._new_track(name, ["ISBUS 2 -1"] if last else ["ISBUS 0 0"])
            for placement in placements:
                item = items[int(placement.clip.tag)]
                child.children.append(copy_item(item, placement, name, self.path, self._end))
            added.append(child)
        children = self._project.children
        tracks = [i for i, c in enumerate(children) if isinstance(c, Chunk) and c.kind == "TRACK"]
        children[tracks[-1] + 1 : tracks[-1] + 1] = added
        silence = mute_source and (track.fields("MUTESOLO") or ["0"])[0] != "1"
        if silence:
            self._set_mute(track, muted=True)
        return Addition(tuple(_guid(chunk) for chunk in added), _guid(track) if silence else None)

    def remove(self, addition: Addition) -> None:
        """Take away the tracks that were added, and the mute."""
        self._project.children = [
            child
            for child in self._project.children
            if not (
                isinstance(child, Chunk)
                and child.kind == "TRACK"
                and _guid(child) in addition.tracks
            )
        ]
        for track in self._project.chunks("TRACK"):
            if addition.muted is not None and _guid(track) == addition.muted:
                self._set_mute(track, muted=False)

    def write(self, path: Path) -> None:
        """Write the project atomically.

        Raises
        ------
        SessionError
            The folder is not writable, or another one, where relative paths would break.
        """
        data = self.text().encode("utf-8", "surrogateescape")
        write_session(path, lambda file: file.write_bytes(data), media_of=self.path)

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

    def _find(self, name: str) -> Chunk:
        tracks = self._project.chunks("TRACK")
        return tracks[one_named([_name(track) for track in tracks], name)]

    def _new_track(
        self, name: str, lines: Sequence[str], volpan: Sequence[str] | None = None
    ) -> Chunk:
        guid = new_guid()
        end = self._end
        wanted = [f"NAME {quote(name)}", *lines, "NCHAN 2", f"TRACKID {guid}", "MAINSEND 1 0"]
        if volpan:
            wanted.insert(1, f"VOLPAN {' '.join(volpan)}")
        return Chunk(f"  <TRACK {guid}{end}", [f"    {line}{end}" for line in wanted], f"  >{end}")

    def _set_mute(self, track: Chunk, *, muted: bool) -> None:
        for index, _ in track.lines("MUTESOLO"):
            line = str(track.children[index])
            track.children[index] = re.sub(r"(MUTESOLO )\d", rf"\g<1>{int(muted)}", line, count=1)
            return
        if muted:
            track.children.insert(0, f"    MUTESOLO 1 0 0{self._end}")


def _encode(text: str) -> str:
    # Extension state is lines of a key and a value, which take neither spaces nor line ends.
    return base64.b64encode(text.encode()).decode()


def _decode(word: str) -> str:
    try:
        return base64.b64decode(word, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        msg = f"a preset in the project cannot be read ({error})"
        raise SessionError(msg) from None


def _name(track: Chunk) -> str:
    return (track.fields("NAME") or [""])[0]


def _guid(track: Chunk) -> str:
    found = re.search(r"\{[^}]*\}", track.opening) or re.search(
        r"\{[^}]*\}", " ".join(track.fields("TRACKID") or [])
    )
    return found.group().upper() if found else ""
