"""The jobs of a sweep: one that fails ends no other, and says why in its own folder."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from recsys.errors import sentence_of

FAILED = "error.txt"
"""of a job that failed: its sentence"""
OVERRIDES = ".hydra/overrides.yaml"
"""of every job that was started"""


@contextmanager
def attempt(folder: Path, interrupted: str) -> Iterator[None]:
    """Print the error of a job and leave it in its folder, so that the jobs after it go on; Ctrl-C ends them all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILED).unlink(missing_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            traceback.print_exc()
            sentence = f"{type(error).__name__}: {error}"
        print(f"error: {sentence}", file=sys.stderr)
        (folder / FAILED).write_text(sentence, encoding="utf-8")


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """Job with its overrides -> its metrics.json, or {"error": why there is none}, in the order of the jobs."""
    jobs = sorted((file.parents[1] for file in folder.glob(f"*/{OVERRIDES}")), key=lambda job: int(job.name))
    return {f"{job.name}: {' '.join(_overrides(job))}": _outcome(job) for job in jobs}


def _overrides(job: Path) -> list[str]:
    return list(yaml.safe_load((job / OVERRIDES).read_text(encoding="utf-8")))


def _outcome(job: Path) -> dict[str, Any]:
    if (job / FAILED).is_file():
        return {"error": (job / FAILED).read_text(encoding="utf-8")}
    if not (job / "metrics.json").is_file():
        return {"error": "it ended without figures; its output says why"}
    metrics: dict[str, Any] = json.loads((job / "metrics.json").read_text(encoding="utf-8"))
    return metrics
