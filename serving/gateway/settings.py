"""Time budgets and limits of the gateway."""

import os
from dataclasses import dataclass, field, replace

from recsys.errors import check_ranges
from serving.gateway.anonymous_budget import AnonymousLimits
from serving.gateway.connection_limits import ConnectionLimits
from serving.gateway.personal_data import PersonalDataMode
from serving.gateway.request_parser import RequestLimits

BUDGET_MS = 5.0, 60_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Units are in the names. ConfigError for a value out of range."""

    budget_ms: float = 100.0
    """of one slate, from the last byte of the request; a caller may lower it"""
    state_ms: float = 70.0
    """share of the budget for the user state: all but that of the fallback tiers, because a slate without it may repeat seen
    items; a state that needs most of it costs the models"""
    explain_ms: float = 150.0
    """added to the budget for a slate with reasons; a lower caller budget gives the slate without reasons"""
    light_ms: float = 20.0
    """share of the budget reserved for `recommend_light`"""
    fallback_ms: float = 25.0
    """share of the budget reserved for the fallback tiers in this process"""
    models_at_once: int = 8
    """concurrent queries a model"""
    models_waiting: int = 256
    slates_at_once: int = field(default_factory=lambda: 4 * len(os.sched_getaffinity(0)))
    """first limit of concurrent slate requests; it follows what is answered in time, up to `requests_at_once`"""
    requests_at_once: int = 32
    """concurrent requests: at most what this process can answer by its own fallback tiers within the budget"""
    requests_waiting: int = 256
    """queued requests beyond `requests_at_once` in a burst; others are rejected at once"""
    wait_ms: float = 10_000.0
    """longest wait in the queue before the budget starts; two cores work off a full queue in one or two seconds"""
    overload_ms: float = 2_000.0
    """a queue not empty for this long is an overload"""
    calm_s: float = 10.0
    """no new queueing for this long after an overload"""
    last_good_most: int = 10_000
    """slates"""
    last_good_mib: int = 128
    """of these slates"""
    last_good_s: float = 3_600.0
    pending_most: int = 10_000
    """users with pending records over their states"""
    pending_mib: int = 64
    """of these records as JSON; in memory they take about six times that"""
    pending_s: float = 3_600.0
    impressions_most: int = 20_000
    impressions_mib: int = 64
    """of queued impressions as JSON; in memory they take about six times that"""
    impressions_batch: int = 256
    impressions_pause_s: float = 0.5
    exposure_every_s: float = 1.0
    """interval of publishing exposure shares"""
    forgotten_every_s: float = 1.0
    """interval of looking for users whom another process forgot"""
    events_s: float = 5.0
    """timeout of making feedback durable"""
    breaker_window: int = 40
    breaker_failures: int = 20
    """above the failures of a short stall: at 150 requests/s ten in 60 ms"""
    breaker_pause_s: float = 0.5
    breaker_longest_s: float = 5.0
    probe_every_s: float = 2.0
    probe_s: float = 1.0
    warm_up_s: float = 120.0
    """timeout of the first answer of a model, which compiles kernels"""
    lame_duck_s: float = 3.0
    """from SIGTERM, when /readyz begins to answer 503, until the gateway takes no more connections"""
    drain_s: float = 10.0
    """timeout for in-flight requests and queued impressions on shutdown"""
    personal_data: PersonalDataMode = PersonalDataMode.warn
    """treatment of personal data in free text and context: counted, masked, or refused"""
    liked: tuple[str, ...] = ()
    """objectives that a liked item reaches beside the target"""
    logged_context: tuple[str, ...] = ()
    """context columns allowed in the request log"""
    limits: RequestLimits = field(default_factory=RequestLimits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    anonymous: AnonymousLimits = field(default_factory=AnonymousLimits)

    @staticmethod
    def within(budget_ms: float, *, liked: tuple[str, ...]) -> "Settings":
        """Settings for a budget: reserves scale down with a smaller budget; state time and concurrency scale both ways."""
        check_ranges("gateway", budget_ms=(budget_ms, *BUDGET_MS))
        usual = Settings(liked=liked)
        share = min(1.0, budget_ms / usual.budget_ms)
        return replace(
            usual,
            budget_ms=budget_ms,
            state_ms=budget_ms / usual.budget_ms * usual.state_ms,
            requests_at_once=max(1, round(budget_ms / usual.budget_ms * usual.requests_at_once)),
            light_ms=share * usual.light_ms,
            fallback_ms=share * usual.fallback_ms,
        )

    def __post_init__(self) -> None:
        check_ranges(
            "gateway",
            budget_ms=(self.budget_ms, *BUDGET_MS),
            explain_ms=(self.explain_ms, 0.0, 60_000.0),
            state_ms=(self.state_ms, 0.1, self.budget_ms),
            fallback_ms=(self.fallback_ms, 0.1, self.budget_ms),
            light_ms=(self.light_ms, 0.1, self.budget_ms),
            impressions_mib=(self.impressions_mib, 1, 1_000_000),
            pending_mib=(self.pending_mib, 1, 1_000_000),
            last_good_mib=(self.last_good_mib, 1, 1_000_000),
            exposure_every_s=(self.exposure_every_s, 0.01, 3_600.0),
            forgotten_every_s=(self.forgotten_every_s, 0.01, 3_600.0),
            events_s=(self.events_s, 0.001, 600.0),
            probe_every_s=(self.probe_every_s, 0.01, 3_600.0),
            probe_s=(self.probe_s, 0.001, 60.0),
            warm_up_s=(self.warm_up_s, 0.0, 3_600.0),
            lame_duck_s=(self.lame_duck_s, 0.0, 3_600.0),
            drain_s=(self.drain_s, 0.0, 3_600.0),
            slates_at_once=(self.slates_at_once, 1, 1_000_000),
            requests_at_once=(self.requests_at_once, 1, 1_000_000),
            requests_waiting=(self.requests_waiting, 0, 1_000_000),
            wait_ms=(self.wait_ms, 0.0, 60_000.0),
            overload_ms=(self.overload_ms, 0.0, 60_000.0),
            calm_s=(self.calm_s, 0.0, 3_600.0),
        )
