"""The host: audio files, effects and chains, and what connects them to DAW sessions.

Everything public is loaded on first use, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugin_host.audio_files import read_audio as read_audio
    from plugin_host.audio_files import write_audio as write_audio
    from plugin_host.chain import Chain as Chain
    from plugin_host.chain import Split as Split
    from plugin_host.chain_presets import chain_from_preset as chain_from_preset
    from plugin_host.pictures import draw_separation as draw_separation
    from plugin_host.render import render_file as render_file
    from plugin_host.scores import si_sdr_db as si_sdr_db
    from plugin_host.separate_effect import Separate as Separate

_HOME = {
    # effects
    "Chain": "chain",
    "Separate": "separate_effect",
    "Split": "chain",
    "chain_from_preset": "chain_presets",
    # files
    "read_audio": "audio_files",
    "render_file": "render",
    "write_audio": "audio_files",
    # judging
    "draw_separation": "pictures",
    "si_sdr_db": "scores",
}

__all__ = [  # noqa: PLE0604 -- the table above is the one list, grouped by use
    *_HOME,
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value: object = getattr(import_module(f"plugin_host.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
