"""Audio files in and out through libsndfile, whole, checked and never half-written.

What each format can hold is asked of libsndfile and not remembered.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from bridge.errors import InputError, foreign_errors, reason_of
from bridge.scratch import DEFAULT, LongArray
from plugin_host.files import riff
from plugin_host.files.containers import OpenSound, Part, Splice, find_parts, open_sound

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".aiff": "AIFF", ".aif": "AIFF", ".ogg": "OGG",
           ".mp3": "MP3", ".rf64": "RF64", ".w64": "W64"}  # fmt: skip
"""What a suffix is written as."""

INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""Bits of each integer subtype of libsndfile."""

UNLIMITED = ("FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II",
             "MPEG_LAYER_III")  # fmt: skip
"""Subtypes that hold audio beyond full scale; others clip, or wrap round (A-law and mu-law)."""

_WAVE = ("WAV", "WAVEX", "RF64")
_LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
_BITS = {
    **INTEGER_BITS, "ALAC_16": 16, "ALAC_20": 24, "ALAC_24": 24, "ALAC_32": 32, "DPCM_8": 8,
    "DPCM_16": 16, "DWVW_12": 16, "DWVW_16": 16, "DWVW_24": 24, **dict.fromkeys(_LOSSY, 24),
}  # fmt: skip
"""Bits that keep all of a subtype. What is not here, such as ADPCM, is kept by 16."""

_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400,
             192000)  # fmt: skip
_CHANNELS = (1, 2, 4, 6, 8, 16, 32, 64)
_TRIED_SAMPLES = 1010  # even, since 8-bit AIFF is padded, and no whole number of blocks


_VORBIS_CHANNELS = 255
_VORBIS_RATE_HZ = 200_000


@functools.cache
def refusal(file_format: str, subtype: str, sample_rate: int, channels: int) -> str | None:
    """Return why libsndfile refuses to write such audio, in its words; None if it writes it."""
    # libsndfile does not ask these of libvorbis, and writing crashes the process.
    if subtype == "VORBIS" and channels > _VORBIS_CHANNELS:
        return f"Vorbis has at most {_VORBIS_CHANNELS} channels"
    if subtype == "VORBIS" and sample_rate > _VORBIS_RATE_HZ:
        return f"Vorbis goes up to {_VORBIS_RATE_HZ} Hz"
    memory = io.BytesIO()
    try:
        with soundfile.SoundFile(
            memory, "w", sample_rate, channels, subtype, format=file_format
        ) as file:
            file.write(np.zeros((_TRIED_SAMPLES, channels), np.float32))
        with OpenSound(Splice(memory, (range(memory.seek(0, os.SEEK_END)),))) as file:
            written = (file.samplerate, file.channels)
    # Whatever it raises, it does not write this.
    except Exception as error:
        return reason_of(error)
    if written != (sample_rate, channels):
        return f"it would become {written[1]} channels at {written[0]} Hz"
    return None


@functools.cache
def subtypes(file_format: str) -> tuple[str, ...]:
    """Return the subtypes of a format that can be written and keep the length of the audio.

    MP3, which counts in blocks, keeps no length but is written all the same.
    """
    return tuple(
        subtype
        for subtype in soundfile.available_subtypes(file_format)
        if any(
            refusal(file_format, subtype, rate, 1) is None
            and (file_format == "MP3" or _keeps_length(file_format, subtype, rate))
            for rate in (44100, 48000)
        )
    )


def _keeps_length(file_format: str, subtype: str, sample_rate: int) -> bool:
    memory = io.BytesIO()
    soundfile.write(
        memory, np.zeros(_TRIED_SAMPLES, np.float32), sample_rate, subtype, format=file_format
    )
    memory.seek(0)
    return int(soundfile.info(memory).frames) == _TRIED_SAMPLES


