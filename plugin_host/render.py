"""Offline rendering: a file through a preset's chain, or into its stems, like for like.

The result has the rate, channels, length, subtype and metadata of its source, is written under a
temporary name, and says in its comment what made it, so that a run that was cut off can go on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bridge.errors import InputError, about
from bridge.separation import Separator
from plugin_host.effects.presets import chain_from_preset
from plugin_host.effects.separators import Remembering
from plugin_host.files import riff
from plugin_host.files.audio_files import (
    FORMATS,
    INTEGER_BITS,
    Audio,
    AudioInfo,
    check_format,
    choose_subtype,
    clips,
    format_of,
    keeps_mask,
    probe,
    read_audio,
    replace_file,
    same_family,
    subtypes,
    temporary_beside,
    write_audio,
)
from plugin_host.files.stem_files import (
    check_targets,
    claim,
    comment_of,
    refuse_sources,
    size_on_disk,
    track_name,
)
from presets import Preset, format_preset

Output = Literal["remix", "stems"]

_TAG = "stembridge render "


@dataclass(frozen=True)
class Rendering:
    """The outcome for one file.

    Attributes
    ----------
    source
        The file that was read.
    files
        Name to what was written: ``"remix"``, or a file per stem.
    skipped
        Whether an earlier run had written it.
    note
        What could not be read or kept, for a person to read; None if nothing.
    """

    source: Path
    files: dict[str, Path]
    skipped: bool = False
    note: str | None = None


def list_audio(inputs: Sequence[Path], output: Path | None = None) -> Iterator[tuple[Path, Path]]:
    """Return every audio file of the inputs, searching folders, and its place in the output.

    Parameters
    ----------
    inputs
        Files and folders.
    output
        The folder where results go, which is not searched where it lies in one of the inputs.

    Yields
    ------
    source
        A file.
    relative
        Its path below the folder that was named, or its name.

    Raises
    ------
    InputError
        A folder holds no audio file, or one in it cannot be read.
    """
    for path in inputs:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        results = None if output is None else output.resolve()
        if results in (path.resolve(), *path.resolve().parents):
            results = None
        found = sorted(
            file
            for file in _walk(path)
            if file.suffix.lower() in FORMATS
            and file.is_file()
            and not file.name.startswith(".")
            and (results is None or results not in file.resolve().parents)
        )
        if not found:
            raise InputError(f"{path}: no audio file in this folder; expected {', '.join(FORMATS)}")
        for file in found:
            yield file, file.relative_to(path)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and below it; what vanishes meanwhile is passed over."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            reason = error.strerror or error
            raise InputError(f"{error.filename}: the folder cannot be read ({reason})") from error

    for root, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            yield Path(root, name)


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
    files = files_of(target, preset, output)
    refuse_sources(files.values(), [source])
    form = _Form.of(target, probe(source))
    audio, info = read_audio(source)
    tag = _tag(audio, info, preset, output)
    present = [path for path in files.values() if path.exists()]
    if len(present) == len(files) and all(comment_of(path) == tag for path in present):
        return Rendering(source, files, skipped=True, note="; ".join(info.notes) or None)
    for path in present:
        _refuse_foreign(path, overwrite=overwrite)
    check_targets(dict.fromkeys(files.values(), form.size_on_disk(info)))
    metadata = riff.read_metadata(source)
    notes: list[str | None] = [*info.notes, *form.notes(info, metadata)]
    if separator is not None and output == "stems":
        separator = Remembering(separator)
    for name, path in files.items():
        chosen = preset if output == "remix" else solo(preset, name)
        with (
            about(source),
            chain_from_preset(chosen, separator=separator, in_process=in_process) as chain,
        ):
            result = chain.process(audio, info.sample_rate)
            notes.append(chain.silence_reason)
        fitted, subtype, note = form.fit(path, result)
        notes.append(note)
        _write(
            path,
            fitted,
            info,
            form.file_format,
            subtype,
            tag=tag,
            overwrite=overwrite,
            metadata=metadata,
        )
    return Rendering(source, files, note="; ".join(dict.fromkeys(filter(None, notes))) or None)


def files_of(target: Path, preset: Preset, output: Output) -> dict[str, Path]:
    """Return which audio goes to which file; see `render_file`."""
    if output == "remix":
        return {"remix": target}
    folder = target.with_name(track_name(target))
    names = [*(prompt.stem for prompt in preset.prompts), "residual"]
    return {name: folder / f"{name}{target.suffix}" for name in names}


def _refuse_foreign(path: Path, *, overwrite: bool) -> None:
    if not overwrite and not comment_of(path).startswith(_TAG):
        raise InputError(
            f"{path} exists and was not rendered by stembridge; pass --overwrite or another -o"
        )


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


def _write(
    path: Path,
    audio: Audio,
    info: AudioInfo,
    file_format: str,
    subtype: str,
    *,
    tag: str,
    overwrite: bool,
    metadata: list[tuple[bytes, bytes]],
) -> None:
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
                metadata=metadata,
                channel_mask=info.channel_mask,
            )
            # Another run may have written it meanwhile.
            if not claim(temporary, path):
                _refuse_foreign(path, overwrite=overwrite)
            replace_file(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot write there ({error.strerror or error})"
        ) from error


@dataclass(frozen=True)
class _Form:
    """The format that a file is written in.

    Attributes
    ----------
    file_format, subtype
        libsndfile's names.
    note
        What the subtype loses; None if nothing.
    """

    file_format: str
    subtype: str
    note: str | None

    @classmethod
    def of(cls, path: Path, info: AudioInfo) -> _Form:
        """Choose what keeps the most of a source; InputError if its format cannot hold it."""
        with about(path):
            wanted = format_of(path.suffix)
        # A .wav file that is RF64 inside stays that.
        if wanted == "WAV" and same_family(wanted, info.format):
            wanted = info.format
        subtype, note = choose_subtype(wanted, info.subtype)
        with about(info.path):
            check_format(wanted, subtype, info.sample_rate, info.channels)
        return cls(wanted, subtype, note)

    def size_on_disk(self, info: AudioInfo) -> int:
        """Return about how many bytes a file will have."""
        return size_on_disk(self.file_format, self.subtype, info.channels, info.samples)

    def notes(self, info: AudioInfo, metadata: list[tuple[bytes, bytes]]) -> list[str]:
        """Return what of the source this has no place for."""
        notes = [] if self.note is None else [self.note]
        if not keeps_mask(self.file_format, info.channels, info.channel_mask):
            notes.append(
                f"{self.file_format} does not say which speakers the channels are for "
                f"(channel mask {info.channel_mask:#x})"
            )
        if metadata and not same_family(self.file_format, "WAV"):
            notes.append(f"{self.file_format} has no place for the broadcast data or cues of WAV")
        return notes

    def fit(self, path: Path, audio: Audio) -> tuple[Audio, str, str | None]:
        """Return the audio, the subtype and a note, where a subtype with a limit is exceeded."""
        if not clips(audio, self.subtype):
            return audio, self.subtype, None
        if "FLOAT" in subtypes(self.file_format):
            note = f"written as float32, since it would have clipped as {self.subtype}"
            return audio, "FLOAT", note
        if np.abs(audio).max() <= 1.0 and self.subtype in INTEGER_BITS:
            # Full scale itself is one step above the largest integer.
            largest = 1.0 - 2.0 ** (1 - INTEGER_BITS[self.subtype])
            return np.minimum(audio, np.float32(largest)), self.subtype, None
        raise InputError(
            f"{path}: the result exceeds full scale and {self.file_format} cannot hold that; "
            "lower a gain"
        )


def target_of(relative: Path, output: Path, suffix: str | None = None) -> Path:
    """Return where a file goes.

    Parameters
    ----------
    relative
        From `list_audio`.
    output
        The folder given with ``-o``.
    suffix
        Another format than the file's, such as ``"flac"``; None for the same.

    Raises
    ------
    InputError
        No such format can be written.
    """
    target = output / relative
    if suffix is None:
        return target
    format_of(suffix)
    return target.with_suffix(f".{suffix.removeprefix('.')}")


def check_inputs(
    files: Sequence[tuple[Path, Path]],
    preset: Preset,
    *,
    output: Output = "remix",
    attempt: Callable[[Path], AbstractContextManager[None]] = lambda _source: nullcontext(),
) -> list[tuple[Path, Path]]:
    """Check before any work that all files can be read, and written where they go.

    Parameters
    ----------
    files
        Every source and its target.
    preset, output
        As for `render_file`.
    attempt
        Given a source, returns the context in which it is looked at. One that swallows what is
        wrong with it has the others go on.

    Returns
    -------
    The files that nothing is wrong with.

    Raises
    ------
    InputError
        A file that cannot be read or written, two that would be written to one place, or too
        little room on the disk.
    """
    good: list[tuple[Path, Path]] = []
    seen: dict[str, Path] = {}
    sizes: dict[Path, int] = {}
    sources = [source for source, _ in files]
    for source, target in files:
        with attempt(source):
            info = probe(source)
            form = _Form.of(target, info)
            written = files_of(target, preset, output).values()
            refuse_sources(written, sources)
            # What an earlier run has written may not have to be written again.
            present = any(path.exists() for path in written)
            sizes[target] = 0 if present else len(written) * form.size_on_disk(info)
            check_targets({target: sizes[target]})
            good.append((source, target))
    for source, target in good:
        place = target if output == "remix" else target.with_name(track_name(target))
        earlier = seen.setdefault(str(place).casefold(), source)
        if earlier != source:
            raise InputError(f"{earlier} and {source} would be written to one place; rename one")
    check_targets({target: sizes[target] for _, target in good})
    return good
