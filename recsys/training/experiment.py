"""One run from the log to the bundle: prepare, train, evaluate, save."""

import hashlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pytorch_lightning.loggers import Logger

from recsys.bundle import Bundle, write_bundle
from recsys.cache.stage_cache import NO_CACHE, StageCache
from recsys.content.choice import TextChoice
from recsys.content.text_encoder import TextVectorizer
from recsys.data.dataset import Dataset
from recsys.data.splits import TEST, Split, Splitter
from recsys.errors import ConfigError
from recsys.evaluation.further_metrics import POSITIONS
from recsys.evaluation.objectives import evaluate_objectives
from recsys.evaluation.protocol import Evaluation
from recsys.evaluation.report import Report
from recsys.evaluation.run_tables import report_tables
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.selection import ValidationFigures, goals
from recsys.features.spec import Features
from recsys.metrics import K
from recsys.pipeline import Stage, through
from recsys.policy.compose import Policy
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.exploration import NoExploration
from recsys.policy.popularity import PopularityDial
from recsys.policy.rules import RuleSet
from recsys.replay.evaluation_queries import RETRIEVED, EvaluationQueries
from recsys.replay.labelled_requests import LabelledRequests
from recsys.stages import Retrieve, Stages, load_rules, load_stages
from recsys.stores.atomic_files import write_atomically
from recsys.training.cascade import CascadeConfig, CascadeTrainer, TrainedCascade
from recsys.training.footprint import estimate
from recsys.training.limits import TrainingLimits, log_size, training_size
from recsys.training.prepare import Prepared, compile_repeat, prepare
from recsys.training.progress import ProgressDisplay
from recsys.training.ranking import RankerTrainerConfig
from recsys.training.reference import reference_statistics
from recsys.training.run_folder import count_test_reads, exclusive, record_test_read
from recsys.training.save import save_cascade
from recsys.training.text_choice import choose_text
from recsys.training.tracking import DataUse, RunResults, Tracking
from recsys.training.validation_board import LastPolicies, ValidationBoard

