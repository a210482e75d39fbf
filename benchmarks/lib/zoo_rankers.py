"""Every ranker and every loss of the ranker on data sets of ranking, and LightGBM on the same features beside them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.claims.ranking import ranker_objectives, ranker_truth
from benchmarks.claims.ranking.ranker_choices import WORLD, explained
from benchmarks.lib.objective_cases import FOLDERS, Case, folder_of
from benchmarks.lib.ranker_peers import boosted
from benchmarks.lib.ranker_world import Examples, trained, truth_metrics
from benchmarks.lib.result_file import ROOT
from benchmarks.lib.zoo_rows import Row, budgeted, choices
from recsys.contracts import PAD
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.evaluation.probabilities import normalised_entropy
from recsys.training.ranking import RankerTrainerConfig

MODELS, POINTWISE, LOSSES = "ranking/model", "ranking/pointwise", "ranking/loss"
TREES = "LightGBM"
PLANTED, NEWS, TINY = "planted", "informfully", "tiny planted"
Held = Examples | Case
SOURCES: dict[str, Callable[[], Held]] = {
    PLANTED: lambda: Examples.of(WORLD),
    NEWS: lambda: Case.of(FOLDERS[NEWS][1](folder_of(NEWS))),
    TINY: lambda: Examples.of(
        Planted(users=60, items=60, rounds=12, slate=5, seed=0, strength=2.0, effects=tuple(EFFECTS))
    ),
}


@dataclass(frozen=True, kw_only=True)
class RankerJob:
    """One ranker to train on one data set."""

    data: str
    model: str
    """an override, or TREES"""
    seed: int
    budget_s: float
    part: str = "rankers"

    @staticmethod
    def models(data: str) -> list[str]:
        """Overrides of all rankers, of the losses on a label but the default, and of all losses on the order."""
        return [*choices(MODELS), *choices(POINTWISE, default="bce"), *choices(LOSSES), TREES]

    def run(self) -> Row:
        torch.set_num_threads(1)
        held = held_of(self.data)
        if self.model == TREES:
            return {**vars(self), "explained": round(explained_by_trees(held), 5)}
        fitted = trained(
            config_of(self.data, self.model),
            held.spec,
            held.items,
            held.train,
            held.valid,
            self.seed,
            budgeted(self.budget_s),
        )
        weights = sum(one.numel() for one in fitted.ranker.parameters())
        found = {"explained": round(explained(fitted, held, held.test), 5), "epochs": fitted.epochs, "weights": weights}
        return {**vars(self), **found}


@cache
def held_of(data: str) -> Held:
    """Read or make a data set, once a process."""
    return SOURCES[data]()


def config_of(data: str, model: str) -> RankerTrainerConfig:
    """Return the configuration of the data set's claim with one choice replaced; a loss on the order has a weight."""
    config = ranker_objectives.CONFIG if data == NEWS else ranker_truth.LONGER
    group, _, option = model.partition("=")
    chosen = instantiate(OmegaConf.load(ROOT / "conf" / group / f"{option}.yaml"))
    changed: dict[str, Any] = {group.rpartition("/")[2]: chosen}
    return replace(config, **changed, listwise_weight=1.0 if group == LOSSES else config.listwise_weight)


def explained_by_trees(held: Held) -> float:
    """Mean over the objectives, as of the rankers."""
    if isinstance(held, Examples):
        shares = truth_metrics(held.probabilities, boosted(held).astype(float))
        return float(np.mean([one["share"] for one in shares.values()]))
    columns = {name: list(held.spec.objectives).index(name) for name in held.objectives}
    found = []
    for name, predicted in ranker_objectives.boosted(held, columns, ranked=False).items():
        labels = held.test.labels[..., columns[name]]
        known = (held.test.candidate_rows != PAD) & ~np.isnan(labels)
        found.append(1 - normalised_entropy(labels[known], predicted[known]))
    return float(np.mean(found))
