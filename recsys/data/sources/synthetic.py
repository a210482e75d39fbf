"""Small simulation with known preferences, to check what a model learns.

U users, N items, R impressions, T objectives (click, like, share, buy), D = 8 topics, V devices.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import Description
from recsys.data.validation import RawTable, validated
from recsys.errors import ConfigError

START = 1_704_067_200.0
"""2024-01-01, unix seconds UTC"""
DAYS = 60
DAY_S = 86_400.0
COLD_FROM = 0.95
"""fraction of the time range before which cold users and items do not occur"""
COLD_SHARE = 0.05
"""share of cold users and of cold items"""
POSITIONS = 10
TOPICS = {
    "space": ("orbit", "rocket", "comet", "lunar", "probe", "galaxy"),
    "cooking": ("recipe", "oven", "spice", "bread", "stew", "kitchen"),
    "sport": ("match", "league", "sprint", "goal", "coach", "stadium"),
    "music": ("concert", "melody", "guitar", "chorus", "vinyl", "rhythm"),
    "garden": ("tulip", "compost", "orchard", "seed", "hedge", "meadow"),
    "crime": ("detective", "heist", "witness", "alibi", "verdict", "clue"),
    "travel": ("island", "harbour", "train", "border", "hostel", "summit"),
    "machines": ("engine", "robot", "gear", "circuit", "turbine", "valve"),
}
SEGMENTS = ("student", "family", "worker", "retired")
DEVICES = ("phone", "tablet", "desktop")
OBJECTIVES = ("click", "like", "share", "buy")
RATES = (0.30, 0.12, 0.04, 0.01)
"""mean probability of each objective over the logged impressions"""
SLOPES = (1.2, 1.6, 1.2, 1.4)
"""weight of affinity in the logit of each objective"""
PRICE_SLOPES = (0.0, 0.0, 0.0, -0.8)
POSITION_SLOPE = -0.5
"""coefficient of log(1 + position): lower positions are examined less"""

DESCRIPTION = Description(
    actions=dict.fromkeys(OBJECTIVES, "number"),
    context={"device": "category", "position": "number"},
    items={"title": "text", "category": "category", "tags": "categories", "price": "number", "vector": "vector"},
    users={"age": "number", "segment": "category"},
    objectives={name: name for name in OBJECTIVES},
    target="click",
    title="title",
    order="time",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticWorld:
    """True preferences of users and properties of items."""

    users: np.ndarray
    """[U] ids"""
    items: np.ndarray
    """[N] ids"""
    segments: np.ndarray
    """[U] int, index of SEGMENTS"""
    taste: np.ndarray
    """[U, D]"""
    categories: np.ndarray
    """[N] int, index of TOPICS"""
    topics: np.ndarray
    """[N, D]"""
    prices: np.ndarray
    """[N] standardised logarithm"""
    devices: np.ndarray
    """[T, D, V] effect of a category on a device"""
    drift: np.ndarray
    """[DAYS, N] popularity of the day, in logits"""
    cold_users: np.ndarray
    """[U] bool, occur only after COLD_FROM"""
    cold_items: np.ndarray
    """[N] bool"""

    def relevance(self) -> np.ndarray:
        """Return [U, N, T] float32 logits without position, device and day, up to a constant: the true ranking."""
        affinity = self.taste @ self.topics.T
        return (affinity[..., None] * SLOPES + self.prices[:, None] * PRICE_SLOPES).astype(np.float32)

    def logits(self, impressions: "SyntheticImpressions") -> np.ndarray:
        """Return logits [R, T], up to the constant of `intercepts`."""
        shown = impressions
        affinity = np.einsum("rd,rd->r", self.taste[shown.user], self.topics[shown.item])
        around = self.drift[shown.day, shown.item] + POSITION_SLOPE * np.log1p(shown.position)
        device = self.devices[:, self.categories[shown.item], shown.device].T
        return affinity[:, None] * SLOPES + self.prices[shown.item, None] * PRICE_SLOPES + device + around[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticImpressions:
    """Impressions as row numbers of users and items."""

    time: np.ndarray
    """[R] unix seconds, rising"""
    user: np.ndarray
    item: np.ndarray
    device: np.ndarray
    position: np.ndarray

    @cached_property
    def day(self) -> np.ndarray:
        return ((self.time - START) // DAY_S).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Logged impressions with click, like, share and buy, the last three only after a click.

    The probability of an objective is the sigmoid of taste x item + category x device + position + day, for the last
    three at most that of a click. Some ages, segments, prices, tags and devices are missing.
    """

    users: int
    items: int
    events: int
    seed: int

    def __post_init__(self) -> None:
        for one, least in zip(fields(self), (20, 20, 100, 0), strict=True):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{one.name} is {value!r}; write a whole number of at least {least}")

    def world(self) -> SyntheticWorld:
        """Return the true preferences behind `load`."""
        rng = self._rng(0)
        segments, categories = rng.integers(len(SEGMENTS), size=self.users), rng.integers(len(TOPICS), size=self.items)
        centres = rng.normal(size=(len(SEGMENTS), len(TOPICS)))
        taste = 0.6 * centres[segments] + 0.8 * rng.normal(size=(self.users, len(TOPICS)))
        topics = 0.5 * rng.normal(size=(self.items, len(TOPICS))) + np.eye(len(TOPICS))[categories]
        shocks = rng.normal(scale=0.12, size=(DAYS, self.items))
        return SyntheticWorld(
            users=_ids("u", self.users),
            items=_ids("i", self.items),
            segments=segments,
            taste=taste,
            categories=categories,
            topics=topics,
            prices=rng.normal(size=self.items),
            devices=rng.normal(scale=0.4, size=(len(OBJECTIVES), len(TOPICS), len(DEVICES))),
            drift=np.cumsum(shocks, axis=0),
            cold_users=_marked(rng, self.users),
            cold_items=_marked(rng, self.items),
        )

    def impressions(self, world: SyntheticWorld) -> SyntheticImpressions:
        """Return impressions of a policy that knows popularity well and taste a little."""
        rng = self._rng(1)
        time = START + np.sort(np.floor(rng.uniform(0, DAYS * DAY_S, self.events)))
        late = time >= START + COLD_FROM * DAYS * DAY_S
        user = _drawn(rng, rng.lognormal(sigma=0.8, size=self.users), world.cold_users, late, 1)[:, 0]
        offered = _drawn(rng, rng.lognormal(sigma=1.0, size=self.items), world.cold_items, late, 4)
        appeal = np.einsum("rd,rcd->rc", world.taste[user], world.topics[offered])
        best = (0.5 * appeal + rng.gumbel(size=appeal.shape)).argmax(axis=1)
        return SyntheticImpressions(
            time=time,
            user=user,
            item=offered[np.arange(self.events), best],
            device=rng.choice(len(DEVICES), p=(0.6, 0.1, 0.3), size=self.events),
            position=np.minimum(rng.geometric(0.25, self.events) - 1, POSITIONS - 1),
        )

    def probabilities(self, world: SyntheticWorld, impressions: SyntheticImpressions) -> np.ndarray:
        """Return [R, T] true probabilities of each objective for each impression."""
        logits = world.logits(impressions)
        probabilities = _sigmoid(logits + intercepts(logits))
        return np.minimum(probabilities, probabilities[:, :1])

    def load(self) -> Dataset:
        """Load the data set, deterministic in the arguments."""
        world = self.world()
        impressions = self.impressions(world)
        probabilities = self.probabilities(world, impressions)
        rng = self._rng(2)
        clicked = rng.random(self.events) < probabilities[:, 0]
        given_click = rng.random(probabilities.shape) < probabilities / probabilities[:, :1]
        actions = (clicked[:, None] & given_click).astype(np.float64)
        return validated(
            name="synthetic",
            interactions=_table(
                "interactions", _interactions(rng, world, impressions, actions), "user", "item", "timestamp"
            ),
            items=_table("items", _items(rng, world), "item"),
            users=_table("users", _users(rng, world), "user"),
            description=DESCRIPTION,
        )

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, part])


