"""What REAPER projects and DAWprojects play, computed from their text alone.

Written against the formats' descriptions and apart from the readers in `plugin_host.daw`: a puller
that asks, for every moment of the arrangement, what each thing in it plays then. Between samples it
draws straight lines, which is linear in the audio, as REAPER and others are by finer means.
"""

import re
from xml.etree import ElementTree as ET

import numpy as np
import soundfile

RATE = 8000
"""Samples a second of what is rendered; sources may have any rate."""


def _read(path):
    audio, rate = soundfile.read(path, always_2d=True)
    return audio, rate


def _at(audio, rate, seconds, *, loops):
    """Return audio at some seconds of a file; silence outside, or round and round."""
    frames = len(audio)
    place = np.asarray(seconds) * rate
    # What lies on a sample but for the last digits of a double lies on it.
    place = np.where(np.abs(place - np.round(place)) < 1e-6, np.round(place), place)
    if loops:
        place = np.mod(place, frames)
    low = np.floor(place).astype(int)
    share = (place - low)[:, None]
    # Towards what comes after the last sample, also in a loop, there is silence.
    padded = np.vstack([audio, np.zeros((2, audio.shape[1]))])
    here = np.where((low >= 0) & (low < frames), low, frames)
    after = np.where((low + 1 >= 0) & (low + 1 < frames), low + 1, frames)
    found = padded[here] * (1 - share) + padded[after] * share
    found[(place < 0) | (place >= frames)] = 0
    return found


def _stereo(audio):
    return np.repeat(audio, 2, axis=1) if audio.shape[1] == 1 else audio[:, :2]


# REAPER


def parse_rpp(text):
    """Return a project as nested lists: words of the opening line first, then lines and chunks."""
    stack = [[]]
    for line in text.replace("\r\n", "\n").split("\n"):
        words = re.findall(r"\"([^\"]*)\"|'([^']*)'|`([^`]*)`|(\S+)", line)
        fields = ["".join(groups) for groups in words]
        if line.strip().startswith("<"):
            stack.append([[fields[0][1:], *fields[1:]]])
        elif line.strip() == ">":
            chunk = stack.pop()
            stack[-1].append(chunk)
        elif fields:
            stack[-1].append(fields)
    return stack[0][0]


def _lines(chunk, word):
    return [line for line in chunk[1:] if isinstance(line[0], str) and line[0] == word]


def _chunks(chunk, word):
    return [part for part in chunk[1:] if not isinstance(part[0], str) and part[0][0] == word]


def _fields(chunk, word, default):
    found = _lines(chunk, word)
    return found[0][1:] if found else default


def _curve(chunk, word, times, default):
    """Return an envelope at some times; straight lines between its points."""
    for envelope in _chunks(chunk, word):
        if _fields(envelope, "ACT", ["1"])[0] != "0":
            points = [(float(p[1]), float(p[2])) for p in _lines(envelope, "PT")]
            return np.interp(times, *zip(*points, strict=True))
    return np.full(len(times), default)


def _panned(audio, pan):
    """Return stereo turned to a side: the other one is turned down."""
    pan = np.broadcast_to(np.asarray(pan, float), len(audio))
    gains = np.stack([np.minimum(1, 1 - pan), np.minimum(1, 1 + pan)], axis=1)
    return audio * gains


def _take(take, item, volume, times, folder):
    (source,) = [c for c in take if not isinstance(c[0], str) and c[0][0] == "SOURCE"]
    audio, rate = _read(folder / _fields(source, "FILE", [""])[0].replace("\\", "/"))
    take = [["TAKE"], *take]
    mode = int(_fields(take, "CHANMODE", ["0"])[0])
    if mode == 1:
        audio = audio[:, ::-1]
    elif mode == 2:
        audio = audio.mean(axis=1, keepdims=True)
    elif mode:
        audio = audio[:, mode - 3 : mode - 2]
    at = times - float(_fields(item, "POSITION", ["0"])[0])
    speed = float(_fields(take, "PLAYRATE", ["1"])[0])
    seconds = float(_fields(take, "SOFFS", ["0"])[0]) + at * speed
    loops = _fields(item, "LOOP", ["0"])[0] == "1"
    found = _stereo(_at(audio, rate, seconds, loops=loops))
    take_volume, pan = volume
    found = found * take_volume * _curve(take, "VOLENV", at, 1.0)[:, None]
    found = _panned(found, np.clip(pan + _curve(take, "PANENV", at, 0.0), -1, 1))
    return found * (_curve(take, "MUTEENV", at, 1.0) >= 0.5)[:, None]


