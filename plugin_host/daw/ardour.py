"""Ardour sessions: regions read, stem tracks added as copies of the source track.

Written for the format of Ardour 7 (``version="7..."``). Positions are superclocks, of which there
are 282,240,000 a second.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import defusedxml.ElementTree

from plugin_host.daw.ardour_media import move_flat
from plugin_host.daw.ardour_tracks import (
    SUPERCLOCKS_PER_SECOND,
    TrackCopier,
    child,
    drop,
    mutes,
    playlist_of,
    set_mute,
    source_ids,
)
from plugin_host.daw.session import (
    Addition,
    Clip,
    Marks,
    Placement,
    Range,
    SessionError,
    Source,
    TrackInfo,
    one_named,
)
from plugin_host.daw.session_file import write_session
from plugin_host.daw.sources import probe_source
from plugin_host.span_files import Label

_DEFAULT_FADE_SAMPLES = 64


class ArdourSession:
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

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._root: ET.Element = defusedxml.ElementTree.parse(path).getroot()
        except (OSError, ET.ParseError, ValueError) as error:
            msg = f"{path}: cannot be read as an Ardour session ({error})"
            raise SessionError(msg) from None
        version = self._root.get("version", "0")
        if self._root.tag != "Session" or not version.startswith(("7", "8")):
            msg = f"{path}: expected a session of Ardour 7 or 8, got version {version}"
            raise SessionError(msg)
        self._rate = int(self._root.get("sample-rate", "48000"))

    @property
    def root(self) -> ET.Element:
        """The session's XML."""
        return self._root

    def tracks(self) -> list[TrackInfo]:
        """Return all audio tracks with regions, in order."""
        listed = []
        for route in self._audio_tracks():
            regions = list(playlist_of(self._root, route).iter("Region"))
            if regions:
                channels = max(int(region.get("channels", "1")) for region in regions)
                muted = any(float(m.get("value", "0")) > 0 for m in mutes(route))
                name = route.get("name", "")
                listed.append(TrackInfo(name, len(regions), channels, muted))
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

    def add_tracks(
        self,
        source: str,
        stems: Mapping[str, Sequence[Placement]],
        *,
        group: str,
        mute_source: bool,
    ) -> Addition:
        """Add a copy of the source track for every stem, without its plug-ins, as a group."""
        route = self._find(source)
        copier = TrackCopier(self._root, self.media_folder().parent, self._rate, self.path)
        added = []
        for name, placements in stems.items():
            added.append(copier.add(route, source, name, placements))
        groups = child(self._root, "RouteGroups")
        identity = copier.new_id()
        ET.SubElement(
            groups,
            "RouteGroup",
            {
                "id": identity, "name": group, "active": "1", "hidden": "0", "relative": "1",
                "group-gain": "1", "group-mute": "1", "group-solo": "1", "group-recenable": "0",
                "group-select": "1", "group-route-active": "0", "group-color": "1",
                "group-monitoring": "0", "routes": " ".join(added),
            },
        )  # fmt: skip
        silence = mute_source and not any(float(m.get("value", "0")) > 0 for m in mutes(route))
        if silence:
            set_mute(route, muted=True)
        return Addition((*added, identity), route.get("id") if silence else None)

    def remove(self, addition: Addition) -> None:
        """Take away the tracks that were added, their playlists and sources, and the mute."""
        gone = set(addition.tracks)
        playlists, sources = set(), set()
        for route in list(child(self._root, "Routes")):
            if route.get("id") not in gone:
                continue
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
        drop(self._root, "Playlists", lambda e: e.get("id") in playlists)
        used = {s for region in self._root.iter("Region") for s in source_ids(region)
                if region.get("whole-file") != "1"}  # fmt: skip
        sources -= used
        drop(self._root, "Regions", lambda e: bool(sources & set(source_ids(e))))
        drop(self._root, "Sources", lambda e: e.get("id") in sources)
        for route in self._audio_tracks():
            if addition.muted is not None and route.get("id") == addition.muted:
                set_mute(route, muted=False)

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

    def write(self, path: Path) -> None:
        """Write the session atomically; in its folder, where its media are.

        Raises
        ------
        SessionError
            Another folder, or one that is not writable.
        """
        tree = ET.ElementTree(self._root)
        write_session(
            path,
            lambda file: tree.write(file, encoding="UTF-8", xml_declaration=True),
            media_of=self.path,
        )

    def _audio_tracks(self) -> Iterator[ET.Element]:
        for route in child(self._root, "Routes"):
            if route.get("default-type") == "audio" and route.get("audio-playlist"):
                yield route

    def _find(self, name: str) -> ET.Element:
        routes = list(self._audio_tracks())
        return routes[one_named([route.get("name", "") for route in routes], name)]

    def _clip(self, region: ET.Element) -> Clip:
        name = region.get("name", "region")
        sources = tuple(self._source(identity, name) for identity in source_ids(region))
        rate, _, frames = probe_source(sources[0].path, self.path)
        if rate != self._rate:
            msg = (
                f"the region {name!r} plays a file of {rate} Hz in a session of {self._rate} Hz; "
                "import it with conversion first"
            )
            raise SessionError(msg)
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
        msg = f"the region {region!r} plays a source that the session does not have; save it again"
        raise SessionError(msg)

    def _resolve(self, name: str) -> Path:
        if Path(name).is_absolute():
            return Path(name)
        folder = self.path.parent
        places = sorted(folder.glob("interchange/*/audiofiles"))
        for option in self._root.iter("Option"):
            if option.get("name") == "audio-search-path":
                places += [Path(p) for p in option.get("value", "").split(":") if p]
        return next((p / name for p in places if (p / name).exists()), folder / name)

    def _selection(self) -> Range | None:
        try:
            instant = defusedxml.ElementTree.parse(self.path.parent / "instant.xml").getroot()
        except (OSError, ET.ParseError, ValueError):
            return None
        found = instant.find("Editor/Selection/TimelineRange")
        return None if found is None else self._stretch(found, "selection", "time")

    def _stretch(self, element: ET.Element, name: str, what: str) -> Range:
        start = self._samples(element.get("start", "a0"), name, what)
        return start / self._rate, self._samples(element.get("end", "a0"), name, what) / self._rate

    def _samples(self, text: str, name: str, what: str = "region") -> int:
        if not text.startswith("a"):
            msg = f"the {what} {name!r} is tied to beats; set it to audio time first"
            raise SessionError(msg)
        return round(int(text[1:] or 0) * self._rate / SUPERCLOCKS_PER_SECOND)
