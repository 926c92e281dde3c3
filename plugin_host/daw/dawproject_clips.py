"""Audio clips of a DAWproject: what they play, and copies that play something else.

A clip holds a timeline of its own, which may hold clips again, to any depth: Bitwig Studio and
Cubase write a clip of clips of warped audio. Every level moves the one below along the timeline,
cuts it, repeats or stretches it. All of this is followed down to the audio; a copy keeps it as it
is, with other files at the bottom.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self
from xml.etree import ElementTree as ET

from plugin_host.daw.media import probe_source
from plugin_host.daw.session import Clip, Placement, SessionError, Source

_TIMELINES: Final = ("Lanes", "Clips", "Warps", "Audio", "Video", "Notes", "Points", "Markers")
_MOST_TURNS: Final = 100_000


@dataclass(frozen=True)
class _Stretch:
    """A part of the arrangement whose tempo stays, or goes from one value to another evenly."""

    beat: float
    second: float
    tempo: float
    slope: float = 0.0
    by_second: bool = False

    def second_at(self, beat: float) -> float:
        """Return when a beat of it sounds."""
        beats = beat - self.beat
        if not self.slope:
            return self.second + 60.0 * beats / self.tempo
        if self.by_second:
            root = math.sqrt(max(self.tempo**2 + 120.0 * self.slope * beats, 0.0))
            return self.second + (root - self.tempo) / self.slope
        return self.second + 60.0 / self.slope * math.log(1.0 + self.slope * beats / self.tempo)


class Times:
    """How the times of a project are read.

    The tempo of a project may change; what is in one of its clips is read at the clip's own.

    Parameters
    ----------
    root
        The project's XML.
    project
        Its file, for errors.

    Attributes
    ----------
    bent
        Whether the tempo changes within the clip that these are the times of.
    """

    def __init__(self, root: ET.Element, project: Path) -> None:
        self._project = project
        self._curve = tuple(_tempo_curve(root))
        tempos = {stretch.tempo for stretch in self._curve}
        steady = len(tempos) == 1 and not any(stretch.slope for stretch in self._curve)
        self._beat_s = 60.0 / min(tempos) if steady else None
        self.bent = False

    def scale(self, unit: str) -> float:
        """Return the seconds of one of a unit, ``"beats"`` or ``"seconds"``.

        Raises
        ------
        SessionError
            It is in beats, and no tempo is given.
        """
        if unit != "beats":
            return 1.0
        if self._beat_s is None:
            raise SessionError(
                f"{self._project}: times in beats need a tempo; export it again with one"
            )
        return self._beat_s

    def read(self, element: ET.Element, key: str, unit: str, default: float = 0.0) -> float:
        """Return an attribute in seconds, or the default, which is in seconds too."""
        text = element.get(key)
        return default if text is None else float(text) * self.scale(unit)

    def second_at(self, time: float, unit: str) -> float:
        """Return when a time of the arrangement is, in seconds."""
        if unit != "beats":
            return time
        if not self._curve:
            return time * self.scale(unit)
        before = [stretch for stretch in self._curve if stretch.beat <= time]
        return (before[-1] if before else replace(self._curve[0], slope=0.0)).second_at(time)

    def of_clip(self, clip: ET.Element, unit: str) -> tuple[Self, float]:
        """Return the times in a clip of the arrangement, and what to add to its place in seconds.

        Parameters
        ----------
        clip
            The clip.
        unit
            The unit that its place is written in.
        """
        if self._beat_s is not None or not self._curve:
            return self, 0.0
        time = float(clip.get("time", "0"))
        length = clip.get("duration")
        until = time + float(length) if length is not None else None
        begin = time if unit == "beats" else self._beat_at(time)
        end = begin
        if until is not None:
            end = until if unit == "beats" else self._beat_at(until)
        low, high = self.second_at(begin, "beats"), self.second_at(end, "beats")
        within = [s for s in self._curve if s.beat < end]
        first = max((n for n, s in enumerate(within) if s.beat <= begin), default=0)
        tempos = {stretch.tempo for stretch in within[first:]}
        made = copy.copy(self)
        made.bent = len(tempos) > 1 or any(stretch.slope for stretch in within[first:])
        if end == begin:
            end, high = begin + 1, self.second_at(begin + 1, "beats")
        made._beat_s = (high - low) / (end - begin)
        return made, (low - begin * made._beat_s if unit == "beats" else 0.0)

    def _beat_at(self, second: float) -> float:
        low, high = -1e6, 1e6
        for _ in range(80):
            middle = (low + high) / 2
            if self.second_at(middle, "beats") < second:
                low = middle
            else:
                high = middle
        return high


def _tempo_curve(root: ET.Element) -> Iterator[_Stretch]:
    """Yield the stretches of a project's tempo, in order; nothing if it is not given."""
    automation = root.find("Arrangement/TempoAutomation")
    points = [] if automation is None else [p for p in automation if p.get("value") is not None]
    if automation is None or not points:
        tempo = root.find("Transport/Tempo")
        value = 0.0 if tempo is None else float(tempo.get("value", "120"))
        if value > 0.0:
            yield _Stretch(0.0, 0.0, value)
        return
    lanes = root.find("Arrangement/Lanes")
    unit = automation.get("timeUnit") or (lanes is not None and lanes.get("timeUnit")) or "beats"
    points.sort(key=lambda point: float(point.get("time", "0")))
    values = [float(point.get("value", "0")) for point in points]
    if min(values) <= 0.0:
        return
    times = [float(point.get("time", "0")) for point in points]
    beat = second = 0.0
    here = 0.0
    # Before its first point, the tempo is that of the first.
    for number, (time, value) in enumerate(zip(times, values, strict=True)):
        before = values[max(number - 1, 0)]
        even = number > 0 and points[number - 1].get("interpolation") == "linear"
        last = value if even else before
        ahead = time - here
        slope = (last - before) / ahead if ahead > 0.0 else 0.0
        stretch = _Stretch(beat, second, before, slope, unit != "beats")
        if number or ahead > 0.0:
            yield stretch
        if unit == "beats":
            beat += ahead
            second = stretch.second_at(beat)
        else:
            beat += (before + last) / 2 * ahead / 60.0
            second += ahead
        here = time
    yield _Stretch(beat, second, values[-1])


