"""The candidate sources of one retrieve stage: how to fit them, what they offer together, and how their say is chosen.

Shapes: B queries, H history, D dim, M events, E excluded items, C candidates, K best of them, S sources.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Protocol

import numpy as np

from recsys.candidates.choice import Weights, coordinate_search
from recsys.candidates.contract import Answer, Arrays, Asked, Document, Fitted, Known, Source
from recsys.candidates.lists import ItemList
from recsys.candidates.merge import Merged, best_columns, merge
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.towers import TowerIndex
from recsys.candidates.union import Union, union
from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.index import Index

KINDS: dict[str, type[Fitted]] = {kind.kind: kind for kind in (TowerIndex, ItemNeighbours, ItemList)}
BATCH = 512
"""queries whose union is made at once when weights are chosen"""
LEAST, MOST, LEAST_ITEMS = 200, 500, 2_000
"""candidates a query of a small and of a large catalogue, and how many items are small: see `grown`"""
JUDGED = 100
"""candidates of a query that decide about weights"""


class Rows(Protocol):
    """[B, L] catalogue rows, padded, read some queries at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> np.ndarray: ...


Judge = Callable[[np.ndarray], float]
"""catalogue rows [B, K], best first, PAD at the end, K at most JUDGED -> how good they are, larger is better"""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One source among others."""

    name: str
    num: int
    """offers kept a query, after excluded items are gone"""
    weight: float
    """of its scores in the merge"""
    fitted: Fitted


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All fitted sources, merged into `total` candidates a query."""

    index: Index
    members: tuple[Member, ...]
    total: int
    hidden: np.ndarray | None = None
    """[N] bool, rows that nobody may be offered; None where all may"""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def weights(self) -> Weights:
        return tuple(member.weight for member in self.members)

    @property
    def chosen(self) -> dict[str, dict[str, float]]:
        """source -> the weight and, where it reads the history, the decay it works with"""
        return {member.name: {"weight": member.weight, **_decay(member.fitted)} for member in self.members}

    def search(self, vectors: np.ndarray, history: np.ndarray, excluded: np.ndarray) -> Merged:
        """User vectors [B, D], history rows [B, H] newest last, excluded rows [B, E] -> candidates [B, C]."""
        answers = self._answers(vectors, history)
        return merge(answers, self._joined(answers, excluded), self.weights, self.total)

    def union(self, vectors: np.ndarray, history: np.ndarray, excluded: np.ndarray) -> Union:
        return self._joined(self._answers(vectors, history), excluded)

    def _answers(self, vectors: np.ndarray, history: np.ndarray) -> list[Answer]:
        asked = Asked(vectors=vectors, history=history, hidden=self.hidden)
        return [member.fitted.answer(asked) for member in self.members]

    def _joined(self, answers: list[Answer], excluded: np.ndarray) -> Union:
        return union(answers, [member.num for member in self.members], excluded)

    def weighted(self, weights: Weights) -> "Sources":
        """The same with other weights."""
        members = zip(self.members, weights, strict=True)
        return replace(self, members=tuple(replace(member, weight=weight) for member, weight in members))

    def with_choices_of(self, other: "Sources") -> "Sources":
        """The same with the weights and decays of another fit of these sources; ConfigError where one of them is missing."""
        if lacking := sorted(set(self.names) ^ set(other.names)):
            name = lacking[0]
            raise ConfigError(
                f"candidates.sources.{name} has nothing to read in one of the periods that a ranker learns from and is served "
                f"after; set candidates.sources.{name}=null, or give protocol a longer first period"
            )
        choices = other.chosen
        members = (_chosen(member, choices[member.name]) for member in self.members)
        return replace(self, members=tuple(members))

    def between_trainings(self, index: Index, newest: np.ndarray, hidden: np.ndarray | None) -> "Sources":
        """The same over an index whose rows go on behind those of the training.

        The towers find what is in the index, lists of the newest begin with the rows `newest`; other sources know what
        they were fitted on. hidden: [N] bool as above.
        """
        members = tuple(replace(one, fitted=_later(one.fitted, index, newest)) for one in self.members)
        return replace(self, index=index, members=members, hidden=hidden)

    def only(self, name: str) -> "Sources":
        """One source alone, which fills all places."""
        members = tuple(replace(one, num=self.total, weight=1.0) for one in self.members if one.name == name)
        return replace(self, members=members)

    def to_documents(self) -> tuple[Document, Arrays]:
        """What a bundle stores beside the index."""
        document: Document = {"total": self.total, "sources": []}
        arrays: Arrays = {}
        for member in self.members:
            knobs, parts = member.fitted.to_documents()
            entry = {"name": member.name, "kind": member.fitted.kind, "num": member.num, "weight": member.weight}
            document["sources"].append(entry | knobs)
            arrays |= {f"{member.name}.{part}": array for part, array in parts.items()}
        return document, arrays

    @staticmethod
    def from_documents(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> "Sources":
        members = tuple(_member(entry, arrays, index) for entry in document["sources"])
        return Sources(index=index, members=members, total=document["total"])


class CandidateSources:
    """How to fit the sources of the retrieve stage, and how to choose their weights and decays."""

    def __init__(self, *, total: int | None, events_per_user: int, sources: Mapping[str, Source | None]) -> None:
        """
        total: candidates a query after the merge, 1 to 10,000; None grows with the catalogue, and with it what every
            source offers, see `grown`
        events_per_user: the newest, at most, that a source reads which reads pairs of a user's events
        sources: by the name that explanations show, in the order in which the ranker reads them; null leaves one out
        """
        check_ranges(
            "candidates",
            total=(LEAST if total is None else total, 1, 10_000),
            events_per_user=(events_per_user, 1, 10**9),
        )
        self.total, self.events_per_user = total, events_per_user
        self.sources = {name: source for name, source in sources.items() if source is not None}
        if not self.sources:
            raise ConfigError("candidates.sources has no source; give at least one, e.g. two_tower")

    def fit(
        self,
        *,
        users: np.ndarray,
        items: np.ndarray,
        timestamps: np.ndarray,
        items_table: ItemTable,
        spec: FeatureSpec,
        index: Index,
        ordered: bool,
        repeats: bool = False,
    ) -> Sources:
        """Training positives in canonical order: user codes from 0 [M], catalogue rows [M], unix seconds [M] or NaN.

        ordered: that order is the one in which they happened
        repeats: items may be recommended again to who interacted with them

        Every source has the first of its weights and decays; one that finds nothing to read in the data is left out.
        """
        known = Known(
            users=users,
            items=items,
            timestamps=timestamps,
            table=items_table,
            spec=spec,
            index=index,
            ordered=ordered,
            repeats=repeats,
            events_per_user=self.events_per_user,
        )
        fitted = {name: source.fit(known) for name, source in self.sources.items()}
        total = grown(known.num_items) if self.total is None else self.total
        growth = total / LEAST if self.total is None else 1.0
        members = tuple(
            Member(
                name=name,
                num=round(self.sources[name].num * growth),
                weight=self.sources[name].weights[0],
                fitted=one,
            )
            for name, one in fitted.items()
            if one is not None
        )
        if not members:
            raise ConfigError(
                f"candidates.sources: the data have nothing to read for any of {list(fitted)}; add two_tower"
            )
        return Sources(index=index, members=members, total=min(total, known.num_items))

    def choose(self, sources: Sources, vectors: np.ndarray, history: Rows, excluded: Rows, judge: Judge) -> Sources:
        """The same sources with the weights and decays that `judge` likes best on questions [B] they were not fitted on.

        Decays are tried one after the other, the weights by coordinate search for each of them; of equals the first.
        """
        grids = [self.sources[name].weights for name in sources.names]
        best, highest = sources, -np.inf
        for faded in self._faded(sources):
            unions = list(_unions(faded, vectors, history, excluded))
            worth = partial(_worth, unions=unions, total=min(JUDGED, sources.total), judge=judge)
            weights, reached = coordinate_search(grids, best.weights, worth)
            if reached > highest:
                best, highest = faded.weighted(weights), reached
        return best

    def _faded(self, sources: Sources) -> Iterator[Sources]:
        """The sources with every combination of their decays."""
        grids = {name: self.sources[name].decays for name in sources.names if self.sources[name].decays}
        for decays in product(*grids.values()):
            faded = dict(zip(grids, decays, strict=True))
            choices = (
                {"weight": member.weight} | ({"decay": faded[member.name]} if member.name in faded else {})
                for member in sources.members
            )
            members = (_chosen(member, choice) for member, choice in zip(sources.members, choices, strict=True))
            yield replace(sources, members=tuple(members))


def grown(num_items: int) -> int:
    """Candidates for a catalogue: LEAST up to LEAST_ITEMS items, beyond with the root of their number, at most MOST."""
    return min(MOST, round(LEAST * math.sqrt(max(num_items, LEAST_ITEMS) / LEAST_ITEMS)))


def _later(fitted: Fitted, index: Index, newest: np.ndarray) -> Fitted:
    if isinstance(fitted, TowerIndex):
        return TowerIndex(index=index)
    return fitted.led_by(newest) if isinstance(fitted, ItemList) else fitted


def _unions(sources: Sources, vectors: np.ndarray, history: Rows, excluded: Rows) -> Iterator[Union]:
    for start in range(0, len(history), BATCH):
        batch = slice(start, start + BATCH)
        yield sources.union(vectors[batch], history[batch], excluded[batch])


def _worth(weights: Weights, *, unions: list[Union], total: int, judge: Judge) -> float:
    return judge(_best_rows(unions, weights, total))


def _best_rows(unions: list[Union], weights: Weights, total: int) -> np.ndarray:
    """[B, total] catalogue rows, PAD at the end."""
    parts = []
    for joined in unions:
        columns = best_columns(joined.merged(weights), total)
        rows = np.full((len(columns), total), PAD, dtype=np.int64)
        found = np.take_along_axis(joined.rows, np.maximum(columns, 0), axis=1) if columns.size else columns
        rows[:, : columns.shape[1]] = np.where(columns == PAD, PAD, found)
        parts.append(rows)
    return np.concatenate(parts)


def _decay(fitted: Fitted) -> dict[str, float]:
    return {"decay": fitted.decay} if isinstance(fitted, ItemNeighbours) else {}


def _chosen(member: Member, choice: Mapping[str, float]) -> Member:
    fitted = member.fitted
    if isinstance(fitted, ItemNeighbours) and "decay" in choice:
        fitted = replace(fitted, decay=choice["decay"])
    return replace(member, weight=choice["weight"], fitted=fitted)


def _member(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Member:
    prefix = f"{entry['name']}."
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    fitted = KINDS[entry["kind"]].from_documents(entry, own, index)
    return Member(name=entry["name"], num=entry["num"], weight=entry["weight"], fitted=fitted)
