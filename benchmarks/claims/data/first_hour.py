"""The first hour with files of many shops.

    python -m benchmarks.claims.data.first_hour FOLDER [CASE...] [--runs=FOLDER] [--again]

Every sub-folder of FOLDER is a case: files of a log and perhaps a description, shop.yaml. Each is taken through the commands
that a person types, which are those that the command before it ended with: `data init` where there is no description, `data
check`, `train.py` with all defaults, and one slate by `recommend`. A case is right when it ends with a slate, or with one
sentence and exit code 2; it is wrong when it ends in any other way. The exit code is 1 where any case is wrong.

A case that has ended is not run again unless --again is given: its outcome is kept in the runs folder, by its name; a training
that was interrupted goes on.
"""

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.lib.measured_process import ProcessResult, run_measured
from benchmarks.lib.result_file import ROOT
from recsys.errors import ConfigError, exit_on_error

DESCRIPTION, OUTCOME = "shop.yaml", "case.json"
LIMIT_S = 1_800.0
"""of one command"""
SLATE, SENTENCE, TRACEBACK = "slate", "sentence", "TRACEBACK"
QUIET = ("logger=csv", "trainer.progress=false")

console = Console()


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """How a case ended."""

    case: str
    rows: int | None
    """of the log; None where it could not be read"""
    kept: int | None
    outcome: str
    """slate, sentence or TRACEBACK"""
    step: str
    """the last command"""
    words: str
    """the sentence, or the end of the output"""
    seconds: float
    peak_mib: float


def run_case(case: Path, folder: Path) -> CaseResult:
    """Type one command after the other until one fails or a slate is served; what they write lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    start, peak, step, words = time.perf_counter(), 0.0, "", ""
    rows: tuple[int | None, int | None] = (None, None)
    outcome = SLATE
    for step, arguments in commands(case, folder):
        done = run_measured(arguments, ROOT, LIMIT_S)
        (folder / f"{step}.txt").write_text(done.output, encoding="utf-8")
        peak = max(peak, done.peak_mib)
        if step == "check" and done.code == 0:
            rows = counted(folder / "check.json")
        if done.code:
            outcome, words = ending(done)
            break
    return CaseResult(
        case=case.name,
        rows=rows[0],
        kept=rows[1],
        outcome=outcome,
        step=step,
        words=words,
        seconds=round(time.perf_counter() - start, 1),
        peak_mib=round(peak),
    )


def commands(case: Path, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(name, arguments of Python) of each command; one is made only when those before it have ended well."""
    description, files = case / DESCRIPTION, sorted(one for one in case.iterdir() if one.suffix != ".yaml")
    if not description.exists():
        description = folder / DESCRIPTION
        yield "init", ["-m", "recsys", "data", "init", *map(str, files), "--out", str(description), "--force"]
    report = [f"--{name}={folder / f'check.{name}'}" for name in ("html", "json")]
    yield "check", ["-m", "recsys", "data", "check", str(description), *report]
    next_command = json.loads((folder / "check.json").read_text(encoding="utf-8"))["next"]
    yield "train", [*shlex.split(next_command)[1:], f"run_dir={folder / 'run'}", *QUIET]
    log = pl.read_parquet(folder / "run" / "data" / "interactions.parquet", columns=["user"])
    user = log["user"].value_counts(sort=True)["user"][0]
    yield "recommend", ["-m", "recsys", "recommend", "--bundle", str(folder / "run" / "bundle"), "--user", user]


def counted(report: Path) -> tuple[int, int]:
    """Rows of the log in its file, and kept."""
    log = json.loads(report.read_text(encoding="utf-8"))["tables"][0]
    return log["rows"], log["kept"]


def ending(done: ProcessResult) -> tuple[str, str]:
    """What a command that failed ended with: one sentence and exit code 2, or anything else."""
    lines = [line for line in done.output.splitlines() if line.strip()]
    sentences = [line for line in lines if line.startswith("error: ")]
    if done.code == 2 and len(sentences) == 1 and "Traceback" not in done.output:
        return SENTENCE, sentences[0].removeprefix("error: ")
    return TRACEBACK, f"exit code {done.code}: {lines[-1] if lines else 'nothing was printed'}"


def results(cases: Sequence[Path], runs: Path, again: bool) -> Iterator[CaseResult]:
    """In the order of the cases; the outcome of each is kept, and printed with an estimate of the rest, as it ends."""
    start, num_run = time.perf_counter(), 0
    for done, case in enumerate(cases, start=1):
        kept = runs / case.name / OUTCOME
        if again or not kept.exists():
            num_run += 1
            result = run_case(case, runs / case.name)
            kept.write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
        result = CaseResult(**json.loads(kept.read_text(encoding="utf-8")))
        left = (len(cases) - done) * (time.perf_counter() - start) / max(1, num_run) / 60
        line = f"{done:3}/{len(cases)} {case.name:30.30} {result.outcome:9} {result.seconds:7,.0f} s, about {left:.0f} min left"
        print(line, flush=True)
        yield result


def table(found: Sequence[CaseResult]) -> Table:
    """For 80 columns; sentences stand below."""
    shown = Table(box=box.SIMPLE_HEAD)
    for heading in ("case", "rows in", "kept", "ends with", "seconds", "peak MiB"):
        left = heading in ("case", "ends with")
        shown.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=heading != "case")
    for one in found:
        rows = ("" if count is None else f"{count:,}" for count in (one.rows, one.kept))
        cells = (one.case, *rows, one.outcome, f"{one.seconds:,.0f}", f"{one.peak_mib:,.0f}")
        shown.add_row(*map(Text, cells), style="bold red" if one.outcome == TRACEBACK else "")
    return shown


def read(arguments: Sequence[str]) -> tuple[list[Path], Path, bool]:
    """Cases, runs folder, and whether cases that have ended run again."""
    options = {one.partition("=")[0]: one.partition("=")[2] for one in arguments if one.startswith("--")}
    names = [one for one in arguments if not one.startswith("--")]
    if not names or not Path(names[0]).is_dir() or options.keys() - {"--runs", "--again"}:
        raise ConfigError("give a folder of cases, perhaps names of cases, --runs=FOLDER and --again")
    folder = Path(names[0]).resolve()
    known = sorted(one for one in folder.iterdir() if one.is_dir())
    cases = [one for one in known if not names[1:] or one.name in names[1:]]
    if strangers := [name for name in names[1:] if name not in {one.name for one in known}]:
        raise ConfigError(f"{folder} has no case {strangers[0]!r}; it has {', '.join(one.name for one in known)}")
    if not cases:
        raise ConfigError(f"{folder} has no sub-folder; each is a case, with the files of a log")
    runs = Path(options.get("--runs") or Path(tempfile.gettempdir(), f"first_hour_{folder.name}"))
    return cases, runs.resolve(), "--again" in options


def main(arguments: Sequence[str]) -> int:
    with exit_on_error():
        cases, runs, again = read(arguments)
    found = list(results(cases, runs, again))
    console.print(table(found))
    for one in found:
        if one.words:
            console.print(Text(f"{one.case}, {one.step}: {one.words}\n"))
    wrong = [one.case for one in found if one.outcome == TRACEBACK]
    print(f"{len(found) - len(wrong)} of {len(found)} cases are right; reports and runs: {runs}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