def _takes(item):
    """Return the takes that play, each with its number: those of a file, if it is not muted."""
    mute = [*_fields(item, "MUTE", ["0"]), "0"]
    if mute[1] == "1" or (mute[1] == "0" and mute[0] == "1"):
        return []
    takes, active = [[]], 0
    for child in item[1:]:
        if child[0] == "TAKE":
            takes.append([])
            active = len(takes) - 1 if "SEL" in child else active
        else:
            takes[-1].append(child)
    chosen = range(len(takes))
    if _fields(item, "ALLTAKES", ["0"])[0] == "0":
        chosen = [active]
    files = [["SOURCE", "WAVE"], ["SOURCE", "FLAC"]]
    return [(n, takes[n]) for n in chosen if any(part[0] in files for part in takes[n])]


def _span(item):
    position, length = (float(_fields(item, w, ["0"])[0]) for w in ("POSITION", "LENGTH"))
    return position, position + length


def _replaced(items, number, times, mix):
    """Return where an item is not heard because another one replaces it."""
    low, high = _span(items[number])
    gone = np.zeros(len(times), bool)
    for other, item in enumerate(items):
        begin, end = _span(item)
        inside = low <= begin and end <= high and ((low, high) != (begin, end) or other > number)
        later = (begin, other) > (low, number)
        if other != number and {"0": inside, "2": later}.get(mix, False):
            gone |= (times >= begin - 1e-9) & (times < end - 1e-9)
    return gone


def _item(item, times, folder):
    position, end = _span(item)
    length = end - position
    first = [float(f) for f in _fields(item, "VOLPAN", ["1", "0", "1", "-1"])]
    total = np.zeros((len(times), 2))
    for number, take in _takes(item):
        volume = (first[2], first[1])
        if number:
            pan, gain = _fields([["T"], *take], "TAKEVOLPAN", ["0", "1"])[:2]
            volume = (float(gain), float(pan))
        total += _take(take, item, volume, times, folder)
    at = times - position
    inside = (times >= position - 1e-9) & (times < position + length - 1e-9)
    gain = np.where(inside, first[0], 0.0)
    for word, from_edge in (("FADEIN", at), ("FADEOUT", length - at)):
        fade = max(0.0, *map(float, _fields(item, word, ["0", "0", "0"])[1:3]))
        if fade:
            gain = gain * np.clip(from_edge / fade, 0, 1)
    return total * gain[:, None]


def _playing(track):
    items = _chunks(track, "ITEM")
    if _fields(track, "FREEMODE", ["0"])[0] != "2" or not _lines(track, "LANESOLO"):
        return items
    bits = sum(int(w) << 32 * n for n, w in enumerate(_fields(track, "LANESOLO", [])))
    lanes = [float(_fields(i, "YPOS", ["0", "1"])[0]) / float(_fields(i, "YPOS", ["0", "1"])[1])
             for i in items]  # fmt: skip
    return [item for item, lane in zip(items, lanes, strict=True) if bits >> round(lane) & 1]


def render_rpp(text, folder, seconds):
    """Return what a project's master gets, ``(samples, 2)``."""
    times = np.arange(round(seconds * RATE)) / RATE
    project = parse_rpp(text)
    tracks = _chunks(project, "TRACK")
    sums = [np.zeros((len(times), 2)) for _ in tracks]
    parents, stack = [], []
    for number, track in enumerate(tracks):
        parents.append(stack[-1] if stack else None)
        step = int(_fields(track, "ISBUS", ["0", "0"])[1])
        stack = [*stack, number] if step > 0 else stack[: len(stack) + step] if step < 0 else stack
        shift = float(_fields(track, "PLAYOFFS", ["0"])[0])
        items = [item for item in _playing(track) if _takes(item)]
        free = _fields(track, "FREEMODE", ["0"])[0] != "0"
        mix = "1" if free else _fields(project, "ITEMMIX", ["1"])[0]
        for place, item in enumerate(items):
            gone = _replaced(items, place, times - shift, mix)
            sums[number] = sums[number] + np.where(
                gone[:, None], 0.0, _item(item, times - shift, folder)
            )
    receives = [
        (int(line[1]), number, float(line[3]))
        for number, track in enumerate(tracks)
        for line in _lines(track, "AUXRECV")
    ]
    master = np.zeros((len(times), 2))
    done = {}

    def output(number):
        """Return what a track puts out, after all that goes into it."""
        if number in done:
            return done[number]
        track = tracks[number]
        total = sums[number]
        for child, parent in enumerate(parents):
            if parent == number and _fields(tracks[child], "MAINSEND", ["1"])[0] == "1":
                total = total + output(child)
        for sender, receiver, gain in receives:
            if receiver == number:
                total = total + output(sender) * gain
        volume, pan = (float(f) for f in _fields(track, "VOLPAN", ["1", "0"])[:2])
        total = total * volume * _curve(track, "VOLENV2", times, 1.0)[:, None]
        total = _panned(total, pan) * (-1 if _fields(track, "IPHASE", ["0"])[0] == "1" else 1)
        done[number] = total * (_fields(track, "MUTESOLO", ["0"])[0] != "1")
        return done[number]

    for number, parent in enumerate(parents):
        if parent is None and _fields(tracks[number], "MAINSEND", ["1"])[0] == "1":
            master = master + output(number)
    return master


