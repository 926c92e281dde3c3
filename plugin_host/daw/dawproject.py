"""DAWproject archives, which Bitwig Studio, Studio One, Cubase and others read and write.

The format is a zip with ``project.xml``, ``metadata.xml`` and audio. Times here are read in
seconds or, through the constant tempo of the transport, in beats.
"""

import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import defusedxml.ElementTree

from plugin_host.daw.archive import list_names, repack, unpack
from plugin_host.daw.dawproject_channel import Identifiers, new_channel
from plugin_host.daw.dawproject_clips import Times, copy_clip, holds_audio, read_clip, times_of
from plugin_host.daw.session import (
    Addition,
    Clip,
    Marks,
    Placement,
    SessionError,
    TrackInfo,
    one_named,
)
from plugin_host.daw.session_file import write_session
from plugin_host.daw.sources import probe_source
from plugin_host.span_files import Label

_PROJECT = "project.xml"
_AUDIO = "audio/stembridge"
_PRESETS = ".stembridge/presets"


class DawprojectSession:
    """A ``.dawproject`` file.

    Parameters
    ----------
    path
        The archive. Its audio is unpacked to a temporary folder as long as the session is open.

    Raises
    ------
    SessionError
        It cannot be read or holds no project.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unpacked = Path(tempfile.mkdtemp(prefix="stembridge-"))
        weakref.finalize(self, shutil.rmtree, self._unpacked, ignore_errors=True)
        try:
            unpack(path, self._unpacked)
            project = defusedxml.ElementTree.parse(self._unpacked / _PROJECT)
        except (OSError, zipfile.BadZipFile, ET.ParseError, ValueError) as error:
            msg = f"{path}: cannot be read as a DAWproject ({error})"
            raise SessionError(msg) from None
        self._root: ET.Element = project.getroot()
        if self._root.tag != "Project":
            msg = f"{path}: expected a DAWproject, got <{self._root.tag}>"
            raise SessionError(msg)
        self._ids = Identifiers(self._root)
        self._added: dict[str, Path] = {}
        self._presets = {
            file.stem: file.read_text("utf-8")
            for file in sorted((self._unpacked / _PRESETS).glob("*.toml"))
        }

    @property
    def root(self) -> ET.Element:
        """The project's XML."""
        return self._root

    def tracks(self) -> list[TrackInfo]:
        """Return all tracks with audio clips in the arrangement, in order."""
        listed = []
        for track in self._tracks():
            clips = [clip for _, clip in self._audio_clips(track)]
            if clips:
                channels = max(int(audio.get("channels", "2")) for audio in map(_audio, clips))
                mute = track.find("Channel/Mute")
                muted = mute is not None and mute.get("value") == "true"
                listed.append(TrackInfo(track.get("name", ""), len(clips), channels, muted))
        return listed

    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays.

        Raises
        ------
        SessionError
            There is no such track, a file is missing, or a clip is stretched or looped.
        """
        return [
            read_clip(clip, index, self._times(unit), self._unpacked, self.path)
            for index, (unit, clip) in enumerate(self._audio_clips(self._find(track)))
        ]

    def marks(self) -> Marks:
        """Return the arrangement's markers; the format has no selection and no loop range."""
        labels = []
        for markers in self._root.iterfind("Arrangement/Markers"):
            times = self._times(markers.get("timeUnit") or self._outer_unit())
            for marker in markers.iterfind("Marker"):
                at_s = times.read(marker, "time")
                labels.append(Label(marker.get("name", ""), at_s, at_s))
        return Marks(labels=tuple(sorted(labels, key=lambda label: label.start_s)))

    def media_folder(self) -> Path:
        """Return a folder for audio on its way into the archive."""
        return self._unpacked / "stembridge-new"

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
        """Add a group with a track for every stem after the source track."""
        track = self._find(source)
        owner = next(parent for parent in self._root.iter() if track in list(parent))
        folder = ET.Element(
            "Track",
            {"contentType": "tracks", "loaded": "true", "id": self._ids.new(), "name": group},
        )
        # The order of a track's elements is fixed: its channel first, then the tracks inside.
        folder.append(new_channel(self._ids, track, role="master"))
        master = folder[0].get("id", "")
        lanes = self._lanes_of(track)
        clips = self._audio_clips(track)
        for name, placements in stems.items():
            child = ET.SubElement(
                folder,
                "Track",
                {"contentType": "audio", "loaded": "true", "id": self._ids.new(), "name": name},
            )
            channel = new_channel(self._ids, None, role="regular")
            channel.set("destination", master)
            child.append(channel)
            new = self._lanes_like(child, placements, clips, name)
            arrangement = next(p for p in self._root.iter() if lanes in list(p))
            arrangement.append(new)
        owner.insert(list(owner).index(track) + 1, folder)
        mute = track.find("Channel/Mute")
        silence = mute_source and mute is not None and mute.get("value") != "true"
        if silence and mute is not None:
            mute.set("value", "true")
        return Addition((folder.get("id", ""),), track.get("id") if silence else None)

    def remove(self, addition: Addition) -> None:
        """Take away the group that was added, its clips, and the mute."""
        gone: set[str] = set()
        for parent in list(self._root.iter()):
            for element in list(parent):
                if element.tag == "Track" and element.get("id") in addition.tracks:
                    gone |= {t.get("id", "") for t in element.iter("Track")}
                    parent.remove(element)
        for parent in list(self._root.iter()):
            for element in list(parent):
                if element.tag == "Lanes" and element.get("track") in gone:
                    parent.remove(element)
        for track in self._tracks():
            mute = track.find("Channel/Mute")
            if addition.muted and track.get("id") == addition.muted and mute is not None:
                mute.set("value", "false")

    def preset_texts(self) -> dict[str, str]:
        """Return the presets inside the archive by name."""
        return dict(self._presets)

    def set_preset_texts(self, texts: Mapping[str, str]) -> None:
        """Put presets into the archive, replacing those that were there."""
        self._presets = dict(texts)

    def write(self, path: Path) -> None:
        """Write the archive atomically, with the new audio in it.

        Raises
        ------
        SessionError
            It cannot be written.
        """
        write_session(path, self._repack, media_of=None)

    def _repack(self, target: Path) -> None:
        used = {file.get("path") for file in self._root.iter("File")}
        gone = {
            name
            for name in list_names(self.path)
            if name.startswith(f"{_PRESETS}/")
            or (name.startswith(f"{_AUDIO}/") and name not in used)
        }
        project = ET.tostring(self._root, encoding="UTF-8", xml_declaration=True)
        texts = {f"{_PRESETS}/{n}.toml": t.encode() for n, t in self._presets.items()}
        repack(self.path, target, gone, {_PROJECT: project, **texts}, self._added)

    def _tracks(self) -> Iterator[ET.Element]:
        structure = self._root.find("Structure")
        return iter(()) if structure is None else structure.iter("Track")

    def _find(self, name: str) -> ET.Element:
        tracks = [track for track in self._tracks() if self._has_lanes(track)]
        return tracks[one_named([track.get("name", "") for track in tracks], name)]

    def _has_lanes(self, track: ET.Element) -> bool:
        return any(True for _ in self._lanes(track))

    def _lanes(self, track: ET.Element) -> Iterator[ET.Element]:
        for lanes in self._root.iterfind("Arrangement//Lanes"):
            if lanes.get("track") == track.get("id"):
                yield lanes

    def _lanes_of(self, track: ET.Element) -> ET.Element:
        return next(self._lanes(track))

    def _times(self, unit: str) -> Times:
        return times_of(self._root, unit, self.path)

    def _outer_unit(self) -> str:
        top = self._root.find("Arrangement/Lanes")
        return "beats" if top is None else top.get("timeUnit", "beats")

    def _audio_clips(self, track: ET.Element) -> list[tuple[str, ET.Element]]:
        """Return the track's audio clips, each with the unit of its times."""
        found = []
        for lanes in self._lanes(track):
            for clips in lanes.iter("Clips"):
                unit = clips.get("timeUnit") or lanes.get("timeUnit") or self._outer_unit()
                found += [(unit, clip) for clip in clips.findall("Clip") if holds_audio(clip)]
        return found

    def _lanes_like(
        self,
        track: ET.Element,
        placements: Sequence[Placement],
        clips: Sequence[tuple[str, ET.Element]],
        stem: str,
    ) -> ET.Element:
        lanes = ET.Element("Lanes", {"track": track.get("id", ""), "id": self._ids.new()})
        times = self._times("beats" if {unit for unit, _ in clips} == {"beats"} else "seconds")
        holder = ET.SubElement(lanes, "Clips", {"timeUnit": times.unit, "id": self._ids.new()})
        for placement in placements:
            new = copy_clip(clips[int(placement.clip.tag)][1], placement, stem, times)
            holder.append(new)
            rate, channels, frames = probe_source(placement.file, self.path)
            audio = ET.SubElement(
                new,
                "Audio",
                {"channels": str(channels), "duration": f"{frames / rate:.14g}",
                 "sampleRate": str(rate), "id": self._ids.new()},
            )  # fmt: skip
            ET.SubElement(audio, "File", {"path": self._store(placement.file)})
        return lanes

    def _store(self, file: Path) -> str:
        base = f"{_AUDIO}/{file.parent.parent.name}/{file.parent.name}/{file.name}"
        name, number = base, 1
        while self._added.get(name, file) != file or (self._unpacked / name).exists():
            number += 1
            name = base.removesuffix(".wav") + f" {number}.wav"
        self._added[name] = file
        return name


def _audio(clip: ET.Element) -> ET.Element:
    return next(clip.iter("Audio"))
