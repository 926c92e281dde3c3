"""REAPER projects: items read, stem tracks added, everything else left byte for byte."""

import base64
import binascii
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from plugin_host.audio_files import replace_file, temporary_beside
from plugin_host.daw.rpp import Chunk, active_take, parse, quote
from plugin_host.daw.session import (
    Addition,
    Clip,
    Placement,
    SessionError,
    Source,
    TrackInfo,
    one_named,
    probe_source,
)

_STATE = "STEMBRIDGE"
_AUDIO = ("WAVE", "FLAC", "MP3", "VORBIS")
_DROPPED = ("TAKE", "SOURCE", "NAME", "SOFFS", "GUID", "IGUID", "IID", "CHANMODE", "TAKECOLOR")


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
        """Return what a track plays.

        Raises
        ------
        SessionError
            There is no such track, a file is missing, or an item has something that cannot be
            honoured: MIDI, reverse, stretch markers, take effects, a channel mode.
        """
        return [
            self._clip(item, f"{index}")
            for index, item in enumerate(self._find(track).chunks("ITEM"))
        ]

    def media_folder(self) -> Path:
        """Return the folder for the audio of new tracks, beside the project."""
        return self.path.parent / "stembridge"

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
                child.children.append(self._like(items[int(placement.clip.tag)], placement, name))
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
        if path.resolve().parent != self.path.resolve().parent:
            msg = f"{path}: write the project into {self.path.parent}, where its media are"
            raise SessionError(msg)
        try:
            with temporary_beside(path) as temporary:
                temporary.write_bytes(self.text().encode("utf-8", "surrogateescape"))
                replace_file(temporary, path)
        except OSError as error:
            msg = f"{path}: cannot be written ({error.strerror or error})"
            raise SessionError(msg) from error

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

    def _find(self, name: str) -> Chunk:
        tracks = self._project.chunks("TRACK")
        return tracks[one_named([_name(track) for track in tracks], name)]

    def _clip(self, item: Chunk, tag: str) -> Clip:
        take = active_take(item)
        name = (take.fields("NAME") or ["item"])[0]
        position = float((item.fields("POSITION") or ["0"])[0])
        length = float((item.fields("LENGTH") or ["0"])[0])
        rate = float((take.fields("PLAYRATE") or ["1"])[0])
        sources = take.chunks("SOURCE")
        self._refuse(name, item, take, sources)
        folder = self.path.parent
        file = (sources[0].fields("FILE") or [""])[0]
        path = folder / file.replace("\\", "/") if file else folder
        sample_rate, _, frames = probe_source(path, self.path)
        start = round(float((take.fields("SOFFS") or ["0"])[0]) * sample_rate)
        # The item's length is project time: at rate r it plays r times as much of its source.
        samples = round(length * rate * sample_rate)
        if start < 0 or start + samples > frames:
            # It loops, or shows silence beyond its source: keep positions as they are.
            start, samples = 0, frames
        return Clip(name, (Source(path),), sample_rate, start, samples, position, length, tag)

    def _refuse(self, name: str, item: Chunk, take: Chunk, sources: list[Chunk]) -> None:
        kinds = [source.opening.split()[1] for source in sources if len(source.opening.split()) > 1]
        why = None
        if "SECTION" in kinds:
            why = "plays a section or reversed"
        elif not kinds or kinds[0] not in _AUDIO:
            why = f"is no audio file ({kinds[0] if kinds else 'empty'})"
        elif any(True for _ in take.lines("SM")):
            why = "has stretch markers"
        elif take.chunks("TAKEFX"):
            why = "has take effects"
        elif (take.fields("CHANMODE") or ["0"])[0] != "0":
            why = "has a channel mode"
        if why:
            position = (item.fields("POSITION") or ["0"])[0]
            msg = f"the item {name!r} at {position} s {why}; glue it first (Item > Glue items)"
            raise SessionError(msg)

    def _like(self, item: Chunk, placement: Placement, stem: str) -> Chunk:
        """Return a copy of an item, its active take alone, that plays another file."""
        lines = [
            c if isinstance(c, str) else c.text()
            for c in active_take(item).children
            if (c.split(None, 1)[:1] if isinstance(c, str) else [c.kind])[0] not in _DROPPED
        ]
        clip = placement.clip
        new = Chunk(item.opening, [], item.closing)
        new.children += lines
        soffs = (active_take(item).fields("SOFFS") or ["0"])[0]
        if placement.start:
            soffs = f"{float(soffs) - placement.start / clip.sample_rate:.14g}"
        name = f"{clip.name} - {stem}"
        file = placement.file.resolve()
        folder = self.path.resolve().parent
        shown = str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
        for line in (
            f"IGUID {_new_guid()}",
            f"NAME {quote(name)}",
            f"SOFFS {soffs}",
            "CHANMODE 0",
            f"GUID {_new_guid()}",
        ):
            new.children.append(f"      {line}{self._end}")
        source = Chunk(f"      <SOURCE WAVE{self._end}", [], f"      >{self._end}")
        source.children.append(f"        FILE {quote(shown)}{self._end}")
        new.children.append(source)
        return new

    def _new_track(
        self, name: str, lines: Sequence[str], volpan: Sequence[str] | None = None
    ) -> Chunk:
        guid = _new_guid()
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


def _new_guid() -> str:
    return "{" + str(uuid.uuid4()).upper() + "}"
