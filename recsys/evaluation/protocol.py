"""Evaluation protocol: the same queries for all systems, tuned baselines beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from recsys.cache.stage_cache import NO_CACHE, Result, StageCache
from recsys.data.splits import TEST, VALIDATION, Split
from recsys.errors import check_ranges
from recsys.evaluation.baselines import NotApplicableError, ScorerByHistory
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.tuning import FittedBaseline, TunedBaseline, best_for_new_users
from recsys.progress import Progress, silent
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.interactions import UNLIMITED
from recsys.replay.replay import Replay

MAX_TUNING_SCORES = 60_000_000
"""users times items scored per point of a grid, at most: seconds, however large the catalogue"""
MIN_TUNING_USERS = 200
"""validation users, however large the catalogue"""


class Evaluation:
    """Baselines of every table, and the queries shared by all systems."""

    def __init__(
        self,
        *,
        baselines: Mapping[str, TunedBaseline | None],
        validation_users: int,
        validation_seed: int,
        test_users: int,
        events_per_user: int,
        for_new_users: Sequence[str],
    ) -> None:
        """
        baselines: name in the table -> baseline; null removes one
        validation_users: maximum number on which hyperparameters are chosen
        validation_seed: samples them where there are more
        test_users: maximum number of a test period, sampled by the same seed
        events_per_user: the newest, at most, of which item-item baselines count pairs
        for_new_users: baselines that read no history; the best of them on validation ranks for users without one in the
            rows of all others; names without a baseline are left out
        """
        check_ranges(
            "evaluation",
            validation_users=(validation_users, 1, 10**12),
            validation_seed=(validation_seed, 0, 2**63 - 1),
            test_users=(test_users, 1, UNLIMITED),
            events_per_user=(events_per_user, 1, UNLIMITED),
        )
        self.test_users, self.events_per_user = test_users, events_per_user
        self.baselines = {name: one for name, one in baselines.items() if one is not None}
        self.for_new_users = tuple(name for name in for_new_users if name in self.baselines)
        self.validation_users = validation_users
        self.validation_seed = validation_seed

    def queries(self, split: Split, replay: Replay, period: int) -> EvaluationQueries:
        """Return all queries of a period. DataError when no user interacts with a new item in it."""
        return replace(
            EvaluationQueries.of(replay.dataset, split, replay, period), events_per_user=self.events_per_user
        )

    def validation(self, split: Split, replay: Replay) -> EvaluationQueries:
        """Return the queries on which hyperparameters are chosen, those of our models included."""
        return self.queries(split, replay, VALIDATION).sample(self.validation_users, self.validation_seed)

    def evaluate_baselines(
        self,
        board: Scoreboard,
        split: Split,
        replay: Replay,
        cache: StageCache = NO_CACHE,
        progress: Progress = silent,
    ) -> EvaluationQueries:
        """Open the test queries of one split on the board and record the ranking of every baseline; return the queries."""
        all_queries = self.queries(split, replay, TEST)
        test = all_queries.sample(self.test_users, self.validation_seed)
        if len(test) < len(all_queries):
            board.note(f"{split.name}: {len(test):,} of {len(all_queries):,} users are asked, drawn with a seed")
        board.open_split(test)
        self._name_crawlers(board, test)
        if self.baselines:
            self._record_baselines(board, self.validation(split, replay), test, cache, progress)
        return test

    def _name_crawlers(self, board: Scoreboard, test: EvaluationQueries) -> None:
        """Note on the users whose events beyond `events_per_user` no item-item fit counts."""
        num = np.bincount(test.known.users)
        crawlers = np.flatnonzero(num > self.events_per_user)
        if not len(crawlers):
            return
        first = crawlers[np.argmax(num[crawlers])]
        board.note(
            f"{len(crawlers):,} users have more than {self.events_per_user:,} known events, the most {num[first]:,} of "
            f"{test.replay.names[first]!r}: what counts pairs of items reads the newest {self.events_per_user:,} of each "
            "(candidates.events_per_user)"
        )

    def _record_baselines(
        self,
        board: Scoreboard,
        validation: EvaluationQueries,
        test: EvaluationQueries,
        cache: StageCache,
        progress: Progress,
    ) -> None:
        tuning = validation.sample(
            max(MIN_TUNING_USERS, MAX_TUNING_SCORES // validation.num_items), self.validation_seed
        )
        queries = {"tuning": tuning.contents, "test": test.contents}
        new_users = self._ranks_new_users(board, tuning, test)
        for name, baseline in self.baselines.items():
            other = None if name in self.for_new_users else new_users
            try:
                ranked = partial(_ranked, baseline, tuning, test, other, progress, f"baseline {name}")
                inputs = {"baseline": baseline, "new_users": other and other.parameters, **queries}
                document, arrays = cache.arrays("baselines", ranked, code=Evaluation, **inputs)
            except NotApplicableError as reason:
                board.note(f"{name} is left out: {reason}")
                continue
            board.record_baseline(name, arrays["ranking"], parameters=document["parameters"])
        board.note(f"knobs of baselines chosen by NDCG@10 on {len(tuning):,} validation users")

    def _ranks_new_users(
        self, board: Scoreboard, tuning: EvaluationQueries, test: EvaluationQueries
    ) -> FittedBaseline | None:
        """Return the baseline that ranks for users without a history, and note it; None where there are none to rank for."""
        named = {name: self.baselines[name] for name in self.for_new_users}
        if test.histories.lengths.all() or (best := best_for_new_users(named, tuning, test)) is None:
            return None
        name, fitted = best
        parameters = "".join(f", {key} {value}" for key, value in fitted.parameters.items())
        board.note(f"baselines rank by {name}{parameters} for users without a history")
        return replace(fitted, parameters={"name": name, **fitted.parameters})


def _ranked(
    baseline: TunedBaseline,
    tuning: EvaluationQueries,
    test: EvaluationQueries,
    new_users: FittedBaseline | None,
    progress: Progress,
    name: str,
) -> Result:
    """Tune and fit a baseline; return its chosen parameters and its ranking of the test queries."""
    choice = baseline.fit(tuning, test, progress, name)
    scorer = choice.scorer
    if new_users is not None:
        scorer = ScorerByHistory(with_history=scorer, without_history=new_users.scorer)
    return {"parameters": choice.parameters}, {"ranking": test.rank(test.scores_of(scorer))}
