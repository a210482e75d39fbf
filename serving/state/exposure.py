"""How often values of the catalogue's columns were shown to anybody, amortised: what exposure rules read.

Time is counted in steps of an eighth of the half-life, and what was shown some steps ago weighs 2 ** (-steps / 8). So
counts are whole numbers that may be added in any order, and a replay gives the same bytes. A ring of SLOTS documents, one
step each, holds them: a newer step takes the place of the one SLOTS before, and a late one finds it taken.

    exposure:604800:17  {"columns": {"genres": {"": 40, "=Drama": 12, "=War": 3}}, "format": 1, "step": 5521}

"" counts every shown item that the catalogue has, since the rules name the column.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import itemgetter

from recsys.bundle import Bundle
from recsys.errors import ServingError, check_ranges
from recsys.items.ruled import rule_columns
from recsys.policy.compose import Policy
from recsys.policy.popularity import ITEM
from recsys.policy.quotas import category_values
from recsys.policy.rules import Exposure, RuleSet
from recsys.stages import read_catalogue
from serving.events.record import Record
from serving.state.codec import FORMAT, canonical, document_of

STEPS = 8
"""of a half-life"""
SLOTS = 64
"""eight half-lives: what is older weighs less than a 256th and is forgotten"""
ALL = ""

Values = Mapping[str, Mapping[str, Sequence[str]]]
"""column -> item of the catalogue -> its values"""
Counts = Mapping[str, Counter[str]]
"""column -> ALL or "=value" -> how often it was shown"""


class NamedColumns:
    """The columns that the exposure rules of a rule set name, with the values of every item, and the items themselves where
    the policy discounts what was shown.
    """

    def __init__(self, bundle: Bundle) -> None:
        types, catalogue = bundle.document("catalogue.json"), read_catalogue(bundle)
        columns, items = rule_columns(catalogue, types), catalogue["item"].to_list()
        dial = Policy.from_document(bundle.document("policy.yaml")).popularity
        self._always = {ITEM} if dial.reads_exposure else set()
        types = {ITEM: "category", **types}
        self._values = cache(
            lambda name: dict(zip(items, category_values("exposure", name, columns, types), strict=True))
        )

    def __call__(self, rules: RuleSet) -> Values:
        """ConfigError for a column that the catalogue does not have, or that has no values to count."""
        named = (rule.exposure for rule in rules.rules if isinstance(rule, Exposure))
        return {column: self._values(column) for column in sorted({*named} | self._always)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was shown in one step of time."""

    number: int
    counts: Counts

    def with_earlier(self, data: bytes | None) -> "Step":
        """Together with what its slot holds; the newer of the two where that is another step."""
        if data is None:
            return self
        try:
            held = Step.from_bytes(data)
        except ServingError:  # the slot begins anew
            return self
        if held.number != self.number:
            return max(self, held, key=lambda step: step.number)
        names = sorted({*self.counts, *held.counts})
        counts = {name: self.counts.get(name, Counter()) + held.counts.get(name, Counter()) for name in names}
        return Step(number=self.number, counts=counts)

    def to_bytes(self) -> bytes:
        return canonical({"format": FORMAT, "step": self.number, "columns": self.counts})

    @staticmethod
    def from_bytes(data: bytes) -> "Step":
        """ServingError for bytes that are none."""
        document = document_of(data, "what is known of the exposure")
        counts = {name: Counter(times) for name, times in document["columns"].items()}
        return Step(number=document["step"], counts=counts)


class Amortised:
    """How impressions are counted and what their counts say. Raises ConfigError for a value out of range."""

    def __init__(self, *, values: Callable[[], Values], half_life_s: float) -> None:
        """
        values: what is counted, asked at every batch: those of `NamedColumns`, or `dict` for nothing
        half_life_s: what was shown so much earlier counts half, in seconds; another one starts with new counts
        """
        check_ranges("state", half_life_s=(half_life_s, 1.0, 1e9))
        self.values = values
        self.half_life_s = half_life_s
        self.keys = tuple(f"exposure:{half_life_s:g}:{slot}".encode() for slot in range(SLOTS))

    def counted(self, impressions: Sequence[Record]) -> dict[bytes, Step]:
        """What they add to which key; of several steps in one slot the newest."""
        counts: dict[int, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for name, values_of in self.values().items():
            for impression in impressions:
                keys = [key for item in impression.shown() for key in _keys(values_of.get(item))]
                counts[self._step(impression.timestamp)][name].update(keys)
        steps = (Step(number=number, counts=counts[number]) for number in sorted(counts))
        return {self.keys[step.number % SLOTS]: step for step in steps if any(step.counts.values())}

    def shares(self, held: Sequence[bytes | None]) -> dict[str, float]:
        """See `Exposures.exposure`; held: bytes by slot."""
        steps = sorted(((_number_of(data), data) for data in held if data is not None), key=itemgetter(0))
        newest = steps[-1][0] if steps else 0
        kept = tuple(data for number, data in steps if number > newest - SLOTS)
        last = Step.from_bytes(kept[-1]).counts if kept else {}
        found: dict[str, float] = {}
        for name, values_of in self.values().items():
            sums = Counter(_summed(name, kept[:-1], newest))
            for key, times in last.get(name, {}).items():
                sums[key] += times
            if everything := sums[ALL]:
                known = sorted({value for values in values_of.values() for value in values})
                found |= {f"{name}={value}": sums[f"={value}"] / everything for value in known}
        return found

    def _step(self, timestamp: float) -> int:
        return math.floor(timestamp * STEPS / self.half_life_s)


@lru_cache(SLOTS + 1)
def _number_of(data: bytes) -> int:
    """Only the newest slot changes from one second to the next."""
    return Step.from_bytes(data).number


@lru_cache(16)
def _summed(name: str, earlier: tuple[bytes, ...], newest: int) -> Mapping[str, float]:
    """Of a column in steps before the newest, the earliest first: they change once a step."""
    sums: dict[str, float] = defaultdict(float)
    for step in map(Step.from_bytes, earlier):
        for key, times in step.counts.get(name, Counter()).items():
            sums[key] += times * 2.0 ** ((step.number - newest) / STEPS)
    return sums


def _keys(values: Sequence[str] | None) -> tuple[str, ...]:
    """What one showing of an item counts for; nothing for an item that the catalogue does not have."""
    return () if values is None else (ALL, *(f"={value}" for value in values))
