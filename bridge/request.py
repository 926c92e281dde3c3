"""What a caller asks for: prompts, spans and settings, and when they can be granted.

Requests are validated here and nowhere else: where the user enters them, and where a message comes
out of the server's socket.
"""

from __future__ import annotations

import math
import operator
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import fields, force_setattr, replace

from bridge.errors import InputError, foreign_errors
from bridge.scratch import DEFAULT, FileArray, LongArray

Solver = Literal["euler", "midpoint", "ab2", "unipc", "cubic", "tuned"]
Grid = Literal["uniform", "sway", "pruned", "cosine"]
Quality = Literal["draft", "good", "best"]
ReconstructionMode = Literal["raw", "null", "mask", "wiener"]
Listening = Literal["channels", "mean"]
Polarity = Literal["+", "-"]

RESIDUAL: Final = "residual"

Value: TypeAlias = int | float | bool | str | None
"""What a setting can be."""

_LONGEST_SLUG = 60
_LONGEST_NAME_BYTES = 240
# Lone surrogates stand for bytes of a command line that were not valid text.
_UNSAFE_IN_FILE_NAMES = re.compile(r'[\ud800-\udfff\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class _Said:
    """What is said of a setting besides its type."""

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None


class Span(Struct, frozen=True):
    """A stretch of time in which the prompted sound is present ("+") or absent ("-").

    Attributes
    ----------
    start_s, end_s : float
        Seconds from the start of the mixture, ``0 <= start_s < end_s``.
    polarity : {"+", "-"}
        Whether the sound is to be heard in the span.
    """

    start_s: float
    end_s: float
    polarity: Polarity = "+"

    def within(self, start_s: float, end_s: float) -> Span | None:
        """Return the part that lies in a stretch, in time from its start; None if there is none."""
        low_s, high_s = max(self.start_s, start_s), min(self.end_s, end_s)
        if high_s <= low_s:
            return None
        return Span(low_s - start_s, high_s - start_s, self.polarity)


class Prompt(Struct, frozen=True):
    """One stem to extract.

    Attributes
    ----------
    text : str
        What to extract, a noun or verb phrase: ``"drums"``, ``"woman speaking"``. May be empty
        only where spans say what is meant, and then `name` is needed.
    name : str or None
        Name of the stem in the result, by default the text as a slug (see `stem`).
    spans : sequence of Span
        Where the sound is known to be present or absent; later spans win where they overlap.
    """

    text: str
    name: str | None = None
    spans: Sequence[Span] = ()

    def __post_init__(self) -> None:
        """Hold the spans as a tuple, so that a prompt is immutable and hashable."""
        spans: object = self.spans
        if isinstance(spans, tuple):
            return
        if spans is None or isinstance(spans, Span):
            force_setattr(self, "spans", () if spans is None else (spans,))
        elif isinstance(spans, Iterable):
            force_setattr(self, "spans", tuple(spans))

    @property
    def stem(self) -> str:
        """Name of the stem: `name`, or the text in lower case with ``-`` for spaces."""
        return slug(self.text) if self.name is None else self.name

    def within(self, start_s: float, end_s: float) -> Prompt:
        """Return the prompt for a stretch of its audio, such as a segment or the length of a file.

        Parameters
        ----------
        start_s, end_s : float
            The stretch, ``start_s < end_s``.

        Returns
        -------
        Prompt
            With the spans that touch the stretch, cut to it and counted from its start; see
            `heard_in` for what happens when none does.
        """
        spans = [cut for span in self.spans if (cut := span.within(start_s, end_s)) is not None]
        return self.heard_in(spans, end_s - start_s)

    def heard_in(self, spans: Sequence[Span], duration_s: float) -> Prompt:
        """Return the prompt for another stretch of audio, to which its spans were moved.

        Positive spans say that the sound is nowhere else. So if the prompt has some and none lies
        in the stretch, the sound is marked absent from all of it; with no span at all it would
        be looked for everywhere.

        Parameters
        ----------
        spans : sequence of Span
            What the stretch holds of the prompt's spans, counted from its start.
        duration_s : float
            Its length.
        """
        told = any(span.polarity == "+" for span in self.spans)
        if told and not any(span.polarity == "+" for span in spans):
            spans = (Span(0.0, duration_s, "-"),)
        return Prompt(self.text, self.name, tuple(spans))


class Settings(Struct, frozen=True):
    """How to separate. ``None`` stands for the model's own default.

    This is the one place where a setting is defined: its type, range, default and help. The
    command line, presets, protocol, reports and documentation follow from it.
    """

    seed: Annotated[
        int,
        _Said("Seed of the noise; the same seed gives the same stems to the bit.", 0, 2**64 - 1),
    ] = 0
    quality: Annotated[
        Quality | None,
        _Said("What the bundle says of steps, solver and grid for a first look, for work, and as "
                 "published; not beside one of these."),
    ] = None  # fmt: skip
    steps: Annotated[
        int | None,
        _Said("Steps of the solver; midpoint evaluates the network twice a step, others once.",
                 1, 1000),
    ] = None  # fmt: skip
    solver: Annotated[
        Solver | None, _Said("Integration method; tuned is one that was fitted to the bundle.")
    ] = None
    grid: Annotated[
        Grid | None,
        _Said(
            "Where the steps end; sway and pruned make the first ones shorter, cosine those at "
            "both ends."
        ),
    ] = None
    window_s: Annotated[
        float | None,
        _Said("Length of a window; alone, it keeps the model's ratio of overlap to window.",
                 above=0.0),
    ] = None  # fmt: skip
    overlap_s: Annotated[float | None, _Said("How much of a window the next one shares.", 0.0)] = (
        None
    )
    reconstruct: Annotated[
        ReconstructionMode | None, _Said("How the model's output becomes stems of the mixture.")
    ] = None
    listen: Annotated[
        Listening | None, _Said("Whether the model hears each channel, or their mean.")
    ] = None
    mask_exponent: Annotated[
        float | None,
        _Said("Power of the magnitudes in masks; the higher, the less stems share, and the more "
                 "abruptly they take turns.", high=16.0, above=0.0),
    ] = None  # fmt: skip
    predict_spans: Annotated[
        bool, _Said("Let a model that can find where a prompt without spans is heard do so.")
    ] = True
    candidates: Annotated[
        int, _Said("Number of noises to compute each stem from; the best is kept.", 1, 64)
    ] = 1
    judge: Annotated[bool, _Said("Score every stem with the model's judge and CLAP.")] = False
    watermark: Annotated[
        int | None,
        _Said("Message of a model with a watermark, first bit highest; by default from the "
                 "seed.", 0, 2**16 - 1),
    ] = None  # fmt: skip


class ResolvedSettings(Settings, frozen=True, kw_only=True):
    """Settings with every default of the model filled in."""

    steps: int
    solver: Solver
    grid: Grid
    window_s: float
    overlap_s: float
    reconstruct: ReconstructionMode
    listen: Listening


@dataclass(frozen=True)
class SettingField:
    """What `Settings` says of one of its fields.

    Attributes
    ----------
    name : str
        With the unit as a suffix: ``_s`` for seconds.
    kind : type
        ``int``, ``float``, ``bool``, or ``str`` for one of `choices`.
    choices : tuple of str
        All values, where they can be listed.
    optional : bool
        Whether None is a value: the model's default.
    default : int, float, bool, str or None
    help : str
        What it does, a sentence.
    low, high : int, float or None
        Smallest and largest value, inclusive.
    above : float or None
        Bound that a value must exceed.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    optional: bool
    default: Value
    help: str
    low: float | None
    high: float | None
    above: float | None

    @property
    def range(self) -> str:
        """The allowed values in words, such as ``"1 to 1000"``."""
        if self.choices:
            return ", ".join(self.choices)
        if self.kind is bool:
            return "True or False"
        what = "a number of seconds" if self.name.endswith("_s") else "a number"
        if self.above is not None:
            below = "" if self.high is None else f" up to {self.high:g}"
            return f"{what} above {self.above:g}{below}"
        if self.low is None:
            return what
        return (
            f"{self.low} to {self.high}"
            if self.high is not None
            else f"{what} from {self.low:g} up"
        )


@cache
def setting_fields(settings: type[Settings] = Settings) -> tuple[SettingField, ...]:
    """Describe the fields of `Settings`, in their order."""
    described = []
    hints = get_type_hints(settings, include_extras=True)
    for field in fields(settings):
        hint, said = get_args(hints[field.name])
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
        choices: tuple[str, ...] = ()
        if get_origin(hint) is not None and not isinstance(kinds[0], type):
            choices = get_args(kinds[0])
        kind = str if choices else kinds[0]
        optional = type(None) in get_args(hint)
        described.append(
            SettingField(field.name, kind, choices, optional, field.default, **asdict(said))
        )
    return tuple(described)


def settings_table() -> str:
    """Return the settings as a table in Markdown, as the documentation shows them."""
    rows = ["| setting | values | default | what it does |", "| --- | --- | --- | --- |"]
    for field in setting_fields():
        default = "the model's" if field.default is None else field.default
        rows.append(f"| `{field.name}` | {field.range} | {default} | {field.help} |")
    return "\n".join(rows)


def slug(text: str) -> str:
    """Turn a prompt into a stem name that is safe as a file name on every system.

    Lower case, ``-`` for white space and for characters that file systems refuse; cut to 60
    characters.
    """
    dashed = re.sub(r"\s+", "-", _UNSAFE_IN_FILE_NAMES.sub(" ", text.lower()).strip())
    return re.sub(r"-{2,}", "-", dashed)[:_LONGEST_SLUG].strip("-.")


def is_safe_name(name: str) -> bool:
    """Say whether a stem name can be a file name on every system."""
    return (
        0 < len(name.encode(errors="replace")) <= _LONGEST_NAME_BYTES
        and name == name.strip()
        and not name.startswith(".")
        and not name.endswith(".")
        and not _UNSAFE_IN_FILE_NAMES.search(name)
        and not _DEVICE_NAMES.fullmatch(name)
    )


MAX_CHANNELS: Final = 256
MAX_PEAK: Final = 1000.0
SAMPLE_RATES_HZ: Final = (1_000, 1_000_000)
SPAN_TOLERANCE_S: Final = 0.01
CHOSEN_BY_QUALITY: Final = ("steps", "solver", "grid")


def make_settings(settings: Settings | None = None, /, **options: object) -> Settings:
    """Build validated settings: those given, with the options in place of their fields.

    Where the settings given have a quality, an option for what it chooses takes its place, and
    the other way round.

    Raises
    ------
    InputError
        If an option is unknown, or a value of the wrong type or out of range.
    """
    names = Settings.__struct_fields__
    for name in sorted(set(options) - set(names)):
        raise InputError(f"unknown setting {name!r}; expected one of {', '.join(names)}")
    if settings is not None and not isinstance(settings, Settings):
        raise InputError(f"settings is {settings!r}; expected Settings(...)")
    settings = settings or Settings()
    if options.get("quality") is not None:
        settings = replace(settings, **dict.fromkeys(CHOSEN_BY_QUALITY))
    elif any(options.get(name) is not None for name in CHOSEN_BY_QUALITY):
        settings = replace(settings, quality=None)
    return check_settings(replace(settings, **options))


def check_settings(settings: Settings) -> Settings:
    """Validate settings and normalise their number types (NumPy scalars become Python's).

    Raises
    ------
    InputError
        If a value has the wrong type or is out of range, or a quality stands beside what it
        chooses.
    """
    checked = Settings(
        **{field.name: _checked(field, getattr(settings, field.name)) for field in setting_fields()}
    )
    window_s, overlap_s = checked.window_s, checked.overlap_s
    if window_s is not None and overlap_s is not None and overlap_s >= window_s:
        raise InputError(
            f"overlap_s is {overlap_s:g} and window_s is {window_s:g}; "
            "give an overlap shorter than the window"
        )
    if checked.quality is not None:
        for name in CHOSEN_BY_QUALITY:
            if (value := getattr(checked, name)) is not None:
                raise InputError(
                    f"quality is {checked.quality!r}, but {name} is {value} as well, and would "
                    f"win; leave out one of them: a quality chooses {_listed(CHOSEN_BY_QUALITY)}"
                )
    return checked


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _checked(field: SettingField, value: Any) -> Any:
    """Return a setting's value as its field's type."""
    if value is None and field.optional:
        return None
    if field.kind is int:
        return _whole(field.name, value, int(field.low or 0), int(field.high or 2**63 - 1))
    if field.kind is float:
        number = _seconds(field.name, value)
        low = -math.inf if field.low is None else field.low
        high = math.inf if field.high is None else field.high
        if not low <= number <= high or (field.above is not None and number <= field.above):
            raise InputError(f"{field.name} is {number:g}; expected {field.range}")
        return number
    if field.kind is bool and isinstance(value, bool):
        return value
    if field.choices and value in field.choices:
        return value
    raise InputError(f"{field.name} is {value!r}; expected {field.range}")


def check_mixture(mixture: npt.ArrayLike | FileArray, sample_rate: int) -> tuple[LongArray, int]:
    """Validate a mixture and its rate.

    Parameters
    ----------
    mixture : array_like of float32 or float64, or FileArray, shape (channels, samples)
        Audio with full scale at 1.0; every sample finite.
    sample_rate : int
        1 kHz to 1 MHz.

    Returns
    -------
    mixture : array of float32, shape (channels, samples)
        C-contiguous; the caller's own array where it already is that.
    sample_rate : int

    Raises
    ------
    InputError
        If the type, shape, rate or any sample is not as described.
    """
    rate = _whole("sample_rate", sample_rate, *SAMPLE_RATES_HZ)
    with foreign_errors("mixture is no array", advice="give one of shape (channels, samples)"):
        array = mixture if isinstance(mixture, FileArray) else np.asarray(mixture)
    # In whichever order of bytes.
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        hint = ""
        if array.dtype.kind in "iu":
            info = np.iinfo(array.dtype)
            half = (int(info.max) - int(info.min) + 1) // 2
            # The zero of unsigned audio is in the middle.
            raw = "mixture.astype('float32')"
            signal = raw if info.min < 0 else f"({raw} - {half})"
            hint = f"; divide integer audio by its full scale: {signal} / {half}"
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
    peak, bad = 0.0, 0
    for part in DEFAULT.stretches(samples):
        block = array[:, part]
        bad += int(block.size - np.count_nonzero(np.isfinite(block)))
        peak = max(peak, float(block.max()), -float(block.min()))
    if bad:
        raise InputError(
            f"mixture holds {bad} samples that are NaN or infinite; repair the audio first"
        )
    if peak > MAX_PEAK:
        raise InputError(
            f"mixture peaks at {peak:g}; expected full scale at 1.0: "
            "divide audio in integer units by its full scale"
        )
    if isinstance(array, FileArray):
        return array, rate
    return np.ascontiguousarray(array, dtype=np.float32), rate


def check_prompts(prompts: Iterable[Prompt | str], duration_s: float) -> tuple[Prompt, ...]:
    """Validate the prompts of a job against the length of its audio.

    Parameters
    ----------
    prompts : iterable of Prompt or str
        At least one; a plain string stands for ``Prompt(string)``.
    duration_s : float
        Length of the mixture in seconds. A span may exceed it by `SPAN_TOLERANCE_S`, since
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
    if not isinstance(prompts, Iterable):
        raise InputError(f"prompts is {prompts!r}; expected a list of prompts")
    checked = tuple(_checked_prompt(prompt, duration_s) for prompt in prompts)
    if not checked:
        raise InputError("no prompts; expected at least one, e.g. Prompt('drums')")
    taken: dict[str, Prompt] = {}
    for prompt in checked:
        # File systems of two of the three big platforms do not tell case apart, and one of them
        # not how an accent is written.
        key = unicodedata.normalize("NFC", prompt.stem).casefold()
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
    if not isinstance(prompt.spans, tuple):
        raise InputError(f"prompt {text!r}: spans is {prompt.spans!r}; expected a list of Span")
    spans = tuple(_checked_span(span, text, duration_s) for span in prompt.spans)
    if not text and not spans:
        raise InputError("a prompt is empty; say what to extract, e.g. 'drums'")
    name = slug(text) if prompt.name is None else prompt.name
    if not isinstance(name, str):
        raise InputError(f"prompt {text!r}: name is {name!r}; expected text")
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
    except OverflowError:
        raise InputError(f"{name} is too large; expected a number of seconds") from None
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; expected a number of seconds") from None
    if not math.isfinite(seconds):
        raise InputError(f"{name} is {seconds}; expected a finite number of seconds")
    return seconds
