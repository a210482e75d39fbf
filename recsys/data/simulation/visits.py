"""Requests of simulated users, the slates that they get, and what comes of them, all at once.

Shapes: R requests, C items that the policy chooses from, S positions.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.simulation.shop import SURFACES, SimulatedShop, is_weekend
from recsys.data.sources.planted import DAY, DEVICES, OFFERED, START, plackett_luce

HOURS = np.array([1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6, 5, 5, 6, 7, 9, 11, 11, 8, 5, 2], dtype=float)
"""relative numbers of sessions that begin in each hour"""
CLICK_DELAY_S, BUY_DELAY_S = 20.0, 4 * 3_600.0
"""mean waits: from slate to click, from click to purchase"""
GAP_S = 120.0
"""mean time between the requests of a session"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Visits:
    """Requests by time, with their slates and the probabilities of what users do."""

    user: np.ndarray
    """[R] row of the user; also `surface`, `device`: index"""
    surface: np.ndarray
    device: np.ndarray
    now: np.ndarray
    """[R] unix seconds"""
    outage: np.ndarray
    """[R] bool"""
    items: np.ndarray
    """[R, S] rows of the items shown; likewise `propensity` and `rank`, by utility alone"""
    propensity: np.ndarray
    rank: np.ndarray
    click: np.ndarray
    """[R, S] probability; `buy`: that of a purchase; `paid`, `watched`: expected price paid and seconds watched"""
    buy: np.ndarray
    paid: np.ndarray
    watched: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reactions:
    """Clicks, purchases and watching of the items shown, [R, S] each."""

    clicked: np.ndarray
    clicked_at: np.ndarray
    """unix seconds"""
    watched_s: np.ndarray
    bought: np.ndarray
    bought_at: np.ndarray


def visits(shop: SimulatedShop) -> Visits:
    """Draw all visits of the shop's days."""
    rng = shop.random(5)
    user, now = _requests(shop, rng)
    day = (now - START) / DAY
    surface = rng.integers(len(SURFACES), size=len(user))
    outage = np.zeros(len(user), dtype=bool)
    for start, end in shop.outages:
        outage |= (day >= start) & (day < end)
    items, propensity, rank = _slates(shop, rng, user, outage)
    click = shop.click(user, items, surface, np.floor(day))
    buy = click * shop.buy(user, items)
    return Visits(
        user=user,
        surface=surface,
        device=_devices(shop, rng, np.floor(day)),
        now=now,
        outage=outage,
        items=items,
        propensity=propensity,
        rank=rank,
        click=click,
        buy=buy,
        paid=buy * shop.world.price[items],
        watched=click * shop.watched_s(items),
    )


def reactions(shop: SimulatedShop, shown: Visits) -> Reactions:
    """Draw what users do with their slates."""
    rng = shop.random(6)
    shape = shown.items.shape
    clicked = rng.random(shape) < shown.click
    clicked_at = shown.now[:, None] + 1 + rng.exponential(CLICK_DELAY_S, shape)
    return Reactions(
        clicked=clicked,
        clicked_at=clicked_at,
        watched_s=rng.exponential(shop.watched_s(shown.items)),
        bought=clicked & (rng.random(shape) * shown.click < shown.buy),
        bought_at=clicked_at + rng.exponential(BUY_DELAY_S, shape),
    )


def _requests(shop: SimulatedShop, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return users [R] and times [R], by time: sessions of the days on which users come, in an hour that many prefer."""
    user, day = np.nonzero(rng.random((shop.users, shop.days)) < shop.active[:, None])
    user, day = _repeated(rng, 0.3, user, day)
    if shop.burst is not None:
        more = np.where(day == int(shop.burst[0]), round(shop.burst[1]), 1)
        user, day = np.repeat(user, more), np.repeat(day, more)
    hour = rng.choice(24, p=HOURS / HOURS.sum(), size=len(user))
    begin = START + day * DAY + hour * 3_600.0 + rng.uniform(0, 1_800.0, len(user))
    user, begin, session = _repeated(rng, 1.0, user, begin, np.arange(len(user)))
    first = np.r_[True, session[1:] != session[:-1]][: len(session)]
    gaps = np.cumsum(np.where(first, 0.0, rng.exponential(GAP_S, len(session))))
    # within its day: a session that runs past midnight would be activity on a day of its own
    now = np.minimum(begin + gaps - np.maximum.accumulate(np.where(first, gaps, 0.0)), START + _day_end(begin))
    order = np.lexsort((user, now))
    return user[order], np.round(now[order], 3)


def _devices(shop: SimulatedShop, rng: np.random.Generator, day: np.ndarray) -> np.ndarray:
    """Return devices [R]; on weekends the first one is more common in a shop with a season."""
    device = rng.integers(DEVICES, size=len(day))
    if shop.season:
        device[is_weekend(day) & (rng.random(len(day)) < shop.season)] = 0
    return device


def _day_end(times: np.ndarray) -> np.ndarray:
    """Last second of the days of times, since START."""
    return (np.floor((times - START) / DAY) + 1) * DAY - 1


def _repeated(rng: np.random.Generator, mean_more: float, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Repeat rows 1 + Poisson times."""
    times = 1 + rng.poisson(mean_more, len(columns[0]))
    return tuple(np.repeat(column, times) for column in columns)


def _slates(
    shop: SimulatedShop, rng: np.random.Generator, user: np.ndarray, outage: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return items, propensities and ranks [R, S] of a policy that knows half of the tastes, and nothing in an outage."""
    first = rng.integers(shop.items - OFFERED + 1, size=(len(user), 1))
    offered = first + rng.permuted(np.tile(np.arange(OFFERED), (len(user), 1)), axis=1)
    scores = 0.5 * shop.taste(user[:, None], offered) * ~outage[:, None]
    columns, propensity = plackett_luce(rng, scores, shop.slate)
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    taken = (np.take_along_axis(one, columns, axis=1) for one in (offered, ranks))
    items, rank = taken
    return items, propensity, rank
