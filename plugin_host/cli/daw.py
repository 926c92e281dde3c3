"""``stembridge daw``: scripts for inside a DAW."""

from pathlib import Path
from typing import Annotated

import typer

from plugin_host.daw.requests import install

app = typer.Typer(help="Scripts for inside a DAW.", no_args_is_help=True)

_NEXT = {
    "reaper": "in REAPER: Actions > Show action list > New action > Load ReaScript, and choose it",
    "ardour": "in Ardour: Edit > Lua Scripts > Script Manager, and add it as an action",
    "audacity": "in Audacity: Edit > Preferences > Modules > mod-script-pipe > Enabled, restart",
}


@app.command("install")
def install_script(
    daw: Annotated[str, typer.Argument(metavar="reaper|ardour|audacity")],
    *,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The DAW's folder of settings.")
    ] = None,
) -> None:
    """Install the script for a DAW, or tell what to switch on."""
    if daw not in _NEXT:
        msg = f"expected {', '.join(_NEXT)}, got {daw!r}; for others see DAWproject in the README"
        raise typer.BadParameter(msg, param_hint="DAW")
    if daw != "audacity":
        print(f"installed {install(daw, folder)}")
    print(f"next, {_NEXT[daw]}")
