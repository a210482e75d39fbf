"""A command as a process of its own: how it ended, its time and its peak memory.

Linux lets a process begin with the peak of the process that started it, so a small one stands between: this file, run as a
program, starts the command, waits for it and writes what it used.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """A process that has ended."""

    code: int
    """negative: the number of the signal that ended it"""
    output: str
    """what it printed, errors among it"""
    seconds: float
    cpu_s: float
    """of the process and its children; 0 where it was ended from outside"""
    peak_mib: float
    """resident memory of the process or of its largest child; 0 where it was ended from outside"""


def run_measured(arguments: Sequence[str], folder: Path, limit_s: float = 3_600.0) -> ProcessResult:
    """Run this Python with `arguments` in a folder, at 80 columns; it is ended after `limit_s` seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as printed, tempfile.NamedTemporaryFile() as used:
        between = [sys.executable, str(Path(__file__).resolve()), used.name]
        environment = {**os.environ, "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [*between, *arguments], cwd=folder, stdout=printed, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed.seek(0)
        output, text = printed.read().decode("utf-8", errors="replace"), used.read()
    report = json.loads(text) if text else {"code": process.returncode, "cpu_s": 0.0, "peak_mib": 0.0}
    return ProcessResult(output=output, seconds=time.perf_counter() - start, **report)


def stand_between(report: Path, arguments: Sequence[str]) -> None:
    """Start the command, wait for its end and write its exit code and peak memory to `report`."""
    process = subprocess.Popen([sys.executable, *arguments])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    figures = {"code": process.returncode, "cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}
    report.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    stand_between(Path(sys.argv[1]), sys.argv[2:])
