"""Test mixtures on disk: a folder each, with ``mixture.wav`` and one file per true stem."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import InputError

MIXTURE = "mixture"
#: Prompts for the stems of a folder, found beside the mixtures.
PROMPTS_FILE = "prompts.toml"
_SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class Case:
    """A mixture with its true stems.

    Attributes
    ----------
    name : str
        Folder name.
    mixture : Path
    stems : dict of str to Path
    """

    name: str
    mixture: Path
    stems: Mapping[str, Path]


def find_cases(folder: Path) -> list[Case]:
    """List the mixtures of a test set in order of name.

    Raises
    ------
    InputError
        If there is none.
    """
    cases = []
    for directory in sorted(path for path in folder.glob("*") if path.is_dir()):
        files = {p.stem: p for p in sorted(directory.iterdir()) if p.suffix.lower() in _SUFFIXES}
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


def read_prompts(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``prompts.toml``: for each stem a prompt, or a list of them.

    Raises
    ------
    InputError
        If it is not TOML, or a value is neither text nor a list of texts.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML ({error})") from error
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
