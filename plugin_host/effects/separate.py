"""`Separate`: one prompted stem as an effect."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from msgspec.structs import asdict

from bridge.errors import InputError
from bridge.request import (
    RESIDUAL,
    Prompt,
    Settings,
    Span,
    check_prompts,
    make_settings,
    setting_fields,
)
from bridge.separation import Separator
from plugin_host.effects.effect import Effect
from plugin_host.effects.segments import DRY, Lanes, SeparationPlan, SeparationStream
from plugin_host.effects.separators import SharedSeparator, open_separator
from plugin_host.effects.streams import PassStream, Stream
from plugin_host.files.audio_files import Audio
from presets import Preset, PresetStem, ResidualStem
from presets.preset import PresetSpan, refuse_videos

Keep = Literal["target", "residual", "remix"]

_SETTINGS: Final = Settings.__struct_fields__


class Separate(Effect):
    """Keeps what a prompt names, or everything else, or changes its level.

    Parameters become attributes of the same names, which can be set; `parameters` holds them all.
    A change takes effect with the next whole buffer or stream.

    Parameters
    ----------
    prompt
        What is meant, such as ``"lead vocals"``.
    keep
        ``"target"``: what was named. ``"residual"``: all the rest. ``"remix"``: everything, with
        what was named at another level.
    gain_db
        Level of the target, or of the residual where only that is kept.
    spans
        Where it is known to sound or not.
    wet
        1 is the effect, 0 the input; in between both.
    bypass
        Give back the input.
    model
        Name of a model, or the path of a bundle.
    segment_s
        Separate in segments of so many seconds, so that a stream flows; None separates a stream
        when it ends, exactly as `stembridge separate` does with a file.
    in_process
        Compute here instead of in the sidecar.
    patience_s
        How long a stream waits for a sidecar that does not answer before its audio passes dry.
    revise
        Let the sidecar compute only what was edited since it was last asked; see
        `bridge.Client.separate`.
    separator
        Use this client or engine, which stays the caller's to close.
    **settings
        Fields of `bridge.Settings`: ``seed``, ``steps``, ``solver``, ``window_s`` and so on.

    Raises
    ------
    InputError
        A parameter is out of range; so does setting it.
    AttributeError
        Setting something that is no parameter.
    """

    prompt: str
    keep: Keep
    gain_db: float
    spans: tuple[Span, ...]
    wet: float
    bypass: bool
    model: str
    segment_s: float | None

    def __init__(
        self,
        prompt: str,
        keep: Keep = "target",
        *,
        gain_db: float = 0.0,
        spans: Sequence[Span] = (),
        wet: float = 1.0,
        bypass: bool = False,
        model: str = "mini",
        segment_s: float | None = None,
        in_process: bool = False,
        patience_s: float = 5.0,
        revise: bool = False,
        separator: Separator | None = None,
        **settings: Any,
    ) -> None:
        self._values: dict[str, Any] = {}
        for field in setting_fields():
            self._values[field.name] = field.default
        self.prompt, self.keep, self.gain_db = prompt, keep, gain_db
        self.spans, self.wet, self.bypass = tuple(spans), wet, bypass
        self.model, self.segment_s = model, segment_s
        for name, value in settings.items():
            setattr(self, name, value)
        self._given = separator
        self._own = SharedSeparator(
            lambda: open_separator(
                self.model, in_process=in_process, patience_s=patience_s, revise=revise
            )
        )

    @property
    def parameters(self) -> Mapping[str, Any]:
        """All parameters by name, a copy."""
        return dict(self._values)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name in values:
            return values[name]
        raise AttributeError(f"Separate has no parameter {name!r}; {_nearest(name, values)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        if name not in self._values and name not in Separate.__annotations__:
            raise AttributeError(
                f"Separate has no parameter {name!r}; {_nearest(name, self._values)}"
            )
        changed = {**self._values, name: tuple(value) if name == "spans" else value}
        _check(name, changed)
        if name == "model" and value != self._values.get("model") and "_own" in self.__dict__:
            self._own.close()
        self._values = changed

    def open_stream(
        self, sample_rate: int, channels: int, buffer_size: int, *, strict: bool
    ) -> Stream:
        """Start separating a stream; see `Effect.open_stream`."""
        del buffer_size
        if self.bypass or self.wet == 0.0:
            return PassStream(channels)
        lanes = SeparationStream(self.separator, self.plan, sample_rate, channels, strict=strict)
        return _Kept(lanes, self.mix)

    @property
    def plan(self) -> SeparationPlan:
        """What is separated and how; the prompt's stem is called ``target``."""
        settings = make_settings(**{name: self._values[name] for name in _SETTINGS})
        return SeparationPlan(
            (Prompt(self.prompt, "target", self.spans),), settings, self.segment_s
        )

    @property
    def mix(self) -> Callable[[Lanes], Audio]:
        """Return the function that mixes the lanes into what is kept, as the parameters say."""
        return functools.partial(_mix, self.parameters)

    def close(self) -> None:
        """Drop the stream and close the connection to the sidecar."""
        super().close()
        self._own.close()

    def to_preset(self) -> Preset:
        """Return the state as a preset with one prompt."""
        values = self._values
        gains = {"target": (self.gain_db, 0.0), "residual": (0.0, self.gain_db)}
        stem_db, residual_db = gains.get(self.keep, (self.gain_db, 0.0))
        stem = PresetStem(
            self.prompt,
            spans=tuple(PresetSpan(s.start_s, s.end_s, s.polarity) for s in self.spans),
            gain_db=stem_db,
            mute=self.keep == "residual",
        )
        return Preset(
            model=self.model,
            stems=(stem,),
            residual=ResidualStem(gain_db=residual_db, mute=self.keep == "target"),
            wet=self.wet,
            bypass=self.bypass,
            segment_s=self.segment_s,
            **{name: values[name] for name in _SETTINGS},
        )

    @classmethod
    def from_preset(cls, preset: Preset, **options: Any) -> Separate:
        """Make an effect of a preset with one prompt.

        Parameters
        ----------
        preset
            As `to_preset` gives it.
        **options
            Passed on: ``in_process``, ``patience_s``, ``separator``.

        Raises
        ------
        InputError
            The preset has not exactly one prompt, mutes both sides, or has chains.
        """
        refuse_videos(preset, "an effect")
        if len(preset.stems) != 1:
            raise InputError(
                f"expected a preset with one prompt, got {len(preset.stems)}; use Chain for more"
            )
        stem, rest = preset.stems[0], preset.residual
        if stem.chain or rest.chain or (stem.mute and rest.mute):
            raise InputError(
                "the preset has chains or mutes everything; use plugin_host.chain_from_preset"
            )
        keep: Keep = "residual" if stem.mute else "target" if rest.mute else "remix"
        return cls(
            stem.text,
            keep,
            gain_db=rest.gain_db if stem.mute else stem.gain_db,
            spans=stem.prompt.spans,
            wet=preset.wet,
            bypass=preset.bypass,
            model=preset.model or "mini",
            segment_s=preset.segment_s,
            **asdict(preset.settings),
            **options,
        )

    def separator(self) -> Separator:
        """Return the separator, opened when it is first needed."""
        return self._own.get() if self._given is None else self._given


