"""Pruning: a training ends early where its validation curve is worse than those of other trials of its search."""

from collections.abc import Callable
from typing import Any

CurveReport = Callable[[str, int, float], bool]
"""metric, epoch from 0 and value of a validation -> whether to end the job"""


class PrunedError(Exception):
    """End of a job by its validation curve."""

    def __init__(self, metric: str, epoch: int, value: float) -> None:
        """epoch: counted from 1"""
        super().__init__(f"pruned after epoch {epoch}: {metric} {value:.4f} is worse than that of other trials")
        self.metric, self.epoch, self.value = metric, epoch, value

    def to_document(self) -> dict[str, Any]:
        return {"metric": self.metric, "epoch": self.epoch, "value": self.value}
