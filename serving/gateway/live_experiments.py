"""Experiments as they were published last: the arms of each request, in memory, followed in a background thread."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from recsys.contracts import Query
from recsys.experiments.experiment_set import CompiledExperiments, ExperimentSet
from recsys.experiments.experiment_store import ExperimentStore
from recsys.stores.change_watcher import POLL_INTERVAL_S, ChangeWatcher, OncePerErrorLogger

KEPT = "the experiments that were read last go on"

logger = logging.getLogger(__name__)


class Experiments(Protocol):
    """Assignment of requests to arms."""

    def assign(self, query: Query) -> tuple[dict[str, str], dict[str, Any]]:
        """Return experiment -> arm, and the overrides of the policy by these arms."""


class NoExperiments:
    """A deployment without experiments."""

    def assign(self, query: Query) -> tuple[dict[str, str], dict[str, Any]]:
        return {}, {}


class LiveExperiments:
    """The experiments of a store. A damaged store, or a version that does not fit the bundle, leaves the last ones in use."""

    def __init__(
        self, store: ExperimentStore, request_types: Mapping[str, str], *, every_s: float = POLL_INTERVAL_S
    ) -> None:
        """request_types: columns of requests that conditions may read"""
        self._store, self._types = store, request_types
        self._now = CompiledExperiments(parts=(), types={})
        self._errors = OncePerErrorLogger(logger, "experiments")
        self.stale = False
        self._watcher = ChangeWatcher(store.stamp, self._reload)
        if not self._reload():
            self._watcher.mark_failed()
        self._watcher.start_polling(every_s)

    def __len__(self) -> int:
        return len(self._now.parts)

    def assign(self, query: Query) -> tuple[dict[str, str], dict[str, Any]]:
        """Return experiment -> arm, and the overrides of the policy by these arms."""
        return self._now.assign(query)

    def _reload(self) -> bool:
        try:
            head = self._store.head()
            if head is not None:
                self._store.signed(head)
                self._now = ExperimentSet.parse(self._store.text(head.text)).compile(self._types)
        except Exception as error:
            self._errors.log(error, KEPT)
            self.stale = True
            return False
        self._errors.reset()
        self.stale = False
        return True
