"""How systems are measured: the same questions for all of them, baselines at their best beside them."""

from collections.abc import Mapping

from recsys.data.splits import TEST, VALIDATION, Split
from recsys.errors import check_ranges
from recsys.evaluation.baselines import LeftOut
from recsys.evaluation.questions import Questions
from recsys.evaluation.replay import Replay
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.tuning import Tuned


class Evaluation:
    """The baselines that stand in every table, and what is asked of all systems alike."""

    def __init__(self, *, baselines: Mapping[str, Tuned | None], validation_users: int, validation_seed: int) -> None:
        """
        baselines: by their name in the table; null leaves one out
        validation_users: most of them on whom a knob is chosen
        validation_seed: draws them where there are more
        """
        check_ranges(
            "evaluation",
            validation_users=(validation_users, 1, 10**12),
            validation_seed=(validation_seed, 0, 2**63 - 1),
        )
        self.baselines = {name: one for name, one in baselines.items() if one is not None}
        self.validation_users = validation_users
        self.validation_seed = validation_seed

    def questions(self, split: Split, replay: Replay, period: int) -> Questions:
        """All of a period. DataError when nothing new is met in it."""
        return Questions.of(replay.dataset, split, replay, period)

    def validation(self, split: Split, replay: Replay) -> Questions:
        """Those on which knobs are chosen, ours too."""
        return self.questions(split, replay, VALIDATION).sample(self.validation_users, self.validation_seed)

    def ask(self, board: Scoreboard, split: Split, replay: Replay) -> Questions:
        """Open the test questions of one split on the board, and record what every baseline answers."""
        test = self.questions(split, replay, TEST)
        board.open(test)
        if self.baselines:
            self._answer(board, self.validation(split, replay), test)
        return test

    def _answer(self, board: Scoreboard, validation: Questions, test: Questions) -> None:
        for name, baseline in self.baselines.items():
            try:
                choice = baseline.fit(validation, test)
            except LeftOut as reason:
                board.note(f"{name} is left out: {reason}")
                continue
            board.record_baseline(name, test.rank(test.scores_of(choice.scorer)), knobs=choice.knobs)
        board.note(f"knobs of baselines chosen by NDCG@10 on {len(validation):,} validation users")
