"""Jobs of a sweep: a failed one leaves its error in its folder and the others go on."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from recsys.errors import sentence_of

ERROR_FILE = "error.txt"
"""file of a failed job: its error"""
OVERRIDES_FILE = ".hydra/overrides.yaml"
"""file of every started job"""


@contextmanager
def attempt(folder: Path, interrupted: str) -> Iterator[None]:
    """Print the error of a job and write it into its folder, so that the next jobs run; Ctrl-C ends them all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR_FILE).unlink(missing_ok=True)
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
        (folder / ERROR_FILE).write_text(sentence, encoding="utf-8")


def job_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Job with the overrides that not all jobs have -> its metrics.json, or {"error": reason}, in the order of the jobs."""
    jobs = sorted((file.parents[1] for file in folder.glob(f"*/{OVERRIDES_FILE}")), key=lambda job: int(job.name))
    overrides = {job: _overrides(job) for job in jobs}
    common = set.intersection(*map(set, overrides.values())) if len(jobs) > 1 else set()
    own = {job: " ".join(one for one in listed if one not in common) for job, listed in overrides.items()}
    return {f"{job.name}: {own[job]}": _job_result(job) for job in jobs}


def _overrides(job: Path) -> list[str]:
    return list(yaml.safe_load((job / OVERRIDES_FILE).read_text(encoding="utf-8")))


def _job_result(job: Path) -> dict[str, Any]:
    if (job / ERROR_FILE).is_file():
        return {"error": (job / ERROR_FILE).read_text(encoding="utf-8")}
    if not (job / "metrics.json").is_file():
        return {"error": "it ended without figures; its output says why"}
    metrics: dict[str, Any] = json.loads((job / "metrics.json").read_text(encoding="utf-8"))
    return metrics
