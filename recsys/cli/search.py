"""Search by Optuna: jobs are proposed by the validation figures of those that ended, and a search that was killed goes on.

A trial is a job of a sweep, in the folder of its number; the study lies beside these folders.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from recsys.cli.sweep import check_jobs, corners
from recsys.cli.trial import PRUNERS, STUDY, drop_torn_line, storage_of
from recsys.errors import ConfigError, check_ranges
from recsys.evaluation.selection import check_budget, minimised
from recsys.training.run_folder import SWEEP_FILE
from recsys.training.sweeps import PRUNED_FILE, cost_of

SAMPLERS = ("tpe", "nsga2", "random")


class Search:
    """Search of one space."""

    def __init__(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher, arguments: Sequence[str]) -> None:
        """config: of the sweep. arguments: its overrides on the command line"""
        metrics = config.optimised_metric
        self.config, self.launcher, self.options = config, launcher, config.hydra.sweeper
        self.goals = [str(one) for one in metrics] if OmegaConf.is_list(metrics) else [str(metrics)]
        self.budget, self.folder = check_budget(config.budget), Path(config.hydra.sweep.dir)
        self._check_options()
        params = [f"{key}={choices}" for key, choices in (self.options.params or {}).items()]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *arguments])
        self.fixed = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
        self.space = {one.get_key_element(): distribution(one) for one in parsed if one.is_sweep_override()}
        if not self.space:
            raise ConfigError(
                "the search has nothing to choose; give a key as choice(...), interval(...) or range(...)"
            )

    def run(self) -> None:
        """Check the ends of every range, then launch jobs until there are `trials` of them."""
        values = {key: ends(one) for key, one in self.space.items()}
        check_jobs(self.config, [self._overrides(one) for one in corners(values)])
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / SWEEP_FILE)
        study = self._study(folder)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a search that was killed
            self._launch(study, [optuna.Trial(study, trial._trial_id)])
        while (left := self.options.trials - len(study.trials)) > 0:
            self._launch(study, [study.ask(self.space) for _ in range(min(left, self.options.at_once))])

    def _check_options(self) -> None:
        options = self.options
        check_ranges(
            "hydra.sweeper",
            trials=(options.trials, 1, 10**6),
            at_once=(options.at_once, 1, 10_000),
            seed=(options.seed, 0, 2**30),
            population=(options.population, 2, 10_000),
            warmup=(options.warmup, 1, 10_000),
        )
        if options.sampler not in SAMPLERS:
            raise ConfigError(f"hydra.sweeper.sampler is {options.sampler!r}; choose one of {', '.join(SAMPLERS)}")
        if options.pruner not in (None, *PRUNERS):
            raise ConfigError(f"hydra.sweeper.pruner is {options.pruner!r}; choose null or one of {', '.join(PRUNERS)}")
        if options.pruner is not None and len(self.goals) > 1:
            raise ConfigError(
                f"hydra.sweeper.pruner is {options.pruner!r}, but Optuna cannot prune by several goals, "
                f"{', '.join(self.goals)}; leave the pruner null or give one goal"
            )

    def _study(self, folder: Path) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        drop_torn_line(folder / STUDY)
        study = optuna.create_study(
            storage=storage_of(folder),
            study_name=folder.name,
            directions=["minimize" if minimised(goal) else "maximize" for goal in self.goals],
            load_if_exists=True,
        )
        # a search that goes on would else draw the numbers of its beginning again
        study.sampler = sampler(self.options.sampler, self.options.seed + len(study.trials), self.options.population)
        described = {key: str(one) for key, one in self.space.items()}
        described |= {"goals": str(self.goals), "budget": str(self.budget)}
        if (begun := study.user_attrs.get("space", described)) != described:
            raise ConfigError(
                f"{folder} was begun with the search space {begun}, this is {described}; choose another hydra.sweep.dir"
            )
        study.set_user_attr("space", described)
        return study

    def _launch(self, study: optuna.Study, trials: Sequence[optuna.Trial]) -> None:
        """Run jobs of consecutive numbers."""
        jobs = [self._overrides(trial.params) for trial in trials]
        done = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
        for trial, job in zip(trials, done, strict=True):
            self._tell(study, trial, job)

    def _tell(self, study: optuna.Study, trial: optuna.Trial, job: JobReturn) -> None:
        """Record how a job ended; the sampler goes on without those that have no figure."""
        folder = self.folder / str(trial.number)
        figures = job.return_value if isinstance(job.return_value, tuple) else (job.return_value,)
        if any(map(math.isnan, figures)):
            pruned = (folder / PRUNED_FILE).is_file()
            study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
            return
        cost = cost_of(folder)
        for key, limit in self.budget.items():
            trial.set_constraint(key, cost[key] / limit - 1)  # of a trial within the budget at most 0
        study.tell(trial, list(figures))

    def _overrides(self, params: Mapping[str, Any]) -> list[str]:
        return [*self.fixed, *(f"{key}={_text(value)}" for key, value in params.items())]


def distribution(override: Override) -> BaseDistribution:
    """Return the values of a key; those of choices are the texts of overrides."""
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        log = "log" in sweep.tags
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=log)
        return FloatDistribution(sweep.start, sweep.end, log=log)
    if isinstance(sweep, RangeSweep) and all(isinstance(one, int) for one in (sweep.start, sweep.stop, sweep.step)):
        values = list(sweep.range())
        return IntDistribution(int(values[0]), int(values[-1]), step=int(sweep.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def ends(one: BaseDistribution) -> Sequence[Any]:
    """Return the choices of a key, or both ends of its range."""
    if isinstance(one, CategoricalDistribution):
        return one.choices
    assert isinstance(one, IntDistribution | FloatDistribution)
    return one.low, one.high


def _text(value: Any) -> str:
    """Write a value of an override; four digits of a proposed float can be read in a table and tell as much."""
    return str(float(f"{value:.4g}") if isinstance(value, float) else value)


def sampler(name: str, seed: int, population: int) -> BaseSampler:
    """Return the sampler that proposes trials. population: of a generation of NSGA-II"""
    if name == "tpe":
        return TPESampler(seed=seed, constant_liar=True)
    return NSGAIISampler(seed=seed, population_size=population) if name == "nsga2" else RandomSampler(seed=seed)
