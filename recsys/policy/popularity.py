"""Popularity discount of the utility: items with many interactions or impressions are scaled down.

Shapes: B queries, C columns of candidates, N items of the catalogue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.contracts import Query
from recsys.errors import BundleError, ConfigError, check_ranges
from recsys.expressions import suggestion
from recsys.policy.exposure.exposure_lookup import look_up_exposure
from recsys.policy.rules.effects import FACTOR_BOUNDS

EVENTS, EXPOSURE = "events", "exposure"
ITEM = "item"
"""column name whose values are the item ids"""
KEYS = ("discount", "of")
MIN_FACTOR = 1 / FACTOR_BOUNDS[1]
"""lower bound of the factor, the same as that of a rule"""
REASON_KEY = "policy.popularity"
"""key of the dial among the rules of a slate item"""


class PopularityDial:
    """utility x (1 + N x share of the item)^-discount, at least MIN_FACTOR; an item of the average share, 1 / N, has
    2^-discount.

    The power of an inverse propensity (Schnabel et al., Recommendations as Treatments, ICML 2016), plus one so that an
    item without a share keeps its utility. A negative utility is divided by the factor.
    """

    def __init__(self, *, discount: float, of: str) -> None:
        """
        discount: 0 is off
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
        """Bind the dial to a catalogue. items: [N] ids. events: share of each item in known events; items added after the
        training are behind its end and have share 0.

        BundleError where the dial reads events and the bundle has none.
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
    """Dial compiled for one catalogue."""

    discount: float
    events: np.ndarray | None
    """[N] float64"""
    keys: tuple[str, ...]
    """[N] keys of Query.exposure"""
    num_items: int

    def exposure_keys(self, rows: np.ndarray) -> list[str]:
        """Return the keys of Query.exposure that catalogue rows [C] read."""
        return [self.keys[row] for row in rows.tolist()] if self.discount and self.keys else []

    def factors(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray | None:
        """Return utility factors of catalogue rows [B, C], arbitrary for PAD; None where the dial is off."""
        if not self.discount:
            return None
        shares = look_up_exposure(queries, self.keys, rows) if self.events is None else self.events[rows]
        return np.maximum((1 + self.num_items * np.nan_to_num(shares)) ** -self.discount, MIN_FACTOR)


def dial_from_document(document: Any) -> PopularityDial:
    """Read a document; ConfigError names a key that is absent, unknown or out of range."""
    if not isinstance(document, Mapping):
        raise ConfigError(f"policy.popularity is {document!r}; write a mapping with {' and '.join(KEYS)}")
    if unknown := [str(key) for key in document if key not in KEYS]:
        raise ConfigError(f"policy.popularity has the unknown key {unknown[0]!r}; {suggestion(unknown[0], KEYS)}")
    if absent := [key for key in KEYS if key not in document]:
        raise ConfigError(f"policy.popularity lacks the key {absent[0]!r}; give {' and '.join(KEYS)}")
    return PopularityDial(**document)