def format_of(suffix: str) -> str:
    """Return the format that a suffix stands for, such as ``.flac`` or ``flac``.

    Raises
    ------
    InputError
        Nothing is written under such a suffix.
    """
    known = FORMATS.get(f".{suffix.lower().removeprefix('.')}")
    if known is None:
        shown = f"{suffix!r} is no format that can be written" if suffix else "no format is named"
        raise InputError(f"{shown}; expected {', '.join(name[1:] for name in FORMATS)}")
    return known


def check_format(file_format: str, subtype: str, sample_rate: int, channels: int) -> None:
    """Raise if a format cannot hold such audio, and say which one can.

    Raises
    ------
    InputError
        What the format cannot hold, and what it or others can.
    """
    reason = refusal(file_format, subtype, sample_rate, channels)
    if reason is None:
        return
    rates = [rate for rate in _RATES_HZ if refusal(file_format, subtype, rate, channels) is None]
    counts = [n for n in _CHANNELS if refusal(file_format, subtype, sample_rate, n) is None]
    fitting = [
        suffix[1:]
        for suffix, other in FORMATS.items()
        if any(refusal(other, each, sample_rate, channels) is None for each in subtypes(other)[:1])
    ]
    if rates:
        what = f"{sample_rate} Hz (of the usual rates {', '.join(map(str, rates))})"
    elif counts:
        what = f"{channels} channels (up to {max(counts)})"
    else:
        what = f"{channels} channels at {sample_rate} Hz ({reason})"
    advice = f"choose {', '.join(fitting)}" if fitting else "resample it or take fewer channels"
    raise InputError(f"{file_format} cannot hold {what}; {advice}")


def choose_subtype(file_format: str, source: str) -> tuple[str, str | None]:
    """Choose the subtype that keeps the most of a source.

    Parameters
    ----------
    file_format
        libsndfile's name of what is written.
    source
        libsndfile's name of the subtype that was read.

    Returns
    -------
    subtype
        The source's own where the format has it, else the smallest that keeps all of it, else the
        best there is.
    note
        What is lost, for a person to read; None if nothing, or if the format itself is lossy.
    """
    there = subtypes(file_format)
    if source in there:
        return source, None
    integers = sorted((INTEGER_BITS[name], name) for name in there if name in INTEGER_BITS)
    if not integers:
        return str(soundfile.default_subtype(file_format)), None
    if source in ("FLOAT", "DOUBLE"):
        if "FLOAT" in there:
            return "FLOAT", None
        wanted = 32
    else:
        wanted = _BITS.get(source, 16)
    enough = [name for bits, name in integers if bits >= wanted]
    if enough:
        return enough[0], None if source not in ("FLOAT", "DOUBLE") else "written as 32 bits"
    bits, best = integers[-1]
    return best, f"written with {bits} bits, the most that {file_format} holds"


def same_family(first: str, second: str) -> bool:
    """Whether two formats are both WAV, so that a file may stay what it is."""
    return first in _WAVE and second in _WAVE


Audio = NDArray[np.float32]

T = TypeVar("T")

_BLOCK_SAMPLES = 4096  # a block of FLAC, so that damage costs no more than the block it is in
_PLAIN_BLOCK_SAMPLES = 1 << 14  # of what has no blocks that could be damaged: calls take time too
_WRITTEN_SAMPLES = 1 << 16  # libvorbis keeps a whole write on the stack
_UNKNOWN_SAMPLES = 1 << 60
_MOST_PER_BYTE = 1 << 13
_RIFF_LIMIT_BYTES = (1 << 32) - (1 << 20)

_WAVE_FROM_VORBIS = {
    3: (0, 2, 1),
    5: (0, 2, 1, 3, 4),
    6: (0, 2, 1, 5, 3, 4),
    7: (0, 2, 1, 6, 5, 3, 4),
    8: (0, 2, 1, 7, 5, 6, 3, 4),
}
"""Where the channels of WAV and FLAC lie in Ogg, by their number; alike for all others."""

_DEFAULT_MASKS = {1: 0x4, 2: 0x3, 3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}
"""The speakers of so many channels in Ogg and FLAC, as bits of a WAV file's channel mask."""

