"""A world in small: what the posterior doubts is tried, and earns more in the end than what looks best at once."""

from dataclasses import replace

import numpy as np
import torch

from recsys.contracts import CandidateBatch, Query
from recsys.policy.compose import Policy
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.exploration import EXPLORATIONS, NoExploration
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula
from recsys.ranking.uncertainty import LastLayerPosterior, information

ARMS, BEGUN, ROUNDS, REFIT, WORLDS = 12, 24, 2_024, 50, 24
CHANCES = np.array([0.45] * 11 + [0.7])
"""of a reward; one arm is worth finding"""


def choosing(kind):
    rate = 0.0 if kind == "none" else 1.0
    exploring = Policy(
        value=ValueFormula(formula="click", weights={}),
        popularity=PopularityDial.off(),
        diversity=MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0),
        exploration=NoExploration() if kind == "none" else EXPLORATIONS[kind](rate=rate, first=0),
        repeat=Repeat.never(),
    )
    items = np.array([f"i{row}" for row in range(ARMS)], dtype=object)
    return exploring.compile(
        RuleSet.parse({"rules": []}), {"item": items}, {}, {}, np.eye(ARMS, dtype="f4"), ("click",), ("all",), "f"
    )


def believed(shown, rewarded):
    """Probabilities and deviations of the arms: a logistic regression with an intercept, and its posterior."""
    features = torch.cat([torch.eye(ARMS), torch.ones(ARMS, 1)], dim=1).double()
    counts, wins = (torch.as_tensor(np.bincount(one, minlength=ARMS)).double() for one in (shown, shown[rewarded]))
    weights = torch.zeros(ARMS + 1).double()
    for _ in range(8):
        p = torch.sigmoid(features @ weights)
        hessian = (features * (counts * p * (1 - p))[:, None]).T @ features + torch.eye(ARMS + 1)
        weights = weights - torch.linalg.solve(hessian, features.T @ (counts * p - wins) + weights)
    rows = features[shown]
    said = information((rows @ weights)[:, None], [rows], torch.ones(len(rows), 1, dtype=torch.bool), (None,))
    posterior = LastLayerPosterior(1, ARMS + 1)
    posterior.fit(said, weights[None])
    return torch.sigmoid(features @ weights).float().numpy(), posterior([features.float()])[:, 0].sqrt().numpy()


def earned(policy, world):
    """Mean chance of a reward of what was shown, after the same random rounds."""
    rng, rows = np.random.default_rng(world), np.tile(np.arange(ARMS), (REFIT, 1))
    shown = rng.integers(0, ARMS, BEGUN)
    rewarded = rng.random(BEGUN) < CHANCES[shown]
    scores = np.zeros(rows.shape, dtype=np.float32)
    offered = CandidateBatch(rows=rows, scores=scores, source_scores=scores[..., None], degraded=((),) * REFIT)
    while len(shown) < ROUNDS:
        p, deviations = (np.tile(one[:, None], (REFIT, 1, 1)) for one in believed(shown, rewarded))
        ids = [f"{world} {len(shown) + number}" for number in range(REFIT)]
        asked = [Query(user="u", now=0.0, k=1, request_id=one) for one in ids]
        arms = policy.rows(asked, replace(offered, probabilities=p, logit_std=deviations))[:, 0]
        shown = np.concatenate([shown, arms])
        rewarded = np.concatenate([rewarded, rng.random(REFIT) < CHANCES[arms]])
    return CHANCES[shown[BEGUN:]].mean()


def test_thompson_sampling_earns_more_than_the_best_guess():
    thompson, greedy = (
        np.array([earned(policy, world) for world in range(WORLDS)]) for policy in map(choosing, ("thompson", "none"))
    )
    difference = thompson - greedy
    assert difference.mean() > 2 * difference.std(ddof=1) / np.sqrt(WORLDS), (thompson.mean(), greedy.mean())