def intercepts(logits: np.ndarray) -> np.ndarray:
    """Return [T] offsets of the logits [R, T] that give mean probabilities RATES, by bisection."""
    low, high = np.full(logits.shape[1], -30.0), np.full(logits.shape[1], 30.0)
    for _ in range(40):
        middle = (low + high) / 2
        above = _sigmoid(logits + middle).mean(axis=0) > RATES
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _ids(letter: str, count: int) -> np.ndarray:
    return np.array([f"{letter}{index:0{len(str(count))}d}" for index in range(count)])


def _marked(rng: np.random.Generator, count: int) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[rng.choice(count, max(1, round(COLD_SHARE * count)), replace=False)] = True
    return mask


def _drawn(rng: np.random.Generator, weights: np.ndarray, cold: np.ndarray, late: np.ndarray, draws: int) -> np.ndarray:
    """Sample [R, draws] rows by weight; cold ones only late in the time range, then for a quarter of the draws."""
    warm = np.where(cold, 0, weights)
    new = np.where(cold, 1.0, 0)
    rows = rng.choice(len(weights), size=(len(late), draws), p=warm / warm.sum())
    fresh = rng.choice(len(weights), size=rows.shape, p=new / new.sum())
    return np.where(late[:, None] & (rng.random(rows.shape) < 0.25), fresh, rows)


