"""`python -m recsys encryption-key`: a key for encryption at rest."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.encryption import ENCRYPTION_KEY, write_encryption_key

console = Console()


def encryption_key(file: Annotated[Path, typer.Argument(help="file of the key, a new one")]) -> None:
    """Make a key for encryption at rest: keep a copy apart from the data, which is lost without it."""
    key = write_encryption_key(file)
    console.print(f"wrote    {file}, the key {key.id}; trainings find it by {ENCRYPTION_KEY}={file}", soft_wrap=True)
    console.print(f"next     python -m serving --encryption-key {file} up SERVE", style="bold", soft_wrap=True)
