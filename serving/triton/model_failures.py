"""Models that fail most of their requests, from the counters on Triton's Prometheus page."""

import re
from collections.abc import Mapping

MIN_FAILURES = 5
"""since the previous page; fewer may be chance"""
MIN_FAILURE_SHARE = 0.5
"""of the requests since the previous page"""

_COUNTER = re.compile(r'^nv_inference_request_(success|failure)\{model="([^"]+)".*\} ([\d.e+]+)$', re.MULTILINE)

Counts = Mapping[tuple[str, str], float]
"""(success or failure, model) -> requests since the server's start"""


class FailureMonitor:
    """Compares each page with the previous one; the first page reports no model."""

    def __init__(self) -> None:
        self._previous: Counts | None = None

    def failing(self, page: str) -> list[str]:
        """Models with MIN_FAILURES failed requests since the previous page, and more than MIN_FAILURE_SHARE of all."""
        now = _counts(page)
        previous, self._previous = now if self._previous is None else self._previous, now
        new = {key: count - previous.get(key, 0.0) for key, count in now.items()}
        return sorted(
            model
            for (outcome, model), failed in new.items()
            if outcome == "failure"
            and failed >= MIN_FAILURES
            and failed > MIN_FAILURE_SHARE * (failed + new.get(("success", model), 0.0))
        )


def _counts(page: str) -> Counts:
    """Sum over all versions and reasons."""
    counts: dict[tuple[str, str], float] = {}
    for outcome, model, number in _COUNTER.findall(page):
        counts[outcome, model] = counts.get((outcome, model), 0.0) + float(number)
    return counts
