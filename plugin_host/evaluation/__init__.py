"""Scoring models on mixtures whose stems are known.

Two ends frame every score: the mixture itself, and the ideal ratio mask computed from the true
stems.
"""

from plugin_host.evaluation.cases import Case, find_cases, find_musdb, read_prompts
from plugin_host.evaluation.images import ideal_ratio_mask, image_error_db
from plugin_host.evaluation.scoring import Score, evaluate
from plugin_host.evaluation.sdr import SdrMeasure, load_sdr
from plugin_host.evaluation.summary import Summary, by_stem, summarise

__all__ = [
    "Case",
    "Score",
    "SdrMeasure",
    "Summary",
    "by_stem",
    "evaluate",
    "find_cases",
    "find_musdb",
    "ideal_ratio_mask",
    "image_error_db",
    "load_sdr",
    "read_prompts",
    "summarise",
]
