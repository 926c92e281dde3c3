"""Presets as TOML: read strictly, written so that a person can read them."""

import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import tomli_w

from presets.preset import FORMAT, Preset, PresetError, check_preset

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: Mapping[int, Migration] = {}
"""From each older format to the next; ``MIGRATIONS[1]`` turns format 1 into format 2."""


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
        raw = migrate(tomllib.loads(text), FORMAT, MIGRATIONS)
        return check_preset(msgspec.convert(raw, Preset))
    except tomllib.TOMLDecodeError as error:
        msg = f"{source}: not TOML: {error}"
        raise PresetError(msg) from None
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        where = path.rstrip("`").lstrip(".") or "top level"
        msg = f"{source}: {where}: {problem}"
        raise PresetError(msg) from None
    except PresetError as error:
        msg = f"{source}: {error}"
        raise PresetError(msg) from None


def migrate(
    raw: dict[str, Any], target: int, migrations: Mapping[int, Migration]
) -> dict[str, Any]:
    """Bring the raw content of a file to the format ``target`` and take its format field away.

    Raises
    ------
    PresetError
        The format is missing, not a whole number, newer than ``target``, or too old.
    """
    raw = dict(raw)
    found = raw.pop("format", None)
    if not isinstance(found, int) or isinstance(found, bool):
        msg = f"format: expected a whole number such as {target}, got {found!r}"
        raise PresetError(msg)
    if found > target:
        msg = f"format: {found} is newer than this program, which reads up to {target}; update it"
        raise PresetError(msg)
    for version in range(found, target):
        if version not in migrations:
            msg = f"format: {found} is too old; expected {min(migrations, default=target)} or more"
            raise PresetError(msg)
        raw = migrations[version](raw)
    return raw


def format_preset(preset: Preset) -> str:
    """Write a preset as TOML; fields at their defaults are left out.

    `parse_preset` gives an equal preset back.
    """
    content = {"format": FORMAT, **msgspec.to_builtins(preset, str_keys=True)}
    return tomli_w.dumps(content, multiline_strings=False)
