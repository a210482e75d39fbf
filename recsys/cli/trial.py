"""Trials of a search as Optuna keeps them: their study, and their validation curves, by which bad ones are pruned.

A job runs in a process of its own, perhaps on another machine. It finds its trial by the folder of the search and its number.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from recsys.cli.experiment import is_ranked
from recsys.replay.evaluation_queries import RETRIEVED
from recsys.stores.atomic_files import truncate

STUDY = "study.log"
"""file of the folder of a search: its trials, in Optuna's journal"""
PRUNERS = ("median", "asha", "hyperband")
REDUCTION = 3
"""ASHA and Hyperband keep one trial of so many at each rung"""


def storage_of(search: Path) -> JournalStorage:
    """Open the storage of the trials of a search."""
    return JournalStorage(JournalFileBackend(str(search / STUDY)))


def drop_torn_line(file: Path) -> None:
    """Remove the end of a journal after its last whole line, which a killed process left."""
    written = file.read_bytes() if file.is_file() else b""
    if (whole := written.rfind(b"\n") + 1) < len(written):
        truncate(file, whole)


def pruner(name: str | None, warmup: int) -> BasePruner:
    """Return the pruner of a name. warmup: epochs that are not compared"""
    if name == "median":
        return MedianPruner(n_warmup_steps=warmup)
    if name == "asha":
        return SuccessiveHalvingPruner(min_resource=warmup, reduction_factor=REDUCTION)
    return HyperbandPruner(min_resource=warmup, reduction_factor=REDUCTION) if name == "hyperband" else NopPruner()


@dataclass(frozen=True, kw_only=True)
class TrialCurve:
    """Validation curve of one trial: of the model that the first goal judges."""

    search: Path
    number: int
    model: str
    """retrieval or ranking"""
    pruner: BasePruner

    def __call__(self, metric: str, epoch: int, value: float) -> bool:
        """Report a validation and return whether to prune; a curve is reported once, that of the first seed and member."""
        if (
            metric.partition("/")[0] != self.model
            or epoch in self.trial.study.get_trials(deepcopy=False)[self.number].intermediate_values
        ):
            return False
        self.trial.report(value, epoch)
        return self.trial.should_prune()

    @cached_property
    def trial(self) -> optuna.Trial:
        study = optuna.load_study(study_name=self.search.name, storage=storage_of(self.search), pruner=self.pruner)
        return optuna.Trial(study, study.get_trials(deepcopy=False)[self.number]._trial_id)


def trial_curve(config: DictConfig) -> TrialCurve | None:
    """Return the curve of this job of a search; None where nothing is pruned."""
    job = HydraConfig.get()
    if job.sweeper.get("pruner") is None:
        return None
    return TrialCurve(
        search=Path(job.sweep.dir),
        number=job.job.num,
        model=judged_model(config),
        pruner=pruner(job.sweeper.pruner, job.sweeper.warmup),
    )


def judged_model(config: DictConfig) -> str:
    """Return the model that the first goal judges: retrieval for the towers and without a ranker, else ranking."""
    goals = config.optimised_metric
    system = str(goals[0] if OmegaConf.is_list(goals) else goals).rpartition("/")[0]
    of_towers = system in ("towers", RETRIEVED) or not is_ranked(config)
    return "retrieval" if config.task == "cascade" and of_towers else "ranking"