FIGURES_OF_SERVED = "what is served is what the figures are of"
TIMED_REQUESTS = 64
"""requests of one batch by which the CPU time of a request is measured"""
MAX_OBJECTIVE_REQUESTS = 5_000
"""requests of a test period, at most, on which probabilities are evaluated"""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Configuration of one run."""

    data: Any
    """a source: load() -> Dataset"""
    protocol: Splitter
    content: TextVectorizer | TextChoice
    features: Features
    cascade: CascadeConfig
    policy: Policy
    rules: RuleSet
    evaluation: Evaluation
    tracking: Tracking
    seeds: tuple[int, ...]
    """one cascade each, the first one is served"""
    limits: TrainingLimits
    refit: bool
    """fit the served cascade again on all events; else serve the one that was measured"""
    optimised_metric: str | Sequence[str]
    """figure on VALIDATION by which configurations are compared: `metric` of the last stage, or `stage/metric`; or several"""
    budget: Mapping[str, float]
    """limits of the cost of serving, by name; where there is one, or a cost is a goal, it is measured"""
    cache: StageCache = NO_CACHE

    def __post_init__(self) -> None:
        goals(self.optimised_metric, self.systems)

    @property
    def display(self) -> ProgressDisplay:
        return self.cascade.trainer.display

    @property
    def systems(self) -> tuple[str, ...]:
        """Return the names of our systems in every table, in the order of the cascade."""
        return ("towers", RETRIEVED, *self._last_policies())

    @property
    def selecting_curve(self) -> str:
        """Return the key under which trackers have the figure to maximise."""
        return "/".join(("validation", *goals(self.optimised_metric, self.systems)[0]))

    def run(self, folder: Path, config: dict[str, Any], echo: Callable[[str], None]) -> tuple[Report, Bundle]:
        """Train and measure every split with every seed; write data/, metrics.json, metrics.png and the served bundle/."""
        with self._started(folder, config, echo) as (experiment, dataset, loggers):
            report = experiment._trials(dataset, folder, config, loggers, echo)
            bundle = Bundle.open(folder / "bundle")
            objectives = {f"objective/{name}": one for name, one in report.objectives.items()}
            pictures = sorted(folder.glob("*.png"))
            self.tracking.finish(
                RunResults(
                    figures={**report.rows, **objectives},
                    tables=report_tables(report),
                    pictures=pictures,
                    bundle=bundle,
                )
            )
        return report, bundle

    def validate(self, folder: Path, config: dict[str, Any], echo: Callable[[str], None]) -> ValidationFigures:
        """Train what the validation period judges and write its figures into metrics.json; no figure of TEST is computed.

        `run` in the same folder goes on from there.
        """
        with self._started(folder, config, echo) as (experiment, dataset, loggers):
            started, split = time.perf_counter(), experiment.protocol.splits(dataset)[0]
            experiment._check_observed(dataset, [split])
            prepared = experiment._prepared(dataset, split, echo)
            runs = experiment._trainers(prepared, folder / "checkpoints" / "split_0", loggers, echo)
            board = experiment._validation_board(prepared)
            for run in runs:
                board.record(run.selected(), run)
            figures = _finish_validation(board, folder, loggers, started)
            figures.save(folder, count_test_reads(folder))
            self.tracking.finish(RunResults(tables=report_tables(figures.report)))
        return figures

    @contextmanager
    def _started(
        self, folder: Path, config: dict[str, Any], echo: Callable[[str], None]
    ) -> Iterator[tuple["Experiment", Dataset, list[Logger]]]:
        """Claim the folder, load and check the data and open the trackers; yield the experiment with its expanded policy."""
        with exclusive(folder):
            self.tracking.check()
            dataset = self.data.load()
            log = log_size(dataset)
            footprint = estimate(log, training_size(self.cascade, dataset.num_items, refit=self.refit))
            self.limits.check(footprint, log, timed=self.cascade.trainer.accelerator == "cpu")
            echo(f"estimated for two cores: {footprint}")
            policy = self.policy.expand(dataset.description.target, dataset.description.means)
            policy.value.compile(tuple(dataset.description.objectives))  # raise now, not after hours of training
            compile_repeat(policy.repeat, dataset.description)
            users, items, events = dataset.num_users, dataset.num_items, dataset.num_events
            echo(f"{dataset.name}: {users:,} users, {items:,} items, {events:,} events")
            _claim(dataset, folder, config)
            counts = {"users": users, "items": items, "events": events}
            data = DataUse(name=dataset.name, sha256=dataset.hash(), counts=counts, path=folder / "data")
            with closing(self.display), self.tracking.tracked(folder, config, data) as loggers:
                yield replace(self, policy=policy, cache=self.cache.of_run(folder)), dataset, loggers

    def _check_observed(self, dataset: Dataset, splits: Sequence[Split]) -> None:
        if self.cascade.ranking is not None and self.cascade.ranking.sampling.logged is None:
            for split in splits:
                split.check_observed(dataset)

    def _prepared(self, dataset: Dataset, split: Split, echo: Callable[[str], None]) -> Prepared:
        def prepare_with(content: TextVectorizer) -> Prepared:
            return prepare(dataset, split, self.features, content, self.policy.repeat, self.cache, self.display)

        if not isinstance(self.content, TextChoice):
            return prepare_with(self.content)
        chosen = choose_text(
            self.content, prepare_with, lambda prepared: self.evaluation.validation(split, prepared.replay)
        )
        for note in chosen.notes:
            echo(note)
        return chosen

    def _trainers(
        self, prepared: Prepared, folder: Path, loggers: list[Logger], echo: Callable[[str], None]
    ) -> Iterator[CascadeTrainer]:
        """Yield the trainer of each seed; the first seed comes last, since it is served."""
        for seed in reversed(self.seeds):
            echo(f"seed {seed}")
            yield CascadeTrainer(
                prepared=prepared,
                validation=self.evaluation.validation(prepared.split, prepared.replay),
                config=self.cascade,
                folder=folder.with_name(f"{folder.name}_seed_{seed}"),
                seed=seed,
                loggers=loggers,
                cache=self.cache,
                echo=echo,
            )

    def _validation_board(self, prepared: Prepared) -> ValidationBoard:
        queries = self.evaluation.validation(prepared.split, prepared.replay)
        chosen = goals(self.optimised_metric, self.systems)
        return ValidationBoard(queries, self._last_policies(), chosen, self.budget, (self.policy, self.rules))

    def _trials(
        self,
        dataset: Dataset,
        folder: Path,
        config: dict[str, Any],
        loggers: list[Logger],
        echo: Callable[[str], None],
    ) -> Report:
        """Train all splits and seeds; the last split's first seed comes last, since it is served.

        Figures of VALIDATION are those of the first split alone: the validation of a later one lies in the TEST of the first.
        """
        started, board, splits = time.perf_counter(), Scoreboard(dataset), self.protocol.splits(dataset)
        self._check_observed(dataset, splits)
        validation: ValidationBoard | None = None
        record_test_read(folder)
        for number, split in enumerate(splits):
            prepared = self._prepared(dataset, split, echo)
            echo(f"{split.name}: baselines")
            test = self.evaluation.evaluate_baselines(board, split, prepared.replay, self.cache, self.display)
            validation = validation or self._validation_board(prepared)
            for run in self._trainers(prepared, folder / "checkpoints" / f"split_{number}", loggers, echo):
                begun = cpu_seconds()
                selected = run.selected()
                spent = cpu_seconds() - begun
                if number == 0:
                    validation.record(selected, run)
                for line in (*prepared.notes, *selected.notes):
                    board.note(line)
                begun = cpu_seconds()
                cascade = run.measured(selected)
                board.record_cost(training_cpu_s=spent + cpu_seconds() - begun)
                if self.cascade.ranking is None:
                    board.note(
                        f"the index finds {cascade.retrieval.index_recall:.1%} of the nearest items of the towers"
                    )
                echo("graphs and evaluation")
                served = split is splits[-1] and run.seed == self.seeds[0]
                with self._draft_bundle(folder, cascade, run, config, served and not self.refit) as draft:
                    stages = self._measure(draft, test, board, run.seed)
                    if served:
                        reference = reference_statistics(cascade.spec, test, stages)
                    if served and not self.refit:
                        reference.write(draft)
                        figures = _finish_validation(validation, folder, loggers, started)
                        return self._reported(board, figures, folder, started, FIGURES_OF_SERVED, draft)
        assert validation is not None
        figures = _finish_validation(validation, folder, loggers, started)
        echo("measured; the served cascade is fitted again on all events")
        cascade = run.refitted(cascade)
        with self._draft_bundle(folder, cascade, run, config, True) as draft:
            reference.write(draft)
            return self._reported(board, figures, folder, started, _refitted(cascade), draft)

    def _reported(
        self,
        board: Scoreboard,
        validation: ValidationFigures,
        folder: Path,
        started: float,
        served: str,
        draft: Bundle,
    ) -> Report:
        """Write the report into the run directory and into the served bundle."""
        seconds = time.perf_counter() - started
        measured = board.report(seconds=seconds, peak_memory_mib=_peak_memory_mib(), served=served)
        report = replace(measured, validation=validation.to_document(), test_reads=count_test_reads(folder))
        report.save(folder)
        shutil.copy(folder / "metrics.json", draft.path)
        return report

    @contextmanager
    def _draft_bundle(
        self, folder: Path, cascade: TrainedCascade, run: CascadeTrainer, config: dict[str, Any], served: bool
    ) -> Iterator[Bundle]:
        """Write a bundle, to be measured from its own files as it would be served; keep it if `served`."""
        with (
            TemporaryDirectory(dir=folder) as beside,
            write_bundle((folder if served else Path(beside)) / "bundle", cascade.spec.fingerprint) as draft,
        ):
            save_cascade(
                draft,
                cascade,
                run.prepared,
                policy=self.policy,
                rules=self.rules,
                config=config,
                seed=run.seed,
                progress=self.display,
            )
            yield draft

    def _measure(self, draft: Bundle, test: EvaluationQueries, board: Scoreboard, seed: int) -> Stages:
        """Record all figures of a bundle on TEST; return its stages."""
        stages = load_stages(draft)
        retrieve = stages[0]
        assert isinstance(retrieve, Retrieve)
        if (total := retrieve.sources.total) < min(K, test.num_items):
            board.note(f"a cascade has {total} candidates: its recall@{K} is that of the first {total}")
        board.record("towers", test.rankings([retrieve.only("two_tower")], {}, self.display)[RETRIEVED], seed=seed)
        last = {
            name: stages[-1] if name == "pipeline" else load_rules(draft, policy=policy, rules=rules)
            for name, (policy, rules) in self._last_policies().items()
        }
        for name, ranking in test.rankings(stages[:-1], last, self.display).items():
            board.record(name, ranking, seed=seed)
        board.record_cost(cpu_ms=_request_cpu_ms(stages, test), bundle_mib=_size_mib(draft.path))
        if self.cascade.ranking is not None:
            self._measure_objectives(self.cascade.ranking, stages[:-1], test, board)
        return stages

    def _measure_objectives(
        self, ranking: RankerTrainerConfig, shared: Sequence[Stage], test: EvaluationQueries, board: Scoreboard
    ) -> None:
        """Measure the probabilities on requests that are sampled as those of the ranker's calibration."""
        if ranking.sampling.logged is not None:
            board.note(
                "probabilities are those of an item that is shown; most candidates never were: no figures of them"
            )
            return
        moments = LabelledRequests.of(
            test.replay,
            test.split,
            TEST,
            per_user=ranking.sampling.requests_per_user,
            max_requests=MAX_OBJECTIVE_REQUESTS,
        )
        scored = moments.score_candidates(shared, self.display)
        board.record_objectives(evaluate_objectives(moments, *scored, test.known.popularity))
        board.note(
            f"probabilities, {test.split.name}: of what is reached {moments.horizon_text}, "
            f"{len(moments):,} requests of the test period"
        )

    def _last_policies(self) -> LastPolicies:
        """Return what orders the ranker's candidates: the served policy, and the value formula alone where that does more."""
        if self.cascade.ranking is None:
            return {}
        plain_policy = self.policy.diversity.window == 0 and not self.policy.exploration.explores
        if not self.rules.rules and plain_policy and self.policy.popularity.discount == 0:
            return {"pipeline": (self.policy, self.rules)}
        unruled = Policy(
            value=self.policy.value,
            popularity=PopularityDial.off(),
            diversity=MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0),
            exploration=NoExploration(),
            repeat=self.policy.repeat,
        )
        return {"ranker": (unruled, RuleSet.parse({"rules": []})), "pipeline": (self.policy, self.rules)}


