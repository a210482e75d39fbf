"""The dial against popularity bias: what is met or shown much already has to be worth more to be shown again.

Shapes: B queries, C columns of candidates, N items of the catalogue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.contracts import Query
from recsys.errors import BundleError, ConfigError, check_ranges
from recsys.expressions import suggestion
from recsys.policy.counters import counted
from recsys.policy.rules import BOUNDS

EVENTS, EXPOSURE = "events", "exposure"
ITEM = "item"
"""the column whose values are the items themselves"""
KEYS = ("discount", "of")
LEAST = 1 / BOUNDS[1]
"""of the factor: the same bound as that of a rule"""
TOLD = "policy.popularity"
"""what a slate item calls the dial, among the rules that touched it"""


class PopularityDial:
    """utility x (1 + N x share of the item)^-discount, at least LEAST; an item of an even share, 1 / N, has 2^-discount.

    The power of an inverse propensity (Schnabel et al., Recommendations as Treatments, ICML 2016), with one added so that
    what has no share keeps its utility. A negative utility is divided by the factor.
    """

    def __init__(self, *, discount: float, of: str) -> None:
        """
        discount: 0 leaves everything as it is
        of: events, the share in the newest events that the bundle was trained on, or exposure, the share of what was
            shown that the caller counts in Query.exposure["item=<id>"]; what is not counted there keeps its utility
        """
        check_ranges("popularity", discount=(discount, 0.0, 10.0))
        if of not in (EVENTS, EXPOSURE):
            raise ConfigError(f"popularity.of is {of!r}; choose one of {EVENTS}, {EXPOSURE}")
        self.discount = float(discount)
        self.of = of

    @staticmethod
    def off() -> "PopularityDial":
        return PopularityDial(discount=0.0, of=EVENTS)

    @property
    def reads_events(self) -> bool:
        return self.discount > 0 and self.of == EVENTS

    @property
    def reads_exposure(self) -> bool:
        return self.discount > 0 and self.of == EXPOSURE

    def to_document(self) -> dict[str, Any]:
        return {"discount": self.discount, "of": self.of}

    def compile(self, items: np.ndarray, events: np.ndarray | None) -> "CompiledDial":
        """items: [N] ids; events: share of each item, of the first of them where items came later, which have none.

        BundleError where the dial reads events and nobody counted.
        """
        own = None
        if self.reads_events:
            if events is None:
                raise BundleError(
                    "the bundle is older and tells no popularity, which the policy discounts; train it again"
                )
            own = np.pad(events, (0, len(items) - len(events)))
        return CompiledDial(
            discount=self.discount,
            events=own,
            keys=tuple(f"{ITEM}={item}" for item in items.tolist()) if self.of == EXPOSURE else (),
            num_items=len(items),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledDial:
    """The dial of one catalogue."""

    discount: float
    events: np.ndarray | None
    """[N] float64"""
    keys: tuple[str, ...]
    """[N], counters in Query.exposure"""
    num_items: int

    def reads(self, rows: np.ndarray) -> list[str]:
        """The keys that count for catalogue rows [C]."""
        return [self.keys[row] for row in rows.tolist()] if self.discount and self.keys else []

    def factors(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray | None:
        """Of the utilities of catalogue rows [B, C], PAD has any; None where the dial is off."""
        if not self.discount:
            return None
        shares = counted(queries, self.keys, rows) if self.events is None else self.events[rows]
        return np.maximum((1 + self.num_items * np.nan_to_num(shares)) ** -self.discount, LEAST)


def dial_from_document(document: Any) -> PopularityDial:
    """ConfigError names a key that is absent, unknown or out of range."""
    if not isinstance(document, Mapping):
        raise ConfigError(f"policy.popularity is {document!r}; write a mapping with {' and '.join(KEYS)}")
    if unknown := [str(key) for key in document if key not in KEYS]:
        raise ConfigError(f"policy.popularity has the unknown key {unknown[0]!r}; {suggestion(unknown[0], KEYS)}")
    if absent := [key for key in KEYS if key not in document]:
        raise ConfigError(f"policy.popularity lacks the key {absent[0]!r}; give {' and '.join(KEYS)}")
    return PopularityDial(**document)
