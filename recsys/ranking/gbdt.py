"""Gradient boosted trees (LightGBM, Ke et al. 2017) on the features of request and candidate, one booster an objective.

Shapes: B requests, L history, C candidates, T objectives, W weights of an event, R rows (all candidates), F features.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.nn.blocks import Batch
from recsys.ranking.base import HALF_LIVES_HOURS, INITIAL_LOGIT, present_events
from recsys.ranking.crossed import content_similarities, same_values, single_value_slots
from recsys.ranking.model import LastLayer, RankerInputs, RankerModel, RankerSizes
from recsys.ranking.objective_chain import chain_logits
from recsys.ranking.trees import TreeEnsemble
from recsys.tensors import part_name

NEWEST = (1, 4, 16)
"""newest events that are counted by themselves"""
PARTS = ("ids", "numbers")
"""of the tables, that trees read as they are; of vectors they read the cosines"""


class GBDTRanker(RankerModel):
    """Trees on ids (by frequency, as the vocabularies order them), numbers, retrieval scores, cosines of the content, and
    decayed counts of the events that reached an objective or share a value with the candidate.

    Nothing is learnt by gradients: loss, balance, optimiser, epochs and sizes have no effect. Of the posterior only scale and
    offset of a logit are uncertain.
    """

    def __init__(
        self,
        *,
        inputs: RankerInputs,
        sizes: RankerSizes,
        rounds: int,
        leaves: int,
        learning_rate: float,
        min_rows: int,
        patience: int,
    ) -> None:
        """
        rounds: trees of an objective, at most
        leaves: of a tree, at most
        learning_rate: by which a tree counts
        min_rows: candidates that reach a leaf in training, at least
        patience: rounds without a better likelihood of the validation before no more are added
        """
        super().__init__()
        check_ranges(
            "ranking.model",
            rounds=(rounds, 1, 100_000),
            leaves=(leaves, 2, 4_096),
            learning_rate=(learning_rate, 1e-4, 1.0),
            min_rows=(min_rows, 1, 10**9),
            patience=(patience, 1, 100_000),
        )
        self.rounds, self.patience = rounds, patience
        self.booster = {"num_leaves": leaves, "learning_rate": learning_rate, "min_data_in_leaf": min_rows}
        self.parents = inputs.parents
        self.num_positions = inputs.num_positions
        spec = inputs.spec
        self.slots = single_value_slots(spec.items)
        tables = {"profile": spec.profile.widths, "context": spec.context.widths}
        self.numbers = [part_name(name, "numbers") for name, widths in tables.items() if "numbers" in widths]
        self.request_parts = [
            part_name(name, part) for name, widths in tables.items() for part in PARTS if part in widths
        ]
        self.candidate_parts = [part_name("candidate", part) for part in PARTS if part in spec.items.widths]
        self.has_vectors = "vectors" in spec.items.widths
        self.trees = TreeEnsemble(spec.num_objectives)

    def forward(self, batch: Batch) -> Tensor:
        return chain_logits(self.last_layer(batch, self.request(batch)).logits, self.parents)

    def request(self, batch: Batch) -> Tensor:
        habits = self._habits(batch, recency(batch)).log1p()
        return torch.cat([habits, *(batch[name] for name in self.numbers)], dim=-1)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        features = self.features(batch)
        sums = self.trees(features.flatten(0, 1))
        logits = sums.reshape(features.shape[0], features.shape[1], sums.shape[-1])

        def own_logits() -> tuple[Tensor, ...]:
            return tuple(torch.stack([one, torch.ones_like(one)], dim=-1) for one in logits.unbind(-1))

        return LastLayer(logits, own_logits)

    def features(self, batch: Batch) -> Tensor:
        """Return what the trees read, [B, C, F].

        Sums are doubles, rounded at the end: a last bit that depends on the batch, or on who computes it, would fall on either
        side of a threshold.
        """
        scores, weights = batch["candidate_scores"], recency(batch)
        newest = F.pad(batch["history_gaps"], (1, 0))[:, -1:]
        of_request = [self._habits(batch, weights), newest, *(batch[name].float() for name in self.request_parts)]
        wide = torch.cat(of_request, dim=-1).unsqueeze(1).expand(-1, scores.shape[1], -1)
        of_candidate = [scores, *(batch[name].float() for name in self.candidate_parts)]
        matches = [(column.double() @ weights).float() for column in same_values(batch, self.slots)]
        return torch.cat([wide, *of_candidate, *matches, *self._similarities(batch), *self._positions(batch)], dim=-1)

    def _habits(self, batch: Batch, weights: Tensor) -> Tensor:
        """Weighted events, and how many of them reached each objective, [B, W (1 + T)]."""
        reached = (batch["history_labels"] > 0).double()
        return torch.cat([weights.sum(1), (weights.transpose(1, 2) @ reached).flatten(1)], dim=-1).float()

    def _similarities(self, batch: Batch) -> list[Tensor]:
        if not self.has_vectors:
            return []
        vectors = {name: batch[name].double() for name in ("candidate_vectors", "history_vectors")}
        return [content_similarities(vectors, present_events(batch)).float()]

    def _positions(self, batch: Batch) -> list[Tensor]:
        """[B, C, 1], all the first position where the batch has none, as in serving."""
        if not self.num_positions:
            return []
        scores = batch["candidate_scores"]  # of which logged slates have none
        first = scores.new_zeros(scores.shape[0], scores.shape[1], 1)
        if "candidate_positions" not in batch:
            return [first]
        return [first + batch["candidate_positions"].clamp(max=self.num_positions - 1).unsqueeze(-1)]

    def weight_change(self) -> Tensor:
        return torch.tensor([[1.0, -INITIAL_LOGIT]]).expand(len(self.parents), -1)

    def fit_scores(self, scores: Tensor) -> None:
        """Leave the scores as they are: trees read their order alone."""

    @property
    def shared(self) -> Tensor:
        return self.trees.value

    def fit(self, train: Iterable[Batch], valid: Iterable[Batch], *, rounds: int | None, seed: int) -> int:
        """Boost for `rounds`, or while the likelihood of `valid` rises; an objective learns where its parent was reached."""
        learnt, later = (self._table(batches) for batches in (train, valid))
        boosters = [self._booster(learnt, later, objective, seed) for objective in range(len(self.parents))]
        kept = self._boost([one for one, _ in boosters if one is not None], rounds)
        trees = [[] if one is None else one.dump_model(num_iteration=kept)["tree_info"] for one, _ in boosters]
        self.trees.set_trees(trees, [base for _, base in boosters])
        return kept

    def _boost(self, boosters: list[Any], rounds: int | None) -> int:
        """Add a tree to each booster in turn; return the number of rounds to keep."""
        best, kept = np.inf, 1
        for number in range(1, 1 + (rounds or self.rounds)):
            for booster in boosters:
                booster.update()
            loss = sum(value for booster in boosters for _, _, value, _ in booster.eval_valid())
            if loss < best:
                best, kept = loss, number
            elif rounds is None and number - kept >= self.patience:
                break
        return rounds or kept

    @torch.no_grad()
    def _table(self, batches: Iterable[Batch]) -> "Table":
        parts = list(zip(*map(self._rows, batches), strict=True))
        features, labels, weights = (torch.cat(one).numpy() for one in parts)
        return Table(features=features, labels=labels, weights=weights)

    def _rows(self, batch: Batch) -> Iterator[Tensor]:
        present = batch["candidate_rows"] != PAD
        yield self.features(batch)[present]
        yield batch["labels"][present].clamp(0, 1)
        yield batch["candidate_weights"][present] if "candidate_weights" in batch else present[present].float()

    def _booster(self, train: "Table", valid: "Table", objective: int, seed: int) -> tuple[Any, float]:
        """Return a booster without trees, None where no row has a label, and the logit of the mean label."""
        parent, options = self.parents[objective], {**OPTIONS, **self.booster, "seed": seed}
        options["num_threads"] = torch.get_num_threads()
        own, later = (table.of(objective, parent) for table in (train, valid))
        base = own.base_logit()
        if not own.weights.any():
            return None, base
        lightgbm = import_lightgbm()
        data = own.dataset(lightgbm, base, options)
        booster = lightgbm.Booster(options, data)
        if later.weights.any():
            booster.add_valid(later.dataset(lightgbm, base, options, reference=data), "valid")
        return booster, base


def recency(batch: Batch) -> Tensor:
    """Return weights of the events, [B, L, W] double: decayed at every rate, then 1.0 for so many newest ones."""
    present = present_events(batch)
    seconds = torch.where(present, torch.expm1(batch["history_gaps"].double()), 0.0)
    hours = seconds.flip(-1).cumsum(-1).flip(-1).unsqueeze(-1) / 3600
    number = present.long().flip(-1).cumsum(-1).flip(-1).unsqueeze(-1)
    decayed = torch.exp2(-hours / torch.tensor(HALF_LIVES_HOURS, dtype=torch.double))
    newest = (number <= torch.tensor(NEWEST)).double()
    return torch.cat([decayed, newest], dim=-1) * present.unsqueeze(-1)


OPTIONS: dict[str, Any] = {
    "objective": "cross_entropy",
    "metric": "cross_entropy",
    "boost_from_average": False,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Candidates of all requests, one a row."""

    features: np.ndarray
    """[R, F] float32"""
    labels: np.ndarray
    """[R, T], or [R] of one objective; 0 to 1, NaN where missing"""
    weights: np.ndarray
    """[R]"""

    def of(self, objective: int, parent: int | None) -> "Table":
        """Return the rows with a label of an objective, given its parent: one that was reached in part counts as much."""
        reached = np.ones_like(self.weights) if parent is None else self.labels[:, parent]
        known = ~np.isnan(self.labels[:, objective]) & (reached > 0)
        shares, reached = self.labels[known, objective], reached[known]
        weights = self.weights[known] * reached
        return Table(features=self.features[known], labels=(shares / reached).clip(0, 1), weights=weights)

    def base_logit(self) -> float:
        """Return the logit of the weighted mean label, with half a row of either kind more."""
        reached = float(self.labels @ self.weights)
        return float(np.log(reached + 0.5) - np.log(float(self.weights.sum()) - reached + 0.5))

    def dataset(self, lightgbm: Any, base: float, options: dict[str, Any], reference: Any = None) -> Any:
        start = np.full(len(self.labels), base)
        return lightgbm.Dataset(
            self.features, self.labels, weight=self.weights, init_score=start, params=options, reference=reference
        )


def import_lightgbm() -> Any:
    """Import LightGBM, which no other ranker needs."""
    try:
        import lightgbm
    except ImportError:
        raise ConfigError(
            "boosted trees (ranking/model=gbdt, ranking/pointwise=auto) are fitted by LightGBM, which is not installed; "
            "run pip install 'recsys[train]', or choose ranking/pointwise=bce"
        ) from None
    return lightgbm
