"""Stems as files: ``DIR/<track>/<stem>.wav``, all of a track or none, nobody's work overwritten."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import soundfile

from bridge.errors import InputError
from bridge.request import RESIDUAL, Prompt
from plugin_host.audio_files import (
    INTEGER_BITS,
    Audio,
    AudioInfo,
    quantise,
    replace_file,
    temporary_beside,
    write_audio,
)

PICTURE = "spectrograms.png"
_TAG = "stembridge job "


def job_tag(
    mixture: Audio, info: AudioInfo, prompts: Sequence[Prompt], settings: Mapping[str, object]
) -> str:
    """Name a job by what decides its stems: audio, prompts and settings.

    The tag is written into the comment of every stem, so that a file made by the same job is
    recognised and may be made again.
    """
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(mixture).tobytes())
    described = {"rate": info.sample_rate, "prompts": prompts, "settings": settings}
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
            msg = f"{path} is a folder, but a stem of that name is to be written; choose another -o"
            raise InputError(msg)
        if _drawn_by_us(path) if path.name == PICTURE else comment_of(path) == tag:
            continue
        msg = (
            f"{path} exists and was not made from the same audio, prompts and settings; "
            "pass --overwrite to replace it, or choose another folder with -o"
        )
        raise InputError(msg)


def _drawn_by_us(path: Path) -> bool:
    with path.open("rb") as file:
        return b"stembridge" in file.read(1024)


def comment_of(path: Path) -> str:
    """Return the comment field of an audio file; empty if it has none or is no audio file."""
    try:
        with soundfile.SoundFile(path) as file:
            return str(file.comment)
    except (soundfile.SoundFileError, RuntimeError, OSError):
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
    """

    folder: Path
    subtype: str

    def path(self, stem: str) -> Path:
        """Return the file of a stem."""
        return self.folder / f"{stem}.wav"


def plan_tracks(infos: Sequence[AudioInfo], output: Path, subtype: str) -> list[StemPlan]:
    """Give every input its folder below ``output``.

    Parameters
    ----------
    infos
        Headers of the inputs.
    output
        The folder given with ``-o``.
    subtype
        ``"input"`` for the subtype of each input where WAV has it and it is not a lossy one, else
        a libsndfile name.

    Raises
    ------
    InputError
        Two inputs have the same track name.
    """
    plans: list[StemPlan] = []
    seen: dict[str, Path] = {}
    for info in infos:
        track = info.path.stem or info.path.name
        earlier = seen.setdefault(track.casefold(), info.path)
        if earlier is not info.path:
            msg = (
                f"{earlier} and {info.path} would both write to {output / track}; "
                "rename one, or separate them in two calls with different -o"
            )
            raise InputError(msg)
        chosen = subtype
        if subtype == "input":
            # WAV has no signed 8 bits, and 32-bit steps are finer than the float32 we compute in.
            chosen = info.subtype if info.subtype in ("PCM_U8", "PCM_16", "PCM_24") else "FLOAT"
        plans.append(StemPlan(output / track, chosen))
    return plans


def fit_integers(
    mixture: Audio, stems: Mapping[str, Audio], subtype: str, *, sums: bool
) -> tuple[dict[str, Audio], str]:
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
        What the files shall have.
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
    whole = {name: quantise(audio, subtype) for name, audio in stems.items()}
    rounded_mixture = quantise(mixture, subtype)
    if rounded_mixture is None or any(audio is None for audio in whole.values()):
        return dict(stems), "FLOAT"
    steps = {name: audio.astype(np.int64) for name, audio in whole.items() if audio is not None}
    if sums and RESIDUAL in steps:
        others = sum(
            (audio for name, audio in steps.items() if name != RESIDUAL),
            start=np.zeros(mixture.shape, np.int64),
        )
        steps[RESIDUAL] = rounded_mixture.astype(np.int64) - others
        if np.abs(steps[RESIDUAL]).max(initial=0) >= 1 << 31:
            return dict(stems), "FLOAT"
    return {name: (audio / 2.0**31).astype(np.float32) for name, audio in steps.items()}, subtype


def write_stems(
    plan: StemPlan,
    stems: Mapping[str, Audio],
    sample_rate: int,
    *,
    subtype: str,
    tag: str,
    metadata: list[tuple[bytes, bytes]] | None = None,
    picture: bytes | None = None,
) -> dict[str, Path]:
    """Write the stems of one track under temporary names, then rename them all.

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
    metadata
        Chunks to copy into the files.
    picture
        A PNG to write beside them.

    Returns
    -------
    Stem name to file.

    Raises
    ------
    InputError
        The folder cannot be made or a file not be written. Nothing is left behind then, nor when
        the call is interrupted.
    """
    paths = {name: plan.path(name) for name in stems}
    with _new_folder(plan.folder), contextlib.ExitStack() as stack:
        try:
            moves = []
            for name, audio in stems.items():
                temporary = stack.enter_context(temporary_beside(paths[name]))
                write_audio(
                    temporary, audio, sample_rate, subtype=subtype, comment=tag, metadata=metadata
                )
                moves.append((temporary, paths[name]))
            if picture is not None:
                target = plan.folder / PICTURE
                temporary = stack.enter_context(temporary_beside(target))
                temporary.write_bytes(picture)
                moves.append((temporary, target))
        except OSError as error:
            msg = f"{plan.folder}: cannot write there ({error.strerror or error})"
            raise InputError(msg) from error
        _rename_all(moves)
    return paths


def _rename_all(moves: Sequence[tuple[Path, Path]]) -> None:
    created = [target for _, target in moves if not target.exists()]
    try:
        for temporary, target in moves:
            replace_file(temporary, target)
    except BaseException:
        for target in created:
            target.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; take back what was made if the block fails."""
    made: list[Path] = []
    try:
        for path in reversed([folder, *folder.parents]):
            if not path.exists():
                path.mkdir()
                made.append(path)
        if not folder.is_dir():
            msg = f"{folder}: expected a folder, got a file; choose another -o"
            raise InputError(msg)
    except OSError as error:
        msg = f"{folder}: cannot make the folder ({error.strerror or error}); choose another -o"
        raise InputError(msg) from error
    try:
        yield
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
