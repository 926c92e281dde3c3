"""What a preset says: prompts, model, settings, and the chain of each stem."""

from __future__ import annotations

import math
from typing import Final, Literal, cast

from msgspec import Struct, field

from bridge.errors import InputError
from bridge.request import (
    RESIDUAL,
    Listening,
    Prompt,
    ReconstructionMode,
    SettingOptions,
    Settings,
    Solver,
    Span,
    is_safe_name,
)
from bridge.validation import settings_from_options

FORMAT: Final = 1
"""Version of the file format; a change that older readers would misread raises it."""


class PresetError(InputError):
    """A preset cannot be read, found or saved as it stands."""


class Effect(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One plug-in of a chain.

    Attributes
    ----------
    plugin : str
        Name of a plug-in built into pedalboard, such as ``"Compressor"``, or the path of a VST3
        or AU.
    name : str or None
        Which plug-in of a file that holds several.
    parameters : dict
        Values by pedalboard's parameter names; numbers, switches or texts.
    state : str or None
        The plug-in's own state, base64; applied before the parameters.
    bypass : bool
        Leave it out without forgetting it.
    """

    plugin: str
    name: str | None = None
    parameters: dict[str, float | bool | str] = {}
    state: str | None = None
    bypass: bool = False


class PresetStem(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One stem: what to extract, where, and what happens to it.

    Attributes
    ----------
    text, name, spans
        As in `bridge.request.Prompt`.
    chain : tuple of Effect
        Effects for this stem, first to last.
    gain_db : float
        Level of the stem in a remix.
    mute : bool
        Leave the stem out of a remix.
    """

    text: str
    name: str | None = None
    spans: tuple[PresetSpan, ...] = ()
    chain: tuple[Effect, ...] = ()
    gain_db: float = 0.0
    mute: bool = False

    @property
    def prompt(self) -> Prompt:
        """The prompt as `separate` takes it."""
        spans = tuple(Span(s.start_s, s.end_s, s.polarity) for s in self.spans)
        return Prompt(self.text, self.name, spans)


class PresetSpan(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A stretch of time; the fields are those of `bridge.request.Span`."""

    start_s: float
    end_s: float
    polarity: Literal["+", "-"] = "+"


class ResidualStem(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happens to what no prompt claims; the fields are those of `PresetStem`."""

    chain: tuple[Effect, ...] = ()
    gain_db: float = 0.0
    mute: bool = False


class Preset(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Prompts and settings that make stems come back bit for bit.

    Attributes
    ----------
    description : str
        One line for lists.
    model, model_sha256, provider : str or None
        The model, its checksum, and the execution provider that computed the stems. Another
        checksum or provider does not refuse the preset; the difference is reported.
    seed, steps, solver, window_s, overlap_s, reconstruct, listen, predict_spans, candidates, judge
        As in `bridge.request.Settings`; absent ones are the model's.
    watermark : int or None
        16-bit message of models with a watermark; None derives it from the seed.
    segment_s : float or None
        Separate streams in segments of so many seconds; None at once, as files are.
    wet : float
        How much of the effect, 0 to 1.
    bypass : bool
        Let the audio pass as it is.
    before, after : tuple of Effect
        Effects for the track before it is separated and for what comes out.
    rerun : {"add", "update"}
        What a second run in a DAW session does: new tracks, or new audio for its own.
    stems : tuple of PresetStem
        One per stem; ``[[prompts]]`` in the file.
    residual : ResidualStem
        What happens to the rest.
    """

    description: str = ""
    model: str | None = None
    model_sha256: str | None = None
    provider: str | None = None
    seed: int | None = None
    steps: int | None = None
    solver: Solver | None = None
    window_s: float | None = None
    overlap_s: float | None = None
    reconstruct: ReconstructionMode | None = None
    listen: Listening | None = None
    predict_spans: bool | None = None
    candidates: int | None = None
    judge: bool | None = None
    watermark: int | None = None
    segment_s: float | None = None
    wet: float = 1.0
    bypass: bool = False
    rerun: Literal["add", "update"] = "add"
    before: tuple[Effect, ...] = ()
    after: tuple[Effect, ...] = ()
    stems: tuple[PresetStem, ...] = field(default=(), name="prompts")
    residual: ResidualStem = ResidualStem()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts as `separate` takes them."""
        return tuple(stem.prompt for stem in self.stems)

    @property
    def settings(self) -> SettingOptions:
        """The settings that are given, as keyword arguments of `separate`."""
        names = Settings.__struct_fields__
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return cast(SettingOptions, given)


def check_preset(preset: Preset) -> Preset:
    """Return the preset if its values make sense together.

    Raises
    ------
    PresetError
        A value is out of range, or two stems share a name. The message begins with the path of
        the field.
    """
    try:
        settings_from_options(preset.settings)
    except InputError as error:
        raise PresetError(str(error)) from None
    if not 0.0 <= preset.wet <= 1.0:
        msg = f"wet is {preset.wet}; expected 0 to 1"
        raise PresetError(msg)
    if preset.segment_s is not None and not 0.1 <= preset.segment_s < math.inf:
        msg = f"segment_s is {preset.segment_s}; expected at least 0.1 s"
        raise PresetError(msg)
    seen: dict[str, int] = {}
    for index, stem in enumerate(preset.stems):
        path = f"prompts[{index}]"
        name = stem.prompt.stem
        if not stem.text.strip() and not stem.spans:
            msg = f"{path}.text is empty; say what to extract, e.g. 'drums'"
            raise PresetError(msg)
        if not is_safe_name(name) or name.casefold() == RESIDUAL:
            msg = f"{path}.name: {name!r} cannot be the name of a stem"
            raise PresetError(msg)
        earlier = seen.setdefault(name.casefold(), index)
        if earlier != index:
            msg = f"{path}.name: {name!r} is taken by prompts[{earlier}]; names must differ"
            raise PresetError(msg)
        for number, span in enumerate(stem.spans):
            if not 0 <= span.start_s < span.end_s < math.inf:
                msg = (
                    f"{path}.spans[{number}]: {span.start_s:g} to {span.end_s:g} s; expected "
                    "0 <= start_s < end_s"
                )
                raise PresetError(msg)
    return preset


def preset_from_prompts(prompts: tuple[Prompt, ...], settings: SettingOptions) -> Preset:
    """Make a preset of what a call was given."""
    stems = tuple(
        PresetStem(
            prompt.text,
            prompt.name,
            tuple(PresetSpan(s.start_s, s.end_s, s.polarity) for s in prompt.spans),
        )
        for prompt in prompts
    )
    return Preset(stems=stems, **settings)