@dataclass(frozen=True)
class _View:
    """How a timeline inside others appears in the arrangement.

    Second ``s`` of it sounds at ``offset + s * stretch`` if that lies between ``low`` and
    ``high``. The fades are stretches of the arrangement.
    """

    unit: str
    offset: float = 0.0
    stretch: float = 1.0
    low: float = float("-inf")
    high: float = float("inf")
    name: str = ""
    fades_in: tuple[tuple[float, float], ...] = ()
    fades_out: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class TopClip:
    """A clip that lies on a track itself, with all that it refers to put into it.

    Attributes
    ----------
    element
        A copy of it.
    unit
        The unit that its place is written in.
    """

    element: ET.Element
    unit: str

    @property
    def audio(self) -> list[ET.Element]:
        """The audio in it, in the order of the file, played or not."""
        return list(self.element.iter("Audio"))


def top_clips(root: ET.Element, track: str) -> list[TopClip]:
    """Return the clips of a track in the arrangement that hold audio and are switched on.

    Parameters
    ----------
    root
        The project's XML.
    track
        The track's identifier.
    """
    found = []
    for clips, unit in _clips_of(root, track):
        for clip in clips.findall("Clip"):
            whole = _with_references(clip, root)
            if any(True for _ in _switched_on(whole, "Audio")):
                found.append(TopClip(whole, unit))
    return found


def has_timeline(root: ET.Element, track: str) -> bool:
    """Return whether the arrangement has anything of a track."""
    return any(e.get("track") == track for e in root.iterfind("Arrangement//*"))


def has_notes(root: ET.Element, track: str) -> bool:
    """Return whether notes are played on a track in the arrangement."""
    held = (clip for clips, _ in _clips_of(root, track) for clip in clips.findall("Clip"))
    return any(True for clip in held for _ in _switched_on(_with_references(clip, root), "Notes"))


