"""Reading a stem pool: ``POOL/<split>/<family>/<song>__<source>.npy``, int16 mono.

``POOL/prompts.toml``, if there, says how families are prompted that the project does not know.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from onnx_export.training.families import FAMILIES
from plugin_host.evaluation.cases import PROMPTS_FILE, read_prompts

__all__ = ["PROMPTS_FILE", "StemPool"]


class StemPool:
    """The stems of one split, by family and by song.

    Parameters
    ----------
    root : Path
        The pool.
    split : str
        ``train`` or ``valid``.

    Raises
    ------
    ValueError
        If there are no stems of two families.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        path = root / PROMPTS_FILE
        self._given = read_prompts(path) if path.is_file() else {}
        self.refresh()

    def refresh(self) -> None:
        """Read the directory again: a pool may grow while it is used."""
        by_family: dict[str, list[Path]] = {}
        by_song: dict[str, dict[str, Path]] = defaultdict(dict)
        for folder in sorted(p for p in (self.root / self.split).glob("*") if p.is_dir()):
            paths = sorted(folder.glob("*__*.npy"))
            if paths:
                by_family[folder.name] = paths
            for path in paths:
                by_song[path.name.split("__")[0]][folder.name] = path
        if len(by_family) < 2:
            raise ValueError(
                f"{self.root / self.split}: expected a folder of stems for each of at least two "
                f"families, found {sorted(by_family) or 'none'}; run the synthesise command first"
            )
        self._by_family = by_family
        self._songs = [stems for _, stems in sorted(by_song.items()) if len(stems) > 1]
        self.families = sorted(by_family)

    def __len__(self) -> int:
        return sum(len(paths) for paths in self._by_family.values())

    def phrasings(self, family: str) -> tuple[str, ...]:
        """Prompts of a family: as the pool says, else the project's own, else its name."""
        if family in self._given:
            return self._given[family]
        known = FAMILIES.get(family)
        return known.phrasings if known else (family.replace("-", " "),)

    def vocabulary(self) -> list[str]:
        """List all prompts that the tokenizer has to know, those of absent families as well."""
        families = {*FAMILIES, *self.families, *self._given}
        return sorted({phrase for family in families for phrase in self.phrasings(family)})

    def any_stem(self, rng: np.random.Generator, family: str) -> Path:
        """Choose a stem of a family."""
        paths = self._by_family[family]
        return paths[int(rng.integers(len(paths)))]

    def song(self, rng: np.random.Generator) -> dict[str, Path]:
        """Choose a song: its stems by family."""
        return self._songs[int(rng.integers(len(self._songs)))]
