"""Draft of a W&B report on a sweep, in Markdown, which W&B's editor takes by pasting."""

import csv
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from recsys.commands import command_of
from recsys.evaluation.chart import short
from recsys.evaluation.comparison import Comparison
from recsys.training.sweeps import command_for_test

LOSSES = ("loss", "pointwise")
COSTS = ("examples_per_second", "peak_memory_mib")


def report_text(folder: Path, comparison: Comparison) -> str:
    """Return the Markdown of the draft."""
    keys = _keys(folder / comparison.configurations[0].jobs[0])
    best = comparison.best.jobs if comparison.best else ()
    losses = [key for key in keys if key.rpartition("/")[2] in LOSSES]
    costs = [key for key in keys if key.rpartition("/")[2] in COSTS]
    lines = [
        f"# {folder.name}",
        f"Run set: group `{folder.name}`, job type `sweep job`.",
        f"## Configurations on {comparison.protocol}",
        "\n".join(_table(comparison)),
        "Panels: parallel coordinates of the searched keys and "
        f"{', '.join(f'`validation/{goal}`' for goal in comparison.configurations[0].goals)}.",
        "## Did the fits converge?",
        f"Line plots over the `step` of each fit: {_listed(losses)}; `gradient_norm` and `learning_rate` beside them.",
        "## What does it cost?",
        f"Scatter plots against the selecting figure: {_listed(costs)}.",
        "## Where does it fail?",
        "Table panels: `tables/slices`, `tables/worst_users`, `tables/users`, `tables/verdicts`.",
        "## By which data and code?",
        "The artifact graph of the best run, and `code.commit` and `code.dirty` of its configuration.",
        "## Figures of TEST",
        "Read once, for the configuration that was chosen:",
        *(f"    {command_of('train')} {shlex.join(command_for_test(folder / job))}" for job in best),
    ]
    return "\n\n".join(lines) + "\n"


def _table(comparison: Comparison) -> Iterator[str]:
    yield f"| configuration | {comparison.metric} | difference to the best, 95% interval | p |"
    yield "| --- | ---: | ---: | ---: |"
    for one, difference in zip(comparison.configurations, comparison.differences, strict=True):
        cells = ("", "")
        if difference is not None:
            interval = f"{short(difference.low)} to {short(difference.high)}"
            cells = (f"{short(difference.mean)} ({interval})", short(difference.p))
        yield f"| {one.label} | {short(one.mean)} | {' | '.join(cells)} |"
    for job in comparison.failures:
        yield f"| {job.name} | failed | {job.error} | |"


def _keys(job: Path) -> Sequence[str]:
    """Return the keys of the curves of a job."""
    file = job / "csv" / "metrics.csv"
    if not file.is_file():
        return ()
    with file.open(newline="", encoding="utf-8") as opened:
        return csv.DictReader(opened).fieldnames or ()


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys) or "those of the runs"