def _interactions(
    rng: np.random.Generator, world: SyntheticWorld, shown: SyntheticImpressions, actions: np.ndarray
) -> pl.DataFrame:
    device = np.array(DEVICES, object)[shown.device]
    return pl.DataFrame(
        {
            "user": world.users[shown.user],
            "item": world.items[shown.item],
            "timestamp": shown.time,
            **dict(zip(OBJECTIVES, actions.T, strict=True)),
            "device": _holes(rng, device, 0.02),
            "position": shown.position,
        }
    )


def _items(rng: np.random.Generator, world: SyntheticWorld) -> pl.DataFrame:
    names = list(TOPICS)
    ranked = np.argsort(-world.topics, axis=1, kind="stable")
    titles = [_title(rng, names[own], names[other]) for own, other in zip(world.categories, ranked[:, 0], strict=True)]
    tags = np.empty(len(ranked), object)
    tags[:] = [[names[one] for one in row] for row in ranked[:, :2]]
    prices = np.round(np.exp(2.5 + 0.6 * world.prices), 2).astype(object)
    return pl.DataFrame(
        {
            "item": world.items,
            "title": titles,
            "category": [names[one] for one in world.categories],
            "tags": _holes(rng, tags, 0.03),
            "price": _holes(rng, prices, 0.05),
            "vector": np.round(world.topics + rng.normal(scale=0.1, size=world.topics.shape), 4).tolist(),
        }
    )


def _users(rng: np.random.Generator, world: SyntheticWorld) -> pl.DataFrame:
    ages = np.array((22, 38, 46, 69))[world.segments] + rng.normal(scale=4, size=len(world.users))
    return pl.DataFrame(
        {
            "user": world.users,
            "age": _holes(rng, np.clip(np.rint(ages), 16, 99).astype(object), 0.05),
            "segment": _holes(rng, np.array(SEGMENTS, object)[world.segments], 0.03),
        }
    )


def _title(rng: np.random.Generator, own: str, other: str) -> str:
    return " ".join((*rng.choice(TOPICS[own], 2, replace=False), rng.choice(TOPICS[other]))).capitalize()


def _holes(rng: np.random.Generator, values: np.ndarray, share: float) -> list[object]:
    """Replace about `share` of the values by None."""
    missing = rng.random(len(values)) < share
    return [None if gone else value for gone, value in zip(missing, values, strict=True)]


def _table(file: str, frame: pl.DataFrame, *names: str) -> RawTable:
    return RawTable(file=f"synthetic {file}", frame=frame, names={name: name for name in names}, separator="|")
