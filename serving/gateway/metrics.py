"""What the gateway counts, for Prometheus. No label takes a value that a caller may choose."""

import time
from collections import Counter as Counted
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.gateway.breaker import Breaker
from serving.gateway.exposure import WINDOW, TopShare

SECONDS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0)
UTILITIES = (-1.0, 0.0, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
FAMILIES = (
    "history",
    "profile",
    "context",
    "rank",
    "value",
    "rules",
    "candidates",
    "rung",
    "state",
    "exposure",
    "impressions",
    "hidden",
)
"""of flags of degraded answers: what stands before their first colon"""
OTHER = "other"
STATES = {"closed": 0, "half-open": 1, "open": 2}


class Metrics:
    """A registry of its own. sources: the candidate sources of the bundle."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("recsys_requests", "Answers", ("route", "status"), registry=registry)
        self._seconds = Histogram(
            "recsys_request_seconds", "From headers to the last byte", ("route",), buckets=SECONDS, registry=registry
        )
        self._stages = Histogram(
            "recsys_stage_seconds", "Parts of requests", ("stage",), buckets=SECONDS, registry=registry
        )
        self._rungs = Counter("recsys_rung_answers", "Slates by the rung that made them", ("rung",), registry=registry)
        self._failures = Counter(
            "recsys_rung_failures", "Rungs that did not answer", ("rung", "reason"), registry=registry
        )
        self._degraded = Counter("recsys_degraded_slates", "Slates with a flag", ("family",), registry=registry)
        self._complete = Counter("recsys_complete_slates", "Slates without any flag", registry=registry)
        self._shown = Counter("recsys_shown_items", "Shown items by source", ("source",), registry=registry)
        self._utilities = Histogram("recsys_shown_utility", "Of shown items", buckets=UTILITIES, registry=registry)
        self._impressions = Counter("recsys_impressions", "By what became of them", ("outcome",), registry=registry)
        self._unknown = Counter(
            "recsys_unknown_item_events", "Events of items that the catalogue lacks", registry=registry
        )
        self._version = Gauge("recsys_version", "What answered last", ("bundle", "rules"), registry=registry)
        self._breakers = Gauge("recsys_breaker_state", "0 closed, 1 half-open, 2 open", ("of",), registry=registry)
        self._sources = frozenset((*sources, "rules"))
        self._answered = ("", "")
        self._top = TopShare(WINDOW)
        self.gauge("recsys_top_items_share", "Share of what is shown that falls to the 1% most shown", self._top.share)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)

    def gauge(self, name: str, told: str, value: Callable[[], float]) -> None:
        """Something that is looked up when it is asked for: queue depth, freshness, spool."""
        Gauge(name, told, registry=self.registry).set_function(value)

    def watch(self, breakers: Mapping[str, Breaker]) -> None:
        for name, breaker in breakers.items():
            self._breakers.labels(name).set_function(partial(_state, breaker))

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stage_took(self, stage: str, seconds: float) -> None:
        self._stages.labels(stage).observe(seconds)

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """The time of what is done within, also when it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stage_took(stage, time.perf_counter() - started)

    def rung_failed(self, rung: str, reason: str) -> None:
        self._failures.labels(rung, reason).inc()

    def impressions(self, outcome: str, num: int) -> None:
        self._impressions.labels(outcome).inc(num)

    def unknown_items(self, num: int) -> None:
        self._unknown.inc(num)

    def slate(self, slate: Mapping[str, Any], rung: str) -> None:
        """An answer to POST /v1/recommend, fallbacks and all."""
        self._rungs.labels(rung).inc()
        for family in families(slate["degraded"]):
            self._degraded.labels(family).inc()
        if not slate["degraded"]:
            self._complete.inc()
        for place in slate["items"]:
            self._utilities.observe(place["utility"])
        shown = Counted(source for place in slate["items"] for source in place["sources"])
        for source, num in shown.items():
            self._shown.labels(source if source in self._sources else OTHER).inc(num)
        self._top.add(place["item"] for place in slate["items"])
        self._versions(slate["bundle"], slate["rules"])

    def _versions(self, bundle: str, rules: str) -> None:
        if (bundle, rules) != self._answered:
            self._version.clear()
            self._version.labels(bundle, rules).set(1)
            self._answered = (bundle, rules)


def _state(breaker: Breaker) -> int:
    return STATES[breaker.state]


def families(flags: Iterable[str]) -> set[str]:
    """Kinds of flags; the reasons of a rung belong to "rung"."""
    found = {flag.partition(":")[0] for flag in flags}
    return {family if family in FAMILIES else OTHER for family in found}
