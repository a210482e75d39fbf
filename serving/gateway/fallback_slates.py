"""Slates without the model server: a cached slate again, popular items, similar items.

All go through the bundle's last stage in this process, under the current rules.

Shapes: C candidates of one query, N items, S candidate sources, T objectives, D dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.popularity import ItemList
from recsys.candidates.sources import MergedSources
from recsys.contracts import PAD, CandidateBatch, Query, Slate
from recsys.errors import BundleError
from recsys.index import Index
from recsys.policy.compose import CompiledPolicy
from recsys.stages import RELEASE, release_tensor
from serving.gateway.http_error import HTTPError

POPULAR = "popular"
CANDIDATES = 200
"""candidates a query, at least twice its k"""

SlateDocument = dict[str, Any]


class RetrieveStage(Protocol):
    """First stage of the cascade: `recsys.stages.Retrieve` or `LiveRetrieve`."""

    @property
    def sources(self) -> MergedSources: ...

    @property
    def release(self) -> str: ...


class RulesStage(Protocol):
    """Last stage of the cascade: `recsys.stages.Rules` or `LiveRules`."""

    @property
    def policy(self) -> CompiledPolicy: ...

    @property
    def lost(self) -> str | None:
        """Why no slate may be served, None where one may."""
        ...

    def __call__(self, tensors: Mapping[str, Any]) -> Mapping[str, Sequence[Slate]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItems:
    """Candidates of one query, best first."""

    rows: np.ndarray
    """[C] int64 catalogue rows, distinct"""
    scores: np.ndarray
    """[C] float32, descending"""
    sources: Sequence[Sequence[str]]
    """source names of each item"""
    probabilities: np.ndarray | None = None
    """[C, T] float32"""


class FallbackSlates:
    """Slates from the bundle and the current items, by searches and rules that take long in a large catalogue: not for an event
    loop. Both stages must be of the same bundle.

    Raises BundleError for a bundle without an unpersonalised item list.
    """

    def __init__(self, retrieve: RetrieveStage, rules: RulesStage, recent: ItemList | None) -> None:
        """recent: recent-popularity list of the bundle, used if popular items are no candidate source"""
        self._retrieve, self._rules, self._recent = retrieve, rules, recent
        _popular(retrieve.sources, recent)

    @property
    def rows(self) -> Mapping[str, int]:
        """item -> catalogue row, including items added after the training"""
        return self._rules.policy.rules.row_of

    @property
    def rules_hash(self) -> str:
        """Hash of the current rules."""
        return self._rules.policy.rules.hash

    def warm(self, query: Query) -> None:
        """Compile the kernels of the last stage, unless its rules are lost."""
        if self._rules.lost is not None:
            return
        self.again(query, orjson.dumps(self.popular(query)))
        if self.rows:
            self.similar(query, next(iter(self.rows)))

    def again(self, query: Query, shown: bytes) -> SlateDocument | None:
        """Items of an earlier slate under the current rules; None if they no longer fill k positions."""
        scored = self._scored_again(orjson.loads(shown)["items"])
        if scored is None:
            return None
        slate = self._slate(query, scored)
        return slate if len(slate["items"]) >= query.k else None

    def popular(self, query: Query) -> SlateDocument:
        """Popular items without those barred for this user."""
        num = max(CANDIDATES, 2 * query.k)
        (barred,) = self._rules.policy.excluded_rows([query])
        listed = _popular(self._retrieve.sources, self._recent)
        rows = listed.rows[: num + len(barred)]
        keep = np.flatnonzero(~np.isin(rows, barred))[:num]
        named = [(POPULAR,)] * len(keep)
        return self._slate(query, ScoredItems(rows=rows[keep], scores=listed.scores[keep], sources=named))

    def similar(self, query: Query, item: str) -> SlateDocument:
        """Items similar to one, without those that the query excludes. HTTPError 404 for an item outside of the catalogue."""
        if (row := self.rows.get(item)) is None:
            raise HTTPError(404, "the catalogue has no such item; send the id of one that it has")
        similar_items = SimilarItems.of(self._retrieve.sources)
        rows, scores, source = similar_items.of_item(row, max(CANDIDATES, 2 * query.k))
        return self._slate(query, ScoredItems(rows=rows, scores=scores, sources=[(source,)] * len(rows)))

    def _scored_again(self, items: Sequence[Mapping[str, Any]]) -> ScoredItems | None:
        """Items of a slate as candidates, without those that only rules added, as the rules add them again.

        Probabilities are used only if all items have them.
        """
        row_of = self.rows
        kept = [one for one in items if one["item"] in row_of and one["rank"] >= 0]
        if not kept:
            return None
        kept.sort(key=lambda one: one["rank"])
        objectives = self._rules.policy.value.objectives
        ranked = all(len(one["probabilities"]) == len(objectives) for one in kept)
        probabilities = [[one["probabilities"][name] for name in objectives] for one in kept] if ranked else None
        return ScoredItems(
            rows=np.array([row_of[one["item"]] for one in kept], dtype=np.int64),
            scores=np.array([one["utility"] for one in kept], dtype=np.float32),
            sources=[one["sources"] for one in kept],
            probabilities=None if probabilities is None else np.array(probabilities, dtype=np.float32),
        )

    def _slate(self, query: Query, scored: ScoredItems) -> SlateDocument:
        candidates = CandidateBatch(
            rows=scored.rows[None],
            scores=scored.scores[None],
            source_scores=self._source_scores(scored)[None],
            degraded=((),),
            probabilities=None if scored.probabilities is None else scored.probabilities[None],
        )
        release = {RELEASE.name: release_tensor(self._retrieve.release, 1)}
        (slate,) = self._rules({"QUERY": [query], **candidates.tensors(), **release})["SLATE"]
        document: SlateDocument = orjson.loads(orjson.dumps(slate))
        return document

    def _source_scores(self, scored: ScoredItems) -> np.ndarray:
        """[C, S] float32, NaN for a source that did not offer the item."""
        names = self._rules.policy.sources
        offered_by = [[name in given for name in names] for given in scored.sources]
        offers = np.array(offered_by, dtype=bool).reshape(len(scored.rows), len(names))
        return np.where(offers, scored.scores[:, None], np.float32(np.nan))


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarItems:
    """Nearest items in the item tower; by content for an item without a vector."""

    index: Index
    content: ItemNeighbours | None

    @staticmethod
    def of(sources: MergedSources) -> "SimilarItems":
        return SimilarItems(index=sources.index, content=_content(sources))

    def of_item(self, row: int, num: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Rows [C] and scores [C], best first, without the item itself, and the source name.

        Empty for an item that the index does not have yet.
        """
        if row >= len(self.index):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), "content"
        vector = self.index.vectors(np.array([row]))
        if self.content is not None and row < len(self.content) and not vector.any():
            slice_ = slice(self.content.indptr[row], self.content.indptr[row + 1])
            rows, scores = self.content.indices[slice_].astype(np.int64), self.content.weights[slice_]
            order = np.argsort(-scores, kind="stable")[:num]
            return rows[order], scores[order], "content"
        rows = self.index.search(vector, num + 1)[1][0]
        similar_items = rows[(rows != PAD) & (rows != row)]
        cosines = _cosines(vector[0], self.index.vectors(similar_items))
        order = np.argsort(-cosines, kind="stable")[:num]
        return similar_items[order], cosines[order], "similar"


def _cosines(vector: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[D] and [C, D] -> cosines [C] float32, 0 for a zero vector."""
    lengths = np.linalg.norm(vector) * np.linalg.norm(others, axis=1)
    return (others @ vector / np.maximum(lengths, 1e-12)).astype(np.float32)


def _popular(sources: MergedSources, recent: ItemList | None) -> ItemList:
    """Popularity list of the bundle, or another unpersonalised list."""
    lists = {member.name: member.source for member in sources.sources if isinstance(member.source, ItemList)}
    found = lists.get(POPULAR) or recent or next(iter(lists.values()), None)
    if found is None:
        raise BundleError(
            "the bundle has no list of popular items, which answers when nothing else can; train it again, every new "
            "bundle has one"
        )
    return found


def _content(sources: MergedSources) -> ItemNeighbours | None:
    found = [member.source for member in sources.sources if member.name == "content"]
    return found[0] if found and isinstance(found[0], ItemNeighbours) else None
