"""Interleaving of the slates of two policies: every user sees both, and what is clicked says which one they prefer.

Team draft (Radlinski, Kurup and Joachims 2008, How does clickthrough data reflect retrieval quality?): in each round a coin
says who picks first, and either policy picks its best item that is not taken yet. An item belongs to the team that picked
it. Users are compared with themselves, so fewer of them show a difference than in an experiment of arms.

All rules hold for the interleaved slate as well: the drafted order goes through pins, caps, floors and frequencies once more.

Shapes: B queries, K positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recsys.contracts import PAD, CandidateBatch, Query, Slate, SlateItem
from recsys.policy.exploration.exploration import request_generator

if TYPE_CHECKING:
    from recsys.policy.compose import CompiledPolicy


def team_draft(first: Sequence[str], second: Sequence[str], rng: np.random.Generator) -> list[tuple[str, int]]:
    """Return all items of both lists in drafted order, with the number of the list that picked each."""
    lists, places, taken = (first, second), [0, 0], set[str]()
    drafted: list[tuple[str, int]] = []

    def pick(team: int) -> None:
        while places[team] < len(lists[team]) and lists[team][places[team]] in taken:
            places[team] += 1
        if places[team] < len(lists[team]):
            item = lists[team][places[team]]
            taken.add(item)
            drafted.append((item, team))

    num = len({*first, *second})
    while len(drafted) < num:
        ahead = int(rng.integers(2))
        pick(ahead)
        pick(1 - ahead)
    return drafted


@dataclass(frozen=True, kw_only=True)
class InterleavedPolicy:
    """Two policies whose slates are interleaved; has the members of a compiled policy that answer queries."""

    teams: "Mapping[str, CompiledPolicy]"
    """name of an arm -> its policy; two of them"""
    arranger: "CompiledPolicy"
    """keeps the order of its candidates, as far as the rules allow; nothing else of it changes an order"""

    def exposure_keys(self, rows: np.ndarray) -> list[str]:
        """Return the keys of both teams, as `CompiledPolicy.exposure_keys`."""
        return list(dict.fromkeys(key for policy in self.teams.values() for key in policy.exposure_keys(rows)))

    def compose(self, queries: Sequence[Query], candidates: CandidateBatch) -> list[Slate]:
        """Return one slate per query; each item says which team picked it."""
        slates = [policy.compose(queries, candidates) for policy in self.teams.values()]
        first, second = ([[one.item for one in slate.items] for slate in own] for own in slates)
        drafts = [
            team_draft(own, other, request_generator(query))
            for query, own, other in zip(queries, first, second, strict=True)
        ]
        orders = self._arranged(queries, drafts, candidates)
        return [
            self._joined(pair, dict(draft), order) for draft, order, *pair in zip(drafts, orders, *slates, strict=True)
        ]

    def rows(self, queries: Sequence[Query], candidates: CandidateBatch) -> np.ndarray:
        """Return only the items of the slates, as `CompiledPolicy.rows`."""
        slates, row_of = self.compose(queries, candidates), self.arranger.rules.row_of
        found = np.full((len(slates), max(len(one.items) for one in slates)), PAD, dtype=np.int64)
        for number, slate in enumerate(slates):
            found[number, : len(slate.items)] = [row_of[one.item] for one in slate.items]
        return found

    def _arranged(
        self, queries: Sequence[Query], drafts: Sequence[Sequence[tuple[str, int]]], candidates: CandidateBatch
    ) -> list[list[str]]:
        """Return the drafted items of each query in an order that keeps the rules."""
        shape = (len(drafts), max(1, *(len(one) for one in drafts)) if drafts else 1)
        rows = np.full(shape, PAD, dtype=np.int64)
        for number, draft in enumerate(drafts):
            rows[number, : len(draft)] = [self.arranger.rules.row_of[item] for item, _ in draft]
        places = np.broadcast_to(-np.arange(shape[1], dtype=np.float32), shape)
        drafted = CandidateBatch(
            rows=rows,
            scores=np.where(rows == PAD, np.float32(-np.inf), places),
            source_scores=np.full((*shape, candidates.source_scores.shape[2]), np.nan, dtype=np.float32),
            degraded=candidates.degraded,
        )
        items = self.arranger.items
        offered = [{item for item, _ in draft} for draft in drafts]
        arranged = self.arranger.rows(queries, drafted).tolist()
        return [
            [item for row in own if row != PAD and (item := items[row]) in known]
            for own, known in zip(arranged, offered, strict=True)
        ]

    def _joined(self, slates: Sequence[Slate], team_of: Mapping[str, int], order: Sequence[str]) -> Slate:
        names, own = list(self.teams), [{one.item: one for one in slate.items} for slate in slates]
        found: list[SlateItem] = []
        for item in order:
            team = team_of[item]
            place = own[team][item]
            pinned = place.rank < 0  # at its position whoever picks
            found.append(replace(place, team=None if pinned else names[team], propensity=1.0, explored=False))
        degraded = tuple(dict.fromkeys(flag for slate in slates for flag in slate.degraded))
        return replace(slates[0], items=tuple(found), degraded=degraded)
