"""The slates that need no model server: the user's last good one again, popular items, neighbours of an item.

Whatever is shown goes through the bundle's own last stage in this process, by the rules that serve now.

Shapes: C candidates of one query, N items, S candidate sources, T objectives, D dim.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.popularity import ItemList
from recsys.candidates.sources import MergedSources
from recsys.contracts import PAD, Query, Slate
from recsys.errors import BundleError
from recsys.index import Index
from recsys.policy.compose import CompiledPolicy
from serving.gateway.refusals import Refusal

POPULAR = "popular"
CANDIDATES = 200
"""of one query, at least twice what it asks for"""

SlateDocument = dict[str, Any]


class RetrieveStage(Protocol):
    """The first stage of the cascade: `recsys.stages.Retrieve` or `LiveRetrieve`."""

    @property
    def sources(self) -> MergedSources: ...


class RulesStage(Protocol):
    """The last stage of the cascade: `recsys.stages.Rules` or `LiveRules`."""

    @property
    def policy(self) -> CompiledPolicy: ...

    def __call__(self, tensors: Mapping[str, Any]) -> Mapping[str, Sequence[Slate]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """Candidates of one query, best first."""

    rows: np.ndarray
    """[C] int64 catalogue rows, distinct"""
    scores: np.ndarray
    """[C] float32, falling"""
    sources: Sequence[Sequence[str]]
    """names of those that offered each"""
    probabilities: np.ndarray | None = None
    """[C, T] float32"""


class Fallbacks:
    """Slates from the bundle alone, and from the items as they are now. Both stages must be of the same bundle.

    Raises BundleError where it holds no list that is the same for everybody.
    """

    def __init__(self, retrieve: RetrieveStage, rules: RulesStage, recent: ItemList | None) -> None:
        """recent: the bundle's own count of recent events, where popular items are no candidate source"""
        self._retrieve, self._rules, self._recent = retrieve, rules, recent
        _popular(retrieve.sources, recent)

    @property
    def rows(self) -> Mapping[str, int]:
        """item -> catalogue row, also of items that came since the training"""
        return self._rules.policy.rules.row_of

    @property
    def rules_hash(self) -> str:
        """Of the rules that serve now."""
        return self._rules.policy.rules.hash

    def warm(self, query: Query) -> None:
        """Compile what the last stage runs."""
        self.again(query, orjson.dumps(self.popular(query)))
        if self.rows:
            self.similar(next(iter(self.rows)), query)

    def again(self, query: Query, shown: bytes) -> SlateDocument | None:
        """The items of an earlier slate, ordered and checked anew; None where they do not fill the page any more."""
        offered = self._offered_again(orjson.loads(shown)["items"])
        if offered is None:
            return None
        slate = self._slate(query, offered)
        return slate if len(slate["items"]) >= query.k else None

    def popular(self, query: Query) -> SlateDocument:
        """Popular items, without those that may not be shown to this user."""
        wanted = max(CANDIDATES, 2 * query.k)
        (barred,) = self._rules.policy.excluded_rows([query])
        listed = _popular(self._retrieve.sources, self._recent)
        rows = listed.rows[: wanted + len(barred)]
        keep = np.flatnonzero(~np.isin(rows, barred))[:wanted]
        named = [(POPULAR,)] * len(keep)
        return self._slate(query, Offered(rows=rows[keep], scores=listed.scores[keep], sources=named))

    def similar(self, item: str, query: Query) -> SlateDocument:
        """What is like an item. Refusal 404 for one that the catalogue lacks."""
        if item not in self.rows:
            raise Refusal(404, "the catalogue has no such item; send the id of one that it has")
        near = Neighbours.of(self._retrieve.sources)
        rows, scores, source = near.around(self.rows[item], max(CANDIDATES, 2 * query.k))
        return self._slate(query, Offered(rows=rows, scores=scores, sources=[(source,)] * len(rows)))

    def _offered_again(self, items: Sequence[Mapping[str, Any]]) -> Offered | None:
        """What rules alone brought is left out: they bring it again. Probabilities count only if all items have them."""
        kept = [one for one in items if one["item"] in self.rows and one["rank"] >= 0]
        if not kept:
            return None
        kept.sort(key=lambda one: one["rank"])
        objectives = self._rules.policy.value.objectives
        ranked = all(len(one["probabilities"]) == len(objectives) for one in kept)
        probabilities = [[one["probabilities"][name] for name in objectives] for one in kept] if ranked else None
        return Offered(
            rows=np.array([self.rows[one["item"]] for one in kept], dtype=np.int64),
            scores=np.array([one["utility"] for one in kept], dtype=np.float32),
            sources=[one["sources"] for one in kept],
            probabilities=None if probabilities is None else np.array(probabilities, dtype=np.float32),
        )

    def _slate(self, query: Query, offered: Offered) -> SlateDocument:
        tensors = {
            "QUERY": [query],
            "candidate_rows": offered.rows[None],
            "merged_scores": offered.scores[None],
            "source_scores": self._source_scores(offered)[None],
            "degraded": np.array([[json.dumps([]).encode()]], dtype=object),
        }
        if offered.probabilities is not None:
            tensors["probabilities"] = offered.probabilities[None]
        (slate,) = self._rules(tensors)["SLATE"]
        document: SlateDocument = orjson.loads(orjson.dumps(slate))
        return document

    def _source_scores(self, offered: Offered) -> np.ndarray:
        """[C, S], NaN where a source did not offer the item."""
        names = self._rules.policy.sources
        said = [[name in given for name in names] for given in offered.sources]
        offers = np.array(said, dtype=bool).reshape(len(offered.rows), len(names))
        return np.where(offers, offered.scores[:, None], np.float32(np.nan))


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What lies near an item in the item tower; by content for an item that has no vector there."""

    index: Index
    content: ItemNeighbours | None

    @staticmethod
    def of(sources: MergedSources) -> "Neighbours":
        return Neighbours(index=sources.index, content=_content(sources))

    def around(self, row: int, wanted: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Rows [C], scores [C], best first and without the item itself, and the source that says so.

        None for an item that the rules know before the index does.
        """
        if row >= len(self.index):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), "content"
        vector = self.index.vectors(np.array([row]))
        if self.content is not None and row < len(self.content) and not vector.any():
            place = slice(self.content.indptr[row], self.content.indptr[row + 1])
            rows, scores = self.content.indices[place].astype(np.int64), self.content.weights[place]
            order = np.argsort(-scores, kind="stable")[:wanted]
            return rows[order], scores[order], "content"
        rows = self.index.search(vector, wanted + 1)[1][0]
        near = rows[(rows != PAD) & (rows != row)]
        cosines = _cosines(vector[0], self.index.vectors(near))
        order = np.argsort(-cosines, kind="stable")[:wanted]
        return near[order], cosines[order], "similar"


def _cosines(vector: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[D] and [C, D] -> [C] float32; what has no length resembles nothing."""
    lengths = np.linalg.norm(vector) * np.linalg.norm(others, axis=1)
    return (others @ vector / np.maximum(lengths, 1e-12)).astype(np.float32)


def _popular(sources: MergedSources, recent: ItemList | None) -> ItemList:
    """The bundle's list of what is popular, or another one that is the same for everybody."""
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