def read_clips(
    top: TopClip, index: int, times: Times, find_file: Callable[[ET.Element], Path], project: Path
) -> Iterator[Clip]:
    """Yield everything that a clip plays, a loop as often as it is heard, in order of the file.

    Parameters
    ----------
    top
        The clip.
    index
        Its number on the track, with which the tags begin.
    times
        The project's.
    find_file
        Gives the path of a ``<File>``.
    project
        The archive, for errors.

    Raises
    ------
    SessionError
        A file is missing, or something is stretched by more than one rate.
    """
    numbers = {id(audio): number for number, audio in enumerate(top.audio)}
    local, offset = times.of_clip(top.element, top.unit)
    view = _View(top.unit, offset, name=top.element.get("name") or "")
    turns = itertools.count()
    for audio, seen in _walk_clip(top.element, view, local):
        number = numbers[id(audio)]
        if next(turns) > _MOST_TURNS:
            raise SessionError(
                f"the clip {view.name!r} loops more than {_MOST_TURNS} times; bounce it first"
            )
        file = audio.find("File")
        if file is None:
            raise SessionError(f"the clip {seen.name!r} names no file; export the project again")
        path = find_file(file)
        rate, _, frames = probe_source(path, project)
        low = max(seen.low, seen.offset)
        high = min(seen.high, seen.offset + frames / rate * seen.stretch)
        start = round((low - seen.offset) / seen.stretch * rate)
        samples = min(round((high - low) / seen.stretch * rate), frames - start)
        if samples <= 0:
            continue
        yield Clip(
            seen.name or f"clip {index + 1}",
            (Source(path),),
            rate,
            start,
            samples,
            low,
            high - low,
            f"{index}.{number}.{next(turns)}",
            speed=1.0 / seen.stretch,
            bent=local.bent,
            fade_in_s=max([end - low for begin, end in seen.fades_in if end > low], default=0.0),
            fade_out_s=max([high - begin for begin, end in seen.fades_out if begin < high],
                           default=0.0),
        )  # fmt: skip


def copy_clip(
    top: TopClip,
    placements: Sequence[Placement],
    *,
    all_clips: Sequence[Clip],
    stem: str,
    times: Times,
    project: Path,
    store: Callable[[Path], str],
    new_id: Callable[[], str],
) -> ET.Element:
    """Return a copy of a clip whose audio is that of other files, the rest as it was.

    Parameters
    ----------
    top
        The clip.
    placements
        What to play instead, for those of ``all_clips`` that are wanted.
    all_clips
        All that `read_clips` gave for it.
    stem
        For the new clip's name.
    times, project
        Of the session.
    store
        Takes a file into the archive and returns its name there.
    new_id
        Gives identifiers.
    """
    local, offset = times.of_clip(top.element, top.unit)
    new = copy.deepcopy(top.element)
    new.set("name", f"{top.element.get('name') or placements[0].clip.name} - {stem}")
    files = {int(p.clip.tag.split(".")[1]): p for p in placements}
    audio = {id(element): files.get(number) for number, element in enumerate(new.iter("Audio"))}
    _play_files(new, top.unit, audio, times=local, project=project, store=store, new_id=new_id)
    for element in new.iter():
        if "id" in element.attrib:
            element.set("id", new_id())
    wanted = [placement.clip for placement in placements]
    if len(wanted) == len(all_clips) and not any(c.cut_front or c.cut_back for c in wanted):
        return new
    # Only a part is wanted: a clip around it shows that part of the timeline.
    scale = local.scale(top.unit)
    begin = (min(clip.position_s for clip in wanted) - offset) / scale
    end = (max(clip.end_s for clip in wanted) - offset) / scale
    outer = ET.Element(
        "Clip",
        {"time": f"{begin:.14g}", "duration": f"{end - begin:.14g}", "playStart": f"{begin:.14g}",
         "contentTimeUnit": top.unit, "name": new.get("name", "")},
    )  # fmt: skip
    ET.SubElement(outer, "Clips", {"timeUnit": top.unit, "id": new_id()}).append(new)
    return outer


def _clips_of(root: ET.Element, track: str) -> Iterator[tuple[ET.Element, str]]:
    """Yield the ``<Clips>`` of a track that lie in no clip, each with its unit."""

    def walk(element: ET.Element, owner: str, unit: str) -> Iterator[tuple[ET.Element, str]]:
        # Which track it is of may stand on a timeline of any kind, and holds for those inside.
        owner, unit = element.get("track") or owner, element.get("timeUnit") or unit
        if element.tag == "Clips" and owner == track:
            yield element, unit
        if element.tag == "Lanes":
            for part in element:
                yield from walk(part, owner, unit)

    for lanes in root.iterfind("Arrangement/Lanes"):
        yield from walk(lanes, "", "beats")


