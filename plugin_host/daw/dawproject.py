"""DAWproject archives, which Bitwig Studio, Studio One, Cubase and others read and write.

The format is a zip with ``project.xml``, ``metadata.xml`` and audio. Times are in seconds or
(through the arrangement's tempo) in beats.

An archive's directory says how large its entries are, and may lie. Nothing is believed that is
not counted while it is unpacked, and entries that nobody asks for are never unpacked.
"""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final
from xml.etree import ElementTree as ET

from bridge.files import open_regular
from plugin_host.daw.dawproject_clips import (
    Times,
    TopClip,
    copy_clip,
    has_notes,
    has_timeline,
    read_clips,
    top_clips,
)
from plugin_host.daw.media import MOST_TEXT_BYTES, SessionFile, parse_xml, reports_damage
from plugin_host.daw.session import (
    Addition,
    Clip,
    HoldsPresets,
    Marks,
    NewTracks,
    Placement,
    SessionError,
    SpelledAnew,
    Spelling,
    TrackInfo,
    TrackName,
    choose_track,
)
from plugin_host.files.span_files import Label

_MOST_ENTRIES: Final = 100_000
_BLOCK_BYTES: Final = 1 << 20
# Audio shrinks to a half, silence to a thousandth. An entry above so many bytes that shrank to
# less than a hundredth is no recording that anybody cut clips from.
_ANY_RATIO_BYTES: Final = 256 << 20
_HIGHEST_RATIO: Final = 100
_KEPT_FREE_BYTES: Final = 256 << 20
_LOCAL_HEADER: Final = struct.Struct("<4s5H3L2H")
_DATA_DESCRIPTOR: Final = 0x08
_LARGE_SIZES: Final = 1


class Archive:
    """A zip archive that is read entry by entry.

    Parameters
    ----------
    path
        The archive.

    Raises
    ------
    SessionError
        It cannot be read, or has more than 100,000 entries.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as archive:
            self._entries = {item.filename: item for item in archive.infolist()}

    def names(self) -> list[str]:
        """Return the names of the entries."""
        return list(self._entries)

    def read(self, name: str, most_bytes: int) -> bytes:
        """Return what is in an entry.

        Raises
        ------
        SessionError
            There is no such entry, it cannot be read, or is larger than `most_bytes`.
        """
        with self._open_entry(name) as entry:
            content = entry.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise SessionError(
                f"{self.path}: its {name} is larger than {most_bytes} bytes, which none is"
            )
        return content

    def unpack(self, name: str, folder: Path) -> Path:
        """Unpack an entry into a folder, unless it is there, and return where it is.

        Raises
        ------
        SessionError
            There is no such entry, its name leads out of the folder, it cannot be read, or it
            unpacks to more than fits or than audio would.
        """
        parts = PurePosixPath(name)
        target = folder / name
        if (
            parts.is_absolute()
            or not parts.parts
            or ".." in parts.parts
            or name.endswith("/")
            or "\\" in name
            or (os.name == "nt" and ":" in name)
        ):
            raise SessionError(
                f"{self.path}: {name!r} is no name inside the archive; save the project again"
            )
        if target.is_file():
            return target
        with self._open_entry(name) as entry:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".part")
            try:
                with partial.open("wb") as file:
                    self._copy(entry, file, name, shutil.disk_usage(folder).free)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        return target

    def rewrite(
        self,
        new: Path,
        gone: AbstractSet[str],
        texts: Mapping[str, bytes],
        files: Mapping[str, Path],
    ) -> None:
        """Write the archive again; entries that stay are copied as they are, still packed.

        Parameters
        ----------
        new
            The file to write.
        gone
            Names to leave out.
        texts
            Name to content, small ones, which are compressed.
        files
            Name to file, large ones, which are stored as they are.

        Raises
        ------
        SessionError
            It cannot be read.
        OSError
            It cannot be written.
        """
        with (
            self._open() as source,
            open_regular(self.path) as raw,
            zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for item in source.infolist():
                if item.filename not in gone and item.filename not in texts:
                    with self._as_session_error():
                        _copy_packed(raw, item, target)
            for name, content in texts.items():
                target.writestr(name, content)
            for name, file in files.items():
                target.write(file, name, zipfile.ZIP_STORED)

    def _copy(self, entry: IO[bytes], file: IO[bytes], name: str, free_bytes: int) -> None:
        written = 0
        packed = max(1, self._entries[name].compress_size)
        while block := entry.read(_BLOCK_BYTES):
            written += len(block)
            if written > _ANY_RATIO_BYTES and written > _HIGHEST_RATIO * packed:
                raise SessionError(
                    f"{self.path}: {name} unpacks to more than {_HIGHEST_RATIO} times its "
                    f"{packed} bytes; it is silent all through, or made to fill the disk"
                )
            if written > free_bytes - _KEPT_FREE_BYTES:
                raise SessionError(
                    f"{self.path}: {name} does not fit on the disk for temporary files"
                )
            file.write(block)

    @contextmanager
    def _open_entry(self, name: str) -> Iterator[IO[bytes]]:
        if name not in self._entries:
            raise SessionError(
                f"{self.path}: there is no {name!r} in it; relink it first, or save it again"
            )
        with self._open() as archive, self._as_session_error(), archive.open(name) as entry:
            yield entry

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with self._as_session_error():
            file = open_regular(self.path)
        with file:
            with self._as_session_error():
                archive = zipfile.ZipFile(file)
                if len(archive.infolist()) > _MOST_ENTRIES:
                    raise SessionError(f"{self.path}: more than {_MOST_ENTRIES} entries")
            yield archive

    @contextmanager
    def _as_session_error(self) -> Iterator[None]:
        try:
            yield
        except SessionError:
            raise
        # zipfile passes on whatever the decompressors and struct raise, and RuntimeError for
        # encrypted entries.
        except Exception as error:
            why = getattr(error, "strerror", None) or error or type(error).__name__
            raise SessionError(f"{self.path}: cannot be read as a DAWproject ({why})") from error


def archive_state(path: Path) -> Hashable:
    """Return what tells two contents of an archive apart: names, checksums and sizes."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            return size, tuple((i.filename, i.CRC, i.file_size) for i in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError, struct.error):
        return None


