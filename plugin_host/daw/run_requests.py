"""The module that scripts inside DAWs start, whose name installed scripts keep.

``python -m plugin_host.daw.run_requests`` runs what they asked for, see `plugin_host.cli.daw`.
"""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    # The commands lie above this package, so it does not import them.
    runpy.run_module("plugin_host.cli.daw", run_name="__main__", alter_sys=True)
