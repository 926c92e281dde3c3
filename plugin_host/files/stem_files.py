"""Stems as files: ``DIR/<track>/<stem>.wav``, all of a track or none, nobody's work overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from bridge.errors import InputError, encodable, reason_of
from bridge.request import RESIDUAL, Prompt
from bridge.scratch import DEFAULT, LongArray, pieces
from plugin_host.files import riff
from plugin_host.files.audio_files import (
    INTEGER_BITS,
    Audio,
    AudioInfo,
    check_format,
    quantise,
    replace_file,
    temporary_beside,
    write_audio,
)
from plugin_host.files.containers import open_sound

PICTURE = "spectrograms.png"
_TAG = "stembridge job "


def job_tag(
    mixture: LongArray, info: AudioInfo, prompts: Sequence[Prompt], settings: Mapping[str, object]
) -> str:
    """Name a job by what decides its stems: audio, prompts and settings.

    The tag is written into the comment of every stem, so that a file made by the same job is
    recognised and may be made again.
    """
    digest = hashlib.sha256()
    for piece in pieces(mixture):
        digest.update(piece)
    described = {"rate": info.sample_rate, "prompts": prompts, "settings": encodable(settings)}
    digest.update(msgspec.json.encode(described, order="deterministic"))
    return _TAG + digest.hexdigest()[:32]


def refuse_foreign_files(paths: Sequence[Path], tag: str, *, overwrite: bool) -> None:
    """Raise if a file that would be written exists and was not made by the same job.

    Parameters
    ----------
    paths
        The files about to be written.
    tag
        From `job_tag`.
    overwrite
        Replace them whatever they are.

    Raises
    ------
    InputError
        A file is in the way.
    """
    for path in paths:
        if not path.exists() or (overwrite and not path.is_dir()):
            continue
        if path.is_dir():
            raise InputError(
                f"{path} is a folder, but a stem of that name is to be written; choose another -o"
            )
        if is_own_picture(path) if path.suffix == ".png" else comment_of(path) == tag:
            continue
        raise InputError(
            f"{path} exists and was not made from the same audio, prompts and settings; "
            "pass --overwrite to replace it, or choose another folder with -o"
        )


def refuse_sources(targets: Iterable[Path], sources: Sequence[Path]) -> None:
    """Raise if a file that would be written is one of those that are read, by whatever name.

    Raises
    ------
    InputError
        Such a file; none may ever be replaced.
    """
    read = {(file.st_dev, file.st_ino): path for path in sources if (file := _status(path))}
    for target in targets:
        file = _status(target)
        source = None if file is None else read.get((file.st_dev, file.st_ino))
        if source is not None:
            raise InputError(f"{source}: would be written over itself; choose another -o")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def is_own_picture(path: Path) -> bool:
    """Whether a picture was drawn by stembridge."""
    with path.open("rb") as file:
        return b"stembridge" in file.read(1024)


def comment_of(path: Path) -> str:
    """Return the comment field of an audio file; empty if it has none or is no audio file."""
    try:
        with open_sound(path) as file:
            return str(file.comment) or riff.read_w64_comment(path)
    # Whatever libsndfile makes of a stranger's file, it is not ours.
    except Exception:
        return ""


@dataclass(frozen=True)
class StemPlan:
    """Where the stems of one track go, and in which subtype.

    Attributes
    ----------
    folder
        ``DIR/<track>``.
    subtype
        ``"FLOAT"`` or the integer subtype asked for.
    channel_mask
        See `AudioInfo`.
    """

    folder: Path
    subtype: str
    channel_mask: int = 0

    def path(self, stem: str) -> Path:
        """Return the file of a stem."""
        return self.folder / f"{stem}.wav"


def plan_tracks(
    infos: Sequence[AudioInfo], output: Path, subtype: str, stems: int = 2
) -> list[StemPlan]:
    """Give every input its folder below ``output``, where its stems can be written.

    Parameters
    ----------
    infos
        Headers of the inputs.
    output
        The folder given with ``-o``.
    subtype
        ``"input"`` for the subtype of each input where WAV has it and it is not a lossy one, else
        a libsndfile name.
    stems
        How many files each gets.

    Raises
    ------
    InputError
        Two inputs have the same track name, or what would be written cannot be: the folder cannot
        be made or has too little room, or WAV does not hold such audio.
    """
    plans: list[StemPlan] = []
    sizes: dict[Path, int] = {}
    seen: dict[str, Path] = {}
    for info in infos:
        track = track_name(info.path)
        earlier = seen.setdefault(track.casefold(), info.path)
        if earlier is not info.path:
            raise InputError(
                f"{earlier} and {info.path} would both write to {output / track}; "
                "rename one, or separate them in two calls with different -o"
            )
        chosen = subtype
        if subtype == "input":
            # WAV has no signed 8 bits, and 32-bit steps are finer than the float32 we compute in.
            chosen = info.subtype if info.subtype in ("PCM_U8", "PCM_16", "PCM_24") else "FLOAT"
        check_format("WAV", chosen, info.sample_rate, info.channels)
        plans.append(StemPlan(output / track, chosen, info.channel_mask))
        sizes[plans[-1].path(RESIDUAL)] = stems * size_on_disk(
            "WAV", chosen, info.channels, info.samples
        )
    check_targets(sizes)
    return plans


def track_name(path: Path) -> str:
    """Return the name of a file without its suffix, unless that would be the folder above."""
    return path.stem if path.stem.strip(".") else path.name


def fit_integers(
    mixture: LongArray, stems: Mapping[str, LongArray], subtype: str, *, sums: bool
) -> tuple[dict[str, LongArray], str]:
    """Round stems to an integer subtype so that the files still sum to the mixture.

    Rounding every stem on its own leaves an error of some steps in the sum. Here the residual
    takes it: it becomes the rounded mixture less the rounded stems, exactly.

    Parameters
    ----------
    mixture
        Float32 ``(channels, samples)``.
    stems
        All stems, the residual included.
    subtype
        The sample format of the files.
    sums
        Whether the stems sum to the mixture (they need not in the mode ``raw``).

    Returns
    -------
    stems
        The stems to write; unchanged for a float subtype.
    subtype
        ``subtype``, or ``"FLOAT"`` where a stem would have clipped.
    """
    if subtype not in INTEGER_BITS:
        return dict(stems), subtype
    rounded = {name: DEFAULT.like(audio) for name, audio in stems.items()}
    for part in DEFAULT.stretches(mixture.shape[1]):
        inside = {name: audio[:, part] for name, audio in stems.items()}
        steps = _steps(mixture[:, part], inside, subtype, sums=sums)
        if steps is None:
            return dict(stems), "FLOAT"
        for name, audio in steps.items():
            rounded[name][:, part] = (audio / 2.0**31).astype(np.float32)
    return rounded, subtype


def _steps(
    mixture: Audio, stems: Mapping[str, Audio], subtype: str, *, sums: bool
) -> dict[str, NDArray[np.int64]] | None:
    """Round a stretch to steps of 2**-31; None if a stem would clip."""
    whole = {name: quantise(audio, subtype) for name, audio in stems.items()}
    rounded_mixture = quantise(mixture, subtype)
    if rounded_mixture is None or any(audio is None for audio in whole.values()):
        return None
    steps = {name: audio.astype(np.int64) for name, audio in whole.items() if audio is not None}
    if sums and RESIDUAL in steps:
        others = sum(
            (audio for name, audio in steps.items() if name != RESIDUAL),
            start=np.zeros(mixture.shape, np.int64),
        )
        steps[RESIDUAL] = rounded_mixture.astype(np.int64) - others
        if np.abs(steps[RESIDUAL]).max(initial=0) >= 1 << 31:
            return None
    return steps


def write_stems(
    plan: StemPlan,
    stems: Mapping[str, LongArray],
    sample_rate: int,
    *,
    subtype: str,
    tag: str,
    overwrite: bool = False,
    metadata: list[tuple[bytes, bytes]] | None = None,
) -> dict[str, Path]:
    """Write the stems of one track under temporary names, then rename them all.

    Another run may be writing to the same folder: each name goes to one of them.

    Parameters
    ----------
    plan
        Where to.
    stems
        Name to float32 ``(channels, samples)``; the residual included.
    sample_rate
        Samples per second.
    subtype
        libsndfile's name.
    tag
        From `job_tag`.
    overwrite
        Replace files that were made by something else.
    metadata
        Chunks to copy into the files.

    Returns
    -------
    Stem name to file.

    Raises
    ------
    InputError
        The folder cannot be made, or a file not be written or is in the way. Nothing is left
        behind then, nor when the call is interrupted.
    """
    paths = {name: plan.path(name) for name in stems}
    with _new_folder(plan.folder), contextlib.ExitStack() as stack:
        try:
            moves = []
            for name, audio in stems.items():
                temporary = stack.enter_context(temporary_beside(paths[name]))
                write_audio(
                    temporary,
                    audio,
                    sample_rate,
                    subtype=subtype,
                    comment=tag,
                    metadata=metadata,
                    channel_mask=plan.channel_mask,
                )
                moves.append((temporary, paths[name]))
        except OSError as error:
            raise InputError(
                f"{plan.folder}: cannot write there ({error.strerror or error})"
            ) from error
        _rename_all(moves, tag, overwrite=overwrite)
    return paths


def write_picture(target: Path, draw: Callable[[], bytes]) -> str | None:
    """Draw a picture and write it, whole or not at all; return why not, if there is none.

    A picture is an extra: whatever is wrong with it costs nothing else.
    """
    try:
        picture = draw()
        with temporary_beside(target) as temporary:
            temporary.write_bytes(picture)
            replace_file(temporary, target)
    except Exception as error:
        return f"no picture {target.name} ({type(error).__name__}: {error})"
    return None


def _rename_all(moves: Sequence[tuple[Path, Path]], tag: str, *, overwrite: bool) -> None:
    created: list[Path] = []
    try:
        for temporary, target in moves:
            if claim(temporary, target):
                created.append(target)
            else:
                refuse_foreign_files([target], tag, overwrite=overwrite)
            replace_file(temporary, target)
    except BaseException:
        for target in created:
            target.unlink(missing_ok=True)
        raise


def claim(temporary: Path, target: Path) -> bool:
    """Give a file its name unless something has it, in one step, unlike looking before renaming."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return not target.exists()
    return True


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; take back what was made if the block fails."""
    made: list[Path] = []
    try:
        for path in reversed([folder, *folder.parents]):
            if not path.exists():
                # Another run may make it in this moment.
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    made.append(path)
        if not folder.is_dir():
            raise InputError(f"{folder}: expected a folder, got a file; choose another -o")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot make the folder ({error.strerror or error}); choose another -o"
        ) from error
    try:
        yield
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4,
          "FLOAT": 4, "DOUBLE": 8}  # fmt: skip
_COMPRESSED = ("FLAC", "OGG", "MP3")
_LONGEST_NAME_BYTES = 255


def size_on_disk(file_format: str, subtype: str, channels: int, samples: int) -> int:
    """Return about how many bytes a file will have; 0 for formats that compress."""
    return 0 if file_format in _COMPRESSED else _BYTES.get(subtype, 0) * channels * samples


def check_targets(sizes: Mapping[Path, int]) -> None:
    """Raise if one of the files cannot be written.

    Parameters
    ----------
    sizes
        File to about how many bytes it will have. Neither file nor folder need exist.

    Raises
    ------
    InputError
        A folder cannot be made or written to, a name is too long, or the disk has too little
        room for all of them.
    """
    needed: dict[int, int] = {}
    for path, size in sizes.items():
        folder = _existing(path.parent)
        longest = max(len(os.fsencode(part)) for part in path.parts[-2:])
        if longest > _LONGEST_NAME_BYTES:
            raise InputError(
                f"{path}: a name of {longest} bytes is too long; rename the file or the stem"
            )
        try:
            device = folder.stat().st_dev
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be looked at ({reason_of(error)}); choose another -o"
            ) from error
        needed[device] = needed.get(device, 0) + size
        if needed[device] > free:
            raise InputError(
                f"{folder}: about {needed[device] / 1e6:.0f} MB are needed there and "
                f"{free / 1e6:.0f} MB are free; make room or choose another -o"
            )


def _existing(folder: Path) -> Path:
    """Return the nearest folder that exists; InputError if nothing can be made in it."""
    for path in (folder, *folder.parents):
        try:
            if not path.exists() and not path.is_symlink():
                continue
        except OSError as error:
            raise InputError(
                f"{folder}: cannot make the folder ({reason_of(error)}); choose another -o"
            ) from error
        if not path.is_dir():
            raise InputError(f"{path}: expected a folder, got a file; choose another -o")
        if not os.access(path, os.W_OK | os.X_OK):
            raise InputError(f"{path}: cannot write there (Permission denied); choose another -o")
        return path
    raise InputError(f"{folder}: no such folder can be made; choose another -o")
