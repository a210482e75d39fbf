"""One run on a click log: the ranker alone is trained, judged on the newest impressions, exported and saved.

Shapes: R rows, T labels.
"""

import hashlib
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pytorch_lightning.loggers import Logger
from torch import Tensor

from recsys.bundle import Bundle, write_bundle
from recsys.cache.stage_cache import NO_CACHE, StageCache
from recsys.click_model import ClickModel, save_click_log
from recsys.data.click_log import ClickLog, ImpressionKeys
from recsys.data.impression_splits import NAMES, ImpressionShares, ImpressionSplit
from recsys.data.scanning import Chunk
from recsys.errors import ConfigError, DataError
from recsys.evaluation.impressions import ImpressionReport, LabelMeasures, impression_measures
from recsys.evaluation.objectives import mean
from recsys.evaluation.probabilities import auc
from recsys.evaluation.run_tables import impression_tables, worst_rows
from recsys.features.batches import ItemBatch
from recsys.features.encode import ItemTable
from recsys.features.numbers import NumberEncoding
from recsys.features.spec import Features, FeatureSpec
from recsys.graphs.export import export_impression_ranker
from recsys.ranking.losses import masked_bce
from recsys.replay.labelled_requests import sample_rows
from recsys.stages import RANKER, OnnxModel
from recsys.tensors import Arrays
from recsys.training.experiment import check_same_configuration
from recsys.training.fit_logger import of_fit
from recsys.training.footprint import GIB, machine_gib
from recsys.training.impression_examples import (
    bytes_a_row,
    encoded_impressions,
    fit_spec,
    impression_examples,
    number_encodings,
)
from recsys.training.limits import TrainingLimits
from recsys.training.ranking import RankerTrainerConfig, TrainedRanker
from recsys.training.ranking_examples import RankingExamples
from recsys.training.ranking_task import RankingTask
from recsys.training.run_folder import exclusive, record_test_read
from recsys.training.save import PACKAGES
from recsys.training.tracking import DataUse, RunResults, Tracking
from recsys.training.trainer import Trainer

MEASURED = "what is served is what the figures are of"
REFITTED = (
    "figures are of the fit before the test rows; served is the same ranker, fitted again on training and validation rows and "
    "calibrated on those of the test"
)
VALIDATION_CURVE = "validation/auc"
"""AUC of the target, by which configurations are compared"""
BYTES_A_PARAMETER = 16
"""weight, gradient and both moments of AdamW"""


class ImpressionTask(RankingTask):
    """Pointwise likelihood of every label; an impression has no other candidate to be ranked with."""

    def validation_step(self, _: Tensor) -> None:
        labels, logits = self.valid_batch["labels"], self.all_logits(self.valid_batch)
        loss = masked_bce(logits, labels, labels.new_ones(labels.shape[:2])).sum()
        own = labels[:, 0, self.target]
        known = ~own.isnan()
        order = auc(own[known].cpu().numpy(), logits[:, 0, self.target][known].cpu().numpy())
        self.log_dict({"ranking/likelihood": -loss, "ranking/auc": order}, prog_bar=True)


@dataclass(frozen=True, kw_only=True)
class ImpressionTrainerConfig(RankerTrainerConfig):
    """Configuration of the ranker and of its training on a click log; an example is an impression."""

    task_type: ClassVar[type[RankingTask]] = ImpressionTask

    def __post_init__(self) -> None:
        super().__post_init__()
        fixed = {
            "num_positions": (self.num_positions, 0),
            "listwise_weight": (self.listwise_weight, 0),
            "watch": (self.watch, "likelihood"),
            "sampling.shown": (self.sampling.shown, None),
        }
        for key, (given, only) in fixed.items():
            if given != only:
                raise ConfigError(
                    f"ranking.{key} is {given!r}, but an impression of a click log stands alone; leave it at {only}"
                )


