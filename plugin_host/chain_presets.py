"""Presets turned into effects: plug-ins by name or file, and the whole chain of a preset."""

import base64
import binascii
import difflib
from pathlib import Path
from typing import Any

import numpy as np

from bridge.errors import InputError
from plugin_host.chain import Chain, Split
from plugin_host.effect import Effect as HostEffect
from plugin_host.floating_point import kept_rounding
from plugin_host.separators import Separator
from plugin_host.streams import PassStream, Stream
from presets import Effect, Preset, PresetError


def load_plugin(effect: Effect) -> Any:
    """Load a plug-in and set it up.

    Parameters
    ----------
    effect
        A plug-in built into pedalboard by its class name, or the path of a VST3 or AU.

    Returns
    -------
    A pedalboard plug-in.

    Raises
    ------
    PresetError
        There is no such plug-in, or it has no such parameter or refuses its value.
    """
    import pedalboard

    builtin = getattr(pedalboard, effect.plugin, None)
    where = f"plug-in {effect.plugin!r}"
    try:
        if isinstance(builtin, type) and issubclass(builtin, pedalboard.Plugin):
            plugin = builtin()
        elif Path(effect.plugin).exists():
            with kept_rounding():
                plugin = pedalboard.load_plugin(effect.plugin, plugin_name=effect.name)
        else:
            msg = f"{where}: neither built into pedalboard nor a file; {_nearest(effect.plugin)}"
            raise PresetError(msg)
    except (ImportError, ValueError, TypeError, RuntimeError) as error:
        msg = f"{where}: cannot be loaded ({error})"
        raise PresetError(msg) from None
    _restore_state(plugin, effect, where)
    for name, value in effect.parameters.items():
        if not _has_parameter(plugin, name):
            close = difflib.get_close_matches(name, dir(plugin), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            msg = f"{where}: no parameter {name!r}{hint}"
            raise PresetError(msg)
        try:
            setattr(plugin, name, value)
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            msg = f"{where}: {name} = {value!r} is refused ({error})"
            raise PresetError(msg) from None
    return plugin


def describe_plugin(plugin: Any, path: str | None = None) -> Effect:
    """Describe a pedalboard plug-in as it stands, so that `load_plugin` makes its equal.

    Parameters
    ----------
    plugin
        A plug-in of pedalboard.
    path
        The file it was loaded from; None for a built-in one.
    """
    if path is not None:
        state = base64.b64encode(plugin.raw_state).decode()
        return Effect(path, name=plugin.name, state=state)
    names = [
        name
        for name in dir(type(plugin))
        if not name.startswith("_") and isinstance(getattr(type(plugin), name), property)
    ]
    values = {name: getattr(plugin, name) for name in names}
    kept: dict[str, float | bool | str] = {
        name: value for name, value in values.items() if isinstance(value, bool | int | float)
    }
    return Effect(type(plugin).__name__, parameters=kept)


def chain_from_preset(
    preset: Preset,
    *,
    in_process: bool = False,
    patience_s: float = 5.0,
    separator: Separator | None = None,
) -> Chain:
    """Build the chain of a preset: before, per stem, after.

    Parameters
    ----------
    preset
        What to build. Without prompts it is an ordinary chain of plug-ins.
    in_process, patience_s, separator
        As for `plugin_host.Separate`.

    Raises
    ------
    PresetError
        A plug-in cannot be loaded or set.
    InputError
        A prompt or a setting cannot be used.
    """
    if preset.bypass:
        return Chain([])
    effects: list[Any] = _load_all(preset.before)
    if preset.stems:
        branches: dict[Any, Any] = {
            stem.prompt: None if stem.mute else _branch(stem.chain, stem.gain_db)
            for stem in preset.stems
        }
        rest = preset.residual
        branches["residual"] = None if rest.mute else _branch(rest.chain, rest.gain_db)
        split = Split(
            branches,
            model=preset.model or "mini",
            segment_s=preset.segment_s,
            in_process=in_process,
            patience_s=patience_s,
            separator=separator,
            **preset.settings,
        )
        effects.append(split)
    effects += _load_all(preset.after)
    if preset.wet < 1.0:
        msg = "wet below 1 is for presets of a single Separate; use gain_db and mute instead"
        raise InputError(msg)
    return Chain(effects)


class Level(HostEffect):
    """A gain that only multiplies, so that 0 dB changes no bit.

    Parameters
    ----------
    gain_db
        In dB.
    """

    def __init__(self, gain_db: float) -> None:
        self.gain_db = gain_db

    def open_stream(
        self, sample_rate: int, channels: int, buffer_size: int, *, strict: bool
    ) -> Stream:
        """Start on a stream; see `Effect.open_stream`."""
        del sample_rate, buffer_size, strict
        return _LevelStream(channels, np.float32(10 ** (self.gain_db / 20)))


class _LevelStream(PassStream):
    def __init__(self, channels: int, factor: np.float32) -> None:
        super().__init__(channels)
        self._factor = factor

    def feed(self, block: Any) -> Any:
        return block * self._factor


def _branch(chain: tuple[Effect, ...], gain_db: float) -> Chain:
    return Chain([*_load_all(chain), *([Level(gain_db)] if gain_db else [])])


def _load_all(chain: tuple[Effect, ...]) -> list[Any]:
    return [load_plugin(effect) for effect in chain if not effect.bypass]


def _restore_state(plugin: Any, effect: Effect, where: str) -> None:
    if effect.state is None:
        return
    try:
        plugin.raw_state = base64.b64decode(effect.state, validate=True)
    except (binascii.Error, AttributeError, ValueError, RuntimeError) as error:
        msg = f"{where}: its state cannot be restored ({error})"
        raise PresetError(msg) from None


def _has_parameter(plugin: Any, name: str) -> bool:
    if name.startswith("_"):
        return False
    parameters = getattr(plugin, "parameters", None)
    if parameters is not None:
        return name in parameters
    return isinstance(getattr(type(plugin), name, None), property)


def _nearest(name: str) -> str:
    import pedalboard

    builtin = [
        key
        for key, value in vars(pedalboard).items()
        if isinstance(value, type) and issubclass(value, pedalboard.Plugin)
    ]
    close = difflib.get_close_matches(name, builtin, 1)
    return f"did you mean {close[0]!r}?" if close else "check the name or the path"
