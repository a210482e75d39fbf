"""Which models fail most of what they are asked, read off the counters on Triton's Prometheus page."""

import re
from collections.abc import Mapping

LEAST = 5
"""failures since the last look; a few may be bad luck"""
SHARE = 0.5
"""of what was asked since then"""

_COUNTER = re.compile(r'^nv_inference_request_(success|failure)\{model="([^"]+)".*\} ([\d.e+]+)$', re.MULTILINE)

Counts = Mapping[tuple[str, str], float]
"""(success or failure, model) -> requests since the server's start"""


class Failures:
    """Compares every page with the one before; the first one tells nothing."""

    def __init__(self) -> None:
        self._before: Counts | None = None

    def failing(self, page: str) -> list[str]:
        """Models that failed LEAST requests since the last page, and more than SHARE of them."""
        now = _counts(page)
        before, self._before = now if self._before is None else self._before, now
        new = {key: count - before.get(key, 0.0) for key, count in now.items()}
        return sorted(
            model
            for (outcome, model), failed in new.items()
            if outcome == "failure" and failed >= LEAST and failed > SHARE * (failed + new.get(("success", model), 0.0))
        )


def _counts(page: str) -> Counts:
    """Over all versions and reasons."""
    counts: dict[tuple[str, str], float] = {}
    for outcome, model, number in _COUNTER.findall(page):
        counts[outcome, model] = counts.get((outcome, model), 0.0) + float(number)
    return counts
