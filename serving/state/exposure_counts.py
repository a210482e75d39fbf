"""Impression counts of catalogue column values with exponential decay, read by exposure rules.

Time is counted in steps of an eighth of the half-life; an impression of `steps` ago weighs 2 ** (-steps / 8). Within a
step counts are integers that add in any order, so that a replay gives the same bytes. They lie in a ring of SLOTS
documents, one a step: a newer step replaces the one SLOTS before it, and a late one that was replaced is dropped.

    exposure:604800:17  {"columns": {"genres": {"": 40, "=Drama": 12, "=War": 3}}, "format": 1, "step": 5521}

"" counts every impression of a catalogue item since the rules name the column.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import itemgetter

from recsys.bundle import Bundle
from recsys.errors import ServingError, check_ranges
from recsys.items.rule_items import rule_columns
from recsys.policy.category_values import category_values
from recsys.policy.compose import Policy
from recsys.policy.popularity import ITEM
from recsys.policy.rules.kinds.exposure import Exposure
from recsys.policy.rules.rule import Rule
from recsys.stages import read_catalogue
from serving.events.record import Record
from serving.state.state_codec import FORMAT, canonical, document_of

STEPS = 8
"""steps a half-life"""
SLOTS = 64
"""eight half-lives: older impressions weigh less than 1/256 and are dropped"""
TOTAL = ""

Values = Mapping[str, Mapping[str, Sequence[str]]]
"""column -> item of the catalogue -> its values"""
Counts = Mapping[str, Counter[str]]
"""column -> TOTAL or "=value" -> impressions"""


class ExposureColumns:
    """Columns named by exposure rules, with the values of every item; also the item ids if the policy
    discounts popularity by exposure.
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

    def __call__(self, rules: Iterable[Rule]) -> Values:
        """ConfigError for a column that the catalogue does not have, or that has no values to count."""
        named = (rule.exposure for rule in rules if isinstance(rule, Exposure))
        return {column: self._values(column) for column in sorted({*named} | self._always)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureStep:
    """Impression counts of one time step."""

    number: int
    counts: Counts

    def with_earlier(self, data: bytes | None) -> "ExposureStep":
        """Sum with the stored step of the slot; the newer one of the two if their numbers differ."""
        if data is None:
            return self
        try:
            held = ExposureStep.from_bytes(data)
        except ServingError:  # an unreadable slot is overwritten
            return self
        if held.number != self.number:
            return max(self, held, key=lambda step: step.number)
        names = sorted({*self.counts, *held.counts})
        counts = {name: self.counts.get(name, Counter()) + held.counts.get(name, Counter()) for name in names}
        return ExposureStep(number=self.number, counts=counts)

    def to_bytes(self) -> bytes:
        return canonical({"format": FORMAT, "step": self.number, "columns": self.counts})

    @staticmethod
    def from_bytes(data: bytes) -> "ExposureStep":
        """ServingError for bytes that are no step."""
        document = document_of(data, "the record of exposure counts")
        counts = {name: Counter(times) for name, times in document["columns"].items()}
        return ExposureStep(number=document["step"], counts=counts)


class ExposureCounts:
    """Counts impressions and computes exposure shares. Raises ConfigError for a value out of range."""

    def __init__(self, *, values: Callable[[], Values], half_life_s: float) -> None:
        """
        values: counted columns, called for every batch: those of `ExposureColumns`, or `dict` for none
        half_life_s: of the decay, in seconds; a changed value starts new counts
        """
        check_ranges("state", half_life_s=(half_life_s, 1.0, 1e9))
        self.values = values
        self.half_life_s = half_life_s
        self.keys = tuple(f"exposure:{half_life_s:g}:{slot}".encode() for slot in range(SLOTS))

    def count(self, impressions: Sequence[Record]) -> dict[bytes, ExposureStep]:
        """Step to add, by key; of several steps in one slot the newest."""
        counts: dict[int, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for name, values_of in self.values().items():
            for impression in impressions:
                keys = [key for item in impression.shown_items() for key in _keys(values_of.get(item))]
                counts[self._step(impression.timestamp)][name].update(keys)
        steps = (ExposureStep(number=number, counts=counts[number]) for number in sorted(counts))
        return {self.keys[step.number % SLOTS]: step for step in steps if any(step.counts.values())}

    def shares(self, held: Sequence[bytes | None]) -> dict[str, float]:
        """See `Exposures.exposure`; held: bytes by slot."""
        steps = sorted(((_number_of(data), data) for data in held if data is not None), key=itemgetter(0))
        newest = steps[-1][0] if steps else 0
        kept = tuple(data for number, data in steps if number > newest - SLOTS)
        last = ExposureStep.from_bytes(kept[-1]).counts if kept else {}
        found: dict[str, float] = {}
        for name, values_of in self.values().items():
            sums = Counter(_decayed_sums(name, kept[:-1], newest))
            for key, times in last.get(name, {}).items():
                sums[key] += times
            if total := sums[TOTAL]:
                known = sorted({value for values in values_of.values() for value in values})
                found |= {f"{name}={value}": sums[f"={value}"] / total for value in known}
        return found

    def _step(self, timestamp: float) -> int:
        return math.floor(timestamp * STEPS / self.half_life_s)


@lru_cache(SLOTS + 1)
def _number_of(data: bytes) -> int:
    """Cached, since only the newest slot changes between two calls."""
    return ExposureStep.from_bytes(data).number


@lru_cache(16)
def _decayed_sums(name: str, earlier: tuple[bytes, ...], newest: int) -> Mapping[str, float]:
    """Decayed counts of a column over the steps before the newest; cached, as they change once a step."""
    sums: dict[str, float] = defaultdict(float)
    for step in map(ExposureStep.from_bytes, earlier):
        for key, times in step.counts.get(name, Counter()).items():
            sums[key] += times * 2.0 ** ((step.number - newest) / STEPS)
    return sums


def _keys(values: Sequence[str] | None) -> tuple[str, ...]:
    """Count keys of one impression; none for an item outside of the catalogue."""
    return () if values is None else (TOTAL, *(f"={value}" for value in values))
