"""Test mixtures on disk, in the layouts of the field.

A folder each with ``mixture.wav`` and one file per true stem, MUSDB18-HQ among them; songs of
Frets on Fire, whose tracks make the mixture; SAM Audio-Bench, whose clips have prompts of all three
kinds and no true stems, so that a judge scores them. Of the last, the layout is as the official
repository's evaluation reads it: the rows of the dataset (``facebook/sam-audio-bench``, split
``test``) as Parquet or JSON lines, anywhere below a folder, and in it the clips that its users
collect themselves, ``<source_dataset>/<video_id>.mp4`` in whole or cut to a row's stretch under one
of three names.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile
from msgspec import Struct

from bridge.errors import InputError, foreign_errors
from bridge.files import parse_toml, read_bounded
from bridge.request import Prompt, Span
from bridge.video import Video, resize

#: Float32, (channels, samples).
Audio: TypeAlias = npt.NDArray[np.float32]

MIXTURE = "mixture"
#: Prompts for the stems of a folder, found beside the mixtures.
PROMPTS_FILE = "prompts.toml"
#: Stems of a song of Frets on Fire: its guitar, and all the rest.
SONG_GUITAR, SONG_REST = "guitar", "accompaniment"
_SUFFIXES = (".wav", ".flac")
_MOST_PROMPTS_BYTES = 4 << 20


@dataclass(frozen=True)
class Case:
    """A mixture with its true stems.

    Attributes
    ----------
    name : str
    mixture : Path
        Its file; where the stems make the mixture, the folder that they lie in.
    stems : dict of str to Path
        Files of the true stems.
    spans : dict of str to tuple of Span
        Where stems are known to be heard.
    """

    name: str
    mixture: Path
    stems: Mapping[str, Path]
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Stems to be asked for although no true one is known."""
        return ()

    def video(self, side: int) -> Video | None:
        """Read what shows the stem that is asked for, in a square of pixels; None for nothing."""
        del side
        return None

    def read(self) -> tuple[Audio, dict[str, Audio], int]:
        """Read the mixture, its true stems and their sample rate.

        Raises
        ------
        InputError
            If a file is not audio, or a stem has another shape or rate than the mixture.
        """
        if self.mixture.is_dir():
            return self._add_up()
        mixture, sample_rate = read_audio(self.mixture)
        truths = {}
        for name, path in self.stems.items():
            truths[name] = read_audio(path)[0]
            if truths[name].shape != mixture.shape:
                raise InputError(
                    f"{path}: expected {mixture.shape[0]} channels of {mixture.shape[1]} samples, "
                    f"as {self.mixture.name} has, got {truths[name].shape[0]} of "
                    f"{truths[name].shape[1]}"
                )
        return mixture, truths, sample_rate

    def prompt(self, stem: str, text: str | None, *, spans: bool = True) -> Prompt:
        """Return what is asked for a stem: a text, or else its name, and where it is heard."""
        return Prompt(text or stem, stem, self.spans.get(stem, ()) if spans else ())

    def _add_up(self) -> tuple[Audio, dict[str, Audio], int]:
        """Make the mixture; tracks that end early are silent from there on."""
        tracks = {name: read_audio(path) for name, path in self.stems.items()}
        rates = {rate for _, rate in tracks.values()}
        if len(rates) != 1:
            raise InputError(
                f"{self.mixture}: expected tracks of one sample rate, got {sorted(rates)}"
            )
        channels = max(len(audio) for audio, _ in tracks.values())
        samples = max(audio.shape[1] for audio, _ in tracks.values())
        truths = {
            name: np.pad(
                np.repeat(audio, channels, axis=0) if len(audio) == 1 else audio,
                ((0, 0), (0, samples - audio.shape[1])),
            )
            for name, (audio, _) in tracks.items()
        }
        return np.sum(list(truths.values()), axis=0, dtype=np.float32), truths, rates.pop()


@dataclass(frozen=True)
class SongCase(Case):
    """A song whose notes say where its guitar is heard.

    Attributes
    ----------
    notes : Path
        A MIDI file; read when the guitar is asked for, so that a damaged one costs its own song.
    read_spans : callable
        Given `notes`, returns where there are notes.
    """

    notes: Path = Path()
    read_spans: Callable[[Path], tuple[Span, ...]] = lambda _notes: ()

    def prompt(self, stem: str, text: str | None, *, spans: bool = True) -> Prompt:
        """Return what is asked for a stem; see `Case.prompt`.

        Raises
        ------
        InputError
            The notes cannot be read.
        """
        heard = self.read_spans(self.notes) if spans and stem == SONG_GUITAR else ()
        return Prompt(text or stem, stem, heard)