def _finish_validation(
    board: ValidationBoard, folder: Path, loggers: list[Logger], started: float
) -> ValidationFigures:
    """Write the validation figures of every user, log their means and return them."""
    figures = board.figures(seconds=time.perf_counter() - started, peak_memory_mib=_peak_memory_mib())
    figures.save_users(folder)
    for logger in loggers:
        logger.log_metrics(figures.curves())
        logger.save()
    return figures


def _claim(dataset: Dataset, folder: Path, config: dict[str, Any]) -> None:
    """Write the data into the folder of a run, after a check that its checkpoints are of these data and this configuration."""
    with TemporaryDirectory(dir=folder) as beside:
        dataset.save(beside)
        if dataset.impressions is not None:
            dataset.impressions.write_ipc(Path(beside, "impressions.arrow"))
        check_same_configuration(
            folder / "checkpoints", {**config, "data": {**config.get("data", {}), "sha256": _digest(Path(beside))}}
        )
    dataset.save(folder / "data")


IGNORED_SETTINGS = ("task", "run_dir", "logger", "limits", "cache", "refit", "evaluate", "optimised_metric", "budget")
WITHOUT_CHECKPOINT = (
    *("trainer.progress", "trainer.checkpoint_steps", "trainer.options.profiler", "trainer.options.devices"),
    *("policy.diversity.", "policy.exploration."),
)
"""keys that change no checkpoint"""
BEFORE_MODELS = {
    "ranking.model._target_": "recsys.ranking.multi_objective.MultiObjectiveRanker",
    "ranking.model._partial_": True,
}
"""settings of runs that were begun before the ranker could be chosen"""
BEFORE_OPTIMIZERS = {
    "optimizer": {"_target_": "recsys.training.optimizers.adamw", "_partial_": True, "betas": [0.9, 0.999]},
    "scheduler": {"_target_": "recsys.training.schedules.warmup_cosine", "_partial_": True, "warmup": 0.05},
}
"""settings of each model of runs that were begun before optimisers could be chosen"""
BEFORE_OPTIONS = {
    "trainer.options.gradient_clip_val": 1.0,
    "trainer.options.gradient_clip_algorithm": "norm",
    "trainer.options.accumulate_grad_batches": 1,
    "trainer.options.limit_train_batches": 1.0,
    "trainer.options.overfit_batches": 0,
    "trainer.options.check_val_every_n_epoch": 1,
    "trainer.options.val_check_interval": 1.0,
    "trainer.options.deterministic": False,
    "trainer.options.detect_anomaly": False,
    "trainer.options.fast_dev_run": False,
}
"""settings of runs that were begun before options of Lightning's Trainer could be chosen"""


