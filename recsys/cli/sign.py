"""`python -m recsys signing-key` and `python -m recsys sign`: keys and signatures of bundles."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.bundle import sign_bundle
from recsys.signatures import write_keys

console = Console()


def signing_key(
    file: Annotated[Path, typer.Argument(help="file of the private key; the public one is written to FILE.pub")],
) -> None:
    """Make a key for signing bundles: keep the private file where trainings are released, give serving the public one."""
    public = write_keys(file)
    console.print(f"wrote    {file}, {public}", soft_wrap=True)
    console.print(f"next     python -m recsys sign BUNDLE --key {file}", style="bold", soft_wrap=True)


def sign(
    bundle: Annotated[Path, typer.Argument(help="directory that training wrote")],
    key: Annotated[Path, typer.Option(help="file of the private key")],
) -> None:
    """Sign a bundle: its manifest, and so every file of it."""
    console.print(f"wrote    {sign_bundle(bundle, key)}", soft_wrap=True)
    console.print(f"next     python export.py bundle={bundle}", style="bold", soft_wrap=True)
