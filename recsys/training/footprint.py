"""Peak memory and time of a training, estimated from the size of the log before anything is trained.

    from recsys.training.footprint import LogSize, estimate
    footprint = estimate(LogSize(events=1_000_000, users=100_000, items=50_000, longest=900))
    footprint.peak_bytes, footprint.seconds, footprint.parts

`estimate` is pure arithmetic and imports neither torch nor polars. It counts the arrays of each step; the memory of the
libraries and the copies of ranking examples are calibrated on five measured trainings of 20,000 to 1,000,000 events
(benchmarks/claims/data/training_memory.py; a shop of 20,000 customers). Time is that of two idle cores, to a factor of about
three.

Shapes: N items, B positions of a step, D dim.
"""

import os
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
CGROUP_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""memory limit of a container (cgroup v2)"""
CORE_FLOPS = 3e10
"""floating point operations a second of one core"""
MAX_INVERTED_ITEMS = 10_000
"""items, at most, of the EASE baseline, which inverts a matrix over the catalogue"""
FULL_SOFTMAX_ITEMS, SAMPLED_NEGATIVES = 10_000, 4_096
"""items up to which the softmax is full, and uniform negatives of a step beyond"""
EXAMPLE_COPIES = 5
"""ranking examples to learn from and to stop by, the valid scores of the former, and what is concatenated of them"""
REQUESTS_PER_EVENT = 0.5
"""events of the period that the ranker learns from, at most"""
RETRIEVAL_COLUMNS = 51
"""width of the ScoreLayout of seven sources"""


@dataclass(frozen=True, kw_only=True)
class LogSize:
    """Sizes of a log that the footprint depends on."""

    events: int
    users: int
    items: int
    longest: int
    """events of the most active user"""
    objectives: int = 1


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """Sizes of a configuration that the footprint depends on; the defaults are those of conf/."""

    dim: int = 64
    history_length: int = 50
    batch_size: int = 2_048
    negatives: int | None = None
    """0 is the softmax over all items; None is that up to 10,000 items, 4,096 beyond"""
    retrieval_epochs: int = 30
    most_positions: int | None = 10_000_000
    """of a fit of the towers over its epochs"""
    candidates: int = 200
    """of a ranking example"""
    ranked: bool = True
    examples_gib: float = 1.0
    requests: int = 100_000
    requests_per_user: int = 3
    ranking_epochs: int = 15
    most_requests: int | None = 100_000
    """of a fit of the ranker over its epochs"""
    fits: int = 4
    """times that the towers are fitted: for validation, for the ranker, for the test, to be served"""


@dataclass(frozen=True, kw_only=True)
class StepFootprint:
    """Memory and time of one step of a training."""

    name: str
    bytes: int
    """while the step runs, beside the log and the libraries"""
    seconds: float
    key: str
    """configuration key that reduces it"""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory and time of a training."""

    throughout: int
    """bytes in use from beginning to end"""
    parts: tuple[StepFootprint, ...]

    @property
    def peak_bytes(self) -> int:
        return self.throughout + max(part.bytes for part in self.parts)

    @property
    def heaviest(self) -> str:
        """Configuration key of the step that needs most memory."""
        return max(self.parts, key=lambda part: part.bytes).key

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    def __str__(self) -> str:
        """For people, e.g. "2.1 GiB and 25 minutes"."""
        return f"{self.peak_bytes / GIB:.1f} GiB and {duration(self.seconds)}"


def duration(seconds: float) -> str:
    """Return a length of time for people, e.g. "40 seconds", "25 minutes" or "4.7 hours"."""
    for unit, length in (("hour", 3_600.0), ("minute", 60.0)):
        if seconds >= length:
            number = f"{seconds / length:.1f}".removesuffix(".0") if unit == "hour" else f"{seconds / length:.0f}"
            return f"{number} {unit}{'' if number == '1' else 's'}"
    return f"{seconds:.0f} seconds"


def estimate(log: LogSize, training: TrainingSize | None = None) -> Footprint:
    """Estimate `python train.py` on two CPU cores, with the default configuration unless `training` is given."""
    training = training or TrainingSize()
    parts = (_baselines(log), _towers(log, training), _ranker(log, training))
    return Footprint(throughout=_libraries() + _log(log), parts=parts)


def _libraries() -> int:
    return 950 * 2**20


def _log(log: LogSize) -> int:
    return 1_500 * log.events + 1_000 * log.users + 4_000 * log.items


def _baselines(log: LogSize) -> StepFootprint:
    dense = 12 * log.items**2 if log.items <= MAX_INVERTED_ITEMS else 0
    seconds = 30 + 1e-4 * log.events + 4 * dense / 12 * log.items / CORE_FLOPS
    return StepFootprint(
        name="baselines", bytes=dense + 200 * log.events, seconds=seconds, key="evaluation.baselines.ease"
    )


def _towers(log: LogSize, training: TrainingSize) -> StepFootprint:
    rows, dim = _scored_items(log, training), training.dim
    step = 400 * training.batch_size * dim + 40 * rows * dim
    epochs = _epochs(training.retrieval_epochs, training.most_positions, log.events)
    flops = 6 * log.events * (rows * dim + 12 * dim**2) * epochs * training.fits
    held = 20 * log.items * dim + 16 * training.history_length * log.events // 8
    return StepFootprint(name="towers", bytes=step + held, seconds=flops / CORE_FLOPS, key="retrieval.dim")


def _scored_items(log: LogSize, training: TrainingSize) -> int:
    """Items in the softmax of a step."""
    drawn = training.negatives
    if drawn is None:
        drawn = 0 if log.items <= FULL_SOFTMAX_ITEMS else 2 * SAMPLED_NEGATIVES
    return min(drawn or log.items, log.items)


def _ranker(log: LogSize, training: TrainingSize) -> StepFootprint:
    if not training.ranked:
        return StepFootprint(name="ranker", bytes=0, seconds=0.0, key="ranking.sampling.examples_gib")
    cell = 4 * (RETRIEVAL_COLUMNS + log.objectives) + 8
    limit = int(training.examples_gib * GIB / cell / training.candidates)
    drawn = min(training.requests_per_user * log.users, int(REQUESTS_PER_EVENT * log.events))
    requests = min(limit, training.requests, drawn)
    cells = requests * min(training.candidates, log.items)
    seconds = cells * _epochs(training.ranking_epochs, training.most_requests, requests) * 2 * 2e-5
    return StepFootprint(
        name="ranker", bytes=EXAMPLE_COPIES * cells * cell, seconds=seconds, key="ranking.sampling.examples_gib"
    )


def _epochs(epochs: int, most_examples: int | None, examples: int) -> int:
    """Return the epochs of a fit that may learn from so many examples in all of them, one at least."""
    return epochs if most_examples is None else min(epochs, max(1, most_examples // max(1, examples)))


def machine_gib() -> float:
    """Memory of this machine, or of this container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = CGROUP_MEMORY_LIMIT.read_text(encoding="ascii").strip() if CGROUP_MEMORY_LIMIT.is_file() else "max"
    return min(machine, int(text) if text.isdigit() else machine) / GIB
