"""Rules that arms of experiments add, as published last: columns of their exposure are counted as those of published rules."""

import logging

from recsys.experiments.experiment_set import ExperimentSet
from recsys.experiments.experiment_store import ExperimentStore
from recsys.policy.overrides import added_rules
from recsys.policy.rules.rule import Rule
from recsys.stores.change_watcher import OncePerErrorLogger

logger = logging.getLogger(__name__)


class ArmRules:
    """Rules of the arms of a store, a `Dependency` of what follows published rules; a damaged store leaves the last ones."""

    def __init__(self, store: ExperimentStore) -> None:
        self._store, self._errors = store, OncePerErrorLogger(logger, "experiments")
        self._text: str | None = None
        self.rules: tuple[Rule, ...] = ()
        self.stale = False

    def stamp(self) -> object:
        return self._store.stamp()

    def follow(self) -> object:
        """Read the rules again where other experiments were published; the same object as long as there were none."""
        try:
            head = self._store.head()
            text = None if head is None else self._store.signed(head).head.text
            if text != self._text:
                self.rules = () if text is None else self._of(self._store.text(text))
                self._text = text
        except Exception as error:
            self._errors.log(error, "columns of exposure that were counted are counted on")
            self.stale = True
        else:
            self._errors.reset()
            self.stale = False
        return self.rules

    @staticmethod
    def _of(text: str) -> tuple[Rule, ...]:
        arms = [arm for one in ExperimentSet.parse(text).experiments for arm in one.arms.values()]
        return tuple(rule for arm in arms for rule in added_rules(arm.policy))