@dataclass(frozen=True, kw_only=True)
class ClickLogExperiment:
    """Configuration of one run on a click log."""

    data: Any
    """a source: load() -> ClickLog"""
    protocol: ImpressionShares
    features: Features
    ranking: ImpressionTrainerConfig
    trainer: Trainer
    tracking: Tracking
    seeds: tuple[int, ...]
    """one ranker each, the first one is served"""
    limits: TrainingLimits
    refit: bool
    """fit the served ranker again on training and validation rows, calibrated on those of the test"""
    cache: StageCache = NO_CACHE

    @property
    def selecting_curve(self) -> str:
        """Return the key under which trackers have the figure to maximise."""
        return VALIDATION_CURVE

    def run(self, folder: Path, config: dict[str, Any], echo: Callable[[str], None]) -> tuple[ImpressionReport, Bundle]:
        """Train and measure every seed; write metrics.json, reliability.png and the bundle/ with the graph."""
        with self._started(folder, config, echo) as run:
            record_test_read(folder)
            report, worst = run.report(judged=("validation", "test"))
            bundle, pictures = Bundle.open(folder / "bundle"), sorted(folder.glob("*.png"))
            tables = impression_tables(report, worst)
            self.tracking.finish(RunResults(figures=mean(report.test), tables=tables, pictures=pictures, bundle=bundle))
        return report, bundle

    def validate(self, folder: Path, config: dict[str, Any], echo: Callable[[str], None]) -> ImpressionReport:
        """Train every seed and write the figures of validation alone into metrics.json; `run` goes on from there."""
        with self._started(folder, config, echo) as run:
            report, worst = run.report(judged=("validation",))
            self.tracking.finish(RunResults(tables=impression_tables(report, worst)))
        return report

    @contextmanager
    def _started(self, folder: Path, config: dict[str, Any], echo: Callable[[str], None]) -> Iterator["ClickLogRun"]:
        """Claim the folder, check the description and the configuration and open the trackers."""
        with exclusive(folder):
            self.tracking.check()
            log = self.data.load()
            encodings = number_encodings(log)
            self.features.check(log.columns.features)
            self.ranking.check(log.columns.labels, self.trainer)
            data = DataUse(name=log.name, sha256=_sha256(log.table.path), counts={}, path=log.table.path)
            recorded = {**config, "data": {**config.get("data", {}), "sha256": data.sha256}}
            check_same_configuration(folder / "checkpoints", recorded)
            with closing(self.trainer.display), self.tracking.tracked(folder, config, data) as loggers:
                yield ClickLogRun(
                    experiment=self,
                    log=log,
                    encodings=encodings,
                    folder=folder,
                    config=config,
                    loggers=loggers,
                    echo=echo,
                )


@dataclass(frozen=True, kw_only=True)
class FittedImpressions:
    """A spec with a ranker on it."""

    spec: FeatureSpec
    ranker: TrainedRanker


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedParts:
    """Rows of the log as one spec encodes them."""

    spec: FeatureSpec
    items: ItemTable
    """the impressions"""
    keys: ImpressionKeys
    rows: Sequence[np.ndarray]
    """of each part, in the log"""
    positions: np.ndarray
    """[R] row of the log -> row of `items`"""

    def examples(self, part: int) -> RankingExamples:
        rows = self.rows[part]
        return impression_examples(self.spec, self.positions[rows], self.keys.labels[rows])

    def impressions(self, part: int) -> Arrays:
        """Encoded rows of a part."""
        return self.items.at(self.positions[self.rows[part]])


