"""The objects that pass between the stages, each declared once: parser, JSON, JSON Schema and tables follow (recsys/schema.py).

Shapes: B queries of a batch, C candidates of a query (padded), S candidate sources, T objectives.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import QueryError
from recsys.schema import SPARSE, Integer, Nullable, Number, refuse_constant, schema_of
from recsys.tensors import VARIABLE, TensorBatch, tensor

MAX_K = 1_000
MAX_POSITION = 10_000
PAD = -1
PROBABILITIES, DEVIATIONS = "probabilities", "deviations"
"""outputs of the ranker"""
RETRIEVED = ("rows", "scores", "source_scores", "degraded")
RANKED = ("probabilities", "logit_std")
"""fields of a CandidateBatch that retrieval and the ranker write"""
ADDS = "where `explain` was asked for: what each part of the input adds to the utility, before rules"
BECAUSE_OF = "the item of the user's history that adds most"
TEAM = "arm whose policy picked the item, where slates of two policies are interleaved"
FUTURE_S = 86_400.0
"""clocks may be ahead by this; what is later would stay the newest event of its user for good"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One interaction of a user with an item, as logged.

    `actions` maps action columns to numbers or words ({"rating": 4.0, "kind": "view"}); objectives are expressions over
    them, so that a caller needs no knowledge of the model. The last five fields are known only for what we served ourselves.
    """

    user: str
    item: str
    timestamp: float
    """unix seconds, UTC"""
    actions: Mapping[str, float | str] = field(default_factory=dict, metadata=SPARSE)
    context: Mapping[str, Any] = field(default_factory=dict, metadata=SPARSE)
    request_id: str | None = field(default=None, metadata=SPARSE)
    position: int | None = field(default=None, metadata=SPARSE | {"value": Nullable(Integer(low=0, high=MAX_POSITION))})
    """0 is the first position of the slate"""
    propensity: float | None = field(default=None, metadata=SPARSE | {"value": Nullable(Number(low=0.0, high=1.0))})
    """probability that the logging policy showed this item here"""
    bundle: str | None = field(default=None, metadata=SPARSE)
    rules: str | None = field(default=None, metadata=SPARSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One request: user, time, context and history."""

    user: str
    now: float
    """unix seconds, UTC"""
    k: int = field(default=10, metadata={"value": Integer(low=1, high=MAX_K)})
    context: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Event, ...] = ()
    """raw events, newest last"""
    memory: Mapping[str, tuple[float, ...]] = field(default_factory=dict, metadata=SPARSE)
    """item -> number of the user's events on it that are older than `history`, and timestamp of the last one"""
    surface: str = "default"
    exclude: tuple[str, ...] = ()
    """items that may not be shown, beside those that the history bars"""
    hidden: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata=SPARSE)
    """"item", or a category column of the catalogue -> values that the user does not want to see, not even pinned"""
    request_id: str = ""
    """seeds exploration, so that a slate can be replayed"""
    arms: Mapping[str, str] = field(default_factory=dict, metadata=SPARSE)
    """experiment -> arm that the user is in"""
    policy: Mapping[str, Any] = field(default_factory=dict, metadata=SPARSE)
    """overrides of the policy by these arms (recsys/policy/overrides.py)"""
    impressions: Mapping[str, float] = field(default_factory=dict)
    """item -> how often this user was shown it: frequency rules read it"""
    exposure: Mapping[str, float] = field(default_factory=dict)
    """"column=value" -> share of what everybody was shown, or counters of the caller's by any name: exposure rules and
    conditions read it
    """

    def to_json(self) -> str:
        """Write one JSON document; QueryError for a value that JSON does not know."""
        try:
            return json.dumps(schema_of(Query).document(self), separators=(",", ":"))
        except TypeError as error:
            raise QueryError(
                f"the query of user {self.user!r} cannot be sent: {error}; use plain Python values"
            ) from None

    @staticmethod
    def from_json(text: str | bytes) -> "Query":
        """Parse one JSON document; QueryError says which field is wrong."""
        try:
            document = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise QueryError(
                f"the query is not one JSON document: {error}; send an object with user, now and k"
            ) from None
        return query_from_dict(document)


Flags = tuple[tuple[str, ...], ...]
"""per query, what was missing or skipped"""


def _json_lists(flags: Flags) -> np.ndarray:
    return np.array([[json.dumps(one).encode()] for one in flags], dtype=object)


