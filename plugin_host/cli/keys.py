"""``stembridge keys``: who may use a server from another machine."""

from typing import Annotated

import typer

from bridge.wire.keys import KeyRing

app = typer.Typer(help="Manage the keys for servers on the network.", no_args_is_help=True)


@app.command()
def new() -> None:
    """Make this user's key and print its public half."""
    print(KeyRing().create().public)


@app.command()
def authorize(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    key: Annotated[str, typer.Argument(help="The public key, as their `keys list` shows it.")],
) -> None:
    """Let the holder of a key use servers of this user."""
    KeyRing().authorize(name, key)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="As it was authorised.")]) -> None:
    """Let somebody in no more; a running server notices at once."""
    KeyRing().revoke(name)


@app.command("list")
def list_keys() -> None:
    """Show this user's public key, and who is let in."""
    ring = KeyRing()
    print(f"own         {ring.identity().public}")
    for name, key in ring.authorized().items():
        print(f"authorised  {key}  {name}")
