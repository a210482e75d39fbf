"""Simulation with known probabilities: logged slates with positions and propensities of a known policy, and eight
kinds of feature interaction for rankers, each of which can be enabled alone.

Shapes: U users, N items, C items that the policy chooses from, S positions of a slate, R rows of the log, T objectives,
L remembered events.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import Description
from recsys.data.validation import RawTable, validated
from recsys.errors import ConfigError, check_ranges

START = 1_704_067_200.0
"""2024-01-01, unix seconds UTC"""
DAY = 86_400.0
ROUND = 3 * DAY
"""time in which every user has one request; a few rounds are whole weeks, since a model may read the day of the week"""
OBJECTIVES = ("click", "like", "share", "buy")
RATES = (0.30, 0.10, 0.03, 0.01)
"""approximate mean probabilities of the objectives"""
CATEGORIES, BRANDS, SEGMENTS, DEVICES = 6, 8, 4, 3
OFFERED = 30
"""number of items that the policy chooses a slate from"""
REMEMBERED = 16
"""number of newest events of a user that have an effect"""
FADING_DAYS = 9.0
EFFECTS: Mapping[str, tuple[float, ...]] = {
    "second_order": (1.0, -1.0, 0.7, 1.0),
    "third_order": (0.9, 0.8, -1.0, 0.7),
    "ratio": (-0.8, 0.6, 0.8, 1.2),
    "history": (-1.0, 1.2, 0.8, -0.8),
    "context": (0.8, -0.6, 1.0, 0.8),
    "decay": (-0.9, 0.8, 0.8, -0.6),
    "position": (1.0, 0.8, 0.8, 0.8),
    "objectives": (0.8, -0.8, 0.8, -0.8),
}
"""kind of interaction -> its weight in the logit of each objective"""
DESCRIPTION = Description(
    actions=dict.fromkeys(OBJECTIVES, "number"),
    context={"device": "category", "urgency": "number", "position": "number", "propensity": "number"},
    items={"category": "category", "brand": "category", "price": "number", "length": "number"},
    users={"age": "number", "budget": "number", "segment": "category"},
    objectives={name: name for name in OBJECTIVES},
    target="click",
    title=None,
    order="time",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """True probabilities of every row of the log, [R, T] each, in the order of the data set."""

    probabilities: np.ndarray
    """probability of every objective at the logged position"""
    unbiased: np.ndarray
    """probability of every objective at the first position"""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedWorld:
    """Users and items."""

    age: np.ndarray
    """[U] and `length` [N], -1 to 1"""
    budget: np.ndarray
    """[U] and `price` [N], 1 to 9"""
    segment: np.ndarray
    price: np.ndarray
    length: np.ndarray
    category: np.ndarray
    brand: np.ndarray
    tastes: np.ndarray
    """[SEGMENTS, CATEGORIES]"""
    moods: np.ndarray
    """[DEVICES, CATEGORIES]"""
    checksum: np.ndarray
    """[N] order of events at one time"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """Requests of one round: attributes of every user at request time."""

    now: np.ndarray
    """[U] unix seconds"""
    device: np.ndarray
    urgency: np.ndarray
    """[U] -1 to 1"""


class Memory:
    """Newest events of every user that reached any objective."""

    def __init__(self, num_users: int) -> None:
        self.items = np.full((num_users, REMEMBERED), -1)
        self.times = np.zeros((num_users, REMEMBERED))

    def append(self, items: np.ndarray, times: np.ndarray, happened: np.ndarray) -> None:
        """Append one event per user: items [U], times [U]; users without an event [U] do not change."""
        for array, newest in ((self.items, items), (self.times, times)):
            array[happened] = np.concatenate([array[happened, 1:], newest[happened, None]], axis=1)

    def alike(self, of_item: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Return [U, C, L] bool, whether an event's item has the same value of_item [N] as the item shown [U, C]."""
        return (of_item[self.items][:, None] == of_item[shown][..., None]) & (self.items >= 0)[:, None]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Simulator: every user is shown one slate per round; reached objectives affect later rounds.

    logit of an objective = strength (sum of weight x effect) / sqrt(sum of weight^2) + intercept, effects of about unit
    variance. With "objectives" among the effects nothing but a click can be reached without one.
    """

    users: int
    items: int
    rounds: int
    slate: int
    seed: int
    strength: float
    """standard deviation of the logits"""
    effects: Sequence[str]
    """of EFFECTS"""

    def __post_init__(self) -> None:
        check_ranges(
            "planted",
            users=(self.users, 10, 10_000_000),
            items=(self.items, OFFERED, 10_000_000),
            rounds=(self.rounds, 2, 10_000),
            slate=(self.slate, 1, OFFERED),
            seed=(self.seed, 0, 2**63 - 1),
            strength=(self.strength, 0.0, 10.0),
        )
        if not self.effects or not set(self.effects) <= EFFECTS.keys():
            raise ConfigError(f"planted.effects is {list(self.effects)}; name at least one of {', '.join(EFFECTS)}")

    def load(self) -> Dataset:
        return self.logged()[0]

    def logged(self) -> tuple[Dataset, Truth]:
        """Return the log and its true probabilities, deterministic in the arguments."""
        world = self.world()
        _, intercepts = self._simulate(world, None)
        parts, _ = self._simulate(world, intercepts)
        columns = {
            name: np.concatenate([part[name].reshape(-1, *part[name].shape[2:]) for part in parts]) for name in parts[0]
        }
        order = np.lexsort((world.checksum[columns["item"]], columns["user"], columns["timestamp"]))
        columns = {name: column[order] for name, column in columns.items()}
        truth = Truth(probabilities=columns.pop("probabilities"), unbiased=columns.pop("unbiased"))
        return self._dataset(world, columns), truth

    def world(self) -> PlantedWorld:
        rng = np.random.default_rng((self.seed, 0))
        return PlantedWorld(
            age=rng.uniform(-1, 1, self.users),
            budget=rng.uniform(1, 9, self.users),
            segment=rng.integers(SEGMENTS, size=self.users),
            price=rng.uniform(1, 9, self.items),
            length=rng.uniform(-1, 1, self.items),
            category=rng.integers(CATEGORIES, size=self.items),
            brand=rng.integers(BRANDS, size=self.items),
            tastes=balanced(rng, SEGMENTS),
            moods=balanced(rng, DEVICES),
            checksum=np.array([zlib.crc32(name.encode()) for name in names("i", self.items)]),
        )

    def _simulate(
        self, world: PlantedWorld, intercepts: np.ndarray | None
    ) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        """Return all rounds as columns [U, S], and the intercepts [T], fitted where not given."""
        rng, memory, bias = np.random.default_rng((self.seed, 1)), Memory(self.users), self._position_bias()
        parts, found = [], []
        for number in range(self.rounds):
            moment = self._moment(rng, number)
            shown, propensity, logits = self._slates(rng, world, moment, memory)
            own = self._intercepts(logits + bias) if intercepts is None else intercepts
            probabilities = self._probabilities(logits + bias + own)
            reached = self._reached(rng, probabilities)
            self._remember(world, memory, moment, shown, reached.any(-1))
            found.append(own)
            parts.append(
                {
                    "user": self._wide(np.arange(self.users)),
                    "item": shown,
                    "timestamp": self._wide(moment.now),
                    "device": self._wide(moment.device),
                    "urgency": self._wide(moment.urgency),
                    "position": np.tile(np.arange(self.slate), (self.users, 1)),
                    "propensity": propensity,
                    "reached": reached,
                    "probabilities": probabilities,
                    "unbiased": self._probabilities(logits + bias[0] + own),
                }
            )
        return parts, np.mean(found[len(found) // 2 :], axis=0)

    def _moment(self, rng: np.random.Generator, number: int) -> Round:
        return Round(
            now=START + number * ROUND + np.floor(rng.uniform(0, ROUND, self.users)),
            device=rng.integers(DEVICES, size=self.users),
            urgency=rng.uniform(-1, 1, self.users),
        )

    def _slates(
        self, rng: np.random.Generator, world: PlantedWorld, moment: Round, memory: Memory
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the slates of the logging policy, which knows part of the click logits: items, propensities [U, S], logits
        [U, S, T].
        """
        first = rng.integers(self.items - OFFERED + 1, size=(self.users, 1))
        offered = first + rng.permuted(np.tile(np.arange(OFFERED), (self.users, 1)), axis=1)
        logits = self._logits(world, moment, memory, offered)
        columns, propensity = plackett_luce(rng, 0.5 * logits[..., 0], self.slate)
        shown = np.take_along_axis(offered, columns, axis=1)
        return shown, propensity, np.take_along_axis(logits, columns[..., None], axis=1)

    def _wide(self, column: np.ndarray) -> np.ndarray:
        """Repeat [U] to [U, S]."""
        return np.repeat(column[:, None], self.slate, axis=1)

    def _logits(self, world: PlantedWorld, moment: Round, memory: Memory, offered: np.ndarray) -> np.ndarray:
        """Return logits [U, C, T] of the items offered [U, C], without position and intercept."""
        age, urgency, segment, device = (
            one[:, None] for one in (world.age, moment.urgency, world.segment, moment.device)
        )
        length, category = world.length[offered], world.category[offered]
        ratio = np.log(world.price[offered] / world.budget[:, None])
        ages = (moment.now[:, None] - memory.times) / DAY
        remembered = (memory.items >= 0).sum(1)[:, None]
        share = memory.alike(world.category, offered).sum(-1) / np.maximum(remembered, 1)
        recent = (memory.alike(world.brand, offered) * np.exp(-ages / FADING_DAYS)[:, None]).sum(-1)
        effects = {
            "second_order": (3 * age * length + world.tastes[segment, category]) / np.sqrt(2),
            "third_order": 27**0.5 * age * length * urgency,
            "ratio": (np.abs(ratio) - 0.7) / 0.54,
            "history": np.where(remembered, (share - 0.17) / 0.14, 0),
            "context": world.moods[device, category],
            "decay": np.where(remembered, (recent / (1 + recent) - 0.33) / 0.24, 0),
        }
        weights = self._weights()
        logits = np.zeros((*offered.shape, len(OBJECTIVES)))
        for name, effect in effects.items():
            logits += effect[..., None] * weights.get(name, 0.0)
        if "objectives" in weights:
            logits[..., 0] += 3**0.5 * length * weights["objectives"][0]
            logits[..., 1:] += ((world.price[offered] - 5) / 2.3)[..., None] * weights["objectives"][1:]
        return logits

    def _weights(self) -> dict[str, np.ndarray]:
        """Return effect -> weights [T]."""
        chosen = {name: np.array(EFFECTS[name]) for name in EFFECTS if name in self.effects}
        length = np.sqrt(np.sum([one**2 for one in chosen.values()], axis=0))
        return {name: self.strength * one / length for name, one in chosen.items()}

    def _position_bias(self) -> np.ndarray:
        """Return [S, T] logit offsets: lower positions are examined less."""
        weight = self._weights().get("position", np.zeros(len(OBJECTIVES)))
        return -np.log1p(np.arange(self.slate))[:, None] / 0.67 * weight

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        own = 1 / (1 + np.exp(-logits))
        if "objectives" in self.effects:
            own[..., 1:] *= own[..., :1]
        return own

    def _reached(self, rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
        """Sample outcomes [U, S, T] bool."""
        draws = rng.random(probabilities.shape)
        reached = draws < probabilities
        if "objectives" in self.effects:
            reached[..., 1:] = reached[..., :1] & (draws[..., 1:] * probabilities[..., :1] < probabilities[..., 1:])
        return reached

    def _intercepts(self, logits: np.ndarray) -> np.ndarray:
        """Fit [T] by bisection to the target rates, one after the other since the first one may bound the others."""
        found = np.zeros(len(OBJECTIVES))
        for objective, rate in enumerate(RATES):
            low, high = -20.0, 20.0
            for _ in range(40):
                found[objective] = (low + high) / 2
                above = self._probabilities(logits + found)[..., objective].mean() > rate
                low, high = (low, found[objective]) if above else (found[objective], high)
        return found

    def _remember(
        self, world: PlantedWorld, memory: Memory, moment: Round, shown: np.ndarray, happened: np.ndarray
    ) -> None:
        """Append events in the order in which a log keeps events of one time."""
        order = np.argsort(world.checksum[shown], axis=1)
        for row_order in order.T:
            column = row_order[:, None]
            items, now = (np.take_along_axis(one, column, axis=1)[:, 0] for one in (shown, happened))
            memory.append(items, moment.now, now)

    def _dataset(self, world: PlantedWorld, columns: Mapping[str, np.ndarray]) -> Dataset:
        users, items = names("u", self.users), names("i", self.items)
        reached = dict(zip(OBJECTIVES, columns["reached"].T.astype(float), strict=True))
        plain = {name: columns[name] for name in ("timestamp", "urgency", "position", "propensity")}
        interactions = pl.DataFrame(
            {
                "user": users[columns["user"]],
                "item": items[columns["item"]],
                "device": names("d", DEVICES)[columns["device"]],
                **plain,
                **reached,
            }
        )
        catalogue = {"item": items, "price": world.price, "length": world.length}
        catalogue |= {"category": names("c", CATEGORIES)[world.category], "brand": names("b", BRANDS)[world.brand]}
        people = {"user": users, "age": world.age, "budget": world.budget}
        people |= {"segment": names("s", SEGMENTS)[world.segment]}
        return validated(
            name="planted",
            interactions=_table("interactions", interactions, "user", "item", "timestamp"),
            items=_table("items", pl.DataFrame(catalogue), "item"),
            users=_table("users", pl.DataFrame(people), "user"),
            description=DESCRIPTION,
        )


def balanced(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Return [rows, CATEGORIES] with mean 0 in every row and column, and unit variance."""
    table = rng.normal(size=(rows, CATEGORIES))
    table -= table.mean(axis=1, keepdims=True)
    table -= table.mean(axis=0)
    return table / table.std()


def plackett_luce(rng: np.random.Generator, scores: np.ndarray, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample columns [U, S] without replacement by exp(scores [U, C]), with the probability of each draw given those before."""
    order = np.argsort(-(scores + rng.gumbel(size=scores.shape)), axis=1)
    falling = np.exp(np.take_along_axis(scores, order, axis=1))
    left = np.cumsum(falling[:, ::-1], axis=1)[:, ::-1]
    return order[:, :num_positions], (falling / left)[:, :num_positions]


def names(letter: str, count: int) -> np.ndarray:
    return np.array([f"{letter}{number:0{len(str(count))}d}" for number in range(count)], dtype=object)


def _table(file: str, frame: pl.DataFrame, *names: str) -> RawTable:
    return RawTable(file=f"planted {file}", frame=frame, names={name: name for name in names}, separator="|")
