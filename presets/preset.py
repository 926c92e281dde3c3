"""Presets: what one says, and how it is written as TOML.

What a preset says: prompts, model, settings, and the chain of each stem.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import tomli_w
from msgspec import Struct, field
from msgspec.structs import asdict, replace

from bridge.errors import InputError
from bridge.files import parse_toml, sha256_of_file
from bridge.request import RESIDUAL, Prompt, Settings, Span, check_settings, is_safe_name
from bridge.separation import Report

FORMAT: Final = 1
"""Version of the file format; a change that older readers would misread raises it."""

_MOST_STEMS: Final = 200
_LARGEST_GAIN_DB: Final = 120


class PresetError(InputError):
    """A preset cannot be found, read or saved."""


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
    video : PresetVideo or None
        Shows what is to be extracted.
    """

    text: str
    name: str | None = None
    spans: tuple[PresetSpan, ...] = ()
    chain: tuple[Effect, ...] = ()
    gain_db: float = 0.0
    mute: bool = False
    video: PresetVideo | None = None

    @property
    def prompt(self) -> Prompt:
        """The prompt as `separate` takes it."""
        spans = tuple(Span(s.start_s, s.end_s, s.polarity) for s in self.spans)
        return Prompt(self.text, self.name, spans)


class PresetVideo(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The files of a visual prompt.

    Attributes
    ----------
    clip : str
        Path of the video.
    mask : str or None
        Path of the video that is bright where the thing is; None if the clip is masked already.
    sha256 : str
        Over the SHA-256 of the clip and then of the mask: a file that was changed is refused.
    """

    clip: str
    mask: str | None = None
    sha256: str = ""

    @classmethod
    def of_files(cls, clip: Path, mask: Path | None = None) -> PresetVideo:
        """Describe files as they are now; PresetError if one cannot be read."""
        files = [clip.absolute(), *([] if mask is None else [mask.absolute()])]
        paths = [str(path) for path in files]
        return cls(paths[0], paths[1] if mask is not None else None, _sha256(files))

    def check(self, stem: str, remedy: str) -> None:
        """Return if the files are those that were saved.

        Parameters
        ----------
        stem
            What they show.
        remedy
            What to do otherwise, for the end of the message.

        Raises
        ------
        PresetError
            One is gone or was changed.
        """
        files = [Path(path) for path in (self.clip, self.mask) if path is not None]
        try:
            found = _sha256(files)
        except PresetError as error:
            raise PresetError(f"{error}; the preset shows {stem!r} by it: {remedy}") from None
        if found != self.sha256:
            raise PresetError(
                f"{self.clip}: the preset was saved with another video or mask of {stem!r} "
                f"(SHA-256 {self.sha256[:12]}, now {found[:12]}); {remedy}"
            )


def _sha256(files: Iterable[Path]) -> str:
    """Compute the SHA-256 over those of some files."""
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(bytes.fromhex(sha256_of_file(path)))
        except OSError as error:
            raise PresetError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


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


class Preset(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Prompts and settings that make stems come back bit for bit.

    Besides the fields below it has those of `bridge.request.Settings`.

    Attributes
    ----------
    description : str
        One line for lists.
    model, model_sha256, provider : str or None
        The model, its checksum, and the execution provider that computed the stems. Another
        checksum or provider does not refuse the preset; the difference is reported.
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
    def settings(self) -> Settings:
        """The settings as `separate` takes them."""
        return Settings(**{name: getattr(self, name) for name in Settings.__struct_fields__})


def check_preset(preset: Preset) -> Preset:
    """Return the preset if its values fit together.

    Raises
    ------
    PresetError
        A value is out of range, or two stems share a name. The message begins with the path of
        the field.
    """
    try:
        check_settings(preset.settings)
    except InputError as error:
        raise PresetError(str(error)) from None
    _check_sound(preset)
    if not 0.0 <= preset.wet <= 1.0:
        raise PresetError(f"wet is {preset.wet}; expected 0 to 1")
    if preset.segment_s is not None and not 0.1 <= preset.segment_s < math.inf:
        raise PresetError(f"segment_s is {preset.segment_s}; expected at least 0.1 s")
    seen: dict[str, int] = {}
    for index, stem in enumerate(preset.stems):
        path = f"prompts[{index}]"
        name = stem.prompt.stem
        if not stem.text.strip() and not stem.spans:
            raise PresetError(f"{path}.text is empty; say what to extract, e.g. 'drums'")
        if not is_safe_name(name) or name.casefold() == RESIDUAL:
            raise PresetError(f"{path}.name: {name!r} cannot be the name of a stem")
        earlier = seen.setdefault(name.casefold(), index)
        if earlier != index:
            raise PresetError(
                f"{path}.name: {name!r} is taken by prompts[{earlier}]; names must differ"
            )
        for number, span in enumerate(stem.spans):
            if not 0 <= span.start_s < span.end_s < math.inf:
                raise PresetError(
                    f"{path}.spans[{number}]: {span.start_s:g} to {span.end_s:g} s; expected "
                    "0 <= start_s < end_s"
                )
    return preset


def _check_sound(preset: Preset) -> None:
    """Refuse numbers that would make noise, or nothing, of what is rendered with them."""
    if len(preset.stems) > _MOST_STEMS:
        raise PresetError(f"prompts: there are {len(preset.stems)}; expected at most {_MOST_STEMS}")
    gains = {"residual": preset.residual.gain_db}
    gains |= {f"prompts[{index}]": stem.gain_db for index, stem in enumerate(preset.stems)}
    for path, gain_db in gains.items():
        if not abs(gain_db) <= _LARGEST_GAIN_DB:  # written so that no NaN passes
            raise PresetError(
                f"{path}.gain_db is {gain_db}; expected -{_LARGEST_GAIN_DB} to "
                f"{_LARGEST_GAIN_DB}, or mute = true"
            )
    chains = [preset.before, preset.after, preset.residual.chain]
    chains += [stem.chain for stem in preset.stems]
    for effect in itertools.chain(*chains):
        for name, value in effect.parameters.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise PresetError(
                    f"the parameter {name!r} of {effect.plugin!r} is {value}; expected a number"
                )


def refuse_videos(preset: Preset, what: str) -> None:
    """Raise if a preset's stems are shown by a video, for something that shows none.

    Raises
    ------
    PresetError
        One has a video; the message says what to do.
    """
    for index, stem in enumerate(preset.stems):
        if stem.video is not None:
            raise PresetError(
                f"prompts[{index}].video: {what} takes no video, which belongs to one file; use "
                "stembridge separate, or take the video out of the preset"
            )


def stems_from_prompts(prompts: Iterable[Prompt]) -> tuple[PresetStem, ...]:
    """Make the stems of a preset of what a call was given."""
    return tuple(
        PresetStem(
            prompt.text,
            prompt.name,
            tuple(PresetSpan(s.start_s, s.end_s, s.polarity) for s in prompt.spans),
        )
        for prompt in prompts
    )


def with_prompts(preset: Preset, prompts: Sequence[Prompt]) -> Preset:
    """Return the preset with other prompts, the first of which are its own with other spans.

    Chains and levels of its own stems stay.
    """
    fresh = stems_from_prompts(prompts)
    own = [replace(old, spans=new.spans) for old, new in zip(preset.stems, fresh, strict=False)]
    return replace(preset, stems=(*own, *fresh[len(own) :]))


def differences(preset: Preset, report: Report) -> list[str]:
    """Explain why stems may differ from those that the preset was saved with.

    Parameters
    ----------
    preset
        What was asked for.
    report
        What was computed.

    Returns
    -------
    A sentence for each difference of model and provider; none if both are the recorded ones.
    """
    told = []
    if preset.model_sha256 is not None and preset.model_sha256 != report.model_sha256:
        told.append(
            f"the preset was saved with another state of the model {preset.model} "
            f"({preset.model_sha256[:12]}, now {report.model_sha256[:12]}); stems will differ"
        )
    if preset.provider is not None and preset.provider != report.provider:
        told.append(
            f"the preset was saved on {preset.provider} and this is {report.provider}; "
            "stems may differ in the last bits"
        )
    return told


def pinned(preset: Preset, report: Report) -> Preset:
    """Return the preset with all that a report says made the stems.

    That is the model and its checksum, the execution provider, and the settings with the model's
    defaults filled in: other defaults, in a later version of the model, change nothing then.
    """
    return replace(
        preset,
        **asdict(report.settings),
        model=preset.model or report.model,
        model_sha256=report.model_sha256,
        provider=report.provider,
    )


MOST_BYTES: Final = 32 << 20
"""More than a preset ever has, with the states of its plug-ins."""


def parse_preset(text: str, *, source: str = "preset") -> Preset:
    """Read a preset.

    Parameters
    ----------
    text
        TOML with ``format = 1`` at the top.
    source
        What to call it in errors, such as its file name.

    Raises
    ------
    PresetError
        It is not TOML, of a newer format, or has a field that is unknown, of the wrong type or
        out of range; the message holds the path of the field.
    """
    try:
        if len(text) > MOST_BYTES:
            raise PresetError(f"it has {len(text)} characters; expected at most {MOST_BYTES}")
        raw = parse_toml(text)
        _check_format(raw.pop("format", None))
        return check_preset(msgspec.convert(raw, Preset))
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        where = path.rstrip("`").lstrip(".") or "top level"
        raise PresetError(f"{source}: {where}: {problem}") from None
    except PresetError as error:
        raise PresetError(f"{source}: {error}") from None
    except ValueError as error:
        raise PresetError(f"{source}: {error}") from None


def _check_format(found: object) -> None:
    """Raise PresetError if a file is of another format than this program reads."""
    if not isinstance(found, int) or isinstance(found, bool):
        raise PresetError(f"format: expected a whole number such as {FORMAT}, got {found!r}")
    if found > FORMAT:
        raise PresetError(
            f"format: {found} is newer than this program, which reads up to {FORMAT}; update it"
        )
    if found < FORMAT:
        raise PresetError(f"format: {found} is too old; expected {FORMAT}")


def format_preset(preset: Preset) -> str:
    """Write a preset as TOML; fields at their defaults are left out.

    `parse_preset` gives an equal preset back.
    """
    content = {"format": FORMAT, **msgspec.to_builtins(preset, str_keys=True)}
    return tomli_w.dumps(content, multiline_strings=False)
