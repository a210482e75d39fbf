"""A shop with simulated users: when they come, what they are shown, and the probability of all that they do.

A user is active on a day with a probability of their own, and then has one session or more. An item at position p is examined
with probability (1 + p)^-bias, and clicked if examined with the sigmoid of a logit: taste (recsys.data.sources.planted),
surface, drift by day, effect of the arm of an experiment. A click is watched for a time and may lead to a purchase.

Shapes: U users, N items, R requests, S positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.special import beta, expit

from recsys.data.sources.planted import OFFERED, SEGMENTS, Planted, PlantedWorld, names
from recsys.errors import ConfigError, check_ranges

CLICK_LOGIT, BUY_LOGIT = -1.0, -1.5
SURFACES: Mapping[str, float] = {"home": 0.0, "search": 0.5}
"""surface -> shift of the click logit"""
WATCH_S = 60.0
"""mean time of watching an item of mean length"""


@dataclass(frozen=True, kw_only=True)
class SimulatedShop:
    """Users, items and behaviour, deterministic in the arguments."""

    users: int
    items: int
    days: int
    slate: int
    seed: int
    """of items and tastes"""
    population: int = 0
    """seed of the users and of all that they do: other users of the same shop"""
    activity: tuple[float, float] = (2.0, 3.0)
    """parameters of the beta distribution of the probability that a user comes on a day"""
    position_bias: float = 0.5
    """exponent"""
    drift: float = 0.0
    """shift of the click logit a day"""
    arms: Mapping[str, float] = field(default_factory=lambda: {"control": 0.0})
    """arm -> shift of the click logit; users are divided evenly"""
    arms_from: float = 0.0
    """day since when the arms differ"""
    season: float = 0.0
    """shift of the click logit on the days of a weekend, and by how much more common the first device is then"""
    burst: tuple[float, float] | None = None
    """day (since the start) that has several times as many sessions, and how many times"""
    outages: Sequence[tuple[float, float]] = ()
    """days (start, end) in which items are shown at random by the tier `popular`"""

    def __post_init__(self) -> None:
        check_ranges(
            "shop",
            users=(self.users, 1, 100_000_000),
            items=(self.items, OFFERED, 10_000_000),
            days=(self.days, 1, 3_650),
            slate=(self.slate, 1, OFFERED),
            seed=(self.seed, 0, 2**63 - 1),
            population=(self.population, 0, 2**63 - 1),
            position_bias=(self.position_bias, 0.0, 10.0),
        )
        if not self.arms:
            raise ConfigError("shop.arms is empty; name at least one arm")

    def random(self, purpose: int) -> np.random.Generator:
        """Return a generator of the population, one a purpose."""
        return np.random.default_rng((self.seed, self.population, purpose))

    @cached_property
    def world(self) -> PlantedWorld:
        """Return the shop's items, and its users: these are drawn apart, so that more users change no item."""
        shelf = Planted(
            users=10, items=self.items, rounds=2, slate=1, seed=self.seed, strength=1.0, effects=("second_order",)
        ).world()
        rng = self.random(2)
        return replace(
            shelf,
            age=rng.uniform(-1, 1, self.users),
            budget=rng.uniform(1, 9, self.users),
            segment=rng.integers(SEGMENTS, size=self.users),
        )

    @cached_property
    def active(self) -> np.ndarray:
        """Return the probability of coming on a day, [U]."""
        return self.random(3).beta(*self.activity, size=self.users)

    @cached_property
    def arm(self) -> np.ndarray:
        """Return the index of the arm of each user, [U]."""
        return self.random(4).integers(len(self.arms), size=self.users)

    @cached_property
    def user_names(self) -> np.ndarray:
        return names("u", self.users)

    @cached_property
    def item_names(self) -> np.ndarray:
        return names("i", self.items)

    def taste(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the part of the click logit that is due to user and item; the two broadcast."""
        world = self.world
        tastes = world.tastes[world.segment[users], world.category[items]]
        return (3 * world.age[users] * world.length[items] + tastes) / np.sqrt(2)

    def click(self, users: np.ndarray, items: np.ndarray, surface: np.ndarray, day: np.ndarray) -> np.ndarray:
        """Return the probability of a click [R, S] by users [R] on items [R, S] at their positions.

        surface: [R] index in SURFACES; day: [R] days since the start
        """
        shift = np.array([*SURFACES.values()])[surface] + self.drift * day
        shift = shift + self.season * is_weekend(day)
        shift = shift + np.array([*self.arms.values()])[self.arm[users]] * (day >= self.arms_from)
        logit = CLICK_LOGIT + self.taste(users[:, None], items) + shift[:, None]
        return expit(logit) * (1.0 + np.arange(items.shape[1])) ** -self.position_bias

    def buy(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the probability of a purchase after a click, [R, S]."""
        ratio = np.log(self.world.price[items] / self.world.budget[users][:, None])
        return expit(BUY_LOGIT - ratio)

    def watched_s(self, items: np.ndarray) -> np.ndarray:
        """Return the mean seconds of watching after a click, in the shape of the items."""
        return WATCH_S * (1.5 + self.world.length[items])

    def retained(self) -> float:
        """Return the probability that an active day of a user is followed by an active one any fixed number of days later."""
        a, b = self.activity
        return float(beta(a + 2, b) / beta(a + 1, b))

    def returned(self, days: int) -> float:
        """Return the probability that an active day of a user is followed by another one within `days`."""
        a, b = self.activity
        return float(1 - beta(a + 1, b + days) / beta(a + 1, b))


def is_weekend(day: np.ndarray) -> np.ndarray:
    """Return whether days since the start, which is a Monday, are the last two of their week."""
    return np.asarray(day % 7 >= 5)
