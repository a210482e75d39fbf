"""A finished run, read back for research: its figures, its data, and the users of its evaluation one by one.

run = Run.open("runs/first")                                   # trained with refit=false
run.figures()                                                  # a row a system
slates = run.recommender.recommend_all(run.queries())          # of the users of TEST
evaluate_users({slate.user: [one.item for one in slate.items] for slate in slates}, run.relevant())
run.outcomes()                                                 # probabilities beside what became of them
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.class_paths import class_at
from recsys.contracts import PAD, Query
from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.tables import Tables
from recsys.data.splits import TEST, Split
from recsys.errors import DataError
from recsys.evaluation.selection import VALIDATION_USERS
from recsys.recommender import Recommender
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.labelled_requests import LabelledRequests
from recsys.replay.replay import Replay
from recsys.stages import read_repeat, read_spec

METRICS = "metrics.json"
PERIODS = ("validation", "test")


@dataclass(frozen=True)
class Run:
    """Folder of a run. Users are those of TEST alone: the bundle was fitted on all that comes before."""

    folder: Path

    @staticmethod
    def open(folder: str | Path) -> "Run":
        """Open the folder that train.py wrote; DataError for a folder without figures."""
        if not (Path(folder) / METRICS).is_file():
            raise DataError(f"{folder} has no {METRICS}; give the run_dir of a training that has ended")
        return Run(Path(folder))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json."""
        document: dict[str, Any] = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))
        return document

    def figures(self, period: str = "test") -> pl.DataFrame:
        """Return a row a system, or a label of a click log, and each metric with the ends of its 95% interval where it has one.

        DataError for the figures of TEST of a run that was not evaluated on it.
        """
        if period not in PERIODS:
            raise DataError(f"the period is {period!r}; choose one of {', '.join(PERIODS)}")
        document, name = self.metrics, "system"
        if document.get("task") == "ranking":
            rows, name = document[period], "label"
        else:
            rows = (document["validation"] if period == "validation" else document).get("rows")
        if not rows:
            raise DataError(f"{self.folder} has no figures of TEST; continue it by evaluate=test, or read 'validation'")
        return pl.DataFrame([{name: one, **_numbers(row)} for one, row in rows.items()])

    def validation_users(self) -> pl.DataFrame:
        """Return `user`, and the metrics of every system as system/metric, of VALIDATION."""
        return pl.read_parquet(self.folder / VALIDATION_USERS)

    @cached_property
    def recommender(self) -> Recommender:
        """Return the bundle of the run in this process."""
        return Recommender.load(self.folder / "bundle")

    @cached_property
    def dataset(self) -> Dataset:
        """Return the data as the training read them."""
        return Tables(description=str(self.folder / "data" / DESCRIPTION_FILE)).load()

    def queries(self, k: int = 10) -> list[Query]:
        """Return the query of each user of TEST at the first event of the period, with the history until then.

        DataError where the bundle was fitted again on all events: it knows what these users did next.
        """
        return [replace(query, k=k) for query in self._evaluation.queries]

    def relevant(self) -> dict[str, list[str]]:
        """Return user -> items that the figures of TEST count as hits, in the order of `queries`."""
        targets, items = self._evaluation.targets, self.dataset.items["item"].to_numpy()
        of_users = np.split(items[targets.items], targets.indptr[1:-1])
        return {str(user): own.tolist() for user, own in zip(self._users(self._evaluation.rows), of_users, strict=True)}

    def outcomes(self, max_requests: int = 1_000) -> pl.DataFrame:
        """Return the candidates of labelled requests of TEST: `request`, `user`, `item`, and for every objective its label and
        its probability, p_<objective>.

        The requests are those on which metrics.json measures probabilities, sampled to `max_requests`.
        """
        self._check_unknown()
        per_user = self.config["ranking"]["sampling"]["requests_per_user"]
        requests = LabelledRequests.of(self._replay, self._split, TEST, per_user=per_user, max_requests=max_requests)
        rows, probabilities = requests.score_candidates(self.recommender.stages[:-1])
        labels, (request, column) = requests.labels(rows), np.nonzero(rows != PAD)
        found = {
            "request": request,
            "user": self._users(requests.rows[request]),
            "item": self.dataset.items["item"].to_numpy()[rows[request, column]],
        }
        for number, name in enumerate(self.dataset.description.objectives):
            found[name] = labels[request, column, number]
            found[f"p_{name}"] = probabilities[request, column, number]
        return pl.DataFrame(found)

    def known(self) -> pl.DataFrame:
        """Return the interactions before TEST, on which a system for it may be fitted."""
        return self.dataset.interactions.filter(pl.Series(self._split.known(TEST)))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Return the resolved configuration in the bundle."""
        document: Mapping[str, Any] = self.recommender.bundle.document("config.yaml")
        return document

    @cached_property
    def _split(self) -> Split:
        """Return the split whose fit the bundle holds, the last one."""
        protocol = dict(self.config["protocol"])
        module, _, name = protocol.pop("_target_").rpartition(".")
        split: Split = class_at(f"{module}:{name}", object)(**protocol).splits(self.dataset)[-1]
        return split

    @cached_property
    def _replay(self) -> Replay:
        bundle = self.recommender.bundle
        return Replay(self.dataset, self._split, read_repeat(bundle, read_spec(bundle)))

    @cached_property
    def _evaluation(self) -> EvaluationQueries:
        self._check_unknown()
        evaluation = self.config["evaluation"]
        queries = EvaluationQueries.of(self.dataset, self._split, self._replay, TEST)
        return queries.sample(evaluation["test_users"], evaluation["validation_seed"])

    def _users(self, rows: np.ndarray) -> np.ndarray:
        """Return the users of rows of the log."""
        users: np.ndarray = self._replay.names[self._replay.users[rows]]
        return users

    def _check_unknown(self) -> None:
        if self.config["refit"]:
            raise DataError(
                f"the bundle of {self.folder} was fitted again on all events, those of TEST included; train with refit=false "
                "to look at what it does for users of TEST"
            )


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Flatten a row of metrics.json: each metric, followed by its interval."""
    found: dict[str, float] = {}
    for metric, value in row.items():
        if isinstance(value, int | float):
            found[metric] = value
            if metric in row.get("ci95", {}):
                found[f"{metric} low"], found[f"{metric} high"] = row["ci95"][metric]
    return found
