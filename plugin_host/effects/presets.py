"""Presets turned into effects: plug-ins by name or file, and the whole chain of a preset.

A plug-in file is a program. A preset can come from anybody, inside a project or beside it, so a
file that it names is loaded only if the user said so of this very content: another file at the
same place, or a new version of it, has to be allowed again.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bridge.errors import InputError, ServerError, foreign_errors
from bridge.files import data_directory, open_regular, private_directory, read_bounded
from bridge.separation import Separator
from plugin_host.effects.chain import Chain, Split
from plugin_host.effects.effect import Effect as HostEffect
from plugin_host.effects.streams import PassStream, Stream, kept_rounding
from plugin_host.files.audio_files import replace_file, temporary_beside
from presets import Effect, Preset, PresetError
from presets.preset import refuse_videos

_MOST_BYTES = 8 << 20
_BLOCK_BYTES = 1 << 20


def plugin_files(preset: Preset) -> list[Path]:
    """Return the plug-in files that a preset names, each once; none is opened."""
    chains = [
        preset.before,
        preset.after,
        preset.residual.chain,
        *(stem.chain for stem in preset.stems),
    ]
    files = [_file_of(effect) for chain in chains for effect in chain if not effect.bypass]
    return list(dict.fromkeys(file for file in files if file is not None))


def fingerprint(path: Path) -> str:
    """Return the SHA-256, in hex, of a plug-in: a file, or a folder with all that is in it.

    Raises
    ------
    PresetError
        It cannot be read, or has links or special files in it.
    """
    digest = hashlib.sha256()
    try:
        for name, file in _parts(path):
            digest.update(f"{len(os.fsencode(name))} {file.stat().st_size}\n".encode())
            digest.update(os.fsencode(name))
            with open_regular(file) as content:
                while block := content.read(_BLOCK_BYTES):
                    digest.update(block)
    except OSError as error:
        raise PresetError(
            f"{error.filename or path}: cannot be read ({error.strerror or error})"
        ) from None
    return digest.hexdigest()


def check_allowed(preset: Preset) -> None:
    """Return if all plug-in files of a preset may be loaded.

    Raises
    ------
    PresetError
        The user has not allowed one of them, or not as it is now.
    """
    allowed = _read()
    for path in plugin_files(preset):
        if path.exists() and (found := fingerprint(path)) not in allowed:
            raise PresetError(
                f"the preset loads the plug-in file {path} (sha256 {found[:12]}...), which is a "
                "program and was not allowed here; if you trust it, run: "
                f"stembridge preset allow '{path}'"
            )


def allow(path: Path) -> str:
    """Let presets load a plug-in file as it is now, and return its fingerprint.

    Raises
    ------
    PresetError
        It is not there, or cannot be read; or the list of what is allowed cannot be written.
    """
    if not path.exists():
        raise PresetError(f"{path}: no such plug-in; check the name")
    found = fingerprint(path)
    store = _store()
    try:
        with temporary_beside(store) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in sorted({*_read(), found})))
            replace_file(temporary, store)
    except OSError as error:
        raise PresetError(f"{store}: cannot be written ({error.strerror or error})") from error
    return found


def _file_of(effect: Effect) -> Path | None:
    """Return the file of an effect; a built-in plug-in, whose name is an identifier, has none."""
    return None if effect.plugin.isidentifier() else Path(effect.plugin).absolute()


def _parts(path: Path) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        yield path.name, path
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted([*files, *(f for f in folders if Path(folder, f).is_symlink())]):
            part = Path(folder, name)
            if part.is_symlink():
                raise PresetError(f"{part}: is a link, so it is not known what would be loaded")
            yield part.relative_to(path).as_posix(), part


def _store() -> Path:
    """Return the file of the list, once nobody else can have written it."""
    folder = data_directory()
    try:
        private_directory(folder)
    except ServerError as error:
        raise PresetError(str(error)) from error
    return folder / "allowed-plugins"


def _read() -> frozenset[str]:
    store = _store()
    try:
        return frozenset(read_bounded(store, _MOST_BYTES).decode("ascii", "replace").split())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise PresetError(f"{store}: cannot be read ({error.strerror or error})") from error


def load_plugin(effect: Effect) -> Any:
    """Load a plug-in and set its parameters; loading a file runs the code in it.

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
    with foreign_errors(f"{where}: cannot be loaded", PresetError):
        if isinstance(builtin, type) and issubclass(builtin, pedalboard.Plugin):
            plugin = builtin()
        elif not effect.plugin.isidentifier() and Path(effect.plugin).exists():
            with kept_rounding():
                plugin = pedalboard.load_plugin(effect.plugin, plugin_name=effect.name)
        else:
            raise PresetError(
                f"{where}: neither built into pedalboard nor a file; {_nearest(effect.plugin)}"
            )
    _restore_state(plugin, effect, where)
    for name, value in effect.parameters.items():
        if not _has_parameter(plugin, name):
            close = difflib.get_close_matches(name, dir(plugin), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise PresetError(f"{where}: no parameter {name!r}{hint}")
        with foreign_errors(f"{where}: {name} = {value!r} is refused", PresetError):
            setattr(plugin, name, value)
    return plugin


def chain_from_preset(
    preset: Preset,
    *,
    in_process: bool = False,
    patience_s: float = 5.0,
    separator: Separator | None = None,
    any_plugin: bool = False,
) -> Chain:
    """Build the chain of a preset: before, per stem, after.

    Parameters
    ----------
    preset
        What to build. Without prompts it is an ordinary chain of plug-ins.
    in_process, patience_s, separator
        As for `plugin_host.Separate`.

    any_plugin
        Load plug-in files that the user has not allowed, too.

    Raises
    ------
    PresetError
        A plug-in cannot be loaded or set, or is a file that was not allowed; see
        `plugin_host.effects.presets`.
    InputError
        A prompt or a setting cannot be used.
    """
    refuse_videos(preset, "a chain")
    if preset.bypass:
        return Chain([])
    if not any_plugin:
        check_allowed(preset)
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
            preset.settings,
            model=preset.model or "mini",
            segment_s=preset.segment_s,
            in_process=in_process,
            patience_s=patience_s,
            separator=separator,
        )
        effects.append(split)
    effects += _load_all(preset.after)
    if preset.wet < 1.0:
        raise InputError(
            "wet below 1 is for presets of a single Separate; use gain_db and mute instead"
        )
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
        """Start the effect on a stream; see `Effect.open_stream`."""
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
    with foreign_errors(f"{where}: its state cannot be restored", PresetError):
        plugin.raw_state = base64.b64decode(effect.state, validate=True)


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