def read_audio(path: Path) -> tuple[Audio, int]:
    """Read a file of a test set and its sample rate.

    Raises
    ------
    InputError
        If it is not audio.
    """
    try:
        audio, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{path}: cannot be read as audio ({error})") from error
    return np.ascontiguousarray(audio.T), sample_rate


def find_cases(folder: Path) -> list[Case]:
    """List the mixtures of a test set in order of name.

    Raises
    ------
    InputError
        If there is none.
    """
    cases = []
    for directory in sorted(path for path in folder.glob("*") if path.is_dir()):
        files = {
            path.stem: path
            for path in sorted(directory.iterdir())
            # Macs leave ._drums.wav beside drums.wav.
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
        }
        mixture = files.pop(MIXTURE, None)
        if mixture is not None and files:
            cases.append(Case(directory.name, mixture, files))
    if not cases:
        raise InputError(
            f"{folder}: expected folders with mixture.wav and the true stems beside it, found "
            "none; name the folder that holds a folder per mixture"
        )
    return cases


def find_musdb(root: Path) -> list[Case]:
    """List the test tracks of MUSDB18-HQ: ``ROOT/test/<track>/{mixture,drums,bass,...}.wav``.

    Raises
    ------
    InputError
        If there is none, or the folder holds the compressed MUSDB18.
    """
    tracks = root / "test" if (root / "test").is_dir() else root
    if any(tracks.glob("*.stem.mp4")):
        raise InputError(
            f"{tracks}: this is the compressed MUSDB18 (*.stem.mp4); expected MUSDB18-HQ, a folder "
            "of WAV files per track"
        )
    return find_cases(tracks)


def find_songs(
    root: Path, read_spans: Callable[[Path], tuple[Span, ...]] | None = None
) -> list[Case]:
    """List songs in the layout of Frets on Fire, at any depth, in order of name.

    A song is a folder with ``guitar.ogg``, ``song.ogg`` (all the rest), perhaps ``rhythm.ogg``,
    and ``notes.mid``, in which the notes of the guitar are those to be played.

    Parameters
    ----------
    root : Path
    read_spans : callable, optional
        Given ``notes.mid``, returns where there are notes; without it no spans are known.

    Raises
    ------
    InputError
        If there is none.
    """
    cases: list[Case] = []
    for guitar in sorted(root.rglob(f"{SONG_GUITAR}.ogg")):
        folder = guitar.parent
        files = {SONG_GUITAR: guitar, SONG_REST: folder / "song.ogg"}
        if (rhythm := folder / "rhythm.ogg").is_file():
            files["rhythm"] = rhythm
        if not files[SONG_REST].is_file():
            continue
        notes = folder / "notes.mid"
        if read_spans is not None and notes.is_file():
            cases.append(SongCase(folder.name, folder, files, notes=notes, read_spans=read_spans))
        else:
            cases.append(Case(folder.name, folder, files))
    if not cases:
        raise InputError(
            f"{root}: expected songs of Frets on Fire, folders with guitar.ogg and song.ogg, found "
            "none; Debian's are in /usr/share/games/fretsonfire/data/songs"
        )
    return cases


