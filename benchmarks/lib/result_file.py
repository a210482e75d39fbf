"""What a benchmark leaves behind: benchmarks/results/<claim>.json, the same for every claim."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

console = Console(width=None if sys.stdout.isatty() else 170)
"""of every benchmark; in a file no table is cut"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that a claim stands or falls by."""

    value: float | None
    """None where this machine cannot measure it"""
    unit: str
    goal: float
    better: Literal["higher", "lower"]

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal

    @property
    def verdict(self) -> str:
        """As rich prints it."""
        return {True: "reached", False: "[bold red]missed[/]", None: "not measured here"}[self.reached]


def print_figures(figures: Mapping[str, Figure]) -> None:
    """A line each, with its goal and whether it was reached."""
    width = max(map(len, figures))
    for name, figure in figures.items():
        console.print(f"{name:{width}}  {figure.value}  {figure.unit}, goal {figure.goal}: {figure.verdict}")


def command(arguments: Sequence[str]) -> str:
    """Return what a person types for these arguments of a process, without folders of this machine."""
    program, *others = arguments
    module = Path(program).resolve()
    if module.is_relative_to(ROOT):
        program = "-m " + ".".join(module.relative_to(ROOT).with_suffix("").parts)
    return " ".join(["python", program, *others])


def write_result(
    claim: str, rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Figure], seconds: float, folder: Path = RESULTS
) -> Path:
    """Write the document of one claim beside its place and move it there; returns the file."""
    document = {
        "machine": machine(),
        "commit": COMMIT,
        "command": command(sys.argv),
        "seconds": round(seconds, 1),
        "rows": list(rows),
        "figures": {name: asdict(figure) for name, figure in figures.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{claim}.json"
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return draft.replace(file)


def machine() -> dict[str, Any]:
    """What a time depends on. `load` is the mean number of running processes in the last minute."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "device": _device(),
    }


def _device() -> str | None:
    """The name of the CUDA device, for benchmarks that use torch."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str | None:
    """The commit that is checked out, with "+" where tracked files differ from it; None outside a repository."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
    return head and head + ("+" if changed else "")


def _git(*arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


COMMIT = commit()
"""when the run began; the working tree may change meanwhile"""
