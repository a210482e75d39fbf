"""Peak memory and time of a training, estimated from the size of the log before anything is trained.

    from recsys.training.footprint import LogSize, estimate
    footprint = estimate(LogSize(events=1_000_000, users=100_000, items=50_000, longest=900))
    footprint.peak_bytes, footprint.seconds, footprint.parts

`estimate` is pure arithmetic and imports neither torch nor polars. The coefficients are fitted to the measurements of
benchmarks/training_memory.py on two CPU cores: memory is within a quarter of what was measured there, time within a factor
of two on a like machine.

Shapes: N items, B positions of a step, D dim.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class LogSize:
    """The numbers of a log that a training depends on."""

    events: int
    users: int
    items: int
    longest: int
    """events of the most active user"""
    objectives: int = 1


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """The numbers of a configuration that a training depends on; the defaults are those of conf/."""

    dim: int = 64
    history_length: int = 50
    batch_size: int = 2_048
    negatives: int = 0
    """0 is the softmax over all items"""
    retrieval_epochs: int = 30
    candidates: int = 200
    ranked: bool = True
    requests: int = 100_000
    requests_per_user: int = 3
    ranking_epochs: int = 15
    fits: int = 3
    """times that the towers are fitted: for validation, for the ranker, to be served"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One step of a training."""

    name: str
    bytes: int
    """held while the step runs, beside what `log` and `libraries` hold throughout"""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a training takes."""

    throughout: int
    """bytes held from beginning to end"""
    parts: tuple[Part, ...]

    @property
    def peak_bytes(self) -> int:
        return self.throughout + max(part.bytes for part in self.parts)

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    def __str__(self) -> str:
        """For people, e.g. "2.1 GiB and 0.4 hours"."""
        return f"{self.peak_bytes / GIB:.1f} GiB and {self.seconds / 3600:.2g} hours"


def estimate(log: LogSize, training: TrainingSize | None = None) -> Footprint:
    """The footprint of `python train.py` on two CPU cores, with the default configuration unless `training` is given."""
    training = training or TrainingSize()
    parts = (_baselines(log), _towers(log, training), _ranker(log, training))
    return Footprint(throughout=_libraries() + _log(log), parts=parts)


def _libraries() -> int:
    return 700 * 2**20


def _log(log: LogSize) -> int:
    return 1_500 * log.events + 1_000 * log.users + 4_000 * log.items


def _baselines(log: LogSize) -> Part:
    dense = 12 * log.items**2 if log.items <= 10_000 else 0
    return Part(name="baselines", bytes=dense + 200 * log.events, seconds=30 + 1e-4 * log.events)


def _towers(log: LogSize, training: TrainingSize) -> Part:
    rows = training.negatives or log.items
    step = 12 * training.batch_size * rows + 16 * rows * training.dim
    flops = 6 * log.events * (rows * training.dim + 12 * training.dim**2) * training.retrieval_epochs * training.fits
    return Part(name="towers", bytes=step + 16 * log.items * training.dim, seconds=flops / 3e10)


def _ranker(log: LogSize, training: TrainingSize) -> Part:
    if not training.ranked:
        return Part(name="ranker", bytes=0, seconds=0.0)
    requests = min(training.requests, training.requests_per_user * log.users)
    columns = 60 + log.objectives
    cells = requests * training.candidates
    return Part(name="ranker", bytes=8 * cells * columns, seconds=cells * training.ranking_epochs * 5e-6)