def _flags(lists: np.ndarray) -> Flags:
    return tuple(tuple(json.loads(one)) for one in lists.flat)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateBatch(TensorBatch):
    """Candidates of B queries, best first, padded with PAD at the end; with probabilities once they are ranked."""

    rows: np.ndarray = field(metadata=tensor("candidate_rows", "int64", VARIABLE))
    """[B, C] row of the item in the catalogue"""
    scores: np.ndarray = field(metadata=tensor("merged_scores", "float32", VARIABLE))
    """[B, C] merged retrieval score, larger is better, -inf for padding"""
    source_scores: np.ndarray = field(metadata=tensor("source_scores", "float32", VARIABLE, "sources"))
    """[B, C, S] score by each source, NaN where the source did not offer the item"""
    degraded: Flags = field(metadata=tensor("degraded", "bytes", 1, encode=_json_lists, decode=_flags))
    probabilities: np.ndarray | None = field(
        default=None, metadata=tensor(PROBABILITIES, "float32", VARIABLE, "objectives")
    )
    """[B, C, T] calibrated probability of each objective, None where the ranker was skipped"""
    logit_std: np.ndarray | None = field(default=None, metadata=tensor(DEVIATIONS, "float32", VARIABLE, "objectives"))
    """[B, C, T] standard deviation of the logit of each probability, None where the ranker gives none"""

    def at(self, queries: Sequence[int]) -> "CandidateBatch":
        """Return the candidates of some queries, by their indices."""
        chosen = [*queries]
        return CandidateBatch(
            rows=self.rows[chosen],
            scores=self.scores[chosen],
            source_scores=self.source_scores[chosen],
            degraded=tuple(self.degraded[index] for index in chosen),
            probabilities=None if self.probabilities is None else self.probabilities[chosen],
            logit_std=None if self.logit_std is None else self.logit_std[chosen],
        )


(CANDIDATE_ROWS,) = CandidateBatch.specs({}, ("rows",))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateItem:
    """One position of the slate, with the reasons for its item."""

    item: str
    utility: float
    sources: tuple[str, ...]
    """candidate sources that offered the item, strongest first"""
    probabilities: Mapping[str, float]
    """calibrated probability of each objective; empty when the ranker was skipped"""
    rules: Mapping[str, str] = field(default_factory=dict)
    """name of each rule that touched the item -> what it did"""
    rank: int = -1
    """rank by utility alone, from 0; -1 for a pinned item"""
    propensity: float = 1.0
    """probability of this item at this position given those above it"""
    explored: bool = False
    """whether exploration put it here; another one scored better"""
    adds: Mapping[str, float] = field(default_factory=dict, metadata=SPARSE | {"description": ADDS})
    """on request: group of the ranker's features -> utility with all minus utility without it, before rules"""
    because_of: str | None = field(default=None, metadata=SPARSE | {"description": BECAUSE_OF})
    """on request: item of the history whose absence would cost most; None where no event supports this item"""
    team: str | None = field(default=None, metadata=SPARSE | {"description": TEAM})
    """of an interleaved slate: the arm whose policy picked this item; None for a pinned one"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slate:
    """The answer to one query."""

    user: str
    request_id: str
    items: tuple[SlateItem, ...]
    degraded: tuple[str, ...]
    """what was missing or skipped; empty when nothing was"""
    bundle: str
    """fingerprint of the bundle that answered"""
    rules: str
    """hash of the rule set that was applied"""
    exposure: Mapping[str, float] = field(default_factory=dict, metadata=SPARSE)
    """shares of what was shown to everybody that may have decided beside Query.exposure: with them in it, a last stage that
    follows no shares makes this slate again
    """

    def to_json(self) -> str:
        return json.dumps(schema_of(Slate).document(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> "Slate":
        slate: Slate = schema_of(Slate).parse("slate", json.loads(text))
        return slate


def query_from_dict(document: Any) -> Query:
    """Validate a decoded JSON object and make a Query of it. An event of the history has the user of the query."""
    query: Query = schema_of(Query).parse("query", _completed(document) if isinstance(document, Mapping) else document)
    for item, entry in query.memory.items():
        if len(entry) != 2 or entry[0] < 0:
            raise QueryError(
                f"query.memory[{item!r}] is {list(entry)}; send the number of older events and the time of the last one"
            )
    return query


def _completed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what senders may leave out because another field says it."""
    # callers of 0.1 sent both in one field, which is read for one release
    completed = {**document}
    completed.setdefault("impressions", document.get("exposure", {}))
    user, history = document.get("user"), document.get("history")
    if isinstance(history, list | tuple):
        completed["history"] = [{"user": user, **one} if isinstance(one, Mapping) else one for one in history]
    return completed
