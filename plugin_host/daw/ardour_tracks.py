"""New tracks in an Ardour session: a track for every stem, and a bus that they play into.

The bus is what the source track is after its disk: its plug-ins, fader, pan, sends and outputs. The
tracks before it play as the disk does, at unity, so that their sum is what the source plays.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from plugin_host.daw.media import probe_source
from plugin_host.daw.session import Clip, Colour, Placement, SessionError

SUPERCLOCKS_PER_SECOND: Final = 282_240_000
"""Ardour's unit of audio time."""

_DISK: Final = ("diskwriter", "diskreader", "triggerbox")
_PLAIN: Final = ("polarity", "trim", "amp", "meter", "main-outs")
_WIRED: Final = ("send", "insert", "port", "listen")
_OF_TRACKS: Final = ("rec-enable", "rec-safe", "monitor")
_UNITY: Final = {"gaincontrol": "1", "trimcontrol": "1", "phase": "0", "solo": "0"}


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
        The session file, for errors and the states of plug-ins beside it.
    """

    def __init__(self, root: ET.Element, media: Path, sample_rate: int, session: Path) -> None:
        self._root = root
        self._media = media
        self._rate = sample_rate
        self._session = session
        self._states: list[tuple[str, str]] = []

    def new_id(self) -> str:
        """Return an identifier that nothing in the session has."""
        number = int(self._root.get("id-counter", "0")) + 1
        self._root.set("id-counter", str(number))
        return str(number)

    def add_bus(self, source: ET.Element, wanted: str) -> ET.Element:
        """Add a bus that works on sound as a track does, and return it."""
        bus = self._copy(source, wanted)
        for key in ("audio-playlist", "saved-meter-point", "alignment-choice", "mode"):
            bus.attrib.pop(key, None)
        for info in bus.findall("PresentationInfo"):
            flags = info.get("flags", "").replace("AudioTrack", "AudioBus")
            info.set("flags", flags)
        for element in [*bus.findall("Controllable"), *bus.findall("Automation/AutomationList")]:
            if (element.get("name") or element.get("automation-id")) in _OF_TRACKS:
                parent_of(bus, element).remove(element)
        self._process_like(source, bus)
        self._connect_like(source.get("name", ""), bus.get("name", ""))
        child(self._root, "Routes").append(bus)
        for group in child(self._root, "RouteGroups"):
            members = group.get("routes", "").split()
            if source.get("id") in members:
                group.set("routes", " ".join([*members, bus.get("id", "")]))
        return bus

    def add_stem(
        self,
        source: ET.Element,
        bus: ET.Element,
        wanted: str,
        stem: str,
        placements: Sequence[Placement],
        colour: Colour | None = None,
    ) -> str:
        """Add a track that plays into a bus, and return its identifier.

        Parameters
        ----------
        source
            The track whose regions it has.
        bus
            Where to.
        wanted
            Its name; a number is added if it is taken.
        stem
            Added to the names of its regions.
        placements
            The regions to keep, and what they play.
        colour
            Its colour; that of the source by default.
        """
        route = self._copy(source, wanted)
        for info in route.findall("PresentationInfo") if colour is not None else ():
            red, green, blue = colour or (0, 0, 0)
            info.set("color", str(red << 24 | green << 16 | blue << 8 | 0xFF))
        name = route.get("name", "")
        for processor in route.findall("Processor"):
            if processor.get("type") not in _DISK + _PLAIN or processor.get("type") == "triggerbox":
                route.remove(processor)
        _at_unity(route)
        for slavable in route.findall("Slavable"):
            for master in list(slavable):
                slavable.remove(master)
        for shell in route.iter("PannerShell"):
            shell.set("bypassed", "1")
        self._wire(route, bus)
        self._add_playlist(route, source, name, stem, placements)
        child(self._root, "Routes").append(route)
        return route.get("id", "")

    def copy_states(self) -> None:
        """Copy the states of plug-ins that lie in files beside the session."""
        plugins = self._session.parent / "plugins"
        for old, new in self._states:
            if (plugins / old).is_dir() and not (plugins / new).exists():
                shutil.copytree(plugins / old, plugins / new)

    def _copy(self, source: ET.Element, wanted: str) -> ET.Element:
        """Return a copy of a route under other names and identifiers, with inputs unconnected."""
        old = source.get("name", "")
        name = self._free_name(wanted)
        route = copy.deepcopy(source)
        for element in route.iter():
            if "id" in element.attrib:
                before, after = element.get("id", ""), self.new_id()
                element.set("id", after)
                if element.tag == "Processor":
                    self._states.append((before, after))
            for key in ("name", "output"):
                value = element.get(key, "")
                if value in (old, f"player:{old}", f"recorder:{old}", f"meter-{old}"):
                    element.set(key, value.replace(old, name))
                elif element.tag == "Port" and value.startswith(f"{old}/"):
                    element.set(key, name + value[len(old) :])
        for io in route.findall("IO"):
            for port in io.findall("Port") if io.get("direction") == "Input" else ():
                for wire in list(port):
                    port.remove(wire)
        set_mute(route, muted=False)
        info = route.find("PresentationInfo")
        if info is not None:
            others = child(self._root, "Routes").iter("PresentationInfo")
            orders = [int(other.get("order", "0")) for other in others]
            # The master and its like have numbers beyond all tracks.
            info.set("order", str(max([n for n in orders if n < 1 << 20], default=0) + 1))
        return route

    def _process_like(self, source: ET.Element, bus: ET.Element) -> None:
        """Keep those processors of a copied track that work on what its disk plays."""
        kinds = [processor.get("type") for processor in source.findall("Processor")]
        disk = kinds.index("diskreader") if "diskreader" in kinds else -1
        for number, processor in enumerate(bus.findall("Processor")):
            kind = processor.get("type", "")
            if kind in _DISK + _WIRED or (number < disk and kind not in _PLAIN):
                bus.remove(processor)
            elif number < disk:
                _at_unity(processor)
            elif kind == "intsend":
                processor.set("bitslot", str(self._free_slot(bus)))

    def _wire(self, route: ET.Element, bus: ET.Element) -> None:
        """Connect the outputs of a track, as many as its disk has, to the inputs of a bus."""
        name = route.get("name", "")
        for io in route.findall("IO"):
            if io.get("direction") != "Output":
                continue
            for port in io.findall("Port"):
                io.remove(port)
            for number, goal in enumerate(_ports(bus, "Input"), 1):
                port = ET.SubElement(
                    io, "Port", {"type": "audio", "name": f"{name}/audio_out {number}"}
                )
                ET.SubElement(port, "Connection", {"other": goal.get("name", "")})
                ET.SubElement(goal, "Connection", {"other": f"{name}/audio_out {number}"})

    def _free_slot(self, bus: ET.Element) -> int:
        """Return a number that no send of the session has."""
        sends = [p for root in (self._root, bus) for p in root.iter("Processor")]
        taken = {p.get("bitslot") for p in sends if p.get("type") == "intsend"}
        return next(n for n in range(len(taken) + 1) if str(n) not in taken)

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


def left_behind(root: ET.Element, route: ET.Element) -> Iterator[str]:
    """Yield what of a track a bus made after it does not have, one line each."""
    for processor in route.findall("Processor"):
        if processor.get("type") in _WIRED:
            yield f"left behind: {processor.get('name')!r}, which is wired outside the track"
    if route.get("disk-io-point", "DiskIOPreFader") != "DiskIOPreFader":
        yield "left behind: plug-ins that come before the disk, which do not work on what it plays"
    for group in child(root, "RouteGroups"):
        if route.get("id") in group.get("routes", "").split():
            yield f"the stems' bus joins the track's group {group.get('name')!r}"


def move_flat(files: Mapping[str, Path], audio: Path) -> dict[str, Path]:
    """Move stems into the folder of audio itself, under names that tell where they came from.

    Ardour finds files in folders below it and plays them, but never draws their waveforms.

    Parameters
    ----------
    files
        Stem to file, which lies in a folder of a clip in one of a run.
    audio
        The session's folder of audio.

    Returns
    -------
    Stem to file as it is named now. Folders that became empty are removed.
    """
    moved = {}
    for stem, file in files.items():
        part = file.parent
        name = f"{part.parent.name} {part.name} {stem}"
        numbered = (f"{name}{n}.wav" for n in ("", *(f" {i}" for i in range(2, 10_000))))
        target = next(audio / n for n in numbered if not (audio / n).exists())
        moved[stem] = file.replace(target)
    for folder in {file.parent for file in files.values()}:
        for empty in (folder, folder.parent, folder.parent.parent):
            with contextlib.suppress(OSError):  # Other runs' files are in it.
                empty.rmdir()
    return moved


def child(element: ET.Element, tag: str) -> ET.Element:
    """Return the first child of a tag, made if there is none."""
    found = element.find(tag)
    return ET.SubElement(element, tag) if found is None else found


def parent_of(root: ET.Element, element: ET.Element) -> ET.Element:
    """Return what an element below another lies in."""
    return next(parent for parent in root.iter() if element in list(parent))


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


def _ports(route: ET.Element, direction: str) -> Iterator[ET.Element]:
    for io in route.findall("IO"):
        if io.get("direction") == direction:
            yield from io.findall("Port")


def _at_unity(element: ET.Element) -> None:
    """Let nothing below an element change level, polarity or place, now or by automation."""
    for control in element.iter("Controllable"):
        value = _UNITY.get(control.get("name", ""))
        if value is not None:
            control.set("value", value)
        for key in ("phase-invert", "self-solo", "soloed-by-upstream", "soloed-by-downstream"):
            if key in control.attrib:
                control.set(key, "0" * len(control.get(key, "")))
        if control.get("name") in ("rec-enable", "rec-safe"):
            control.set("value", "0")
    for line in element.iter("AutomationList"):
        line.set("state", "Off")
        for events in line.findall("events"):
            line.remove(events)


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
    raise SessionError(f"the playlist of {route.get('name')!r} is missing; save the session again")
