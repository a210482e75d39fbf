"""A bundle in this process: slates of the whole cascade, with reasons, and why an item is absent.

recommender = Recommender.load("runs/demo/bundle")
query = recommender.query("405", k=5)
slate = recommender.recommend(query)
recommender.explain(query).items[0].adds
recommender.why_not(query, "50")
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from recsys.bundle import Bundle
from recsys.contracts import PAD, Query, Slate
from recsys.errors import ConfigError, QueryError
from recsys.index import IndexChoice
from recsys.pipeline import through
from recsys.policy.compose import Policy
from recsys.policy.explanation.why_not import why_not
from recsys.policy.rules import RuleSet
from recsys.stages import LiveRetrieve, Stages, load_explain, load_rules, load_stages, read_catalogue, read_spec
from recsys.user_seed import NEVER, USER_SEED, SeededUser, SeededUsers

BATCH = 64
"""queries that go through the stages together"""


class Recommender:
    """The cascade of one bundle; equal queries get equal slates, here as behind Triton."""

    def __init__(self, bundle: Bundle, stages: Stages, items: Path | None) -> None:
        """stages: of this bundle. items: folder of changed items that they follow, or None."""
        self.bundle, self.stages, self._items = bundle, stages, items

    @staticmethod
    def load(
        bundle: str | Path,
        *,
        rules: str | Path | None = None,
        items: str | Path | None = None,
        exposure: str | Path | None = None,
        index: str = "faiss",
        device: str = "cuda",
    ) -> "Recommender":
        """Open a folder that a training wrote. BundleError where it is none, or is damaged.

        rules: folder of published rules, else those of the bundle. items: folder of items that changed since. exposure:
        folder of the shares of what was shown, else exposure rules count nothing. index: faiss as it was trained, exact on
        the CPU, device for exact search on `device` (of torch), or auto.
        """
        opened, changed = Bundle.open(Path(bundle)), _path(items)
        stores = {"rules_store": _path(rules), "items_store": changed, "shares_folder": _path(exposure)}
        stages = load_stages(opened, **stores, index=IndexChoice(kind=index, device=device))
        return Recommender(opened, stages, changed)

    @cached_property
    def items(self) -> pl.DataFrame:
        """Return the catalogue that was trained on: `item` and the columns of the items table."""
        return read_catalogue(self.bundle)

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """Return the vectors [N, D] of the item tower, in the order of `items`."""
        return self.bundle.arrays("item_vectors.safetensors")["vectors"]

    def user_vectors(self, queries: Sequence[Query]) -> np.ndarray:
        """Return the vectors [B, D] of the user tower, those of several interests side by side; their inner products with
        `item_vectors` are the scores of the towers.
        """
        first = self.stages[0]
        return (first.now if isinstance(first, LiveRetrieve) else first).user_vectors(queries)

    def with_policy(self, *, rules: RuleSet | None = None, **sections: Mapping[str, Any]) -> "Recommender":
        """Return a recommender with the same candidates and probabilities under another policy.

        rules: in the place of the bundle's. sections: of its policy.yaml, each in full, for instance
        value={"formula": "click + 5 * buy", "weights": {}}. ConfigError for what does not fit the bundle.
        """
        if "repeat" in sections:
            raise ConfigError("repeat also decides what retrieval offers; train with policy.repeat to change it")
        policy = Policy.from_document({**self.bundle.document("policy.yaml"), **sections})
        last = load_rules(self.bundle, policy=policy, rules=rules)
        return Recommender(self.bundle, (*self.stages[:-1], last), self._items)

    def query(
        self, user: str, *, k: int = 10, now: float | None = None, context: Mapping[str, Any] | None = None
    ) -> Query:
        """Build the query of a user with what the training data holds of the user; a stranger has no history.

        k: items of the slate. now: unix seconds; None is the present, or the last event of data without a clock.
        """
        if now is None:
            now = time.time() if read_spec(self.bundle).clock else self._last_event
        if (known := self._users.get(user) if self._users else None) is None:
            return Query(user=user, now=now, k=k, context=context or {})
        return Query(
            user=user,
            now=now,
            k=k,
            context=context or {},
            profile=known.profile,
            history=known.history,
            memory=known.memory,
            exclude=self._barred(known, now),
        )

    def recommend(self, query: Query) -> Slate:
        """The slate of one query."""
        return self.recommend_all([query])[0]

    def recommend_all(self, queries: Sequence[Query]) -> list[Slate]:
        """Slates in the order of the queries."""
        batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
        return [slate for batch in batches for slate in through({"QUERY": batch}, self.stages)["SLATE"]]

    def candidates(self, queries: Sequence[Query]) -> pl.DataFrame:
        """Return what the last stage chooses from, a row a candidate in the order of retrieval: `user`, `item`, `rank` from 0,
        `score`, the score by each source as from_<source> (null where it did not offer the item), and the probability of each
        objective as p_<objective>.
        """
        batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
        return pl.concat([self._candidates(batch) for batch in batches])

    def _candidates(self, queries: Sequence[Query]) -> pl.DataFrame:
        _, batch = self.stages[-1].offered(through({"QUERY": queries}, self.stages[:-1]))
        policy = self.stages[-1].policy
        number, rank = np.nonzero(batch.rows != PAD)
        found = {
            "user": np.array([query.user for query in queries], dtype=object)[number],
            "item": policy.items[batch.rows[number, rank]],
            "rank": rank,
            "score": batch.scores[number, rank],
        }
        by_source = zip(policy.sources, batch.source_scores[number, rank].T, strict=True)
        found |= {f"from_{source}": scores for source, scores in by_source}
        if batch.probabilities is not None:
            by_objective = zip(policy.value.objectives, batch.probabilities[number, rank].T, strict=True)
            found |= {f"p_{name}": chances for name, chances in by_objective}
        return pl.DataFrame(found, nan_to_null=True)

    def table(self, slate: Slate) -> pl.DataFrame:
        """Return a slate for people: a row an item, with the words and numbers of the catalogue."""
        shown = pl.DataFrame(
            [
                {
                    "item": one.item,
                    "utility": one.utility,
                    **{f"p_{name}": chance for name, chance in one.probabilities.items()},
                    "sources": ", ".join(one.sources),
                    "rules": ", ".join(f"{name}: {effect}" for name, effect in one.rules.items()),
                }
                for one in slate.items
            ],
            infer_schema_length=None,
        )
        plain = self.items.select(~cs.nested())
        return shown.join(plain, on="item", how="left", maintain_order="left").select(
            "item", *plain.columns[1:], *shown.columns[1:]
        )

    def explain(self, query: Query) -> Slate:
        """The slate of a query with what each group of features adds to every utility, and the event that speaks for it.

        ConfigError for a bundle without a ranker.
        """
        slate: Slate = self._explain(through({"QUERY": [query]}, self.stages))["SLATE"][0]
        return slate

    def why_not(self, query: Query, item: str) -> str:
        """One sentence: why an item is not on the slate of a query."""
        rules = self.stages[-1]
        (request,), candidates = rules.offered(through({"QUERY": [query]}, self.stages))
        return why_not(rules.policy, request, candidates, item)

    @cached_property
    def _explain(self) -> Any:
        return replace(load_explain(self.bundle, self._items), value=self.stages[-1].policy.value)

    @cached_property
    def _users(self) -> SeededUsers | None:
        return SeededUsers(self.bundle.file(USER_SEED), str) if self.bundle.has(USER_SEED) else None

    @cached_property
    def _last_event(self) -> float:
        """Second of the newest event of the training data."""
        if not self.bundle.has(USER_SEED):
            raise QueryError("the bundle carries no users, so the end of its data is unknown; give now")
        newest = pl.read_ipc(self.bundle.file(USER_SEED), columns=["seen.last"])["seen.last"].explode().max()
        return float(newest) if isinstance(newest, int | float) else 0.0

    def _barred(self, user: SeededUser, now: float) -> tuple[str, ...]:
        """Items seen beyond the history that policy.repeat keeps from the slate."""
        policy = self.stages[-1].policy
        never = np.full(len(user.seen), NEVER)
        columns = [user.reached.get(name, never) for name in policy.value.objectives]
        reached = np.stack(columns, axis=1).astype(np.float64)
        reached[reached == NEVER] = np.nan
        barred = policy.seen.repeat.barred(user.last.astype(np.float64), reached, now)
        return tuple(user.seen[row] for row in np.flatnonzero(barred).tolist())


def _path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder)