def read_prompts(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``prompts.toml``: for each stem a prompt, or a list of them.

    Raises
    ------
    InputError
        If it is not TOML, or a value is neither text nor a list of texts.
    """
    try:
        table = parse_toml(read_bounded(path, _MOST_PROMPTS_BYTES).decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    prompts = {}
    for stem, value in table.items():
        texts = [value] if isinstance(value, str) else value
        good = isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)
        if not good or not texts:
            raise InputError(
                f"{path}: {stem}: expected a prompt or a list of prompts, such as "
                f'{stem} = ["violin", "a violin playing"], got {value!r}'
            )
        prompts[stem] = tuple(text.strip() for text in texts)
    return prompts


_SUBSETS: Final = {
    "sfx": "others",
    "speech": "speech-clean",
    "speaker": "spk",
    "music": "music-clean",
    "instr-wild": "instr",
}
#: The official settings: a subset of the paper, and whether its spans and its masks are shown.
SETTINGS: Final = {
    **{name: (f"{subset}-50:text-only", False, False) for name, subset in _SUBSETS.items()},
    **{
        f"{name}-span": (f"{subset}-50:text+span", True, False) for name, subset in _SUBSETS.items()
    },
    **{
        f"{name}-visual": (f"{_SUBSETS[name]}-onscreen-50:visual-only", False, True)
        for name in ("sfx", "speaker", "instr-wild")
    },
}
TARGET: Final = "target"
_MASKS: Final = "video_masklet"
_RATE: Final = 48_000
_LARGEST_MASK_BYTES: Final = 1 << 32


class Row(Struct, frozen=True):
    """A row of the dataset; other columns are ignored."""

    video_id: str
    source_dataset: str
    start_offset: float
    end_offset: float
    description: str
    paper_eval_sets: list[str]
    spans: list[tuple[float, float]] | None = None
    mask_bytes: bytes | None = None


@dataclass(frozen=True)
class BenchCase(Case):
    """A clip of the benchmark, of which one sound is asked for.

    Attributes
    ----------
    description : str
        What is asked for.
    start_s, end_s : float or None
        Stretch of the file; None for all of it.
    mask : bytes or None
        NumPy's archive with a mask for each frame, zero where the thing is; None where nothing is
        shown.
    """

    description: str = ""
    start_s: float | None = None
    end_s: float | None = None
    mask: bytes | None = None

    def read(self) -> tuple[Audio, dict[str, Audio], int]:
        """Read the sound of the clip, the mean of its channels, as the official code does.

        Raises
        ------
        InputError
            If it cannot be decoded.
        """
        with foreign_errors(f"{self.mixture}: cannot be read as a video with sound"):
            audio = np.concatenate(list(_sound(self.mixture)))
        start = round((self.start_s or 0.0) * _RATE)
        end = len(audio) if self.end_s is None else round(self.end_s * _RATE)
        return np.ascontiguousarray(audio[np.newaxis, start:end]), {}, _RATE

    @property
    def wanted(self) -> tuple[str, ...]:
        """The one stem that is asked for."""
        return (TARGET,)

    def prompt(self, stem: str, text: str | None, *, spans: bool = True) -> Prompt:
        """Return what is asked for."""
        return Prompt(text or self.description, stem, self.spans.get(stem, ()) if spans else ())

    def video(self, side: int) -> Video | None:
        """Read the frames with the thing masked out, in a square of pixels; None without a mask.

        Raises
        ------
        InputError
            If the clip or the mask cannot be read.
        """
        if self.mask is None:
            return None
        with foreign_errors(f"{self.mixture}: its mask cannot be read"):
            masks = _masks(self.mask)
        with foreign_errors(f"{self.mixture}: cannot be read as a video"):
            shown = [
                (time_s - (self.start_s or 0.0), picture)
                for time_s, picture in _pictures(self.mixture)
                if (self.start_s or 0.0) <= time_s < (np.inf if self.end_s is None else self.end_s)
            ]
        if not shown:
            raise InputError(f"{self.mixture}: shows nothing in the stretch of this row")
        # Masks may be a few more or fewer than frames; the official code spreads them evenly.
        nearest = np.linspace(0, len(masks) - 1, len(shown)).round().astype(int)
        frames = [
            resize(np.where(_fit(masks[index], picture.shape[:2])[..., None], picture, 0), side)
            for index, (_, picture) in zip(nearest, shown, strict=True)
        ]
        reduced = np.round(255 * np.stack(frames)).astype(np.uint8).transpose(0, 2, 3, 1)
        return Video(np.ascontiguousarray(reduced), np.array([time_s for time_s, _ in shown]))


def find_bench(root: Path, setting: str) -> list[Case]:
    """List the clips of a setting that are there, in the order of the rows.

    Parameters
    ----------
    root : Path
    setting : str
        One of `SETTINGS`.

    Raises
    ------
    InputError
        If there is no such setting, there are no rows, or not one of their clips.
    """
    if setting not in SETTINGS:
        raise InputError(f"setting {setting!r}: expected one of {', '.join(sorted(SETTINGS))}")
    subset, with_spans, with_video = SETTINGS[setting]
    rows = [row for row in _rows(root) if subset in row.paper_eval_sets]
    cases: list[Case] = []
    for row in rows:
        found = _clip(root, row)
        if found is None:
            continue
        path, whole = found
        spans = tuple(Span(start, end) for start, end in row.spans or ())
        cases.append(
            BenchCase(
                f"{row.source_dataset}/{path.stem}",
                path,
                {},
                {TARGET: spans} if with_spans and spans else {},
                row.description,
                row.start_offset if whole else None,
                row.end_offset if whole else None,
                row.mask_bytes if with_video else None,
            )
        )
    if not cases:
        raise InputError(
            f"{root}: {len(rows)} rows of {setting} and none of their clips; expected "
            "<source_dataset>/<video_id>.mp4, and the rows of facebook/sam-audio-bench as "
            "*.parquet or *.jsonl"
        )
    return cases


def _rows(root: Path) -> Iterator[Row]:
    for path in sorted([*root.rglob("*.parquet"), *root.rglob("*.jsonl")]):
        try:
            for raw in _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path):
                yield msgspec.convert(raw, Row)
        except (OSError, ValueError, TypeError, KeyError, msgspec.ValidationError) as error:
            raise InputError(f"{path}: not rows of SAM Audio-Bench ({error})") from error


def _read_parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"{path}: Parquet needs {error.name}; install it with: pip install 'stembridge[eval]'"
        ) from error
    table = parquet.ParquetFile(path)
    columns = [name for name in Row.__struct_fields__ if name in table.schema_arrow.names]
    for batch in table.iter_batches(batch_size=16, columns=columns):
        yield from batch.to_pylist()


def _read_lines(path: Path) -> Iterator[Any]:
    """Read JSON lines, whose masks are in base64."""
    for line in path.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        if isinstance(raw.get("mask_bytes"), str):
            raw["mask_bytes"] = base64.b64decode(raw["mask_bytes"])
        yield raw


def _clip(root: Path, row: Row) -> tuple[Path, bool] | None:
    """Find the file of a row, and whether it is the whole video; None if it is not there."""
    folder, start, end = root / row.source_dataset, row.start_offset, row.end_offset
    if (
        not folder.resolve().is_relative_to(root.resolve())
        or Path(row.video_id).name != row.video_id
    ):
        raise InputError(f"a row names {row.source_dataset}/{row.video_id}, outside of {root}")
    names = (
        f"{row.video_id}.mp4",
        f"{row.video_id}_{int(start * 1000)}_{int(end * 1000)}.mp4",
        f"{row.video_id}_{int(start)}_{int(end)}.mp4",
        f"{row.video_id}.{int(start * 1000):08d}_{int(end * 1000):08d}.mp4",
    )
    for name in names:
        if (folder / name).is_file():
            return folder / name, name == names[0]
    return None


def _masks(data: bytes) -> npt.NDArray[np.bool_]:
    """Read the masks (frames, height, width) of an archive, true where a picture stays."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.getinfo(f"{_MASKS}.npy").file_size > _LARGEST_MASK_BYTES:
            raise ValueError("masks of more than 4 GiB")
    masks = np.load(io.BytesIO(data), allow_pickle=False)[_MASKS]
    if masks.ndim != 3 or not len(masks):
        raise ValueError(f"masks of the shape {masks.shape}")
    return np.asarray(masks != 0)


def _fit(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Bring a mask to a size, by the nearest pixel below, as PyTorch's interpolation does."""
    rows, columns = (
        np.arange(wanted) * have // wanted for wanted, have in zip(size, mask.shape, strict=True)
    )
    return np.asarray(mask[rows[:, None], columns])


def _sound(path: Path) -> Iterator[npt.NDArray[np.float32]]:
    import av

    with av.open(str(path)) as container:
        # Not to mono: what FFmpeg mixes down is no mean.
        resampler = av.AudioResampler(format="fltp", rate=_RATE)
        for frame in itertools.chain(container.decode(audio=0), [None]):
            for part in resampler.resample(frame):
                yield np.asarray(part.to_ndarray().mean(axis=0), np.float32)


def _pictures(path: Path) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield float(frame.time or 0.0), frame.to_ndarray(format="rgb24")
