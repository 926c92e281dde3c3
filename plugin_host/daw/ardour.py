"""Ardour sessions: regions read, stem tracks added as copies of the source track.

Written for the format of Ardour 7 (``version="7..."``). Positions are superclocks, of which there
are 282,240,000 a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from plugin_host.daw.ardour_tracks import (
    SUPERCLOCKS_PER_SECOND,
    TrackCopier,
    child,
    drop,
    left_behind,
    move_flat,
    mutes,
    playlist_of,
    set_mute,
    source_ids,
)
from plugin_host.daw.media import SessionFile, parse_xml, probe_source, read_session, reports_damage
from plugin_host.daw.session import (
    Addition,
    Clip,
    HoldsPresets,
    Marks,
    NewTracks,
    Range,
    SessionError,
    Source,
    SpelledAnew,
    Spelling,
    TrackInfo,
    TrackName,
    choose_track,
)
from plugin_host.files.span_files import Label

_DEFAULT_FADE_SAMPLES = 64


@reports_damage
class ArdourSession(HoldsPresets, SpelledAnew):
    """An ``.ardour`` file.

    Parameters
    ----------
    path
        The session file; its folder holds the media.

    Raises
    ------
    SessionError
        It cannot be read, or is not of Ardour 7 or 8.
    """

    mutes_clips = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = SessionFile(path)
        self._text = read_session(path, "an Ardour session")
        self._restored: bytes | None = None
        self._root: ET.Element = parse_xml(self._text, path)
        version = self._root.get("version", "0")
        if self._root.tag != "Session" or not version.startswith(("7", "8")):
            raise SessionError(
                f"{path}: expected a session of Ardour 7 or 8, got version {version}"
            )
        self._chosen: dict[str, ET.Element] = {}
        self._selected: frozenset[str] | None = None
        self._rate = int(self._root.get("sample-rate", "48000"))
        media = self.media_folder().parent
        self._copier = TrackCopier(self._root, media, self._rate, path)

    @property
    def root(self) -> ET.Element:
        """The session's XML."""
        return self._root

    def tracks(self) -> list[TrackInfo]:
        """Return all audio tracks with regions, in order."""
        listed = []
        for number, route in enumerate(self._audio_tracks(), 1):
            regions = list(playlist_of(self._root, route).iter("Region"))
            if regions:
                channels = max(int(region.get("channels", "1")) for region in regions)
                muted = any(float(m.get("value", "0")) > 0 for m in mutes(route))
                listed.append(
                    TrackInfo(
                        route.get("name", ""),
                        len(regions),
                        channels,
                        muted,
                        number=number,
                        identity=route.get("id", ""),
                    )
                )
        return listed

    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays; muted regions are left out.

        Raises
        ------
        SessionError
            There is no such track, a file is missing, or a region is tied to beats.
        """
        regions = playlist_of(self._root, self._find(track)).iter("Region")
        return [self._clip(region) for region in regions if region.get("muted") != "1"]

    def remarks(self, track: str) -> list[str]:
        """Return what the stems of a track will not have."""
        return list(left_behind(self._root, self._find(track)))

    def marks(self) -> Marks:
        """Return the time selection as last saved by the editor, loop range and markers.

        Raises
        ------
        SessionError
            One is tied to beats.
        """
        loop: Range | None = None
        labels = []
        for location in child(self._root, "Locations"):
            flags = location.get("flags", "").split(",")
            if not {"IsAutoLoop", "IsMark", "IsRangeMarker"} & {*flags}:
                continue
            name = location.get("name", "")
            start, end = self._stretch(location, name, "location")
            if "IsAutoLoop" in flags:
                loop = (start, end) if start < end else loop
            else:
                labels.append(Label(name, start, max(start, end)))
        labels.sort(key=lambda label: label.start_s)
        return Marks(self._selection(), loop, tuple(labels))

    def media_folder(self) -> Path:
        """Return the session's folder for audio."""
        folder = self.path.parent / "interchange"
        found = sorted(folder.glob("*/audiofiles"))
        name = self._root.get("name", self.path.stem)
        return (found[0] if found else folder / name / "audiofiles") / "stembridge"

    def adopt(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Move the files to where Ardour draws them."""
        return move_flat(files, self.media_folder().parent)

    def add_tracks(self, new: NewTracks) -> Addition:
        """Add a track for every stem and a bus for them, which is what the source track is.

        The bus has the plug-ins, fader, pan, sends and outputs of the track.
        """
        route, stems, mute = self._find(new.source), new.stems, new.mute
        name = route.get("name", "")
        bus = self._copier.add_bus(route, new.group)
        added = [bus.get("id", "")]
        for stem, placements in stems.items():
            wanted = f"{name} {stem}"
            colour = new.colours.get(stem)
            added.append(self._copier.add_stem(route, bus, wanted, stem, placements, colour))
        silence = mute == "track" and not any(float(m.get("value", "0")) > 0 for m in mutes(route))
        if silence:
            set_mute(route, muted=True)
        muted: list[str] = []
        if mute == "clips":
            meant = {p.clip.item for placements in stems.values() for p in placements}
            for region in playlist_of(self._root, route).iter("Region"):
                if region.get("id") in meant:
                    region.set("muted", "1")
                    muted.append(region.get("id", ""))
        return Addition(tuple(added), route.get("id") if silence else None, tuple(muted))

    def remove(self, addition: Addition) -> int:
        """Take away the tracks that were added, their playlists and sources, and the mute."""
        gone = set(addition.tracks)
        playlists, sources, removed = set(), set(), 0
        for route in list(child(self._root, "Routes")):
            if route.get("id") not in gone:
                continue
            removed += 1
            if route.get("audio-playlist"):
                playlist = playlist_of(self._root, route)
                playlists.add(playlist.get("id"))
                sources |= {s for region in playlist.iter("Region") for s in source_ids(region)}
            name = route.get("name", "")
            for port in self._root.iter("Port"):
                for wire in list(port):
                    if wire.get("other", "").startswith(f"{name}/"):
                        port.remove(wire)
        drop(self._root, "Routes", lambda e: e.get("id") in gone)
        drop(self._root, "RouteGroups", lambda e: e.get("id") in gone)
        for group in child(self._root, "RouteGroups"):
            members = group.get("routes", "").split()
            if gone & set(members):
                group.set("routes", " ".join(m for m in members if m not in gone))
        drop(self._root, "Playlists", lambda e: e.get("id") in playlists)
        used = {s for region in self._root.iter("Region") for s in source_ids(region)
                if region.get("whole-file") != "1"}  # fmt: skip
        sources -= used
        drop(self._root, "Regions", lambda e: bool(sources & set(source_ids(e))))
        drop(self._root, "Sources", lambda e: e.get("id") in sources)
        for route in self._audio_tracks():
            if addition.muted is not None and route.get("id") == addition.muted:
                set_mute(route, muted=False)
        for region in child(self._root, "Playlists").iter("Region") if addition.items else ():
            if region.get("id") in addition.items:
                region.set("muted", "0")
        return removed

    def preset_texts(self) -> dict[str, str]:
        """Return the presets inside the session by name."""
        nodes = self._root.iterfind("Extra/Stembridge/Preset")
        return {node.get("name", ""): node.get("text", "") for node in nodes}

    def set_preset_texts(self, texts: Mapping[str, str]) -> None:
        """Put presets into the session's ``<Extra>``, replacing those that were there."""
        drop(self._root, "Extra", lambda element: element.tag == "Stembridge")
        ours = ET.SubElement(child(self._root, "Extra"), "Stembridge")
        for name, text in sorted(texts.items()):
            ET.SubElement(ours, "Preset", {"name": name, "text": text})

    def spelling(self) -> Spelling:
        """Return the session as it was read and as it would be written."""
        return Spelling(self._text, self._written())

    def restore(self, text: bytes) -> None:
        """Write exactly a text."""
        self._restored = text

    def write(self, path: Path) -> None:
        """Write the session atomically; in its folder, where its media are.

        Raises
        ------
        SessionError
            Another folder, or one that is not writable.
        """
        self._copier.copy_states()
        text = self._written()
        self._file.write(path, lambda file: file.write_bytes(text), beside=True)

    def _written(self) -> bytes:
        if self._restored is not None:
            return self._restored
        return bytes(ET.tostring(self._root, encoding="UTF-8", xml_declaration=True))

    def _audio_tracks(self) -> Iterator[ET.Element]:
        for route in child(self._root, "Routes"):
            if route.get("default-type") == "audio" and route.get("audio-playlist"):
                yield route

    def names(self) -> list[TrackName]:
        """Return what the audio tracks are called, in order."""
        return [
            TrackName(route.get("name", ""), number, route.get("id", ""))
            for number, route in enumerate(self._audio_tracks(), 1)
        ]

    def _find(self, wanted: str) -> ET.Element:
        # The same words mean the same track, whatever is added before it.
        if wanted not in self._chosen:
            number = choose_track(self.names(), wanted)
            self._chosen[wanted] = list(self._audio_tracks())[number]
        return self._chosen[wanted]

    def _clip(self, region: ET.Element) -> Clip:
        name = region.get("name", "region")
        if region.find("RegionFXPlugin") is not None:
            raise SessionError(
                f"the region {name!r} has effects of its own; bounce it first (Region > Bounce)"
            )
        sources = tuple(self._source(identity, name) for identity in source_ids(region))
        rate, _, frames = probe_source(sources[0].path, self.path)
        if rate != self._rate:
            raise SessionError(
                f"the region {name!r} plays a file of {rate} Hz in a session of {self._rate} Hz; "
                "import it with conversion first"
            )
        length, _, position = region.get("length", "").partition("@")
        start = self._samples(region.get("start", "a0"), name)
        samples = min(self._samples(length, name), frames - start)
        at = self._samples(position or "a0", name)
        return Clip(
            # Ardour counts the pieces that it cuts: "vox: lead vocals.1".
            re.sub(r"\.\d+$", "", name),
            sources,
            rate,
            start,
            samples,
            at / rate,
            samples / rate,
            region.get("id", ""),
            fade_in_s=self._fade_s(region, "FadeIn", name),
            fade_out_s=self._fade_s(region, "FadeOut", name),
            envelope=region.get("envelope-active") == "1",
            item=region.get("id", ""),
            selected=region.get("id", "") in self._selected_regions(),
        )

    def _fade_s(self, region: ET.Element, tag: str, name: str) -> float:
        fade = region.find(tag)
        if region.get("fade-in-active" if tag == "FadeIn" else "fade-out-active") != "1":
            return 0.0
        events = None if fade is None else fade.findtext("AutomationList/events")
        if not events:
            return _DEFAULT_FADE_SAMPLES / self._rate
        # Pairs of time and level; the last one is where the fade ends.
        return self._samples(events.split()[-2], name) / self._rate

    def _source(self, identity: str, region: str) -> Source:
        for source in child(self._root, "Sources"):
            if source.get("id") == identity:
                path = self._resolve(source.get("name", ""))
                return Source(path, int(source.get("channel", "0")))
        raise SessionError(
            f"the region {region!r} plays a source that the session does not have; save it again"
        )

    def _resolve(self, name: str) -> Path:
        if Path(name).is_absolute():
            return Path(name)
        folder = self.path.parent
        places = sorted(folder.glob("interchange/*/audiofiles"))
        for option in self._root.iter("Option"):
            if option.get("name") == "audio-search-path":
                places += [Path(p) for p in option.get("value", "").split(":") if p]
        return next((p / name for p in places if (p / name).exists()), folder / name)

    def _editor(self) -> ET.Element:
        """Return what the editor saved last, or an empty element."""
        try:
            file = self.path.parent / "instant.xml"
            return parse_xml(read_session(file, "an Ardour session"), file)
        except SessionError:
            return ET.Element("instant")

    def _selected_regions(self) -> frozenset[str]:
        if self._selected is None:
            found = self._editor().iterfind("Editor/Selection//Region")
            self._selected = frozenset(region.get("id", "") for region in found)
        return self._selected

    def _selection(self) -> Range | None:
        found = self._editor().find("Editor/Selection/TimelineRange")
        return None if found is None else self._stretch(found, "selection", "time")

    def _stretch(self, element: ET.Element, name: str, what: str) -> Range:
        start = self._samples(element.get("start", "a0"), name, what)
        return start / self._rate, self._samples(element.get("end", "a0"), name, what) / self._rate

    def _samples(self, text: str, name: str, what: str = "region") -> int:
        if not text.startswith("a"):
            raise SessionError(f"the {what} {name!r} is tied to beats; set it to audio time first")
        return round(int(text[1:] or 0) * self._rate / SUPERCLOCKS_PER_SECOND)