@dataclass(frozen=True, kw_only=True)
class ClickLogRun:
    """The steps of one run."""

    experiment: ClickLogExperiment
    log: ClickLog
    encodings: dict[str, NumberEncoding]
    folder: Path
    config: dict[str, Any]
    loggers: list[Logger]
    echo: Callable[[str], None]

    def report(self, judged: Sequence[str]) -> tuple[ImpressionReport, pl.DataFrame]:
        """Train all seeds and measure the judged periods; with the test also fit what is served and write the bundle.

        Returns the worst rows of the last judged period as well.
        """
        started = time.perf_counter()
        with self._timed("read") as read:
            keys = self.log.keys(self._progress)
            read.rows = len(keys)
        split = self.experiment.protocol.split(self.log, keys)
        parts = [split.periods == period for period in NAMES]
        rows = {name: int(part.sum()) for name, part in zip(NAMES.values(), parts, strict=True)}
        self.echo(f"{self.log.name}: {', '.join(f'{num:,} {name} rows' for name, num in rows.items())}, {split.name}")
        measured, fitted, worst = self._measured(keys, parts, judged)
        refit = self.experiment.refit and "test" in judged
        if refit:
            fitted = self._refitted(keys, parts, fitted)
        report = ImpressionReport(
            name=self.log.name,
            protocol=split.name,
            rows=rows,
            seeds=self.experiment.seeds,
            validation=[one["validation"] for one in measured],
            test=[one["test"] for one in measured if "test" in one],
            target=self.log.columns.target,
            served=(REFITTED if refit else MEASURED) if "test" in judged else "",
            seconds=time.perf_counter() - started,
            peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        report.save(self.folder)
        if "test" in judged:
            self._write_bundle(report, fitted, split)
        for logger in self.loggers:
            logger.log_metrics({VALIDATION_CURVE: report.values[0]})
        return report, worst

    def _measured(
        self, keys: ImpressionKeys, parts: Sequence[np.ndarray], judged: Sequence[str]
    ) -> tuple[list[dict[str, LabelMeasures]], FittedImpressions, pl.DataFrame]:
        """Measures of each judged period, the parts behind the first, for each seed; fit and worst rows of the first seed."""
        encoded = self._encoded(keys, parts[: 1 + len(judged)])
        measured: list[dict[str, LabelMeasures]] = []
        for seed in reversed(self.experiment.seeds):
            fitted = self._fit(encoded, seed, f"seed_{seed}/ranker")
            with TemporaryDirectory(dir=self.folder) as beside, self._timed("score") as scored:
                model = self._exported(fitted, Path(beside, RANKER))
                predicted = [model.probabilities(encoded.impressions(1 + at)) for at in range(len(judged))]
                scored.rows = sum(map(len, encoded.rows[1:]))
            parts_of = enumerate(zip(judged, predicted, strict=True), 1)
            measured.insert(0, {period: self._measures(one, encoded, at) for at, (period, one) in parts_of})
        rows = encoded.rows[len(judged)]
        return measured, fitted, worst_rows(keys.labels[rows], predicted[-1], model.labels, rows)

    def _refitted(
        self, keys: ImpressionKeys, parts: Sequence[np.ndarray], fitted: FittedImpressions
    ) -> FittedImpressions:
        """Fit again on training and validation rows, for as many epochs, and calibrate on the test rows."""
        self.echo("measured; the served ranker is fitted again")
        encoded = self._encoded(keys, [parts[0] | parts[1], parts[2]])
        seed = self.experiment.seeds[0]
        return self._fit(encoded, seed, f"seed_{seed}/refit", epochs=fitted.ranker.epochs, taught=fitted.ranker.taught)

    def _encoded(self, keys: ImpressionKeys, parts: Sequence[np.ndarray]) -> "EncodedParts":
        """Fit a spec on the first of the parts, [R] bool each, and encode them: to learn from, to calibrate by, to measure."""
        with self._timed("fit the features", len(keys)):
            spec = fit_spec(self.log, parts[0], self.experiment.features, self.encodings, self._progress)
        sampling = self.experiment.ranking.sampling
        limits = (sampling.requests, sampling.validation_requests, len(keys))
        rows = [sample_rows(np.flatnonzero(part), limit) for part, limit in zip(parts, limits, strict=False)]
        kept = np.zeros(len(keys), dtype=bool)
        kept[np.concatenate(rows)] = True
        self._check_memory(spec, int(kept.sum()))
        with self._timed("encode", len(keys)):
            items = encoded_impressions(self.log, spec, keys, kept, self._progress)
        return EncodedParts(spec=spec, items=items, keys=keys, rows=rows, positions=np.cumsum(kept) - 1)

    def _check_memory(self, spec: FeatureSpec, num_rows: int) -> None:
        limit = self.experiment.limits.memory_gib
        memory = machine_gib() if limit is None else limit
        ids = sum(column.num_ids for column in spec.items.of_part("ids"))
        tables = ids * self.experiment.ranking.sizes.dim * BYTES_A_PARAMETER
        needed = (num_rows * bytes_a_row(spec) + tables) / GIB
        self.echo(f"estimated memory: {needed:.2f} GiB for {num_rows:,} encoded rows and {ids:,} embedded ids")
        if needed > memory:
            raise DataError(
                f"{num_rows:,} rows of {bytes_a_row(spec)} bytes and {ids:,} ids of {tables / max(ids, 1):.0f} bytes take "
                f"{needed:.2f} GiB, there are {memory:.1f} GiB (limits.memory_gib); give fewer rows "
                "(ranking.sampling.requests), smaller hashes, or a smaller ranking.sizes.dim"
            )

    def _fit(
        self, encoded: "EncodedParts", seed: int, folder: str, epochs: int | None = None, taught: bool | None = None
    ) -> FittedImpressions:
        train, valid = encoded.examples(0), encoded.examples(1)
        with self._timed(f"train, seed {seed}") as timed:
            ranker = self.experiment.ranking.fit(
                encoded.spec,
                encoded.items,
                train,
                valid,
                trainer=self.experiment.trainer,
                folder=self.folder / "checkpoints" / folder,
                seed=seed,
                loggers=of_fit(self.loggers, f"ranking/{folder}"),
                cache=self.experiment.cache.of_run(self.folder),
                epochs=epochs,
                taught=taught,
            )
            timed.rows = len(train) * ranker.epochs
        return FittedImpressions(spec=encoded.spec, ranker=ranker)

    def _exported(self, fitted: FittedImpressions, file: Path) -> ClickModel:
        """Write the graph and read it: figures are of the file that is served."""
        export_impression_ranker(fitted.ranker.ranker, fitted.ranker.calibrator, fitted.spec, file)
        return ClickModel(
            spec=fitted.spec,
            columns=self.log.columns,
            format=self.log.table.format,
            graph=OnnxModel(file, ItemBatch.specs(fitted.spec.sizes)),
        )

    def _measures(self, predicted: np.ndarray, encoded: "EncodedParts", part: int) -> LabelMeasures:
        keys, rows = encoded.keys, encoded.rows[part]
        groups = {name: codes[rows] for name, codes in keys.groups.items()}
        return impression_measures(keys.labels[rows], predicted, self.log.columns.labels, groups)

    def _write_bundle(self, report: ImpressionReport, fitted: FittedImpressions, split: ImpressionSplit) -> None:
        with write_bundle(self.folder / "bundle", fitted.spec.fingerprint) as draft:
            self._exported(fitted, draft.path / RANKER)
            save_click_log(draft, fitted.spec, self.log)
            draft.write_document("config.yaml", self.config)
            draft.write_document("lineage.json", self._lineage(report, split))
            shutil.copy(self.folder / "metrics.json", draft.path)

    def _lineage(self, report: ImpressionReport, split: ImpressionSplit) -> dict[str, Any]:
        return {
            "dataset": {"name": self.log.name, "sha256": _sha256(self.log.table.path), "rows": dict(report.rows)},
            "split": {"name": split.name},
            "seed": self.experiment.seeds[0],
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        }

    def _progress(self, chunks: Iterable[Chunk], step: str, num_rows: int | None) -> Iterator[Chunk]:
        """Show a bar, with an estimate of the time where the number of rows is known."""
        display, done = self.experiment.trainer.display, 0
        display(done, num_rows or 0, step)
        for chunk in chunks:
            yield chunk
            done += chunk.frame.height
            display(done, num_rows or 0, step)
        display.close()

    @contextmanager
    def _timed(self, step: str, rows: int = 0) -> Iterator["Timed"]:
        """Print the rows a second of a step."""
        timed, started = Timed(rows=rows), time.perf_counter()
        yield timed
        seconds = max(time.perf_counter() - started, 1e-9)
        self.echo(f"{step}: {timed.rows:,} rows in {seconds:,.1f} s, {timed.rows / seconds:,.0f} rows/s")


@dataclass
class Timed:
    """Rows of a step that is timed."""

    rows: int


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
