"""Peers of the ranker: boosted trees on the same features, the rate of the item, the other rankers of conf/ranking/model.

Shapes: B requests, C positions of a slate, T objectives.
"""

import lightgbm
import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.lib.ranker_world import Examples, tabular
from benchmarks.lib.result_file import ROOT
from recsys.ranking.losses import PointwiseLoss
from recsys.ranking.model import RankerFactory

DEFAULT = "default"
"""the ranker itself among the files of conf/ranking/model"""
POOLED, CROSSED, TOWERS = "history pooled, no attention", "DCN-V2 alone", "two towers' score alone"
MMOE, BOTTOM, STEM = "MMoE", "shared bottom", "STEM"
PEERS = {
    POOLED: "pooled_history",
    CROSSED: "dcn_v2",
    TOWERS: "two_tower_score",
    MMOE: "mmoe",
    BOTTOM: "shared_bottom",
    STEM: "stem",
}
"""system -> its file in conf/ranking/model"""


def model_of(choice: str) -> RankerFactory:
    """Build a file of conf/ranking/model."""
    return instantiate(OmegaConf.load(ROOT / "conf" / "ranking" / "model" / f"{choice}.yaml"))


def pointwise_of(choice: str) -> PointwiseLoss:
    """Build a file of conf/ranking/pointwise."""
    return instantiate(OmegaConf.load(ROOT / "conf" / "ranking" / "pointwise" / f"{choice}.yaml"))


ROUNDS = 300
PRIOR = 100.0
"""impressions at the mean rate, added to those of an item"""


def boosted(examples: Examples, *, ranked: bool = False) -> np.ndarray:
    """[B, C, T] probabilities of LightGBM, one model an objective; `ranked`: scores of lambdarank within slates."""
    ids = examples.items.encoded["ids"].shape[1]
    parts = [tabular(one, examples.items, list(range(ids))) for one in (examples.train, examples.valid, examples.test)]
    groups = [np.full(len(one), one.candidate_rows.shape[1]) for one in (examples.train, examples.valid)]
    columns = []
    for objective in range(examples.probabilities.shape[-1]):
        train, valid = (one.labels[..., objective].ravel() for one in (examples.train, examples.valid))
        data = lightgbm.Dataset(parts[0], train, categorical_feature=list(range(ids)), group=groups[0])
        model = trees(data, lightgbm.Dataset(parts[1], valid, reference=data, group=groups[1]), ranked=ranked)
        columns.append(np.asarray(model.predict(parts[2], num_threads=1)).reshape(examples.test.candidate_rows.shape))
    return np.stack(columns, axis=-1)


def trees(train: lightgbm.Dataset, valid: lightgbm.Dataset, *, ranked: bool, leaves: int = 63) -> lightgbm.Booster:
    """As many rounds as are best on `valid`."""
    parameters = {
        "objective": "lambdarank" if ranked else "binary",
        "metric": "ndcg" if ranked else "binary_logloss",
        "learning_rate": 0.1,
        "num_leaves": leaves,
        "num_threads": 1,
        "verbosity": -1,
        "seed": 0,
    }
    stop = lightgbm.early_stopping(20, verbose=False)
    return lightgbm.train(parameters, train, ROUNDS, valid_sets=[valid], callbacks=[stop])


def rates(examples: Examples) -> np.ndarray:
    """Rate at which each item reached an objective, [B, C, T], shrunk to the mean where it was rarely shown."""
    rows, labels = (
        examples.train.candidate_rows.ravel(),
        examples.train.labels.reshape(-1, len(examples.spec.objectives)),
    )
    shown = np.bincount(rows, minlength=len(examples.items))[:, None]
    reached = np.stack([np.bincount(rows, one, minlength=len(examples.items)) for one in labels.T], axis=1)
    return ((reached + PRIOR * labels.mean(axis=0)) / (shown + PRIOR))[examples.test.candidate_rows]
