"""How systems are measured: the same questions for all of them, baselines at their best beside them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from recsys.data.splits import TEST, VALIDATION, Split
from recsys.errors import check_ranges
from recsys.evaluation.baselines import LeftOut
from recsys.evaluation.interactions import EVERY
from recsys.evaluation.questions import Questions
from recsys.evaluation.replay import Replay
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.tuning import Tuned

TUNED_CELLS = 60_000_000
"""scores of validation users and items that a point of a grid costs at most: seconds, however large the catalogue"""
LEAST_TUNED = 200
"""users"""


class Evaluation:
    """The baselines that stand in every table, and what is asked of all systems alike."""

    def __init__(
        self,
        *,
        baselines: Mapping[str, Tuned | None],
        validation_users: int,
        validation_seed: int,
        test_users: int,
        events_per_user: int,
    ) -> None:
        """
        baselines: by their name in the table; null leaves one out
        validation_users: most of them on whom a knob is chosen
        validation_seed: draws them where there are more
        test_users: most of them of a test period, drawn by the same seed
        events_per_user: the newest, at most, of which item-item baselines count pairs
        """
        check_ranges(
            "evaluation",
            validation_users=(validation_users, 1, 10**12),
            validation_seed=(validation_seed, 0, 2**63 - 1),
            test_users=(test_users, 1, EVERY),
            events_per_user=(events_per_user, 1, EVERY),
        )
        self.test_users, self.events_per_user = test_users, events_per_user
        self.baselines = {name: one for name, one in baselines.items() if one is not None}
        self.validation_users = validation_users
        self.validation_seed = validation_seed

    def questions(self, split: Split, replay: Replay, period: int) -> Questions:
        """All of a period. DataError when nothing new is met in it."""
        return replace(Questions.of(replay.dataset, split, replay, period), events_per_user=self.events_per_user)

    def validation(self, split: Split, replay: Replay) -> Questions:
        """Those on which knobs are chosen, ours too."""
        return self.questions(split, replay, VALIDATION).sample(self.validation_users, self.validation_seed)

    def ask(self, board: Scoreboard, split: Split, replay: Replay) -> Questions:
        """Open the test questions of one split on the board, and record what every baseline answers."""
        asked = self.questions(split, replay, TEST)
        test = asked.sample(self.test_users, self.validation_seed)
        if len(test) < len(asked):
            board.note(f"{split.name}: {len(test):,} of {len(asked):,} users are asked, drawn with a seed")
        board.open(test)
        self._name_crawlers(board, test)
        if self.baselines:
            self._answer(board, self.validation(split, replay), test)
        return test

    def _name_crawlers(self, board: Scoreboard, test: Questions) -> None:
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

    def _answer(self, board: Scoreboard, validation: Questions, test: Questions) -> None:
        tuned = validation.sample(max(LEAST_TUNED, TUNED_CELLS // validation.num_items), self.validation_seed)
        for name, baseline in self.baselines.items():
            try:
                choice = baseline.fit(tuned, test)
            except LeftOut as reason:
                board.note(f"{name} is left out: {reason}")
                continue
            board.record_baseline(name, test.rank(test.scores_of(choice.scorer)), knobs=choice.knobs)
        board.note(f"knobs of baselines chosen by NDCG@10 on {len(tuned):,} validation users")
