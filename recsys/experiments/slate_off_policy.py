"""Off-policy evaluation of slates: what a policy that always shows one slate would have earned, from a log of propensities.

A policy cannot be compared slate by slate, since a whole slate of it is hardly ever in the log. Either assumption on what a
reward depends on makes parts of slates comparable:

    position-based  on the item and its position: it counts where the log has the policy's item at its position
                    (Li, Chen, Kleban and Gupta 2015; Li et al. 2018, item-position estimator)
    cascade         on the items down to the position: it counts as long as all of them are the policy's
                    (McInerney, Brost, Chandar, Mehrotra and Carterette 2020, reward interaction IPS)

Both are self-normalised at each position. An item that the log showed higher up could not be tried at its position, so by
position-based weights requests where that is likely count less; by cascade weights they do not. Requests of one user are not
independent, users are: intervals are over users.

Shapes: R requests, K positions, U users.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.errors import DataError
from recsys.experiments.mean_intervals import Interval, skew_corrected
from recsys.experiments.ratios import linearised

NO_ITEM = -1
LEAST_SUPPORT = 0.8
"""share of what the policy shows at a position that the log could show there; below, too much of it was never tried"""
LEAST_EFFECTIVE = 100.0
"""effective requests, below which a few of them decide"""
POSITION, CASCADE = "position-based", "cascade"


@dataclass(frozen=True, kw_only=True, eq=False)
class SlateLog:
    """Logged slates beside those of the evaluated policy; raises DataError for propensities out of range."""

    shown: np.ndarray
    """[R, K] items as numbers, NO_ITEM behind the last one"""
    propensities: np.ndarray
    """[R, K] probability of the item at its position given those above it"""
    rewards: np.ndarray
    """[R, K]"""
    evaluated: np.ndarray
    """[R, K] items of the evaluated policy"""
    users: np.ndarray
    """[R] of the requests, as numbers"""

    def __post_init__(self) -> None:
        own = self.propensities[self.shown != NO_ITEM]
        if not ((own > 0) & (own <= 1)).all():
            raise DataError(
                f"a propensity is {own[~((own > 0) & (own <= 1))][0]:g}; the log needs those above 0, up to 1"
            )

    def only(self, kept: np.ndarray) -> "SlateLog":
        """Return the log of some of its requests, [R] bool."""
        parts = {name: getattr(self, name)[kept] for name in ("shown", "propensities", "rewards", "evaluated", "users")}
        return SlateLog(**parts)

    def weights(self, assumption: str) -> np.ndarray:
        """Return [R, K] importance weights: 0 where the log says nothing of the policy."""
        same = (self.shown == self.evaluated) & (self.shown != NO_ITEM)
        chances = np.where(self.shown == NO_ITEM, 1.0, self.propensities)
        if assumption == CASCADE:
            return np.logical_and.accumulate(same, axis=1) / chances.cumprod(axis=1)
        return same / chances

    def shown_above(self) -> np.ndarray:
        """Return [R, K] bool, where the log has the policy's item at a higher position."""
        num = self.shown.shape[1]
        higher = np.tri(num, num, -1, dtype=bool)  # [position, higher position]
        same = (self.evaluated[:, :, None] == self.shown[:, None, :]) & (self.shown != NO_ITEM)[:, None, :]
        return np.asarray((same & higher).any(axis=2))


@dataclass(frozen=True, kw_only=True)
class SlateEstimate:
    """Estimated reward a request of a policy, beside that of the log."""

    value: float
    interval: Interval
    logged: float
    difference: Interval
    """interval of value - logged"""
    effective: float
    """effective number of requests (sum w)^2 / sum w^2 (Kish 1965), of the position that has fewest"""
    support: float
    """share of what the policy shows that the log could show, at the position that has least"""


def slate_value(log: SlateLog, assumption: str = POSITION) -> SlateEstimate:
    """Estimate the reward a request; DataError where the log has too little overlap with the policy."""
    gained, effective, support = _contributions(log, assumption)
    logged = log.rewards.sum(axis=1)
    return SlateEstimate(
        value=float(gained.mean()),
        interval=_interval(gained, log.users),
        logged=float(logged.mean()),
        difference=_interval(gained - logged, log.users),
        effective=float(effective.min()),
        support=float(support.min()),
    )


def slate_gain(log: SlateLog, other: SlateLog) -> tuple[float, Interval]:
    """Estimate the reward a request of a policy less that of another one, by the same requests; DataError as `slate_value`."""
    gained = _contributions(log, POSITION)[0] - _contributions(other, POSITION)[0]
    return float(gained.mean()), _interval(gained, log.users)


def _contributions(log: SlateLog, assumption: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return linearised rewards [R], whose mean is the estimate, and [K] effective requests and support of each position."""
    weights, offered = log.weights(assumption), log.evaluated != NO_ITEM
    depth = int(offered.any(axis=0).sum())
    weights, offered, rewards = weights[:, :depth], offered[:, :depth], log.rewards[:, :depth]
    filled = offered.mean(axis=0)
    support = weights.mean(axis=0) / filled
    if assumption == POSITION:
        support = support + log.shown_above()[:, :depth].mean(axis=0) / filled
    totals = np.maximum(weights.sum(axis=0), np.finfo(float).tiny)
    effective = totals**2 / np.maximum(np.square(weights).sum(axis=0), np.finfo(float).tiny)
    _check_overlap(support, effective)
    rates = (weights * rewards).sum(axis=0) / totals
    gained = offered * rates + filled * weights * (rewards - rates) / weights.mean(axis=0)
    return gained.sum(axis=1), effective, support


def slate_values(log: SlateLog) -> Mapping[str, SlateEstimate | DataError]:
    """Return the estimate by each assumption, or why there is none."""
    found: dict[str, SlateEstimate | DataError] = {}
    for assumption in (POSITION, CASCADE):
        try:
            found[assumption] = slate_value(log, assumption)
        except DataError as refused:
            found[assumption] = refused
    return found


def _check_overlap(support: np.ndarray, effective: np.ndarray) -> None:
    if effective.min() < LEAST_EFFECTIVE:
        raise DataError(
            f"the log tells of {effective.min():,.0f} effective requests at position {effective.argmin() + 1}, "
            f"{LEAST_EFFECTIVE:,.0f} are needed; log more, explore more, or run an experiment"
        )
    if support.min() < LEAST_SUPPORT:
        raise DataError(
            f"at position {support.argmin() + 1} the log could show {support.min():.0%} of what the policy shows, "
            f"{LEAST_SUPPORT:.0%} are needed; explore there, or run an experiment"
        )


def _interval(contributions: np.ndarray, users: np.ndarray) -> Interval:
    """95% interval of the mean over requests [R], users as units."""
    sums, counts = np.bincount(users, contributions), np.bincount(users)
    return skew_corrected(linearised(sums[counts > 0], counts[counts > 0].astype(float)))