# DAWproject


def _scale(element, key, inherited, tempo):
    unit = element.get(key) or inherited
    return (60.0 / tempo if unit == "beats" else 1.0), unit


def _play(timeline, unit, at, tempo, find):
    """Return what a timeline plays at some seconds of its own."""
    total = np.zeros((len(at), 2))
    if timeline.tag == "Audio":
        audio, rate = _read(find(timeline.find("File")))
        return _stereo(_at(audio, rate, at, loops=False))
    scale, unit = _scale(timeline, "timeUnit", unit, tempo)
    if timeline.tag == "Warps":
        inner, inner_unit = _scale(timeline, "contentTimeUnit", "seconds", tempo)
        warps = sorted(
            (float(w.get("time")) * scale, float(w.get("contentTime")) * inner)
            for w in timeline.findall("Warp")
        )
        (t0, c0), (t1, c1) = warps[0], warps[-1]
        content = c0 + (at - t0) * (c1 - c0) / (t1 - t0)
        for part in timeline:
            if part.tag != "Warp":
                total = total + _play(part, inner_unit, content, tempo, find)
        return total
    for part in timeline:
        if part.tag == "Clip":
            total = total + _play_clip(part, unit, at, tempo, find)
        elif part.tag in ("Lanes", "Clips", "Warps", "Audio"):
            total = total + _play(part, unit, at, tempo, find)
    return total


def _play_clip(clip, unit, at, tempo, find):
    if clip.get("enable") == "false":
        return 0.0
    outer, _ = _scale(clip, "none", unit, tempo)
    inner, inner_unit = _scale(clip, "contentTimeUnit", unit, tempo)
    fade, _ = _scale(clip, "fadeTimeUnit", unit, tempo)
    begin = float(clip.get("time")) * outer
    play = float(clip.get("playStart", "0")) * inner
    stop = float(clip.get("playStop", "inf")) * inner
    length = float(clip.get("duration")) * outer if clip.get("duration") else stop - play
    # A negative fade in lies before the beginning.
    ahead = max(-float(clip.get("fadeInTime", "0")), 0.0) * fade
    begin, play, length = begin - ahead, play - ahead, length + ahead
    since = at - begin
    inside = (since >= -1e-9) & (since < length - 1e-9)
    content = play + since
    if clip.get("loopEnd") is not None:
        low, high = (float(clip.get(k, "0")) * inner for k in ("loopStart", "loopEnd"))
        if play < high:
            past = content >= high - 1e-9
            content = np.where(
                past, low + np.mod(content - high + 1e-9, high - low) - 1e-9, content
            )
    else:
        inside &= content < stop - 1e-9
    gain = inside.astype(float)
    for key, edge in (("fadeInTime", since), ("fadeOutTime", length - since)):
        seconds = abs(float(clip.get(key, "0"))) * fade
        if seconds:
            gain = gain * np.clip(edge / seconds, 0, 1)
    total = np.zeros((len(at), 2))
    for part in clip:
        if part.tag in ("Lanes", "Clips", "Warps", "Audio"):
            total = total + _play(part, inner_unit, content, tempo, find)
    return total * gain[:, None]


def render_dawproject(xml, find, tracks, seconds):
    """Return what some tracks of a project play, before their channels, ``(samples, 2)``.

    Parameters
    ----------
    xml
        Of the project.
    find
        Gives the path of a ``<File>``.
    tracks
        Identifiers of the tracks.
    seconds
        How much.
    """
    root = ET.fromstring(xml)
    for alias in root.findall(".//Clip[@reference]"):
        alias.append(root.find(f".//*[@id='{alias.get('reference')}']"))
    tempo = float(root.find("Transport/Tempo").get("value"))
    at = np.arange(round(seconds * RATE)) / RATE

    def walk(element, owner, unit):
        owner, unit = element.get("track") or owner, element.get("timeUnit") or unit
        if element.tag == "Clips":
            return _play(element, unit, at, tempo, find) if owner in tracks else 0.0
        return sum((walk(p, owner, unit) for p in element if p.tag in ("Lanes", "Clips")), 0.0)

    return np.zeros((len(at), 2)) + walk(root.find("Arrangement/Lanes"), "", "beats")
