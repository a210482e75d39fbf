"""Jobs of a sweep: a failed one leaves its error in its folder and the others go on."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from recsys.errors import cause_of, sentence_of
from recsys.evaluation.chart import TITLES
from recsys.evaluation.comparison import Comparison, FailedJob, JobFigures, PrunedJob
from recsys.evaluation.selection import VALIDATION_USERS
from recsys.stores.atomic_files import write_atomically
from recsys.training.pruning import PrunedError
from recsys.training.run_log import LOG_FILE, run_log

ERROR_FILE = "error.txt"
"""file of a failed job: type and sentence of its error"""
PRUNED_FILE = "pruned.json"
"""file of a job that was ended by its validation curve"""
OVERRIDES_FILE = ".hydra/overrides.yaml"
"""file of every started job"""
OF_THE_RUN = ("run_dir", "evaluate")
"""keys that tell a job from its evaluation on TEST, which continues in the same folder"""
UNFINISHED = "it has no figures (yet): it is running, was killed, or its process died"


@contextmanager
def attempt(folder: Path, interrupted: str) -> Iterator[None]:
    """Print the error of a job, or that it was pruned, and write it into its folder, so that the next jobs run; Ctrl-C ends
    them all.
    """
    for name in (ERROR_FILE, PRUNED_FILE):
        (folder / name).unlink(missing_ok=True)
    try:
        with run_log(folder):
            yield
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        raise SystemExit(130) from None
    except PrunedError as pruned:
        write_atomically(folder / PRUNED_FILE, json.dumps(pruned.to_document()).encode())
        print(pruned)
    except Exception as error:
        sentence = " ".join((sentence_of(error) or str(error)).split())
        described = f"{type(cause_of(error)).__name__}: {sentence}"
        (folder / ERROR_FILE).write_text(described, encoding="utf-8")
        print(f"error: {described} ({folder / LOG_FILE})", file=sys.stderr)


def compare_jobs(folder: Path) -> Comparison:
    """Compare the jobs of a sweep as far as they are, by their validation figures."""
    jobs = sorted(
        (file.parents[1] for file in folder.glob(f"*/{OVERRIDES_FILE}")), key=lambda job: (len(job.name), job.name)
    )
    overrides = {job: _overrides(job) for job in jobs}
    common = set.intersection(*map(set, overrides.values())) if len(jobs) > 1 else set()
    own = {job: [one for one in listed if one not in common] for job, listed in overrides.items()}
    pruned = [job for job in jobs if (job / PRUNED_FILE).is_file()]
    failed = [job for job in jobs if job not in pruned and not _has_figures(job)]
    return Comparison.of(
        [_figures(job, own[job]) for job in jobs if job not in (*pruned, *failed)],
        [_failure(job, own[job]) for job in failed],
        [_pruned(job, own[job]) for job in pruned],
    )


def cost_of(job: Path) -> dict[str, float]:
    """Return the measured cost of serving of a finished job, empty where it has none."""
    file = job / "metrics.json"
    document = json.loads(file.read_text(encoding="utf-8")) if _has_figures(job) else {}
    return dict(document.get("validation", {}).get("cost", {}))


def command_for_test(job: Path) -> list[str]:
    """Return the overrides by which train.py continues a job in its folder and evaluates it on TEST."""
    return [*_overrides(job), f"run_dir={job}", "evaluate=test"]


def _overrides(job: Path) -> list[str]:
    listed = yaml.safe_load((job / OVERRIDES_FILE).read_text(encoding="utf-8"))
    return [one for one in listed if one.partition("=")[0] not in OF_THE_RUN]


def _has_figures(job: Path) -> bool:
    return (job / "metrics.json").is_file() and not (job / ERROR_FILE).is_file()


def _figures(job: Path, own: Sequence[str]) -> JobFigures:
    """Read the figures of VALIDATION of a cascade, or of a ranker alone."""
    document = json.loads((job / "metrics.json").read_text(encoding="utf-8"))
    configuration = " ".join(one for one in own if one.partition("=")[0] != "seed")
    of_task = _of_click_log(document) if document.get("task") == "ranking" else _of_cascade(document["validation"], job)
    return JobFigures(name=job.name, configuration=configuration, **of_task)


def _of_cascade(validation: Mapping[str, Any], job: Path) -> dict[str, Any]:
    system, _, metric = validation["optimised_metric"].rpartition("/")
    row = validation["rows"][system]
    users = pl.read_parquet(job / VALIDATION_USERS, columns=["user", validation["optimised_metric"]])
    return {
        "protocol": validation["protocol"],
        "targets": validation["targets_sha256"],
        "metric": metric,
        "by_seed": {name: row.get("by_seed", {}).get(name) or [row[name]] for name in dict.fromkeys([*TITLES, metric])},
        "goals": validation["goals"],
        "users": users["user"].to_list(),
        "per_user": users[validation["optimised_metric"]].to_numpy(),
        "cost": validation.get("cost", {}),
        "budget": validation.get("budget", {}),
    }


def _of_click_log(document: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the target; rows of a click log are no values of users, so nothing is paired."""
    measured = f"{document['name']}, {document['protocol']}, {document['rows']['validation']:,} rows"
    return {
        "protocol": f"VALIDATION of {measured}",
        "targets": f"{measured}, {document['target']}",
        "metric": "auc",
        "by_seed": document["by_seed"],
        "goals": {f"{document['target']}/auc": document["validation"][document["target"]]["auc"]},
        "users": (),
        "per_user": np.empty(0),
    }


def _failure(job: Path, own: Sequence[str]) -> FailedJob:
    error = job / ERROR_FILE
    described = error.read_text(encoding="utf-8") if error.is_file() else UNFINISHED
    return FailedJob(name=f"{job.name}: {' '.join(own)}", error=described, log=str(job / LOG_FILE))


def _pruned(job: Path, own: Sequence[str]) -> PrunedJob:
    document = json.loads((job / PRUNED_FILE).read_text(encoding="utf-8"))
    return PrunedJob(name=f"{job.name}: {' '.join(own)}", **document)
