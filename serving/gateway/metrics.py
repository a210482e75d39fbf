"""Prometheus metrics of the gateway. No label takes a value that a caller can choose."""

import math
import time
from collections import Counter as Counted
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.gateway.breaker import Breaker

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
    "items",
    "exploration",
    "experiment",
)
"""label values: prefixes of degraded flags before the first colon"""
TIERS = frozenset({"recommend", "recommend_light", "recommend_explained", "last_good", "popular"})
"""prefixes of the reasons of fallback tiers, which belong to the family of rungs"""
OTHER = "other"
TOP_WINDOW = 200_000
"""shown items between two resets of the top-share counts"""
TOP = 0.01
STATES = {"closed": 0, "half-open": 1, "open": 2}


class Metrics:
    """Metrics on a registry of their own. sources: candidate sources of the bundle."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._pages: list[Callable[[], bytes]] = []
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("recsys_requests", "Answers", ("route", "status"), registry=registry)
        self._seconds = Histogram(
            "recsys_request_seconds", "From headers to the last byte", ("route",), buckets=SECONDS, registry=registry
        )
        self._stages = Histogram(
            "recsys_stage_seconds", "Duration of request stages", ("stage",), buckets=SECONDS, registry=registry
        )
        self._tiers = Counter("recsys_rung_answers", "Slates by fallback tier", ("rung",), registry=registry)
        self._failures = Counter(
            "recsys_rung_failures", "Fallback tiers that did not answer", ("rung", "reason"), registry=registry
        )
        self._degraded = Counter("recsys_degraded_slates", "Slates with a flag", ("family",), registry=registry)
        self._arms = Counter(
            "recsys_slates_by_arm", "Slates by arm of an experiment", ("experiment", "arm"), registry=registry
        )
        self._complete = Counter("recsys_complete_slates", "Slates without any flag", registry=registry)
        self._shown = Counter("recsys_shown_items", "Shown items by source", ("source",), registry=registry)
        self._utilities = Histogram(
            "recsys_shown_utility", "Utility of shown items", buckets=UTILITIES, registry=registry
        )
        self._impressions = Counter("recsys_impressions", "Impressions by outcome", ("outcome",), registry=registry)
        self._personal = Counter(
            "recsys_personal_data",
            "Spans of text that look like personal data",
            ("field", "kind"),
            registry=registry,
        )
        self._unknown = Counter(
            "recsys_unknown_item_events", "Events of items that the catalogue lacks", registry=registry
        )
        self._refused = Counter(
            "recsys_refused_connections", "Connections closed before a request was read", ("reason",), registry=registry
        )
        self._version = Gauge("recsys_version", "Versions of the last slate", ("bundle", "rules"), registry=registry)
        self._breakers = Gauge("recsys_breaker_state", "0 closed, 1 half-open, 2 open", ("of",), registry=registry)
        self._sources = frozenset((*sources, "rules"))
        self._versions_seen = ("", "")
        self._top = TopShare(TOP_WINDOW)
        self.gauge("recsys_top_items_share", "Impression share of the 1% most shown items", self._top.share)

    def text(self) -> bytes:
        """Prometheus page, with those of `append`; reads sockets, so not for the event loop."""
        return b"".join([generate_latest(self.registry), *(page() for page in self._pages)])

    def append(self, page: Callable[[], bytes]) -> None:
        """Append the page of another process, empty while it does not answer."""
        self._pages.append(page)

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Register a gauge that is read on scrape: queue depth, freshness, spool."""
        Gauge(name, description, registry=self.registry).set_function(value)

    def add_breakers(self, breakers: Mapping[str, Breaker]) -> None:
        for name, breaker in breakers.items():
            self._breakers.labels(name).set_function(partial(_state, breaker))

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        self._stages.labels(stage).observe(seconds)

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Observe the duration of the block, also when it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe_stage(stage, time.perf_counter() - started)

    def refused_connection(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def tier_failed(self, tier: str, reason: str) -> None:
        self._failures.labels(tier, reason).inc()

    def impressions(self, outcome: str, num: int) -> None:
        self._impressions.labels(outcome).inc(num)

    def personal_data(self, field: str, kind: str, num: int) -> None:
        """Count spans that look like personal data. field: a column of the bundle, with the part of a request it stands in."""
        self._personal.labels(field, kind).inc(num)

    def unknown_items(self, num: int) -> None:
        self._unknown.inc(num)

    def slate(self, slate: Mapping[str, Any], tier: str, arms: Mapping[str, str]) -> None:
        """Count one slate of POST /v1/recommend, of any tier; arms: experiment -> arm of its request."""
        self._tiers.labels(tier).inc()
        for experiment, arm in arms.items():
            self._arms.labels(experiment, arm).inc()
        for family in families(slate["degraded"]):
            self._degraded.labels(family).inc()
        if not slate["degraded"]:
            self._complete.inc()
        for item in slate["items"]:
            self._utilities.observe(item["utility"])
        shown = Counted(source for item in slate["items"] for source in item["sources"])
        for source, num in shown.items():
            self._shown.labels(source if source in self._sources else OTHER).inc(num)
        self._top.add(item["item"] for item in slate["items"])
        self._versions(slate["bundle"], slate["rules"])

    def _versions(self, bundle: str, rules: str) -> None:
        if (bundle, rules) != self._versions_seen:
            self._version.clear()
            self._version.labels(bundle, rules).set(1)
            self._versions_seen = (bundle, rules)


def _state(breaker: Breaker) -> int:
    return STATES[breaker.state]


def families(flags: Iterable[str]) -> set[str]:
    """Families of degraded flags, OTHER for unknown ones; fallback reasons belong to "rung"."""
    found = {flag.partition(":")[0] for flag in flags}
    return {"rung" if one in TIERS else one if one in FAMILIES else OTHER for one in found}


class TopShare:
    """Impression share of the most shown items over the present and the previous window: one number, no item labels."""

    def __init__(self, window: int) -> None:
        self._window, self._num = window, 0
        self._present: Counted[str] = Counted()
        self._previous: Counted[str] = Counted()

    def add(self, items: Iterable[str]) -> None:
        shown = list(items)
        self._present.update(shown)
        self._num += len(shown)
        if self._num >= self._window:
            self._previous, self._present, self._num = self._present, Counted(), 0

    def share(self) -> float:
        """Share of the 1% most shown items, at least one item; 0 without impressions. For any thread."""
        counts = sorted((self._previous + self._present.copy()).values(), reverse=True)
        return sum(counts[: math.ceil(TOP * len(counts))]) / sum(counts) if counts else 0.0