def _with_references(clip: ET.Element, root: ET.Element) -> ET.Element:
    """Return a copy of a clip in which what clips refer to stands itself."""
    whole = copy.deepcopy(clip)
    seen: set[str] = set()
    for inner in list(whole.iter("Clip")):
        wanted = inner.get("reference")
        if wanted is None or _content(inner) is not None:
            continue
        target = next((e for e in root.iter() if e.get("id") == wanted), None)
        if target is None or target.tag not in _TIMELINES or wanted in seen:
            raise SessionError(
                f"the clip {inner.get('name', '')!r} refers to {wanted!r}, which is not there"
            )
        seen.add(wanted)
        del inner.attrib["reference"]
        inner.append(copy.deepcopy(target))
    return whole


def _switched_on(element: ET.Element, tag: str) -> Iterator[ET.Element]:
    if element.tag == "Clip" and element.get("enable") == "false":
        return
    if element.tag == tag:
        yield element
    for part in element:
        yield from _switched_on(part, tag)


def _content(clip: ET.Element) -> ET.Element | None:
    return next((part for part in clip if part.tag in _TIMELINES), None)


def _walk_clip(clip: ET.Element, view: _View, times: Times) -> Iterator[tuple[ET.Element, _View]]:
    content = _content(clip)
    if content is None or clip.get("enable") == "false":
        return
    unit = clip.get("contentTimeUnit") or view.unit
    fade_unit = clip.get("fadeTimeUnit") or view.unit
    fade_in = times.read(clip, "fadeInTime", fade_unit)
    fade_out = times.read(clip, "fadeOutTime", fade_unit) * view.stretch
    # A fade in of less than nothing is one across the clip before: it begins so much earlier.
    early = max(-fade_in, 0.0)
    play = times.read(clip, "playStart", unit)
    played = times.read(clip, "playStop", unit, float("inf")) - play + early
    length = times.read(clip, "duration", view.unit, played - early) + early
    play -= early
    start = view.offset + (times.read(clip, "time", view.unit) - early) * view.stretch
    fade_in = abs(fade_in) * view.stretch
    whole_end = start + length * view.stretch
    end = whole_end
    if not _turn_s(clip, unit, times):
        end = start + min(length, played) * view.stretch
    inside = replace(
        view,
        unit=unit,
        offset=start - play * view.stretch,
        low=max(view.low, start),
        high=min(view.high, end),
        name=clip.get("name") or view.name,
        fades_in=(*view.fades_in, (start, start + fade_in)),
        fades_out=(*view.fades_out, (whole_end - fade_out, whole_end)),
    )
    for turn in _turns(clip, inside, times):
        if turn.low < turn.high:
            yield from _walk(content, turn, times)


def _turn_s(clip: ET.Element, unit: str, times: Times) -> float:
    """Return the length of a clip's loop; 0 if it does not loop."""
    if clip.get("loopEnd") is None:
        return 0.0
    begin = times.read(clip, "loopStart", unit)
    end = times.read(clip, "loopEnd", unit)
    # From beyond its loop a clip goes straight on.
    return max(end - begin, 0.0) if times.read(clip, "playStart", unit) < end else 0.0


def _turns(clip: ET.Element, inside: _View, times: Times) -> Iterator[_View]:
    turn = _turn_s(clip, inside.unit, times)
    if not turn:
        yield inside
        return
    if inside.high == float("inf"):
        raise SessionError(f"the clip {inside.name!r} loops without end; bounce it in place first")
    begin = times.read(clip, "loopStart", inside.unit)
    first = inside.offset + (begin + turn) * inside.stretch
    yield replace(inside, high=min(inside.high, first))
    for number in itertools.count():
        at = first + number * turn * inside.stretch
        if at >= inside.high:
            return
        yield replace(
            inside,
            offset=at - begin * inside.stretch,
            low=max(inside.low, at),
            high=min(inside.high, at + turn * inside.stretch),
        )