def _refitted(cascade: TrainedCascade) -> str:
    """Sentence on the measured and on the served fit."""
    known = int(cascade.retrieval.known.sum())
    return (
        f"figures are of the fit before the test period; served is the same cascade, fitted again on all {known:,} events "
        "with what was chosen for it"
    )


def check_same_configuration(checkpoints: Path, config: dict[str, Any]) -> None:
    """Record the configuration of new checkpoints; ConfigError where existing ones belong to another one or other data."""
    settings = _flat_settings({key: value for key, value in config.items() if key not in IGNORED_SETTINGS})
    settings = {key: value for key, value in settings.items() if not key.startswith(WITHOUT_CHECKPOINT)}
    file = checkpoints / "config.json"
    if not any(checkpoints.glob("*/*/*.*")):
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(settings, indent=1).encode())
        return
    begun = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    begun = {key: value for key, value in begun.items() if not key.startswith(WITHOUT_CHECKPOINT)}
    if "ranking._target_" in begun:
        begun = BEFORE_MODELS | begun
    if "trainer._target_" in begun:
        begun = BEFORE_OPTIONS | begun
    for model in ("retrieval", "ranking"):
        if f"{model}._target_" in begun:
            begun = _flat_settings({model: BEFORE_OPTIMIZERS}) | begun
    for key in sorted(begun.keys() | settings.keys()):
        if (before := begun.get(key)) != (now := settings.get(key)):
            raise ConfigError(
                f"{checkpoints.parent} was begun with {key}={before!r}, this run has {now!r}; choose another run_dir"
            )


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _request_cpu_ms(stages: Sequence[Stage], test: EvaluationQueries) -> float:
    """Return the CPU milliseconds of a request for a page, answered in one batch by stages that have answered before."""
    queries = [replace(query, k=POSITIONS) for query in test.queries[:TIMED_REQUESTS]]
    begun = cpu_seconds()
    through({"QUERY": queries}, stages)
    return 1_000 * (cpu_seconds() - begun) / len(queries)


def _size_mib(folder: Path) -> float:
    """Return the size of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _digest(folder: Path) -> str:
    """sha256 over all files of a saved data set: events, items, users and their description."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _flat_settings(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to {dotted key: value}."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        settings |= _flat_settings(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return settings
