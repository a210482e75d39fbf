"""`python -m serving`: serve an exported bundle on this machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from recsys.encryption import ENCRYPTION_KEY
from recsys.errors import exit_on_error
from recsys.signatures import PUBLIC_KEY
from serving.cli.keys import key
from serving.cli.keys import keys as keys_app
from serving.cli.processes import consume, gateway
from serving.cli.releases import releases as releases_app
from serving.cli.stack import compile_, demo, down, reencrypt, status, triton, up
from serving.cli.users import forget, rebuild, seed
from serving.processes import CLOSED_UMASK

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def serving(
    public_key: Annotated[
        Path | None, typer.Option(help="Ed25519 public key: releases and rules without a signature by it are refused")
    ] = None,
    encryption_key: Annotated[
        Path | None, typer.Option(help="file of the key by which data under `live` and releases are encrypted")
    ] = None,
) -> None:
    """Serve an exported bundle on the loopback interface."""
    os.umask(CLOSED_UMASK)
    for name, file in ((PUBLIC_KEY, public_key), (ENCRYPTION_KEY, encryption_key)):
        if given := file or os.environ.get(name):  # children inherit it, in another folder, the stages of Triton too
            os.environ[name] = str(Path(given).resolve())


for command in (up, status, down, demo, gateway, consume, seed, rebuild, forget, reencrypt, triton):
    app.command()(command)
app.command("compile")(compile_)
app.command(deprecated=True)(key)
app.add_typer(keys_app, name="keys")
app.add_typer(releases_app, name="releases")

if __name__ == "__main__":
    with exit_on_error():
        app()