def _copy_packed(source: IO[bytes], item: zipfile.ZipInfo, target: zipfile.ZipFile) -> None:
    """Copy an entry from one archive's file to the end of another, as it is packed.

    The library can only unpack and pack again, which takes long for large entries, and for ever
    for those that are made to.
    """
    source.seek(item.header_offset)
    fixed = source.read(_LOCAL_HEADER.size)
    if len(fixed) < _LOCAL_HEADER.size or not fixed.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"the header of {item.filename!r} is damaged")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(fixed)
    source.seek(name_bytes + extra_bytes, os.SEEK_CUR)
    copied = copy.copy(item)
    output = target.fp
    if output is None:
        raise ValueError("the archive to write is closed")
    output.seek(target.start_dir)
    copied.header_offset = output.tell()
    # Sizes and checksum are known, so they go before the data.
    copied.flag_bits &= ~_DATA_DESCRIPTOR
    copied.extra = _without_sizes(item.extra)
    output.write(copied.FileHeader(None))
    left = item.compress_size
    while left:
        block = source.read(min(left, _BLOCK_BYTES))
        if not block:
            raise zipfile.BadZipFile(f"{item.filename!r} breaks off")
        output.write(block)
        left -= len(block)
    target.filelist.append(copied)
    target.NameToInfo[copied.filename] = copied
    target.start_dir = output.tell()
    target._didModify = True  # type: ignore[attr-defined]


def _without_sizes(extra: bytes) -> bytes:
    """Leave out the field for sizes above 4 GB, which the library writes anew where needed."""
    kept, place = b"", 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind != _LARGE_SIZES:
            kept += extra[place : place + 4 + length]
        place += 4 + length
    return kept


_PROJECT = "project.xml"
_AUDIO = "audio/stembridge"
_PRESETS = ".stembridge/presets"
_MOST_PRESET_BYTES = 64 << 20