_SIDE_5_1 = 0x60F


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
    channel_mask
        Which speaker each channel is for, as the bits of a WAV file; 0 if the file does not say.
    notes
        What is missing from the file or was mended, for a person to read; known once it was read
        to its end.
    """

    path: Path
    sample_rate: int
    channels: int
    samples: int
    format: str
    subtype: str
    channel_mask: int = 0
    notes: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Read what the header of an audio file tells; all of the file where that is not enough.

    Parameters
    ----------
    path
        A file in any format libsndfile reads: WAV, RF64, AIFF, FLAC, Ogg, MP3, CAF and others.

    Raises
    ------
    InputError
        The file is missing, a folder, not readable, not audio, or has no samples.
    """
    return AudioReader(path).info


def read_audio(path: str | os.PathLike[str]) -> tuple[Audio, AudioInfo]:
    """Read a whole audio file into memory.

    Returns
    -------
    audio
        Float32 of shape ``(channels, samples)``; full scale is 1.
    info
        What was read. A file that breaks off or is damaged gives what is there, and ``notes``
        that say so.

    Raises
    ------
    InputError
        As for `probe`; also if nothing can be decoded, or samples are NaN or infinite.
    """
    reader = AudioReader(path)
    # Straight to where it stays: a second copy costs more time than decoding does.
    audio = np.empty((reader.info.channels, reader.info.samples), np.float32)
    read = 0
    for block in reader.blocks():
        end = read + block.shape[1]
        if end > audio.shape[1]:  # a header that promised too little
            audio = np.pad(audio, ((0, 0), (0, max(end, 2 * audio.shape[1]) - audio.shape[1])))
        audio[:, read:end] = block
        read = end
    return (audio if read == audio.shape[1] else audio[:, :read].copy()), reader.info


def read_long_audio(path: str | os.PathLike[str]) -> tuple[LongArray, AudioInfo]:
    """Read a whole audio file, a long one to where it takes no memory; see `read_audio`."""
    reader = AudioReader(path)
    channels, expected = reader.info.channels, reader.info.samples
    audio = DEFAULT.zeros((channels, expected))
    read = 0
    for blocks in _batched(reader.blocks()):
        block = np.concatenate(blocks, axis=1)
        end = read + block.shape[1]
        if end > audio.shape[1]:  # a header that promised too little
            audio = _resized(audio, max(end, 2 * audio.shape[1]))
        audio[:, read:end] = block
        read = end
    return (audio if read == audio.shape[1] else _resized(audio, read)), reader.info


def _batched(blocks: Iterator[Audio]) -> Iterator[list[Audio]]:
    """Write many blocks at a time: each of them is short, and every write to a file costs."""
    while some := list(itertools.islice(blocks, 64)):
        yield some


def _resized(audio: LongArray, samples: int) -> LongArray:
    """Copy audio and cut it off, or follow it with silence."""
    resized = DEFAULT.zeros((audio.shape[0], samples))
    for part in DEFAULT.stretches(min(samples, audio.shape[1])):
        resized[:, part] = audio[:, part]
    return resized


#: Formats whose files tell how long they are, or where they end.
_MEASURED = frozenset(
    {"WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC", "OGG", "MP3", "CAF", "AU", "SVX", "MAT4", "VOC",
     "WVE"}
)  # fmt: skip


