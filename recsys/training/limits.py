"""Limits on the estimated memory and time of a training, checked before anything is trained."""

from dataclasses import replace

import numpy as np

from recsys.candidates.sources import candidates_for_catalogue
from recsys.data.dataset import Dataset
from recsys.data.description import USER
from recsys.errors import DataError, check_ranges
from recsys.training.cascade import CascadeConfig
from recsys.training.footprint import GIB, Footprint, LogSize, TrainingSize, machine_gib
from recsys.training.ranking_examples import training_columns


class TrainingLimits:
    """Limits on the estimated memory and time of a training."""

    def __init__(self, *, memory_gib: float | None, hours: float) -> None:
        """
        memory_gib: None takes the memory of this machine
        hours: of two cores
        """
        check_ranges(
            "limits", memory_gib=(1.0 if memory_gib is None else memory_gib, 1e-3, 1e6), hours=(hours, 1e-3, 1e6)
        )
        self.memory_gib = memory_gib
        self.hours = hours

    def check(self, footprint: Footprint, log: LogSize, *, timed: bool) -> None:
        """Raise DataError with the estimate where it exceeds a limit; the time counts only if `timed`."""
        memory = machine_gib() if self.memory_gib is None else self.memory_gib
        described = f"{log.events:,} events, {log.users:,} users and {log.items:,} items would take about {footprint}"
        if footprint.peak_bytes > memory * GIB:
            raise DataError(
                f"{described}, there are {memory:.1f} GiB (limits.memory_gib); train on fewer items or newer events, or set "
                f"{footprint.heaviest} smaller"
            )
        if timed and footprint.seconds > self.hours * 3600:
            raise DataError(
                f"{described}, wanted at most {self.hours:g} hours (limits.hours); use trainer=gpu with a larger limit, "
                "fewer epochs or newer events"
            )


def training_size(config: CascadeConfig, num_items: int, *, refit: bool) -> TrainingSize:
    """Return the part of a configuration that `estimate` reads."""
    retrieval, ranking = config.retrieval, config.ranking
    size = TrainingSize(
        dim=retrieval.dim * retrieval.members,
        batch_size=retrieval.batch_size,
        negatives=retrieval.negatives,
        retrieval_epochs=retrieval.epochs,
        most_positions=retrieval.most_examples,
        ranked=ranking is not None,
        fits=3 + refit,
    )
    if ranking is None:
        return size
    total = min(config.candidates.total or candidates_for_catalogue(num_items), num_items)
    return replace(
        size,
        candidates=len(training_columns(total, ranking.sampling.dense_candidates)),
        examples_gib=ranking.sampling.examples_gib,
        requests=ranking.sampling.requests,
        requests_per_user=ranking.sampling.requests_per_user,
        ranking_epochs=ranking.epochs,
        most_requests=ranking.most_examples,
    )


def log_size(dataset: Dataset) -> LogSize:
    counts = dataset.interactions[USER].value_counts()["count"]
    return LogSize(
        events=dataset.num_events,
        users=len(counts),
        items=dataset.num_items,
        longest=int(np.max(counts.to_numpy())),
        objectives=len(dataset.description.objectives),
    )