@reports_damage
class DawprojectSession(HoldsPresets, SpelledAnew):
    """A ``.dawproject`` file.

    Parameters
    ----------
    path
        The archive. Audio that is asked for is unpacked to a temporary folder as long as the
        session is open.

    Raises
    ------
    SessionError
        It cannot be read or holds no project.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._unpacked = Path(tempfile.mkdtemp(prefix="stembridge-"))
        weakref.finalize(self, shutil.rmtree, self._unpacked, ignore_errors=True)
        self._file = SessionFile(path, archive_state)
        self._archive = Archive(path)
        self._text = self._archive.read(_PROJECT, MOST_TEXT_BYTES)
        self._restored: bytes | None = None
        self._root: ET.Element = parse_xml(self._text, path)
        if self._root.tag != "Project":
            raise SessionError(f"{path}: expected a DAWproject, got <{self._root.tag}>")
        self._taken = {element.get("id") for element in self._root.iter()}
        self._chosen: dict[str, ET.Element] = {}
        self._times = Times(self._root, path)
        self._added: dict[str, Path] = {}
        self._presets = self._read_presets()

    @property
    def root(self) -> ET.Element:
        """The project's XML."""
        return self._root

    def names(self) -> list[TrackName]:
        """Return what the tracks are called that something lies on, in order."""
        return [name for name, _ in self._names()]

    def tracks(self) -> list[TrackInfo]:
        """Return all tracks with audio clips in the arrangement, in order."""
        listed = []
        for number, track in enumerate(self._tracks(), 1):
            tops = top_clips(self._root, track.get("id", ""))
            if tops:
                audio = [audio for top in tops for audio in top.audio]
                channels = max(int(element.get("channels", "2")) for element in audio)
                mute = track.find("Channel/Mute")
                muted = mute is not None and mute.get("value") == "true"
                listed.append(
                    TrackInfo(
                        track.get("name", ""),
                        len(tops),
                        channels,
                        muted,
                        number=number,
                        identity=track.get("id", ""),
                    )
                )
        return listed

    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays, each turn of a loop by itself.

        Raises
        ------
        SessionError
            There is no such track, a file is missing, or a clip is stretched by more than one
            rate.
        """
        return [clip for _, clips in self._clips(self._find(track)) for clip in clips]

    def remarks(self, track: str) -> list[str]:
        """Return what the stems of a track will not have, or not exactly."""
        element = self._find(track)
        told = []
        if has_notes(self._root, element.get("id", "")):
            told.append("left behind: its notes, which are silent if the track is muted")
        stretched = sum(any(c.speed != 1.0 for c in clips) for _, clips in self._clips(element))
        if stretched:
            told.append(
                f"{stretched} of its clips are stretched, which a program may do for each stem by "
                "itself; there their sum is only nearly the track"
            )
        if any(clip.bent for _, clips in self._clips(element) for clip in clips):
            told.append("the tempo changes within a clip; spans lie there only nearly in place")
        return told

    def marks(self) -> Marks:
        """Return the arrangement's markers; the format has no selection and no loop range."""
        labels = []
        for markers in self._root.iterfind("Arrangement/Markers"):
            unit = markers.get("timeUnit") or self._outer_unit()
            for marker in markers.iterfind("Marker"):
                at_s = self._times.second_at(float(marker.get("time", "0")), unit)
                labels.append(Label(marker.get("name", ""), at_s, at_s))
        return Marks(labels=tuple(sorted(labels, key=lambda label: label.start_s)))

    def media_folder(self) -> Path:
        """Return a folder for audio on its way into the archive."""
        return self._unpacked / "stembridge-new"

    def location(self, file: Path, session: Path) -> Path:
        """Return where new audio is once the session is written; see `Session.location`."""
        return session / self._store(file)

    def add_tracks(self, new: NewTracks) -> Addition:
        """Add a group with a track for every stem after the source track.

        The group's channel is that of the source, with its effects, sends and automation.
        """
        track, colours = self._find(new.source), new.colours
        owner = next(parent for parent in self._root.iter() if track in list(parent))
        arrangement = self._arrangement()
        tops = self._clips(track)
        folder = self._new_track(new.group, "tracks")
        # The order of a track's elements is fixed: its channel first, then the tracks inside.
        folder.append(self._copy_channel(track, folder.get("id", "")))
        for name, placements in new.stems.items():
            child = self._new_track(name, "audio")
            if name in colours:
                child.set("color", "#{:02x}{:02x}{:02x}".format(*colours[name]))
            folder.append(child)
            child.append(self._plain_channel(folder[0], folder[0].get("id", "")))
            arrangement.append(self._lanes_like(child, placements, tops, name))
        owner.insert(list(owner).index(track) + 1, folder)
        silence = new.mute == "track" and self._set_mute(track)
        return Addition((folder.get("id", ""),), track.get("id") if silence else None)

    def remove(self, addition: Addition) -> int:
        """Take away the group that was added, its clips, and the mute; see `Session.remove`."""
        gone: set[str] = set()
        for parent in list(self._root.iter()):
            for element in list(parent):
                if element.tag == "Track" and element.get("id") in addition.tracks:
                    gone |= {t.get("id", "") for t in element.iter("Track")}
                    parent.remove(element)
        for parent in list(self._root.iter()):
            for element in list(parent):
                if element.get("track") in gone:
                    parent.remove(element)
        for track in self._tracks():
            if addition.muted and track.get("id") == addition.muted:
                self._unmute(track)
        return len(gone)

    def preset_texts(self) -> dict[str, str]:
        """Return the presets inside the archive by name."""
        return dict(self._presets)

    def set_preset_texts(self, texts: Mapping[str, str]) -> None:
        """Put presets into the archive, replacing those that were there."""
        self._presets = dict(texts)

    def spelling(self) -> Spelling:
        """Return the project's XML as it was read and as it would be written."""
        return Spelling(self._text, self._written())

    def restore(self, text: bytes) -> None:
        """Write exactly an XML."""
        self._root = parse_xml(text, self.path)
        self._restored = text

    def write(self, path: Path) -> None:
        """Write the archive atomically, with the new audio in it.

        Raises
        ------
        SessionError
            It cannot be written.
        """
        self._file.write(path, self._repack)

    def _written(self) -> bytes:
        if self._restored is not None:
            return self._restored
        return bytes(ET.tostring(self._root, encoding="UTF-8", xml_declaration=True))

    def _repack(self, target: Path) -> None:
        used = {file.get("path") for file in self._root.iter("File")}
        gone = {
            name
            for name in self._archive.names()
            if name.startswith(f"{_PRESETS}/")
            or (name.startswith(f"{_AUDIO}/") and name not in used)
        }
        texts = {f"{_PRESETS}/{n}.toml": t.encode() for n, t in self._presets.items()}
        self._archive.rewrite(target, gone, {_PROJECT: self._written(), **texts}, self._added)

    def _read_presets(self) -> dict[str, str]:
        left = _MOST_PRESET_BYTES
        presets = {}
        for name in sorted(self._archive.names()):
            folder, _, file = name.rpartition("/")
            if folder == _PRESETS and file.endswith(".toml"):
                content = self._archive.read(name, left)
                left -= len(content)
                presets[file.removesuffix(".toml")] = content.decode("utf-8")
        return presets

    def _tracks(self) -> Iterator[ET.Element]:
        structure = self._root.find("Structure")
        return iter(()) if structure is None else structure.iter("Track")

    def _names(self) -> list[tuple[TrackName, ET.Element]]:
        """Return the tracks that something lies on; others may have the name of one that plays."""
        return [
            (TrackName(track.get("name", ""), number, track.get("id", "")), track)
            for number, track in enumerate(self._tracks(), 1)
            if has_timeline(self._root, track.get("id", ""))
        ]

    def _find(self, wanted: str) -> ET.Element:
        # The same words mean the same track, whatever is added before it.
        if wanted not in self._chosen:
            names = self._names()
            self._chosen[wanted] = names[choose_track([name for name, _ in names], wanted)][1]
        return self._chosen[wanted]

    def _clips(self, track: ET.Element) -> list[tuple[TopClip, list[Clip]]]:
        tops = top_clips(self._root, track.get("id", ""))
        return [
            (top, list(read_clips(top, index, self._times, self._find_file, self.path)))
            for index, top in enumerate(tops)
        ]

    def _find_file(self, file: ET.Element) -> Path:
        name = file.get("path", "")
        if name not in self._archive.names():
            # As programs on Windows write it, or from a folder "." on.
            name = str(PurePosixPath(name.replace("\\", "/")))
        if file.get("external") == "true":
            return self.path.parent / name
        return self._archive.unpack(name, self._unpacked)

    def _arrangement(self) -> ET.Element:
        found = self._root.find("Arrangement/Lanes")
        if found is None:  # pragma: no cover
            raise SessionError(f"{self.path}: it has no arrangement")
        return found

    def _outer_unit(self) -> str:
        top = self._root.find("Arrangement/Lanes")
        return "beats" if top is None else top.get("timeUnit", "beats")

    def _new_id(self) -> str:
        numbers = (f"stembridge{number}" for number in itertools.count(1))
        identity = next(name for name in numbers if name not in self._taken)
        self._taken.add(identity)
        return identity

    def _new_track(self, name: str, kind: str) -> ET.Element:
        identity = self._new_id()
        fields = {"contentType": kind, "loaded": "true", "id": identity, "name": name}
        return ET.Element("Track", fields)

    def _copy_channel(self, track: ET.Element, folder: str) -> ET.Element:
        """Return a copy of a track's channel for a group, and add what automates it."""
        old = track.find("Channel")
        if old is None:
            return self._plain_channel(None, "", role="master")
        channel = copy.deepcopy(old)
        identities = {
            element.get("id", ""): self._new_id()
            for element in old.iter()
            if "id" in element.attrib
        }
        for element in channel.iter():
            if "id" in element.attrib:
                element.set("id", identities[element.get("id", "")])
        channel.set("role", "master")
        channel.set("solo", "false")
        for mute in channel.findall("Mute"):
            mute.set("value", "false")
        lanes = ET.Element("Lanes", {"track": folder, "id": self._new_id()})
        for points, unit in self._automation(self._arrangement(), "beats"):
            target = points.find("Target")
            if target is None or target.get("parameter") not in identities:
                continue
            new = copy.deepcopy(points)
            new.attrib.pop("track", None)
            new.set("timeUnit", unit)
            new.set("id", self._new_id())
            for element in new.findall("Target"):
                element.set("parameter", identities[target.get("parameter", "")])
            lanes.append(new)
        if len(lanes):
            self._arrangement().append(lanes)
        return channel

    def _automation(self, element: ET.Element, unit: str) -> Iterator[tuple[ET.Element, str]]:
        unit = element.get("timeUnit") or unit
        if element.tag == "Points":
            yield element, unit
        for part in element if element.tag == "Lanes" else ():
            yield from self._automation(part, unit)

    def _plain_channel(
        self, like: ET.Element | None, destination: str, role: str = "regular"
    ) -> ET.Element:
        """Return a channel at unity in the centre."""
        channels = "2" if like is None else like.get("audioChannels", "2")
        fields = {"audioChannels": channels, "role": role, "solo": "false", "id": self._new_id()}
        channel = ET.Element(
            "Channel", fields | ({"destination": destination} if destination else {})
        )
        plain = (("Mute", None, "false"), ("Pan", "normalized", "0.5"), ("Volume", "linear", "1.0"))
        for tag, unit, value in plain:
            element = ET.SubElement(channel, tag, {"id": self._new_id(), "value": value})
            if unit:
                element.set("unit", unit)
        return channel

    def _set_mute(self, track: ET.Element) -> bool:
        """Mute a track; return whether it was not muted."""
        channel = track.find("Channel")
        if channel is None:
            # The identifiers tell that both are not the project's own.
            channel = self._plain_channel(None, "")
            for part in list(channel):
                channel.remove(part)
            track.insert(0, channel)
        mute = channel.find("Mute")
        if mute is None:
            mute = ET.Element("Mute", {"value": "false", "id": self._new_id()})
            channel.insert(1 if channel.find("Devices") is not None else 0, mute)
        silence = mute.get("value") != "true"
        mute.set("value", "true")
        return silence

    def _unmute(self, track: ET.Element) -> None:
        channel, mute = track.find("Channel"), track.find("Channel/Mute")
        if channel is None or mute is None:
            return
        mute.set("value", "false")
        if mute.get("id", "").startswith("stembridge"):
            channel.remove(mute)
        if channel.get("id", "").startswith("stembridge") and not len(channel):
            track.remove(channel)

    def _lanes_like(
        self,
        track: ET.Element,
        placements: Sequence[Placement],
        tops: Sequence[tuple[TopClip, Sequence[Clip]]],
        stem: str,
    ) -> ET.Element:
        lanes = ET.Element("Lanes", {"track": track.get("id", ""), "id": self._new_id()})
        holders: dict[str, ET.Element] = {}
        for index, (top, clips) in enumerate(tops):
            wanted = [p for p in placements if p.clip.tag.split(".")[0] == str(index)]
            if not wanted:
                continue
            if top.unit not in holders:
                fields = {"timeUnit": top.unit, "id": self._new_id()}
                holders[top.unit] = ET.SubElement(lanes, "Clips", fields)
            new = copy_clip(
                top,
                wanted,
                all_clips=clips,
                stem=stem,
                times=self._times,
                project=self.path,
                store=self._store,
                new_id=self._new_id,
            )
            holders[top.unit].append(new)
        return lanes

    def _store(self, file: Path) -> str:
        base = f"{_AUDIO}/{file.parent.parent.name}/{file.parent.name}/{file.name}"
        name, number = base, 1
        taken = {*self._archive.names()}
        while self._added.get(name, file) != file or name in taken:
            number += 1
            name = base.removesuffix(".wav") + f" {number}.wav"
        self._added[name] = file
        return name
