"""The commands that are printed as the next ones to type."""

from pathlib import Path


def command_of(program: str) -> str:
    """Return what runs `train` or `export` in this folder: its script in a source tree, else the installed package."""
    return f"python {program}.py" if Path(f"{program}.py").is_file() else f"python -m recsys {program}"
