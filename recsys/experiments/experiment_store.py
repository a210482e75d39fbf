"""Store of published experiments: every version with author, time and reason, and rollback, as of rules."""

from collections.abc import Mapping
from typing import Any

from recsys.experiments.experiment_set import ExperimentSet
from recsys.policy.rules.store import RuleStore


class ExperimentStore(RuleStore):
    """Experiment store in a folder."""

    subject = "set of experiments"

    @staticmethod
    def hash_of(text: str) -> str:
        """Return the version that a text is; ConfigError for one that is no set of experiments."""
        return ExperimentSet.parse(text).hash

    @staticmethod
    def parts_of(text: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Return the experiments by name; there are no other keys."""
        return {one.name: one for one in ExperimentSet.parse(text).experiments}, {}
