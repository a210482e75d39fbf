"""How the gateway divides its time and its places."""

from dataclasses import dataclass, field, replace

from recsys.errors import check_ranges
from serving.gateway.documents import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Seconds and milliseconds are in the names. ConfigError for what is out of range."""

    budget_ms: float = 100.0
    """of one slate, from the last byte of the request; a caller may lower it"""
    state_ms: float = 30.0
    """of it, for the user's state, without which the user is a stranger and sees again what was seen; while many ask at once
    most of it is waiting for this process"""
    explain_ms: float = 150.0
    """beside it, where a slate with reasons is asked for; who lowers the budget below it gets the slate without"""
    light_ms: float = 20.0
    """of it, kept for `recommend_light` while `recommend` is waited for"""
    fallback_ms: float = 25.0
    """of it, kept for the rungs in this process"""
    models_at_once: int = 8
    """queries that one model answers at a time"""
    models_waiting: int = 256
    requests_at_once: int = 32
    """no more than this process can answer by its own rungs within the budget"""
    requests_waiting: int = 256
    """beyond `requests_at_once`, in a burst; others are refused at once"""
    wait_ms: float = 10_000.0
    """a request may wait so long before its budget begins; on two cores the whole line is worked off in one or two seconds"""
    overload_ms: float = 2_000.0
    """a line that has not been empty for so long is an overload"""
    calm_s: float = 10.0
    """after an overload nobody may begin to wait for so long"""
    last_good_most: int = 10_000
    """slates"""
    last_good_s: float = 3_600.0
    pending_most: int = 10_000
    """users whose feedback is laid over their states until these know it"""
    pending_s: float = 3_600.0
    impressions_most: int = 20_000
    impressions_batch: int = 256
    impressions_pause_s: float = 0.5
    exposure_every_s: float = 1.0
    """counters of what was shown are read so often"""
    events_s: float = 5.0
    """feedback that is not durable after so long is refused"""
    breaker_window: int = 40
    breaker_failures: int = 20
    """more than come together when everything stands still for a moment: at 150 requests/s ten in 60 ms"""
    breaker_pause_s: float = 0.5
    breaker_longest_s: float = 5.0
    probe_every_s: float = 2.0
    probe_s: float = 1.0
    warm_up_s: float = 120.0
    """a model may take so long for its first answer, since it compiles what it runs"""
    drain_s: float = 10.0
    """in-flight requests and queued impressions may take so long at the end"""
    liked: tuple[str, ...] = ()
    """objectives that liking an item reaches beside the target"""
    logged_context: tuple[str, ...] = ()
    """columns of the context that may stand in the log"""
    limits: Limits = field(default_factory=Limits)

    @staticmethod
    def within(budget_ms: float, *, liked: tuple[str, ...]) -> "Settings":
        """The defaults, or, of a budget below theirs, as large shares of it as they are of theirs; of a larger one the state
        may have its share as well.
        """
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
            budget_ms=(self.budget_ms, 5.0, 60_000.0),
            explain_ms=(self.explain_ms, 0.0, 60_000.0),
            state_ms=(self.state_ms, 0.1, self.budget_ms),
            fallback_ms=(self.fallback_ms, 0.1, self.budget_ms),
            light_ms=(self.light_ms, 0.1, self.budget_ms),
            exposure_every_s=(self.exposure_every_s, 0.01, 3_600.0),
            events_s=(self.events_s, 0.001, 600.0),
            probe_every_s=(self.probe_every_s, 0.01, 3_600.0),
            probe_s=(self.probe_s, 0.001, 60.0),
            warm_up_s=(self.warm_up_s, 0.0, 3_600.0),
            drain_s=(self.drain_s, 0.0, 3_600.0),
            requests_at_once=(self.requests_at_once, 1, 1_000_000),
            requests_waiting=(self.requests_waiting, 0, 1_000_000),
            wait_ms=(self.wait_ms, 0.0, 60_000.0),
            overload_ms=(self.overload_ms, 0.0, 60_000.0),
            calm_s=(self.calm_s, 0.0, 3_600.0),
        )