class _Kept:
    """The stream of a `Separate`: from lanes to what is kept."""

    silence_reason = None

    def __init__(self, lanes: SeparationStream, mix: Callable[[Lanes], Audio]) -> None:
        self._lanes = lanes
        self._mix = mix

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        return self._lanes.held_samples

    @property
    def dry_reason(self) -> str | None:
        """Why the latest samples came out dry."""
        return self._lanes.dry_reason

    def feed(self, block: Audio) -> Audio:
        """Take a block and return the samples that are ready."""
        nothing = block[:, :0]
        return np.concatenate([nothing, *map(self._mix, self._lanes.feed(block))], axis=1)

    def finish(self) -> Audio:
        """Return all that is held."""
        return np.concatenate([self._mix(lanes) for lanes in self._lanes.finish()], axis=1)

    def close(self) -> None:
        """Stop the separation."""
        self._lanes.close()


def _mix(values: Mapping[str, Any], lanes: Lanes) -> Audio:
    gain = np.float32(10 ** (values["gain_db"] / 20))
    target, residual, dry = lanes["target"], lanes[RESIDUAL], lanes[DRY]
    kept = {
        "target": gain * target,
        "residual": gain * residual,
        "remix": gain * target + residual,
    }[values["keep"]]
    wet = np.float32(values["wet"])
    return np.asarray(wet * kept + (1 - wet) * (target + residual) + dry, np.float32)


def _check(name: str, values: Mapping[str, Any]) -> None:
    value = values[name]
    if name in _SETTINGS:
        make_settings(**{key: values[key] for key in _SETTINGS if key in values})
    elif name in ("prompt", "spans"):
        spans = values.get("spans", ())
        check_prompts([Prompt(values["prompt"], "target", spans)], float("inf"))
    elif name == "keep" and value not in get_args(Keep):
        raise InputError(f"keep is {value!r}; expected one of {', '.join(get_args(Keep))}")
    elif name == "gain_db" and not -120.0 <= value <= 60.0:
        raise InputError(f"gain_db is {value}; expected -120 to 60")
    elif name == "wet" and not 0.0 <= value <= 1.0:
        raise InputError(f"wet is {value}; expected 0 to 1")
    elif name == "segment_s" and value is not None and not 0.1 <= value < float("inf"):
        raise InputError(
            f"segment_s is {value}; expected at least 0.1 s, or None for the whole stream at once"
        )


def _nearest(name: str, values: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(values), 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(values)}"
