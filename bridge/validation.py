"""The one place where a request is validated, by the client before it travels and by the engine."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from bridge.errors import InputError
from bridge.request import (
    LISTENINGS,
    RECONSTRUCTION_MODES,
    RESIDUAL,
    SOLVERS,
    Prompt,
    SettingOptions,
    Settings,
    Span,
    is_safe_name,
    slug,
)

MAX_CHANNELS: Final = 256
MAX_STEPS: Final = 1000
MAX_CANDIDATES: Final = 64
MAX_WATERMARK: Final = 2**16 - 1
MAX_PEAK: Final = 1000.0
SAMPLE_RATES_HZ: Final = (1_000, 1_000_000)
SPAN_TOLERANCE_S: Final = 0.01


def settings_from_options(options: SettingOptions) -> Settings:
    """Build validated settings from the keyword arguments of a `separate` call.

    Raises
    ------
    InputError
        If an option is unknown, of the wrong type or out of range.
    """
    unknown = sorted(set(options) - set(Settings.__struct_fields__))
    if unknown:
        raise InputError(
            f"unknown setting {unknown[0]!r}; expected one of "
            f"{', '.join(Settings.__struct_fields__)}"
        )
    return check_settings(Settings(**options))


def check_settings(settings: Settings) -> Settings:
    """Validate settings and normalise their number types (NumPy scalars become Python's).

    Raises
    ------
    InputError
        If a value has the wrong type or is out of range.
    """
    seed = _whole("seed", settings.seed, 0, 2**64 - 1)
    steps = None if settings.steps is None else _whole("steps", settings.steps, 1, MAX_STEPS)
    window_s = None if settings.window_s is None else _seconds("window_s", settings.window_s)
    overlap_s = None if settings.overlap_s is None else _seconds("overlap_s", settings.overlap_s)
    if window_s is not None and window_s <= 0:
        raise InputError(f"window_s is {window_s:g}; expected a number of seconds above 0")
    if overlap_s is not None and overlap_s < 0:
        raise InputError(f"overlap_s is {overlap_s:g}; expected a number of seconds from 0 up")
    if window_s is not None and overlap_s is not None and overlap_s >= window_s:
        raise InputError(
            f"overlap_s is {overlap_s:g} and window_s is {window_s:g}; "
            "give an overlap shorter than the window"
        )
    for name in ("predict_spans", "judge"):
        if not isinstance(value := getattr(settings, name), bool):
            raise InputError(f"{name} is {value!r}; expected True or False")
    candidates = _whole("candidates", settings.candidates, 1, MAX_CANDIDATES)
    watermark = settings.watermark
    if watermark is not None:
        watermark = _whole("watermark", watermark, 0, MAX_WATERMARK)
    _one_of("solver", settings.solver, SOLVERS)
    _one_of("reconstruct", settings.reconstruct, RECONSTRUCTION_MODES)
    _one_of("listen", settings.listen, LISTENINGS)
    return replace(
        settings,
        seed=seed,
        steps=steps,
        window_s=window_s,
        overlap_s=overlap_s,
        candidates=candidates,
        watermark=watermark,
    )


def check_mixture(mixture: npt.ArrayLike, sample_rate: int) -> tuple[npt.NDArray[np.float32], int]:
    """Validate a mixture and its rate.

    Parameters
    ----------
    mixture : array_like of float32 or float64, shape (channels, samples)
        Audio with full scale at 1.0; every sample finite.
    sample_rate : int
        1 kHz to 1 MHz.

    Returns
    -------
    mixture : ndarray of float32, shape (channels, samples)
        C-contiguous; the caller's own array where it already is that.
    sample_rate : int

    Raises
    ------
    InputError
        If the type, shape, rate or any sample is not as described.
    """
    rate = _whole("sample_rate", sample_rate, *SAMPLE_RATES_HZ)
    array = np.asarray(mixture)
    if array.dtype not in (np.float32, np.float64):
        hint = (
            f"; divide integer audio by its full scale, e.g. "
            f"mixture.astype('float32') / {abs(np.iinfo(array.dtype).min) or 128}"
            if array.dtype.kind in "iu"
            else ""
        )
        raise InputError(f"mixture has dtype {array.dtype}; expected float32{hint}")
    if array.ndim != 2:
        hint = "; use mixture[np.newaxis] for mono" if array.ndim == 1 else ""
        raise InputError(
            f"mixture has shape {array.shape}; expected (channels, samples) with 2 axes{hint}"
        )
    channels, samples = array.shape
    if channels == 0 or samples == 0:
        raise InputError(f"mixture is empty: shape {array.shape}; expected at least one sample")
    if channels > MAX_CHANNELS:
        raise InputError(
            f"mixture has shape {array.shape}, which reads as {channels} channels; expected "
            f"(channels, samples) with at most {MAX_CHANNELS} channels: is it transposed?"
        )
    peak = max(float(array.max()), -float(array.min()))  # NaN stays NaN, unlike with abs and max
    if not math.isfinite(peak):
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise InputError(
            f"mixture holds {bad} samples that are NaN or infinite; repair the audio first"
        )
    if peak > MAX_PEAK:
        raise InputError(
            f"mixture peaks at {peak:g}; expected full scale at 1.0: "
            "divide audio in integer units by its full scale"
        )
    return np.ascontiguousarray(array, dtype=np.float32), rate


def check_prompts(prompts: Sequence[Prompt | str], duration_s: float) -> tuple[Prompt, ...]:
    """Validate the prompts of a job against the length of its audio.

    Parameters
    ----------
    prompts : sequence of Prompt or str
        At least one; a plain string stands for ``Prompt(string)``.
    duration_s : float
        Length of the mixture in seconds. A span may pass it by `SPAN_TOLERANCE_S`, since
        people type rounded times; it is cut to the clip.

    Returns
    -------
    tuple of Prompt
        With texts in lower case and single spaces, and every name filled in.

    Raises
    ------
    InputError
        If there is no prompt, a text or name is empty, a name is taken twice, reserved or not
        usable as a file name, or a span is reversed or outside the clip.
    """
    if isinstance(prompts, str | Prompt):
        raise InputError(f"prompts is {prompts!r}; expected a list of prompts: put it in [ ]")
    if len(prompts) == 0:
        raise InputError("no prompts; expected at least one, e.g. Prompt('drums')")
    checked = tuple(_checked_prompt(prompt, duration_s) for prompt in prompts)
    taken: dict[str, Prompt] = {}
    for prompt in checked:
        # File systems of two of the three big platforms do not tell case apart.
        key = prompt.stem.casefold()
        if key == RESIDUAL:
            raise InputError(
                f"a stem cannot be named {prompt.stem!r}, which is what no prompt claims; "
                "give the prompt another name"
            )
        if key in taken:
            raise InputError(
                f"two stems would be named {prompt.stem!r}; give one of the prompts another name"
            )
        taken[key] = prompt
    return checked


def _checked_prompt(prompt: Prompt | str, duration_s: float) -> Prompt:
    if isinstance(prompt, str):
        prompt = Prompt(prompt)
    if not isinstance(prompt, Prompt) or not isinstance(prompt.text, str):
        raise InputError(f"expected a Prompt or a string, got {prompt!r}")
    text = " ".join(prompt.text.lower().split())
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"the prompt {text!r} is not valid Unicode; type it again")
    spans = tuple(_checked_span(span, text, duration_s) for span in prompt.spans)
    if not text and not spans:
        raise InputError("a prompt is empty; say what to extract, e.g. 'drums'")
    name = slug(text) if prompt.name is None else prompt.name
    if not name:
        raise InputError(f"the prompt {prompt.text!r} gives no stem name; give it a name")
    if not is_safe_name(name):
        raise InputError(
            f"the stem name {name!r} cannot be a file name; use letters, digits and dashes"
        )
    return Prompt(text, name, spans)


def _checked_span(span: Span, text: str, duration_s: float) -> Span:
    if not isinstance(span, Span):
        raise InputError(f"prompt {text!r}: expected a Span, got {span!r}")
    start_s = _seconds("span start", span.start_s)
    end_s = _seconds("span end", span.end_s)
    shown = f"prompt {text!r}: span {start_s:g}:{end_s:g} s"
    if span.polarity not in ("+", "-"):
        raise InputError(f"{shown} has polarity {span.polarity!r}; expected '+' or '-'")
    if end_s <= start_s:
        raise InputError(f"{shown} ends before it starts; give START:END with START < END")
    if start_s < 0 or start_s >= duration_s or end_s > duration_s + SPAN_TOLERANCE_S:
        raise InputError(f"{shown} lies outside the clip of {duration_s:.2f} s; keep it inside")
    return Span(start_s, min(end_s, duration_s), span.polarity)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InputError(f"{name} is {value!r}; expected a whole number")
    if not low <= number <= high:
        raise InputError(f"{name} is {number}; expected {low} to {high}")
    return number


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool | str):
        raise InputError(f"{name} is {value!r}; expected a number of seconds")
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; expected a number of seconds") from None
    if not math.isfinite(seconds):
        raise InputError(f"{name} is {seconds}; expected a finite number of seconds")
    return seconds


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise InputError(f"{name} is {value!r}; expected {', '.join(allowed)}")
