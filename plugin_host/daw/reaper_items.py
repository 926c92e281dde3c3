"""Items of a REAPER project: what they play, and copies that play something else."""

import uuid
from collections.abc import Mapping
from pathlib import Path

from plugin_host.daw.rpp import Chunk, active_take, quote, replace_fields
from plugin_host.daw.session import Clip, Placement, SessionError, Source
from plugin_host.daw.sources import probe_source

_AUDIO = ("WAVE", "FLAC", "MP3", "VORBIS")
_DROPPED = ("TAKE", "SOURCE", "NAME", "SOFFS", "GUID", "IGUID", "IID", "CHANMODE", "TAKECOLOR")


def is_muted(item: Chunk) -> bool:
    """Return whether an item is muted."""
    return (item.fields("MUTE") or ["0"])[0] != "0"


def read_item(item: Chunk, tag: str, project: Path) -> Clip:
    """Return what the active take of an item plays.

    Parameters
    ----------
    item
        The item's chunk.
    tag
        For the clip.
    project
        The project's file, which relative paths are relative to.

    Raises
    ------
    SessionError
        Its file is missing, or it has something that cannot be honoured: MIDI, reverse, stretch
        markers, take effects, a channel mode.
    """
    take = active_take(item)
    name = (take.fields("NAME") or ["item"])[0]
    position = float((item.fields("POSITION") or ["0"])[0])
    length = float((item.fields("LENGTH") or ["0"])[0])
    rate = float((take.fields("PLAYRATE") or ["1"])[0])
    sources = take.chunks("SOURCE")
    _refuse(name, item, take, sources)
    file = (sources[0].fields("FILE") or [""])[0]
    path = project.parent / file.replace("\\", "/") if file else project.parent
    sample_rate, _, frames = probe_source(path, project)
    first = round(_start_offset_s(take) * sample_rate)
    # The item's length is project time: at rate r it plays r times as much of its source.
    samples = round(length * rate * sample_rate)
    # One that loops, or shows silence around its source, uses all of it.
    whole = first < 0 or first + samples > frames
    return Clip(
        name,
        (Source(path),),
        sample_rate,
        0 if whole else first,
        frames if whole else samples,
        position,
        length,
        tag,
        speed=rate,
        first=first if whole else None,
        loops=whole and (item.fields("LOOP") or ["0"])[0] == "1",
        fade_in_s=_fade_s(item, "FADEIN"),
        fade_out_s=_fade_s(item, "FADEOUT"),
        envelope=any(isinstance(c, Chunk) and "ENV" in c.kind for c in take.children),
    )


def copy_item(item: Chunk, placement: Placement, stem: str, project: Path, end: str) -> Chunk:
    """Return a copy of an item, its active take alone, that plays another file.

    Parameters
    ----------
    item
        The item that the placement's clip was read from.
    placement
        What to play, and where.
    stem
        For the new item's name.
    project
        The project's file; what lies beside it is named relative to it.
    end
        The project's line end.
    """
    take, clip = active_take(item), placement.clip
    changed = _changed_lines(clip)
    new = Chunk(item.opening, [], item.closing)
    for child in take.children:
        word = child.kind if isinstance(child, Chunk) else (child.split(None, 1) or [""])[0]
        if isinstance(child, Chunk):
            if word not in _DROPPED:
                new.children.append(child.text())
        elif word not in _DROPPED:
            new.children.append(replace_fields(child, changed.get(word, {})))
    file, folder = placement.file.resolve(), project.resolve().parent
    shown = str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
    for line in (
        f"IGUID {new_guid()}",
        f"NAME {quote(f'{clip.name} - {stem}')}",
        f"SOFFS {_new_offset(take, placement)}",
        "CHANMODE 0",
        f"GUID {new_guid()}",
    ):
        new.children.append(f"      {line}{end}")
    source = Chunk(f"      <SOURCE WAVE{end}", [], f"      >{end}")
    source.children.append(f"        FILE {quote(shown)}{end}")
    new.children.append(source)
    return new


def new_guid() -> str:
    """Return an identifier as REAPER writes them."""
    return "{" + str(uuid.uuid4()).upper() + "}"


def _start_offset_s(take: Chunk) -> float:
    return float((take.fields("SOFFS") or ["0"])[0])


def _fade_s(item: Chunk, key: str) -> float:
    """Return the length of a fade: the one set by hand or the automatic one."""
    return max(0.0, *map(float, (item.fields(key) or ["0", "0", "0"])[1:3]), 0.0)


def _changed_lines(clip: Clip) -> Mapping[str, Mapping[int, str]]:
    """Return which fields of which lines differ in an item that is cut to a range."""
    changed: dict[str, dict[int, str]] = {}
    if clip.cut_front or clip.cut_back:
        changed["LENGTH"] = {1: f"{clip.length_s:.14g}"}
    if clip.cut_front:
        changed |= {
            "POSITION": {1: f"{clip.position_s:.14g}"},
            "SNAPOFFS": {1: "0"},
            "FADEIN": {2: "0", 3: "0"},
        }
    if clip.cut_back:
        changed["FADEOUT"] = {2: "0", 3: "0"}
    return changed


def _new_offset(take: Chunk, placement: Placement) -> str:
    old = _start_offset_s(take)
    clip = placement.clip
    # Whole samples are added, so that a fraction of one stays as the item has it.
    moved = clip.origin - round(old * clip.sample_rate) - placement.start
    if not moved:
        return (take.fields("SOFFS") or ["0"])[0]
    return f"{old + moved / clip.sample_rate:.14g}"


def _refuse(name: str, item: Chunk, take: Chunk, sources: list[Chunk]) -> None:
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
