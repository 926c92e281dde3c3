"""Scoring models on mixtures whose stems are known.

Two ends frame every score: the mixture itself, and the ideal ratio mask computed from the true
stems.
"""

from __future__ import annotations

from onnx_export.evaluation.cases import (
    Case,
    find_cases,
    find_musdb,
    find_songs,
    read_prompts,
)
from onnx_export.evaluation.scoring import (
    Quality,
    Score,
    Summary,
    by_stem,
    evaluate,
    measure_all,
    measure_si_sdr,
    summarise,
)
from onnx_export.evaluation.sdr import (
    SdrMeasure,
    ideal_ratio_mask,
    image_error_db,
    load_log_wmse,
    load_sdr,
)

__all__ = [
    "Case",
    "Quality",
    "Score",
    "SdrMeasure",
    "Summary",
    "by_stem",
    "evaluate",
    "find_cases",
    "find_musdb",
    "find_songs",
    "ideal_ratio_mask",
    "image_error_db",
    "load_log_wmse",
    "load_sdr",
    "measure_all",
    "measure_si_sdr",
    "read_prompts",
    "summarise",
]
