"""Data sets with several real objectives as the ranker's examples.

What is ordered by time is asked about as it happened. Sets are asked about in parts: of what is learnt from, one fifth
at a time, the rest is told. Beside the features of the product every candidate has the rates of its item, from events
that are told or came before.

Shapes: R rows of the log, N items, B requests, C candidates, T objectives, S = T + 2 scores.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recsys.content.text import TextVectors
from recsys.contracts import PAD
from recsys.data.dataset import Dataset
from recsys.data.sources.informfully import Informfully
from recsys.data.sources.retailrocket import RetailRocket
from recsys.data.sources.steam import Steam
from recsys.data.splits import TEST, VALIDATION, GlobalTime, Random
from recsys.errors import DataError
from recsys.features.encode import ItemTable
from recsys.features.spec import Features, FeatureSpec
from recsys.training.prepare import Prepared, prepare
from recsys.training.ranking_examples import RankingExamples
from recsys.training.slates import Slates, logged_examples

FOLDS = 5
"""of what is known of sets: one is asked about while the others are told"""
LONGEST = 20
"""candidates that are asked about at once"""
PRIOR = 10.0
"""events of the mean that are added to those of an item"""
FOLDERS: Mapping[str, tuple[str, Callable[[str], Dataset]]] = {
    "informfully": ("informfully-idea", lambda folder: Informfully(folder=folder).load()),
    "steam": ("steam", lambda folder: Steam(folder=folder).load()),
    "retailrocket": ("retailrocket", lambda folder: RetailRocket(folder=folder).load()),
}
"""data set -> its folder in that of all data, and how it is read"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One data set, ready to be learnt from."""

    name: str
    spec: FeatureSpec
    items: ItemTable
    train: RankingExamples
    valid: RankingExamples
    test: RankingExamples
    users: np.ndarray
    """[B] codes of the users of the test"""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Those that are not true of every event."""
        return tuple(name for name in self.spec.objectives if name != self.spec.target)

    @staticmethod
    def of(dataset: Dataset) -> "Case":
        if dataset.description.clock:
            split = GlobalTime(rank=0.1, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(
                dataset
            )[0]
        else:
            split = Random(rank=0.05, validation=0.2, test=0.2, seed=0).splits(dataset)[0]
        features = Features(history_length=50, max_values=1, min_count=2, leave_out=[])
        prepared = prepare(dataset, split, features, TextVectors(dim=16, min_documents=2, seed=0))
        spec, items = prepared.spec(split.known(VALIDATION))
        ask = _in_time if split.ordered else _in_parts
        (train, _), (valid, _), (test, users) = (
            ask(prepared, spec, items, period) for period in (None, VALIDATION, TEST)
        )
        return Case(name=dataset.name, spec=spec, items=items, train=train, valid=valid, test=test, users=users)


def folder_of(name: str) -> str:
    """DataError where no data are at hand."""
    if not (root := os.environ.get("RECSYS_DATA")):
        raise DataError(
            "RECSYS_DATA is not set; set it to the folder that holds informfully-idea, steam and retailrocket"
        )
    return str(Path(root, FOLDERS[name][0]))


Asked = tuple[RankingExamples, np.ndarray]
"""examples and the users [B] who ask"""


def _in_time(prepared: Prepared, spec: FeatureSpec, items: ItemTable, period: int | None) -> Asked:
    """None: all that is known before the validation."""
    split = prepared.split
    slates = Slates.of(prepared, split.known(VALIDATION) if period is None else split.periods == period)
    examples = logged_examples(prepared, spec, items, slates, position=None)
    return _with_rates(examples, slates, _rates_before(prepared)), prepared.replay.users[slates.first]


def _in_parts(prepared: Prepared, spec: FeatureSpec, items: ItemTable, period: int | None) -> Asked:
    split = prepared.split
    if period is not None:
        return _part(prepared, spec, items, split.periods == period, split.known(period))
    known = split.known(VALIDATION)
    fold = np.random.default_rng(0).integers(FOLDS, size=len(known))
    parts = [_part(prepared, spec, items, known & (fold == one), known & (fold != one)) for one in range(FOLDS)]
    return joined([part for part, _ in parts]), np.concatenate([users for _, users in parts])


def _part(prepared: Prepared, spec: FeatureSpec, items: ItemTable, asked: np.ndarray, told: np.ndarray) -> Asked:
    slates = Slates.of_sets(prepared, asked, LONGEST)
    examples = logged_examples(prepared, spec, items, slates, position=None, history_rows=told)
    rates = _rates(prepared.replay.items[told], prepared.replay.labels[told], len(items))
    return _with_rates(examples, slates, rates[prepared.replay.items]), prepared.replay.users[slates.first]


def joined(parts: list[RankingExamples]) -> RankingExamples:
    """One after the other; shorter slates are padded."""
    width = max(part.candidate_rows.shape[1] for part in parts)

    def wide(name: str, value: float) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        gaps = [[(0, 0), (0, width - one.shape[1]), *((0, 0) for _ in one.shape[2:])] for one in arrays]
        return np.concatenate([np.pad(one, gap, constant_values=value) for one, gap in zip(arrays, gaps, strict=True)])

    return RankingExamples(
        request={name: np.concatenate([part.request[name] for part in parts]) for name in parts[0].request},
        candidate_rows=wide("candidate_rows", PAD),
        candidate_scores=wide("candidate_scores", 0),
        labels=wide("labels", np.nan),
    )


def _with_rates(examples: RankingExamples, slates: Slates, rates: np.ndarray) -> RankingExamples:
    """rates: [R, S] of the item of every row."""
    shown = (slates.rows != PAD)[..., None]
    return replace(examples, candidate_scores=np.where(shown, rates[slates.rows], 0).astype(np.float32))


def _rates(items: np.ndarray, labels: np.ndarray, num_items: int) -> np.ndarray:
    """[N, S] from events: items [M], labels [M, T]."""
    reached = np.stack([np.bincount(items, column, num_items) for column in np.nan_to_num(labels).T], axis=1)
    known = np.stack([np.bincount(items, column, num_items) for column in ~np.isnan(labels).T], axis=1)
    return _scores(reached, known, np.nanmean(labels, axis=0))


def _rates_before(prepared: Prepared) -> np.ndarray:
    """[R, S] of the item of every row, from the rows before it."""
    replay, labels = prepared.replay, prepared.replay.labels
    order = np.argsort(replay.items, kind="stable")
    first = np.searchsorted(replay.items[order], replay.items[order])

    def before(events: np.ndarray) -> np.ndarray:
        summed = np.zeros((len(labels) + 1, labels.shape[1]))
        summed[1:] = np.cumsum(events[order], axis=0)
        unsorted = np.empty((len(labels), labels.shape[1]))
        unsorted[order] = summed[:-1] - summed[first]
        return unsorted

    reached, known = before(np.nan_to_num(labels)), before(~np.isnan(labels))
    return _scores(reached, known, np.nanmean(labels[prepared.split.known(VALIDATION)], axis=0))


def _scores(reached: np.ndarray, known: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[.., T] events -> [.., S]: mean logit of the rates of all objectives, the logit of each, log of how many events."""
    rates = ((reached + PRIOR * mean) / (known + PRIOR)).clip(1e-4, 1 - 1e-4)
    logits = np.log(rates / (1 - rates))
    return np.concatenate([logits.mean(-1, keepdims=True), logits, np.log1p(known.max(-1, keepdims=True))], axis=-1)
