"""Attribution: the credit of events to the impressions that may have led to them.

An event that names its request credits the item of that request, if it came within the window. An event without a request
credits earlier impressions of its item to its user within the window; its credits add up to its value. Any other event credits
nothing. Shapes: I impressions, E events.
"""

from collections.abc import Callable, Mapping

import polars as pl

from recsys.measurement.settings import Outcome

CLOCK_SKEW_S = 60.0
"""an event may be stamped this much before the impression that it names"""
PAIRS = ("event", "number", "shown_at")


def credits_of(impressions: pl.DataFrame, events: pl.DataFrame, outcome: Outcome) -> pl.DataFrame:
    """Return number (of the impression) and credit, one row per credited impression, by number.

    impressions: number, user, item, request_id, shown_at [I]; events: user, item, request_id, at, value [E], one row per event
    """
    valued = events.filter(pl.col("value").is_not_null() & (pl.col("value") != 0)).with_row_index("event")
    named = _named(impressions, valued, outcome.window_s)
    free = WEIGHTS[outcome.credit](_touches(impressions, valued, outcome.window_s))
    weighted = pl.concat([named.with_columns(weight=pl.lit(1.0)), free]).join(
        valued.select("event", "value"), on="event"
    )
    # sorted: a sum of floats depends on its order
    return (
        weighted.sort("number", "event")
        .group_by("number", maintain_order=True)
        .agg(credit=(pl.col("weight") * pl.col("value")).sum())
    )


def _named(impressions: pl.DataFrame, events: pl.DataFrame, window_s: float) -> pl.DataFrame:
    """Pairs of an event and the impression of its request; of a request id that came twice the later one."""
    pairs = events.drop_nulls("request_id").join(impressions, on=["user", "item", "request_id"])
    wait = pl.col("at") - pl.col("shown_at")
    within = pairs.filter((wait >= -CLOCK_SKEW_S) & (wait <= window_s))
    return within.sort("event", "shown_at", "number").unique("event", keep="last", maintain_order=True).select(PAIRS)


def _touches(impressions: pl.DataFrame, events: pl.DataFrame, window_s: float) -> pl.DataFrame:
    """Pairs of an event without a request and the impressions within the window before it, by event and time."""
    free = events.filter(pl.col("request_id").is_null())
    pairs = free.join(impressions, on=["user", "item"])
    wait = pl.col("at") - pl.col("shown_at")
    return pairs.filter((wait >= 0) & (wait <= window_s)).sort("event", "shown_at", "number").select(PAIRS)


def _last(touches: pl.DataFrame) -> pl.DataFrame:
    return touches.unique("event", keep="last", maintain_order=True).with_columns(weight=pl.lit(1.0))


def _linear(touches: pl.DataFrame) -> pl.DataFrame:
    return touches.with_columns(weight=1 / pl.len().over("event").cast(pl.Float64))


def _by_position(touches: pl.DataFrame) -> pl.DataFrame:
    """40% to the first touch, 40% to the last, the rest to those between; halves for two."""
    count = pl.len().over("event").cast(pl.Float64)
    index = pl.int_range(pl.len()).over("event")
    outer = (index == 0) | (index == count - 1)
    long = pl.when(outer).then(0.4).otherwise(0.2 / (count - 2))
    return touches.with_columns(weight=pl.when(count > 2).then(long).otherwise(1 / count))


WEIGHTS: Mapping[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "last": _last,
    "linear": _linear,
    "position": _by_position,
}
"""by credit rule: pairs with the share of the event's value that each impression has"""
