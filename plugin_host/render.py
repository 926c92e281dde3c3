"""Offline rendering: a file through a preset's chain, or into its stems, like for like.

The result has the rate, channels, length, subtype and metadata of its source, is written under a
temporary name, and says in its comment what made it, so that a run that was cut off can go on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from bridge.errors import InputError
from plugin_host import riff
from plugin_host.audio_files import (
    INTEGER_BITS,
    Audio,
    AudioInfo,
    clips,
    probe,
    read_audio,
    replace_file,
    temporary_beside,
    write_audio,
)
from plugin_host.chain_presets import chain_from_preset
from plugin_host.separators import Remembering, Separator
from plugin_host.stem_files import comment_of
from presets import Preset, format_preset

Output = Literal["remix", "stems"]

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".aiff": "AIFF", ".aif": "AIFF", ".ogg": "OGG",
           ".mp3": "MP3", ".rf64": "RF64", ".w64": "W64"}  # fmt: skip
"""What a suffix is written as. A WAV file that is RF64 inside stays that."""

_TAG = "stembridge render "


@dataclass(frozen=True)
class Rendering:
    """What became of one file.

    Attributes
    ----------
    source
        The file that was read.
    files
        Name to what was written: ``"remix"``, or a file per stem.
    skipped
        Whether an earlier run had written it.
    note
        What could not be kept, for a person to read; None if nothing.
    """

    source: Path
    files: dict[str, Path]
    skipped: bool = False
    note: str | None = None


def list_audio(inputs: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Give every audio file of the inputs, folders searched through, and its place in the output.

    Yields
    ------
    source
        A file.
    relative
        Its path below the folder that was named, or its name.

    Raises
    ------
    InputError
        A folder holds no audio file.
    """
    for path in inputs:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        found = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in FORMATS and file.is_file() and not file.name.startswith(".")
        )
        if not found:
            msg = f"{path}: no audio file in this folder; expected {', '.join(FORMATS)}"
            raise InputError(msg)
        for file in found:
            yield file, file.relative_to(path)


def render_file(
    source: Path,
    target: Path,
    preset: Preset,
    *,
    output: Output = "remix",
    separator: Separator | None = None,
    in_process: bool = False,
    overwrite: bool = False,
) -> Rendering:
    """Render one file.

    Parameters
    ----------
    source
        Any file libsndfile reads.
    target
        The file to write; for stems the folder ``target`` without its suffix gets one file for
        each.
    preset
        Prompts, settings and chains.
    output
        ``"remix"``: the sum of all stems after their chains. ``"stems"``: each by itself.
    separator, in_process
        As for `plugin_host.Separate`.
    overwrite
        Replace files that were made by something else.

    Raises
    ------
    InputError
        The source is bad, the target is in the way or is the source, or the disk is full.
    """
    audio, info = read_audio(source)
    if target.exists() and target.samefile(source):
        msg = f"{source}: would be written over itself; choose another -o"
        raise InputError(msg)
    tag = _tag(audio, info, preset, output)
    names = ["remix"] if output == "remix" else [*(p.stem for p in preset.prompts), "residual"]
    files = {
        name: target if output == "remix" else target.with_suffix("") / f"{name}{target.suffix}"
        for name in names
    }
    present = [path for path in files.values() if path.exists()]
    if len(present) == len(files) and all(comment_of(path) == tag for path in present):
        return Rendering(source, files, skipped=True)
    for path in present:
        if not overwrite and not comment_of(path).startswith(_TAG):
            msg = (
                f"{path} exists and was not rendered by stembridge; pass --overwrite or another -o"
            )
            raise InputError(msg)
    notes = []
    if separator is not None and output == "stems":
        separator = Remembering(separator)
    for name, path in files.items():
        chosen = preset if output == "remix" else solo(preset, name)
        with chain_from_preset(chosen, separator=separator, in_process=in_process) as chain:
            result = chain.process(audio, info.sample_rate)
        notes.append(_write(path, result, info, tag))
    return Rendering(source, files, note=next((note for note in notes if note), None))


def solo(preset: Preset, stem: str) -> Preset:
    """Return the preset with all stems muted but one; effects after the sum stay."""
    from msgspec.structs import replace

    stems = tuple(replace(entry, mute=entry.prompt.stem != stem) for entry in preset.stems)
    return replace(preset, stems=stems, residual=replace(preset.residual, mute=stem != "residual"))


def _tag(audio: Audio, info: AudioInfo, preset: Preset, output: Output) -> str:
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(audio).tobytes())
    digest.update(f"{info.sample_rate} {info.subtype} {output}\n{format_preset(preset)}".encode())
    return _TAG + digest.hexdigest()[:32]


def _write(path: Path, audio: Audio, info: AudioInfo, tag: str) -> str | None:
    file_format, subtype, note = _choose_format(path, audio, info)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            write_audio(
                temporary,
                audio,
                info.sample_rate,
                file_format=file_format,
                subtype=subtype,
                comment=tag,
                metadata=riff.read_metadata(info.path),
            )
            replace_file(temporary, path)
    except OSError as error:
        msg = f"{path.parent}: cannot write there ({error.strerror or error})"
        raise InputError(msg) from error
    return note


def _choose_format(path: Path, audio: Audio, info: AudioInfo) -> tuple[str, str, str | None]:
    wanted = FORMATS.get(path.suffix.lower())
    if wanted is None:
        msg = f"{path}: cannot write {path.suffix or 'a file without suffix'}; expected "
        raise InputError(msg + ", ".join(FORMATS))
    file_format = info.format if {wanted, info.format} <= {"WAV", "WAVEX", "RF64"} else wanted
    subtypes = soundfile.available_subtypes(file_format)
    subtype = info.subtype if info.subtype in subtypes else soundfile.default_subtype(file_format)
    if subtype not in INTEGER_BITS or not clips(audio, subtype):
        return file_format, subtype, None
    if "FLOAT" in subtypes:
        return file_format, "FLOAT", f"written as float32, since it would have clipped as {subtype}"
    msg = f"{path}: the result exceeds full scale and {file_format} cannot hold that; lower a gain"
    raise InputError(msg)


def check_inputs(inputs: Sequence[tuple[Path, Path]]) -> None:
    """Raise before any work if a file cannot be read or two would be written to one place.

    Raises
    ------
    InputError
        Such a file.
    """
    seen: dict[str, Path] = {}
    for source, relative in inputs:
        probe(source)
        earlier = seen.setdefault(str(relative.with_suffix("")).casefold(), source)
        if earlier != source:
            msg = f"{earlier} and {source} would be written to one place; rename one"
            raise InputError(msg)
