"""Copies of a track in an Ardour session that play other files."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from plugin_host.daw.session import Clip, Placement, SessionError
from plugin_host.daw.sources import probe_source

SUPERCLOCKS_PER_SECOND: Final = 282_240_000
"""Ardour's unit of audio time."""

_KEPT_PROCESSORS: Final = (
    "diskwriter", "diskreader", "polarity", "trim", "amp", "meter", "main-outs",
)  # fmt: skip


class TrackCopier:
    """Adds tracks to a session, each a copy of another with other audio.

    Parameters
    ----------
    root
        The session's XML, which is changed.
    media
        Folder that source names are relative to.
    sample_rate
        Of the session.
    session
        The session file, for errors.
    """

    def __init__(self, root: ET.Element, media: Path, sample_rate: int, session: Path) -> None:
        self._root = root
        self._media = media
        self._rate = sample_rate
        self._session = session

    def new_id(self) -> str:
        """Return an identifier that nothing in the session has."""
        number = int(self._root.get("id-counter", "0")) + 1
        self._root.set("id-counter", str(number))
        return str(number)

    def add(
        self, source: ET.Element, track: str, stem: str, placements: Sequence[Placement]
    ) -> str:
        """Add a copy of a track, without its plug-ins, and return its identifier.

        Parameters
        ----------
        source
            The track to copy.
        track, stem
            They make its name; a number is added if it is taken.
        placements
            The regions to keep, and what they play.
        """
        old = source.get("name", "")
        name = self._free_name(f"{track} {stem}")
        route = copy.deepcopy(source)
        for element in route.iter():
            if "id" in element.attrib:
                element.set("id", self.new_id())
            for key in ("name", "output"):
                value = element.get(key, "")
                if value in (old, f"player:{old}", f"recorder:{old}", f"meter-{old}"):
                    element.set(key, value.replace(old, name))
                elif element.tag == "Port" and value.startswith(f"{old}/"):
                    element.set(key, name + value[len(old) :])
        for processor in route.findall("Processor"):
            if processor.get("type") not in _KEPT_PROCESSORS:
                route.remove(processor)
        for io in route.findall("IO"):
            for port in io.findall("Port") if io.get("direction") == "Input" else ():
                for wire in list(port):
                    port.remove(wire)
        set_mute(route, muted=False)
        routes = child(self._root, "Routes")
        info = route.find("PresentationInfo")
        if info is not None:
            orders = [int(p.get("order", "0")) for p in routes.iter("PresentationInfo")
                      if int(p.get("order", "0")) < 1 << 20]  # fmt: skip
            info.set("order", str(max(orders, default=0) + 1))
        self._connect_like(old, name)
        self._add_playlist(route, source, name, stem, placements)
        routes.append(route)
        return route.get("id", "")

    def _connect_like(self, old: str, name: str) -> None:
        # Both ends of a connection know of it.
        for port in list(self._root.iter("Port")):
            for wire in list(port):
                other = wire.get("other", "")
                if other.startswith(f"{old}/audio_out"):
                    ET.SubElement(port, "Connection", {"other": name + other[len(old) :]})

    def _add_playlist(
        self,
        route: ET.Element,
        source: ET.Element,
        name: str,
        stem: str,
        placements: Sequence[Placement],
    ) -> None:
        playlist = copy.deepcopy(playlist_of(self._root, source))
        identity = self.new_id()
        playlist.set("id", identity)
        playlist.set("name", name)
        playlist.set("orig-track-id", route.get("id", ""))
        route.set("audio-playlist", identity)
        files: dict[Path, list[str]] = {}
        by_tag = {placement.clip.tag: placement for placement in placements}
        for region in list(playlist):
            placement = by_tag.get(region.get("id", ""))
            if placement is None:
                playlist.remove(region)
                continue
            if placement.file not in files:
                files[placement.file] = self._add_file(placement, stem, region)
            for element in region.iter():
                if "id" in element.attrib:
                    element.set("id", self.new_id())
            _play_file(region, files[placement.file])
            region.set("name", f"{placement.clip.name} {stem}")
            region.set("start", f"a{self._superclocks(placement.clip.start - placement.start)}")
            self._cut_region(region, placement.clip)
        child(self._root, "Playlists").append(playlist)

    def _add_file(self, placement: Placement, stem: str, like: ET.Element) -> list[str]:
        """Add the sources of a new file, one per channel, and the region of its whole."""
        _, channels, frames = probe_source(placement.file, self._session)
        file = placement.file.resolve()
        folder = self._media.resolve()
        shown = str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
        identities = []
        for channel in range(channels):
            identities.append(self.new_id())
            ET.SubElement(
                child(self._root, "Sources"),
                "Source",
                {"name": shown, "take-id": "", "type": "audio", "flags": "",
                 "id": identities[-1], "channel": str(channel), "origin": "", "gain": "1"},
            )  # fmt: skip
        whole = copy.deepcopy(like)
        for part in list(whole):
            whole.remove(part)
        whole.set("id", self.new_id())
        whole.set("whole-file", "1")
        whole.set("name", f"{placement.clip.name} {stem}")
        whole.set("start", "a0")
        whole.set("length", f"a{self._superclocks(frames)}@a0")
        _play_file(whole, identities)
        child(self._root, "Regions").append(whole)
        return identities

    def _cut_region(self, region: ET.Element, clip: Clip) -> None:
        """Give a region the length of a clip that is cut to a range, without fades there."""
        if not (clip.cut_front or clip.cut_back):
            return
        length = self._superclocks(clip.samples)
        position = self._superclocks(round(clip.position_s * self._rate))
        region.set("length", f"a{length}@a{position}")
        for cut, end in ((clip.cut_front, "in"), (clip.cut_back, "out")):
            if cut:
                region.set(f"fade-{end}-active", "0")

    def _superclocks(self, samples: int) -> int:
        return samples * SUPERCLOCKS_PER_SECOND // self._rate

    def _free_name(self, wanted: str) -> str:
        taken = {route.get("name") for route in child(self._root, "Routes")}
        # A colon or slash would read as part of a port's name.
        base = wanted.replace("/", "-").replace(":", "-")
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base} {number}"
        return name


