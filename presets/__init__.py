"""Presets: everything that makes a stem come back, as a file one can read and edit."""

from __future__ import annotations

from presets.library import FactoryStore, FolderStore, PresetStore, find_preset, library
from presets.preset import (
    FORMAT,
    Effect,
    Preset,
    PresetError,
    PresetStem,
    ResidualStem,
    format_preset,
    parse_preset,
)

__all__ = [  # noqa: RUF022 -- grouped by use
    # values
    "FORMAT",
    "Effect",
    "Preset",
    "PresetStem",
    "ResidualStem",
    # as text
    "format_preset",
    "parse_preset",
    # where they live
    "FactoryStore",
    "FolderStore",
    "PresetStore",
    "find_preset",
    "library",
    # errors
    "PresetError",
]
