"""Drift of what is served, counted again and again by `python -m recsys drift`, which writes the gauges of the gateway."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

from serving.layout import DeploymentLayout

POLL_S = 0.2
NICENESS = 15
"""of the counting process: requests go first"""


class DriftWatch:
    """Counts one after the other, each in a process of its own; a failure is reported once, until another one comes."""

    def __init__(self, layout: DeploymentLayout, period_s: float, report: Callable[[str], None]) -> None:
        self._layout, self._period_s, self._report = layout, period_s, report
        self._failure = ""

    def run(self, stopped: threading.Event) -> None:
        """Count every `period_s` seconds until `stopped` is set, which also ends a count that runs."""
        while not stopped.wait(self._period_s):
            if (self._layout.events / "impressions").is_dir():
                self._count(stopped)

    def _count(self, stopped: threading.Event) -> None:
        try:
            failure = self._failure_of_count(stopped)
        except OSError as error:  # out of memory or of processes
            failure = str(error)
        if failure and failure != self._failure:
            self._report(f"drift is not counted: {failure}")
        self._failure = failure

    def _failure_of_count(self, stopped: threading.Event) -> str:
        """Count once; return why it failed, "" where it did not or where the stack ended."""
        with subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as process:  # a Ctrl-C in the terminal ends the stack, which ends the count
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            while True:
                try:
                    output, _ = process.communicate(timeout=POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if stopped.is_set():
                        process.kill()
        return "" if process.returncode == 0 or stopped.is_set() else _last_line(output)

    @property
    def _command(self) -> list[str]:
        layout = self._layout
        folders = [f"--bundle={layout.bundle}", f"--items={layout.items}", f"--out={layout.measurement}"]
        return [sys.executable, "-m", "recsys", "drift", str(layout.events), *folders]


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"
