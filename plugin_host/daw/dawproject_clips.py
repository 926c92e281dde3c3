"""Audio clips of a DAWproject: what they play, and copies that play something else."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from plugin_host.daw.session import Clip, Placement, SessionError, Source
from plugin_host.daw.sources import probe_source


@dataclass(frozen=True)
class Times:
    """The unit that times are written in.

    Attributes
    ----------
    unit
        ``"beats"`` or ``"seconds"``.
    scale
        Seconds of one of it.
    """

    unit: str
    scale: float

    def read(self, element: ET.Element, key: str, default: float = 0.0) -> float:
        """Return an attribute in seconds, or the default, which is in seconds too."""
        text = element.get(key)
        return default if text is None else float(text) * self.scale

    def text(self, seconds: float) -> str:
        """Write seconds in this unit."""
        return f"{seconds / self.scale:.14g}"


def times_of(root: ET.Element, unit: str, project: Path) -> Times:
    """Return how times of a unit are read in a project.

    Raises
    ------
    SessionError
        They are beats and the tempo changes.
    """
    if unit != "beats":
        return Times("seconds", 1.0)
    tempo = root.find("Transport/Tempo")
    if root.find("Arrangement/TempoAutomation") is not None or tempo is None:
        msg = f"{project}: times in beats need one constant tempo; export in seconds instead"
        raise SessionError(msg)
    return Times("beats", 60.0 / float(tempo.get("value", "120")))


def holds_audio(clip: ET.Element) -> bool:
    """Return whether a clip plays audio and is not switched off."""
    return clip.get("enable") != "false" and clip.find(".//Audio") is not None


def read_clip(clip: ET.Element, index: int, times: Times, folder: Path, project: Path) -> Clip:
    """Return what a clip plays.

    Parameters
    ----------
    clip
        The ``<Clip>``.
    index
        Its number on the track, which becomes its tag.
    times
        The unit that its place is written in.
    folder
        Where the archive is unpacked.
    project
        The archive, which external files lie beside.

    Raises
    ------
    SessionError
        Its file is missing, or it is stretched, looped or plays beyond its file.
    """
    name = clip.get("name") or f"clip {index + 1}"
    audio = clip.find("Audio")
    why = None
    if audio is None:
        why = "is warped or holds other clips"
    elif clip.get("loopEnd") is not None:
        why = "is looped"
    elif clip.get("contentTimeUnit") == "beats":
        why = "counts its audio in beats"
    if audio is None or why:
        msg = f"the clip {name!r} {why}; bounce it in place first"
        raise SessionError(msg)
    file = audio.find("File")
    inside = "" if file is None else file.get("path", "")
    external = file is not None and file.get("external") == "true"
    path = (project.parent if external else folder) / inside
    rate, _, frames = probe_source(path, project)
    start = round(float(clip.get("playStart", "0")) * rate)
    end = min(round(float(clip.get("playStop", str(frames / rate))) * rate), frames)
    samples = min(round(times.read(clip, "duration", frames / rate) * rate), end - start)
    if start < 0 or samples <= 0:
        msg = f"the clip {name!r} plays outside its file; bounce it in place first"
        raise SessionError(msg)
    fades = _fade_times(clip, times)
    return Clip(
        name,
        (Source(path),),
        rate,
        start,
        samples,
        times.read(clip, "time"),
        samples / rate,
        str(index),
        fade_in_s=fades.read(clip, "fadeInTime"),
        fade_out_s=fades.read(clip, "fadeOutTime"),
    )


def copy_clip(old: ET.Element, placement: Placement, stem: str, times: Times) -> ET.Element:
    """Return a copy of a clip that is to play another file, without its audio.

    Parameters
    ----------
    old
        The clip to copy.
    placement
        What to play, and where.
    stem
        For the new clip's name.
    times
        The unit to write its place in.
    """
    clip = placement.clip
    new = ET.Element("Clip", dict(old.attrib))
    # Its end is said by its duration.
    new.attrib.pop("playStop", None)
    new.set("name", f"{clip.name} - {stem}")
    new.set("time", times.text(clip.position_s))
    new.set("duration", times.text(clip.length_s))
    new.set("contentTimeUnit", "seconds")
    new.set("playStart", f"{(clip.start - placement.start) / clip.sample_rate:.14g}")
    for key, fade_s in (("fadeInTime", clip.fade_in_s), ("fadeOutTime", clip.fade_out_s)):
        if new.attrib.pop(key, None) is not None and fade_s:
            new.set(key, f"{fade_s:.14g}")
            new.set("fadeTimeUnit", "seconds")
    return new


def _fade_times(clip: ET.Element, times: Times) -> Times:
    return Times("seconds", 1.0) if clip.get("fadeTimeUnit", times.unit) == "seconds" else times