def _walk(timeline: ET.Element, view: _View, times: Times) -> Iterator[tuple[ET.Element, _View]]:
    if timeline.tag == "Audio":
        if times.bent and view.unit == "beats":
            raise SessionError(
                f"the tempo changes within the clip {view.name!r}, whose audio is placed in beats; "
                "bounce it in place first"
            )
        yield timeline, view
        return
    unit = timeline.get("timeUnit") or view.unit
    if timeline.tag == "Video":
        raise SessionError(f"the clip {view.name!r} plays a video; bounce its sound in place first")
    if timeline.tag == "Warps":
        at, content_at, rate = _straight(timeline, unit, times, view.name)
        view = replace(
            view,
            unit=timeline.get("contentTimeUnit", "seconds"),
            offset=view.offset + (at - content_at / rate) * view.stretch,
            stretch=view.stretch / rate,
        )
        content = next((part for part in timeline if part.tag in _TIMELINES), None)
        if content is not None:
            yield from _walk(content, view, times)
        return
    view = replace(view, unit=unit)
    for part in timeline:
        if part.tag == "Clip":
            yield from _walk_clip(part, view, times)
        elif part.tag in _TIMELINES:
            yield from _walk(part, view, times)


def _straight(warps: ET.Element, unit: str, times: Times, name: str) -> tuple[float, float, float]:
    """Return a time of warps, the content's there, and seconds of content a second."""
    inner = warps.get("contentTimeUnit", "seconds")
    points = sorted(
        (times.read(warp, "time", unit), times.read(warp, "contentTime", inner))
        for warp in warps.findall("Warp")
    )
    if not points:
        return 0.0, 0.0, 1.0
    (first, content), (last, content_last) = points[0], points[-1]
    rate = (content_last - content) / (last - first) if last > first else 1.0
    bent = [c - content - rate * (t - first) for t, c in points]
    # A tenth of a millisecond is what programs lose by writing few digits.
    if rate <= 0.0 or max(map(abs, bent)) > 1e-4:
        raise SessionError(
            f"the clip {name!r} is stretched by more than one rate; bounce it in place first"
        )
    return first, content, 1.0 if abs(rate - 1.0) < 1e-9 else rate


def _play_files(
    element: ET.Element,
    unit: str,
    audio: Mapping[int, Placement | None],
    *,
    times: Times,
    project: Path,
    store: Callable[[Path], str],
    new_id: Callable[[], str],
) -> None:
    """Put other files below an element; clips without one are taken out."""
    unit = element.get("timeUnit") or unit
    inner = element.get("contentTimeUnit") or unit
    for part in list(element):
        if part.tag == "Audio":
            placement = audio[id(part)]
            if placement is None:
                element.remove(part)
                continue
            start_s = placement.start / placement.clip.sample_rate
            _play_file(part, placement, project, store)
            if element.tag == "Clip":
                _move(element, ("playStart", "playStop", "loopStart", "loopEnd"),
                      start_s / times.scale(inner))  # fmt: skip
            elif element.tag == "Warps":
                for warp in element.findall("Warp"):
                    _move(warp, ("contentTime",), start_s / times.scale(inner))
            elif placement.start:
                # Among other timelines it cannot begin later, but in a clip it can.
                place = list(element).index(part)
                element.remove(part)
                clips = ET.Element("Clips", {"timeUnit": "seconds", "id": new_id()})
                clip = ET.SubElement(
                    clips, "Clip",
                    {"time": f"{start_s:.14g}", "duration": part.get("duration", ""),
                     "contentTimeUnit": "seconds", "playStart": "0"},
                )  # fmt: skip
                clip.append(part)
                element.insert(place, clips)
        else:
            off = part.tag == "Clip" and part.get("enable") == "false"
            held = {id(a) for a in part.iter("Audio")}
            notes = not held and any(True for _ in part.iter("Notes"))
            if notes or (held and (off or not any(audio[key] for key in held))):
                element.remove(part)
                continue
            _play_files(part, inner, audio, times=times, project=project, store=store,
                        new_id=new_id)  # fmt: skip


def _play_file(
    audio: ET.Element, placement: Placement, project: Path, store: Callable[[Path], str]
) -> None:
    rate, channels, frames = probe_source(placement.file, project)
    audio.set("channels", str(channels))
    audio.set("sampleRate", str(rate))
    audio.set("duration", f"{frames / rate:.14g}")
    for file in audio.findall("File"):
        audio.remove(file)
    ET.SubElement(audio, "File", {"path": store(placement.file)})


def _move(element: ET.Element, keys: Sequence[str], by: float) -> None:
    """Move times of content to where a file that begins later has them."""
    for key in keys:
        if key in element.attrib or (key == "playStart" and by):
            element.set(key, f"{float(element.get(key, '0')) - by:.14g}")