def child(element: ET.Element, tag: str) -> ET.Element:
    """Return the first child of a tag, made if there is none."""
    found = element.find(tag)
    return ET.SubElement(element, tag) if found is None else found


def drop(root: ET.Element, tag: str, unwanted: Callable[[ET.Element], bool]) -> None:
    """Remove the elements below a tag that are not wanted."""
    parent = child(root, tag)
    for element in list(parent):
        if unwanted(element):
            parent.remove(element)


def source_ids(region: ET.Element) -> list[str]:
    """Return the identifiers of a region's sources, one per channel."""
    channels = int(region.get("channels", "1"))
    return [region.get(f"source-{channel}", "") for channel in range(channels)]


def _play_file(region: ET.Element, identities: Sequence[str]) -> None:
    for key in [k for k in region.attrib if k.startswith(("source-", "master-source-"))]:
        del region.attrib[key]
    # What a region was cut from, in attributes of its own, belongs to the old audio.
    for key in ("ancestral-start", "ancestral-length"):
        region.attrib.pop(key, None)
    region.set("channels", str(len(identities)))
    for channel, identity in enumerate(identities):
        region.set(f"source-{channel}", identity)
        region.set(f"master-source-{channel}", identity)


def mutes(route: ET.Element) -> list[ET.Element]:
    """Return the mute controls of a route."""
    return [c for c in route.findall("Controllable") if c.get("name") == "mute"]


def set_mute(route: ET.Element, *, muted: bool) -> None:
    """Mute a route or not."""
    for control in mutes(route):
        control.set("value", str(int(muted)))
    for master in route.findall("MuteMaster"):
        master.set("muted", str(int(muted)))


def playlist_of(root: ET.Element, route: ET.Element) -> ET.Element:
    """Return the playlist of a track; SessionError if the session lacks it."""
    wanted = route.get("audio-playlist")
    for playlist in child(root, "Playlists"):
        if playlist.get("id") == wanted:
            return playlist
    msg = f"the playlist of {route.get('name')!r} is missing; save the session again"
    raise SessionError(msg)
