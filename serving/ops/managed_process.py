"""A `python -m serving` command as a child process with a health URL."""

import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from recsys.errors import ServingError
from serving.processes import ROOT, ServerProcess, last_lines, spawn, until

PROBE_S = 2.0

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ManagedProcess(ServerProcess):
    """`python -m serving <arguments>`, which answers at the URL `health` once it is up.

    Output is appended to `log`. start_timeout_s bounds the time until it answers, exit_timeout_s the time to finish
    requests in flight; in seconds.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        health: str,
        log: Path,
        start_timeout_s: float,
        exit_timeout_s: float,
    ) -> None:
        super().__init__(name, exit_timeout_s=exit_timeout_s)
        self._arguments, self._health, self._log = tuple(arguments), health, log
        self._start_timeout_s = start_timeout_s

    def start(self) -> None:
        """Start the process and wait until it answers; ServingError with its last log lines otherwise."""
        if self._process is not None:
            raise ServingError(f"{self.name} runs already; stop it first")
        log_start = self._log.stat().st_size if self._log.exists() else 0
        self._process = spawn([sys.executable, "-m", "serving", *self._arguments], log=self._log, cwd=ROOT)
        up = until(lambda: not self.running() or self.answers(), self._start_timeout_s)
        if not up or not self.running():
            self.stop()
            raise ServingError(f"{self.name} did not start: {last_lines(self._log, log_start)}")

    def answers(self) -> bool:
        return self.probe() is None

    def probe(self) -> str | None:
        try:
            with _open(self._health, timeout=PROBE_S):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            return f"answers {error.code} at {self._health}"
        except (OSError, http.client.HTTPException) as error:
            return f"does not answer at {self._health}: {error}"
