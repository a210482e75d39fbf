"""A multi-stage hybrid recommender: retrieval, ranking, policy, and what serves them.

    from recsys import Recommender
    recommender = Recommender.load("runs/demo/bundle")
    slate = recommender.recommend(recommender.query("405", k=5))

The names below are imported when they are first used, so that `import recsys` costs milliseconds.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.bundle import Bundle as Bundle
    from recsys.contracts import Event as Event
    from recsys.contracts import Query as Query
    from recsys.contracts import Slate as Slate
    from recsys.contracts import SlateItem as SlateItem
    from recsys.data.dataset import Dataset as Dataset
    from recsys.evaluation.evaluate import evaluate as evaluate
    from recsys.evaluation.evaluate import evaluate_users as evaluate_users
    from recsys.evaluation.evaluate import slice_means as slice_means
    from recsys.policy.rules import RuleSet as RuleSet
    from recsys.recommender import Recommender as Recommender
    from recsys.run import Run as Run

__version__ = "0.2.0"
# libgomp reads it when it is loaded. Its threads spin 300,000 rounds before they sleep: on two cores, beside another process,
# two of them made 1 training step where these make 26; on an idle machine these cost 4% (benchmarks/journal/LOG.md)
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
HOMES = {
    "Bundle": "recsys.bundle",
    "Dataset": "recsys.data.dataset",
    "Event": "recsys.contracts",
    "Query": "recsys.contracts",
    "Recommender": "recsys.recommender",
    "RuleSet": "recsys.policy.rules",
    "Run": "recsys.run",
    "Slate": "recsys.contracts",
    "SlateItem": "recsys.contracts",
    "evaluate": "recsys.evaluation.evaluate",
    "evaluate_users": "recsys.evaluation.evaluate",
    "slice_means": "recsys.evaluation.evaluate",
}
__all__ = [*HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'recsys' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
