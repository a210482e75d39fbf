"""Jobs of a sweep: a failed one leaves its error in its folder and the others go on."""

import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import yaml

from recsys.errors import cause_of, sentence_of
from recsys.evaluation.comparison import Comparison, FailedJob, JobFigures
from recsys.evaluation.selection import VALIDATION_USERS

ERROR_FILE, LOG_FILE = "error.txt", "error.log"
"""files of a failed job: type and sentence of its error; its traceback"""
OVERRIDES_FILE = ".hydra/overrides.yaml"
"""file of every started job"""
OF_THE_RUN = ("run_dir", "evaluate")
"""keys that tell a job from its evaluation on TEST, which continues in the same folder"""
UNFINISHED = "it has no figures (yet): it is running, was killed, or its process died"


@contextmanager
def attempt(folder: Path, interrupted: str) -> Iterator[None]:
    """Print the error of a job and write it into its folder, so that the next jobs run; Ctrl-C ends them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ERROR_FILE, LOG_FILE):
        (folder / name).unlink(missing_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        sentence = " ".join((sentence_of(error) or str(error)).split())
        described = f"{type(cause_of(error)).__name__}: {sentence}"
        (folder / LOG_FILE).write_text(traceback.format_exc(), encoding="utf-8")
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
    failed = [job for job in jobs if (job / ERROR_FILE).is_file() or not (job / VALIDATION_USERS).is_file()]
    return Comparison.of(
        [_figures(job, own[job]) for job in jobs if job not in failed],
        [_failure(job, own[job]) for job in failed],
    )


def command_for_test(job: Path) -> list[str]:
    """Return the overrides by which train.py continues a job in its folder and evaluates it on TEST."""
    return [*_overrides(job), f"run_dir={job}", "evaluate=test"]


def _overrides(job: Path) -> list[str]:
    listed = yaml.safe_load((job / OVERRIDES_FILE).read_text(encoding="utf-8"))
    return [one for one in listed if one.partition("=")[0] not in OF_THE_RUN]


def _figures(job: Path, own: Sequence[str]) -> JobFigures:
    validation = json.loads((job / "metrics.json").read_text(encoding="utf-8"))["validation"]
    users = pl.read_parquet(job / VALIDATION_USERS, columns=["user", validation["optimised_metric"]])
    return JobFigures(
        name=job.name,
        configuration=" ".join(one for one in own if one.partition("=")[0] != "seed"),
        validation=validation,
        users=users["user"].to_list(),
        per_user=users[validation["optimised_metric"]].to_numpy(),
    )


def _failure(job: Path, own: Sequence[str]) -> FailedJob:
    error = job / ERROR_FILE
    described = error.read_text(encoding="utf-8") if error.is_file() else UNFINISHED
    return FailedJob(name=f"{job.name}: {' '.join(own)}", error=described, log=str(job / LOG_FILE))
