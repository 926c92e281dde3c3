"""Audio files in and out through libsndfile, whole, checked and never half-written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from bridge.errors import InputError
from plugin_host import riff

Audio = NDArray[np.float32]

INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""Bits of each integer subtype of libsndfile."""

_RIFF_LIMIT_BYTES = (1 << 32) - (1 << 20)


@dataclass(frozen=True)
class AudioInfo:
    """What a file says about itself.

    Attributes
    ----------
    path
        Where it was read from.
    sample_rate
        Samples per second and channel.
    channels, samples
        Shape of the audio.
    format, subtype
        libsndfile's names, such as ``"WAV"`` and ``"PCM_24"``.
    """

    path: Path
    sample_rate: int
    channels: int
    samples: int
    format: str
    subtype: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Read the header of an audio file.

    Parameters
    ----------
    path
        A file in any format libsndfile reads: WAV, RF64, AIFF, FLAC, Ogg, MP3, CAF and others.

    Raises
    ------
    InputError
        The file is missing, a folder, not readable, not audio, or has no samples.
    """
    path = Path(path)
    try:
        if not path.exists():
            msg = f"{path}: no such file; check the name"
            raise InputError(msg)
        if not path.is_file():
            kind = "a folder; name the files in it" if path.is_dir() else "something else"
            msg = f"{path}: expected an audio file, got {kind}"
            raise InputError(msg)
        with path.open("rb"):
            pass
        info = soundfile.info(os.fspath(path))
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error})"
        raise InputError(msg) from error
    except (soundfile.SoundFileError, RuntimeError) as error:
        msg = (
            f"{path}: not audio that libsndfile can read; expected WAV, FLAC, AIFF, Ogg, MP3 "
            "or CAF, so convert it first"
        )
        raise InputError(msg) from error
    if info.frames == 0:
        msg = f"{path}: the file holds no samples"
        raise InputError(msg)
    return AudioInfo(path, info.samplerate, info.channels, info.frames, info.format, info.subtype)


def read_audio(path: str | os.PathLike[str]) -> tuple[Audio, AudioInfo]:
    """Read a whole audio file.

    Returns
    -------
    audio
        Float32 of shape ``(channels, samples)``; full scale is 1.
    info
        The file's header.

    Raises
    ------
    InputError
        As for `probe`; also a file that breaks off, or NaN or infinite samples.
    """
    info = probe(path)
    try:
        frames, _ = soundfile.read(os.fspath(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        msg = f"{path}: the audio cannot be decoded ({error}); the file may be damaged"
        raise InputError(msg) from error
    audio = np.ascontiguousarray(frames.T)
    if audio.shape[1] == 0:
        msg = f"{path}: the file holds no samples"
        raise InputError(msg)
    bad = ~np.isfinite(audio)
    if bad.any():
        channel, sample = (int(index[0]) for index in np.nonzero(bad))
        msg = (
            f"{path}: NaN or infinite samples ({int(bad.sum())} of them, the first in channel "
            f"{channel + 1} at {sample / info.sample_rate:.3f} s); export the file again"
        )
        raise InputError(msg)
    # What was decoded counts: the header of a compressed file may promise another length.
    return audio, AudioInfo(
        info.path, info.sample_rate, audio.shape[0], audio.shape[1], info.format, info.subtype
    )


def quantise(audio: Audio, subtype: str) -> NDArray[np.int32] | None:
    """Round audio to the steps of an integer subtype, left-aligned in 32 bits.

    Audio read from such a file comes back unchanged, which libsndfile's own conversion of floats
    does not promise (it scales reading and writing differently).

    Parameters
    ----------
    audio
        Float32 of any shape.
    subtype
        A key of `INTEGER_BITS`.

    Returns
    -------
    The samples as int32, or None if one of them would clip.
    """
    bits = INTEGER_BITS[subtype]
    steps = np.rint(audio.astype(np.float64) * 2.0 ** (bits - 1))
    limit = 2.0 ** (bits - 1)
    if steps.size and (steps.max() >= limit or steps.min() < -limit):
        return None
    return (steps.astype(np.int64) << (32 - bits)).astype(np.int32)


def clips(audio: Audio, subtype: str) -> bool:
    """Whether a sample would clip in an integer subtype."""
    return quantise(audio, subtype) is None


def write_audio(
    path: Path,
    audio: Audio,
    sample_rate: int,
    *,
    file_format: str = "WAV",
    subtype: str = "FLOAT",
    comment: str = "",
    metadata: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Write an audio file and flush it to the disk.

    WAV files above 4 GiB become RF64. Equal arguments give equal bytes. Not atomic on its own:
    see `temporary_beside` and `plugin_host.stem_files`.

    Parameters
    ----------
    path
        The file to create or replace.
    audio
        Float32 of shape ``(channels, samples)``.
    sample_rate
        Samples per second.
    file_format, subtype
        libsndfile's names.
    comment
        Text for the file's comment field, where the format has one.
    metadata
        WAV only: chunks from `plugin_host.riff.read_metadata` to append.

    Raises
    ------
    InputError
        The disk is full, the folder is not writable, the format cannot hold such audio, or an
        integer subtype would clip.
    """
    samples: NDArray[np.float32] | NDArray[np.int32] | None = audio
    if subtype in INTEGER_BITS:
        samples = quantise(audio, subtype)
    if samples is None:
        msg = f"{path.name}: the audio exceeds full scale and would clip as {subtype}; use FLOAT"
        raise InputError(msg)
    is_wave = file_format in ("WAV", "WAVEX", "RF64")
    if file_format in ("WAV", "WAVEX") and audio.size * 8 > _RIFF_LIMIT_BYTES:
        file_format = "RF64"
    try:
        with soundfile.SoundFile(
            os.fspath(path),
            "w",
            samplerate=sample_rate,
            channels=audio.shape[0],
            format=file_format,
            subtype=subtype,
        ) as file:
            if comment:
                file.comment = comment
            file.write(samples.T)
        if is_wave:
            riff.clear_peak_time(path)
            if metadata:
                riff.append_chunks(path, metadata)
        with path.open("r+b") as raw:
            os.fsync(raw.fileno())
    except OSError as error:
        msg = f"{path.parent}: cannot write {path.name} ({error.strerror or error})"
        raise InputError(msg) from error
    except (soundfile.SoundFileError, RuntimeError, AssertionError) as error:
        msg = (
            f"{path.parent}: cannot write {audio.shape[0]} channels at {sample_rate} Hz as "
            f"{file_format} {subtype} ({error}); is the disk full?"
        )
        raise InputError(msg) from error


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``target``; what is left there at the end is removed.

    Being in the same folder, the file can be moved onto ``target`` by one rename.
    """
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem[:40]}.", suffix=f".part{target.suffix}", dir=target.parent
    )
    os.close(handle)
    temporary = Path(name)
    # mkstemp makes the file private; give it the mode any new file of this user would have.
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(temporary: Path, target: Path) -> None:
    """Rename ``temporary`` to ``target`` and make the rename durable."""
    temporary.replace(target)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