class AudioReader:
    """An audio file that is read by blocks, to its real end rather than to where its header says.

    Parameters
    ----------
    path
        See `probe`.

    Raises
    ------
    InputError
        As for `probe`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        _check_readable(self._path)
        with foreign_errors(f"{self._path}: cannot be read"):
            self._parts = find_parts(self._path)
        self._info = self._probe()

    @property
    def info(self) -> AudioInfo:
        """What the headers tell; after `blocks` came to the end, what was there."""
        return self._info

    def blocks(self) -> Iterator[Audio]:
        """Yield all of the audio, in order, as float32 ``(channels, samples)``.

        Raises
        ------
        InputError
            Nothing can be decoded, the disk fails, or samples are NaN or infinite.
        """
        read = 0
        lengths: list[tuple[int, int]] = []
        notes = [note for part in self._parts for note in part.notes]
        order = _vorbis_order(self._info)
        for part in self._parts:
            progress = _Progress()
            for frames in self._decode(part, progress):
                block = np.ascontiguousarray(frames.T if order is None else frames.T[order,])
                self._check_finite(block, read)
                read += block.shape[1]
                yield block
            lengths.append((progress.samples, progress.expected(part)))
            if progress.failure or progress.samples < lengths[-1][1] or not part.ends:
                notes.append(self._describe_gap(lengths, progress.failure))
        if read == 0:
            raise self._nothing()
        if self._info.format not in _MEASURED:
            notes.append(f"{self._info.format} does not tell whether the end of the file is there")
        self._info = replace(self._info, samples=read, notes=tuple(notes))

    def _decode(self, part: Part, progress: _Progress) -> Iterator[Audio]:
        with self._open(part) as (sound, run):
            progress.announced = sound.frames
            progress.exact = bool(part.pieces) or sound.format != "MP3"
            skip = part.skip_samples
            plain = sound.format in ("WAV", "WAVEX", "RF64", "W64", "AIFF")
            samples = _PLAIN_BLOCK_SAMPLES if plain else _BLOCK_SAMPLES
            while True:
                try:
                    frames = run(lambda: sound.read(samples, dtype="float32", always_2d=True))
                except InputError:
                    raise
                except Exception as error:
                    if progress.samples == 0:
                        msg = f"{self._path}: the audio cannot be decoded ({reason_of(error)})"
                        raise InputError(msg + "; the file may be damaged") from error
                    progress.failure = reason_of(error)
                    return
                if not len(frames):
                    return
                frames, skip = frames[skip:], max(0, skip - len(frames))
                progress.samples += len(frames)
                yield frames

    @contextlib.contextmanager
    def _open(self, part: Part) -> Iterator[tuple[OpenSound, Callable[[Callable[[], T]], T]]]:
        """Open a part; also give what runs a call of the decoder.

        A part that is spliced has the decoder call Python. On the main thread Ctrl-C could strike
        there, and would be lost in the C code in between.
        """
        with contextlib.ExitStack() as stack:
            if not part.pieces:
                yield stack.enter_context(open_sound(self._path)), lambda call: call()
                return
            file = stack.enter_context(self._path.open("rb"))
            spliced = Splice(file, part.pieces)
            thread = stack.enter_context(ThreadPoolExecutor(1, "audio-file"))

            def run(call: Callable[[], T]) -> T:
                result = thread.submit(call).result()
                if spliced.error is not None:
                    raise InputError(
                        f"{self._path}: cannot be read ({reason_of(spliced.error)})"
                    ) from spliced.error
                return result

            yield stack.enter_context(run(lambda: open_sound(self._path, spliced))), run

    def _probe(self) -> AudioInfo:
        infos = []
        for part in self._parts:
            with self._refusing_what_is_no_audio(), self._open(part) as (sound, _):
                samples = int(sound.frames) - part.skip_samples
                announced = part.announced_samples or _UNKNOWN_SAMPLES
                # No codec packs more into a byte; what announces more is counted.
                if samples > _UNKNOWN_SAMPLES and announced < _MOST_PER_BYTE * part.size_bytes:
                    samples = announced
                infos.append(
                    AudioInfo(
                        self._path,
                        int(sound.samplerate),
                        int(sound.channels),
                        samples,
                        str(sound.format),
                        str(sound.subtype),
                    )
                )
            if samples > _UNKNOWN_SAMPLES:
                counted = sum(len(frames) for frames in self._decode(part, _Progress()))
                infos[-1] = replace(infos[-1], samples=counted)
        first = infos[0]
        different = {(info.sample_rate, info.channels) for info in infos}
        if len(different) > 1:
            told = ", ".join(f"{channels} channels at {rate} Hz" for rate, channels in different)
            raise InputError(
                f"{self._path}: sections of different kinds are joined in it ({told}); split it"
            )
        samples = sum(info.samples for info in infos)
        if samples <= 0:
            raise self._nothing()
        mask = riff.read_channel_mask(self._path)
        if first.format in ("OGG", "FLAC") and not mask:
            mask = _DEFAULT_MASKS.get(first.channels, 0)
        return replace(first, samples=samples, channel_mask=mask)

    @contextlib.contextmanager
    def _refusing_what_is_no_audio(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            msg = (
                f"{self._path}: not audio that libsndfile can read; expected WAV, FLAC, AIFF, Ogg, "
                "MP3 or CAF, so convert it first"
            )
            if self._path.suffix.lower() == ".raw":
                msg += ": raw samples tell neither rate nor channels"
            raise InputError(msg) from error

    def _nothing(self) -> InputError:
        return InputError(f"{self._path}: the file holds no samples")

    def _check_finite(self, block: Audio, before: int) -> None:
        finite = np.isfinite(block)
        if not finite.all():
            bad = ~finite
            sample = int(np.nonzero(bad.any(axis=0))[0][0])
            channel = int(np.nonzero(bad[:, sample])[0][0])
            raise InputError(
                f"{self._path}: NaN or infinite samples, the first in channel {channel + 1} at "
                f"{(before + sample) / self._info.sample_rate:.3f} s; export the file again"
            )

    def _describe_gap(self, lengths: Sequence[tuple[int, int]], failure: str | None) -> str:
        """Say where sound is missing, from what each part so far has and should have."""
        rate = self._info.sample_rate
        there_s = sum(there for there, _ in lengths) / rate
        whole = sum(whole for _, whole in lengths)
        whole_s = whole / rate
        why = "" if failure is None else f" ({failure})"
        if whole_s <= there_s:
            return f"the file breaks off after {there_s:.1f} s{why}: its end is missing"
        digits = 1 if round(there_s, 1) < round(whole_s, 1) else 4
        return (
            f"the file breaks off after {there_s:.{digits}f} of {whole_s:.{digits}f} s{why}: "
            "the rest is missing or damaged"
        )


@dataclass
class _Progress:
    """How far a part was decoded.

    Attributes
    ----------
    samples
        Decoded so far.
    announced
        How many the decoder expects.
    exact
        Whether that is more than an estimate.
    failure
        Why it could not go on; None if it came to an end.
    """

    samples: int = 0
    announced: int = 0
    exact: bool = True
    failure: str | None = None

    def expected(self, part: Part) -> int:
        """Return how many samples the part should have had; at least those that it had."""
        found = [self.samples, part.announced_samples or round(self.samples / part.share)]
        if self.exact and self.announced < _UNKNOWN_SAMPLES and part.share == 1.0:
            found.append(self.announced - part.skip_samples)
        if self.samples < part.least_samples:
            found.append(part.least_samples)
        return max(found)


def _check_readable(path: Path) -> None:
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; check the name")
        if not path.is_file():
            kind = "a folder; name the files in it" if path.is_dir() else "something else"
            raise InputError(f"{path}: expected an audio file, got {kind}")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)})") from error


def _vorbis_order(info: AudioInfo) -> tuple[int, ...] | None:
    return _WAVE_FROM_VORBIS.get(info.channels) if info.format == "OGG" else None


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
    """Whether a sample would clip, or wrap round, in a subtype."""
    if subtype in INTEGER_BITS:
        return quantise(audio, subtype) is None
    return subtype not in UNLIMITED and bool(np.abs(audio).max(initial=0.0) > 1.0)


def write_audio(
    path: Path,
    audio: LongArray,
    sample_rate: int,
    *,
    file_format: str = "WAV",
    subtype: str = "FLOAT",
    comment: str = "",
    metadata: list[tuple[bytes, bytes]] | None = None,
    channel_mask: int = 0,
) -> None:
    """Write an audio file and flush it to the disk.

    WAV files above 4 GiB become RF64. Equal arguments give equal bytes. Not atomic on its own:
    see `temporary_beside` and `plugin_host.files.stem_files`.

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
        WAV only: chunks from `plugin_host.files.riff.read_metadata` to append.

    channel_mask
        Which speaker each channel is for; see `AudioInfo`. Kept where the format has a place.

    Raises
    ------
    InputError
        The disk is full, the folder is not writable, the format cannot hold such audio, or it
        would clip.
    """
    channels = audio.shape[0]
    check_format(file_format, subtype, sample_rate, channels)
    for part in DEFAULT.stretches(audio.shape[1]):
        _fit(path, audio[:, part], subtype)
    in_vorbis = file_format == "OGG" and channels in _WAVE_FROM_VORBIS
    order = np.argsort(_WAVE_FROM_VORBIS[channels]) if in_vorbis else np.arange(channels)
    is_wave = file_format in ("WAV", "WAVEX", "RF64")
    if file_format == "WAV" and _needs_mask(channels, channel_mask):
        file_format = "WAVEX"
    if file_format in ("WAV", "WAVEX") and audio.size * 8 > _RIFF_LIMIT_BYTES:
        file_format = "RF64"
    try:
        with _open_for_writing(path, sample_rate, channels, file_format, subtype) as file:
            if comment and file_format != "W64":
                file.comment = comment
            for start in range(0, audio.shape[1], _WRITTEN_SAMPLES):
                samples = _fit(path, audio[:, start : start + _WRITTEN_SAMPLES], subtype)
                file.write(samples[order,].T)
        if comment and file_format == "W64":
            riff.write_w64_comment(path, comment)
        if file_format == "AIFF":
            riff.write_aiff_length(path, audio.shape[1])
        if is_wave:
            riff.clear_peak_time(path)
            if channel_mask:
                riff.write_channel_mask(path, channel_mask)
            if metadata:
                riff.append_chunks(path, metadata)
        with path.open("r+b") as raw:
            os.fsync(raw.fileno())
    except OSError as error:
        raise InputError(f"{path.parent}: cannot write {path.name} ({reason_of(error)})") from error
    # What was refused for its format was refused above; soundfile asserts that all was written.
    except Exception as error:
        reason = "the disk is full" if isinstance(error, AssertionError) else reason_of(error)
        raise InputError(
            f"{path.parent}: cannot write {path.name} as {file_format} {subtype} ({reason})"
        ) from error


def _fit(path: Path, audio: Audio, subtype: str) -> NDArray[np.float32] | NDArray[np.int32]:
    """Return the samples as libsndfile is to be given them; InputError if they would clip."""
    if not np.isfinite(audio).all():
        raise InputError(
            f"{path.name}: the audio has NaN or infinite samples; look for the plug-in or gain"
        )
    samples: NDArray[np.float32] | NDArray[np.int32] | None = audio
    if subtype in INTEGER_BITS:
        samples = quantise(audio, subtype)
    elif clips(audio, subtype):
        samples = None
    if samples is None:
        raise InputError(
            f"{path.name}: the audio exceeds full scale and would clip as {subtype}; use FLOAT"
        )
    return samples


def _open_for_writing(
    path: Path, sample_rate: int, channels: int, file_format: str, subtype: str
) -> soundfile.SoundFile:
    name = os.fspath(path) if os.name == "nt" else os.fsencode(path)
    return soundfile.SoundFile(name, "w", sample_rate, channels, subtype, format=file_format)


def _needs_mask(channels: int, channel_mask: int) -> bool:
    return bool(channel_mask) and not (channels <= 2 and channel_mask == _DEFAULT_MASKS[channels])


def keeps_mask(file_format: str, channels: int, channel_mask: int) -> bool:
    """Whether a format says which speaker each channel is for as a channel mask does."""
    if file_format in ("WAV", "WAVEX", "RF64") or not _needs_mask(channels, channel_mask):
        return True
    # Ogg and FLAC have one order for each number of channels; in that of six, the rear pair may
    # stand at the side.
    known = {_DEFAULT_MASKS.get(channels), _SIDE_5_1 if channels == 6 else None}
    return file_format in ("OGG", "FLAC") and channel_mask in known


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``target``; what is left there at the end is removed.

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
