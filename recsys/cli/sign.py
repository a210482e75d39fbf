"""`python -m recsys signing-key` and `python -m recsys sign`: keys and signatures of bundles and releases."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.bundle import sign_bundle
from recsys.export.release_manifest import sign_release
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
    folder: Annotated[Path, typer.Argument(help="bundle that training wrote, or a release that export.py wrote")],
    key: Annotated[Path, typer.Option(help="file of the private key")],
) -> None:
    """Sign a bundle: its manifest, and so every file of it. Of a release, its bundle and its Triton models."""
    bundle = folder / "bundle"
    signed = [sign_bundle(bundle, key), sign_release(folder, key)] if bundle.is_dir() else [sign_bundle(folder, key)]
    console.print("\n".join(f"wrote    {file}" for file in signed), soft_wrap=True)
    if not bundle.is_dir():
        console.print(f"next     python export.py bundle={folder} sign_key={key}", style="bold", soft_wrap=True)
