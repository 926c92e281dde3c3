"""`Chain` and `Split`: effects in a row, and effects per stem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge.errors import InputError
from bridge.request import RESIDUAL, Prompt, Settings, check_prompts, make_settings
from bridge.separation import Separator
from plugin_host.effects.effect import Effect
from plugin_host.effects.segments import DRY, Lanes, SeparationPlan, SeparationStream
from plugin_host.effects.separators import SharedSeparator, open_separator
from plugin_host.effects.streams import (
    ChainStream,
    NativeStream,
    PassStream,
    Stream,
    WholeStream,
    silent_in_blocks,
)
from plugin_host.files.audio_files import Audio


class Chain(Effect):
    """Effects one after the other: pedalboard's plug-ins, `Separate`, `Split`, other chains.

    Neighbouring plug-ins of pedalboard go through it as one board. The result of a whole buffer
    has its length and is aligned with it, whatever latency the plug-ins have.

    Parameters
    ----------
    effects
        First to last; an empty chain gives back its input.

    Raises
    ------
    InputError
        Something in the list is no effect, or a plug-in stands in it twice: it has one state, so
        load it twice instead.
    """

    def __init__(self, effects: Sequence[Any] = ()) -> None:
        self.effects = list(effects)
        for index, effect in enumerate(self.effects):
            if not isinstance(effect, Effect) and not _is_native(effect):
                raise InputError(
                    f"effect {index + 1} is {effect!r}; expected a pedalboard plug-in, Separate, "
                    "Split or Chain"
                )
        _refuse_twice(self._plugins())

    def open_stream(
        self, sample_rate: int, channels: int, buffer_size: int, *, strict: bool
    ) -> Stream:
        """Start all effects on a stream; see `Effect.open_stream`."""
        streams: list[Stream] = []
        natives: list[Any] = []

        def end_native_run(*, in_blocks: bool = True) -> None:
            if not natives:
                return
            if strict:
                streams.append(
                    WholeStream(natives, sample_rate, channels, buffer_size, in_blocks=in_blocks)
                )
            else:
                streams.append(NativeStream(natives, sample_rate, channels, buffer_size))
            natives.clear()

        for effect in self._flattened():
            if isinstance(effect, Effect):
                end_native_run()
                streams.append(
                    effect.open_stream(sample_rate, channels, buffer_size, strict=strict)
                )
                continue
            silent = silent_in_blocks(effect)
            if silent is None:
                natives.append(effect)
            elif strict:
                end_native_run()
                natives.append(effect)
                end_native_run(in_blocks=False)
            else:
                raise InputError(
                    f"{silent} gives nothing but silence in a stream, a defect of "
                    "pedalboard; process whole buffers (reset=True) or take it out of the chain"
                )
        end_native_run()
        return ChainStream(streams) if streams else PassStream(channels)

    def close(self) -> None:
        """Close all effects."""
        super().close()
        for effect in self.effects:
            if isinstance(effect, Effect):
                effect.close()

    def _plugins(self) -> list[Any]:
        return [p for e in self.effects for p in _plugins_of(e)]

    def _flattened(self) -> list[Any]:
        flat: list[Any] = []
        for effect in self.effects:
            flat += effect._flattened() if isinstance(effect, Chain) else [effect]
        return flat


class Split(Effect):
    """Separates, runs a chain on every stem, and sums the results.

    Parameters
    ----------
    branches
        Prompt to effects: a `Chain`, a list for one, a single effect, or None to leave the stem
        out. The key ``"residual"`` is for what no prompt claims; without it that passes as it
        is. With empty chains the sum is the input.
    settings
        How to separate; None for the model's defaults.
    model, segment_s, in_process, patience_s, separator
        As for `Separate`.
    **options
        Fields of `bridge.Settings`, in place of those in `settings`.

    Raises
    ------
    InputError
        A prompt or a setting cannot be used, or there is none.
    """

    def __init__(
        self,
        branches: Mapping[str | Prompt, Any],
        settings: Settings | None = None,
        *,
        model: str = "mini",
        segment_s: float | None = None,
        in_process: bool = False,
        patience_s: float = 5.0,
        separator: Separator | None = None,
        **options: object,
    ) -> None:
        prompts = check_prompts([key for key in branches if key != RESIDUAL], float("inf"))
        chains = [value for key, value in branches.items() if key != RESIDUAL]
        self.branches: dict[str, Effect | None] = {
            prompt.stem: _as_effect(chain) for prompt, chain in zip(prompts, chains, strict=True)
        }
        self.branches[RESIDUAL] = _as_effect(branches.get(RESIDUAL, ()))
        _refuse_twice(self._plugins())
        self._plan = SeparationPlan(prompts, make_settings(settings, **options), segment_s)
        self._given = separator
        self._own = SharedSeparator(
            lambda: open_separator(model, in_process=in_process, patience_s=patience_s)
        )

    def open_stream(
        self, sample_rate: int, channels: int, buffer_size: int, *, strict: bool
    ) -> Stream:
        """Start the separation and all chains on a stream; see `Effect.open_stream`."""
        lanes = SeparationStream(self._separator, self._plan, sample_rate, channels, strict=strict)
        branches = {
            name: effect.open_stream(sample_rate, channels, buffer_size, strict=strict)
            for name, effect in self.branches.items()
            if effect is not None
        }
        return _Sum(lanes, {**branches, DRY: PassStream(channels)}, channels)

    def close(self) -> None:
        """Close all chains and the connection to the sidecar."""
        super().close()
        for effect in self.branches.values():
            if effect is not None:
                effect.close()
        self._own.close()

    def _plugins(self) -> list[Any]:
        return [p for e in self.branches.values() for p in _plugins_of(e)]

    def _separator(self) -> Separator:
        return self._own.get() if self._given is None else self._given


class _Sum:
    """The stream of a `Split`: each lane through its branch, then the sum of what all have."""

    def __init__(
        self, lanes: SeparationStream, branches: Mapping[str, Stream], channels: int
    ) -> None:
        self._lanes = lanes
        self._branches = branches
        self._ready = {name: np.zeros((channels, 0), np.float32) for name in branches}

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        waiting = max(
            stream.held_samples + self._ready[name].shape[1]
            for name, stream in self._branches.items()
        )
        return self._lanes.held_samples + waiting

    @property
    def dry_reason(self) -> str | None:
        """Why the latest samples came out dry."""
        reasons = [self._lanes.dry_reason, *(s.dry_reason for s in self._branches.values())]
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def silence_reason(self) -> str | None:
        """The first reason of a branch."""
        reasons = (stream.silence_reason for stream in self._branches.values())
        return next((reason for reason in reasons if reason is not None), None)

    def feed(self, block: Audio) -> Audio:
        """Take a block and return the samples that are ready in all branches."""
        self._spread(self._lanes.feed(block))
        return self._take()

    def finish(self) -> Audio:
        """Return all that is held."""
        self._spread(self._lanes.finish())
        for name, stream in self._branches.items():
            self._append(name, stream.finish())
        return self._take()

    def close(self) -> None:
        """Stop the separation and all branches."""
        self._lanes.close()
        for stream in self._branches.values():
            stream.close()

    def _spread(self, stretches: Sequence[Lanes]) -> None:
        for stretch in stretches:
            for name, stream in self._branches.items():
                self._append(name, stream.feed(stretch[name]))

    def _append(self, name: str, audio: Audio) -> None:
        self._ready[name] = np.concatenate([self._ready[name], audio], axis=1)

    def _take(self) -> Audio:
        samples = min(audio.shape[1] for audio in self._ready.values())
        # In double precision, so that the sum of many stems rounds once.
        total = sum(
            (audio[:, :samples].astype(np.float64) for audio in self._ready.values()),
            start=np.zeros(1),
        )
        self._ready = {name: audio[:, samples:] for name, audio in self._ready.items()}
        return np.asarray(total, np.float32)


def _is_native(effect: Any) -> bool:
    import pedalboard

    # Python subclasses of built-in plug-ins are accepted by pedalboard, which then ignores
    # their process method.
    return isinstance(effect, pedalboard.Plugin) and type(effect).__module__.startswith(
        "pedalboard"
    )


def _plugins_of(effect: Any) -> list[Any]:
    if effect is None or isinstance(effect, Effect):
        return effect._plugins() if isinstance(effect, Chain | Split) else []
    return [effect]


def _refuse_twice(plugins: Sequence[Any]) -> None:
    if len({id(plugin) for plugin in plugins}) < len(plugins):
        raise InputError(
            "a plug-in stands in the chain twice, but has one state; load it once for each place"
        )


def _as_effect(value: Any) -> Effect | None:
    if value is None or isinstance(value, Effect):
        return value
    return Chain(list(value) if isinstance(value, list | tuple) else [value])
