"""Sums of a day per user and value of each split: every figure of any period is made of them.

split, value     "surface", "home"; split "all" has one value, "all"
user
requests, shown  slates, and items in them
observed:<o>     slates whose window for the outcome <o> is over
sum:<o>          credit of the outcome
shown:<o>@<k>    items at the first k positions of observed slates; of outcomes that count events
hits:<o>@<k>     those of them with credit, at most 1 each
ndcg:<o>@<k>     NDCG of the slates, credit of at most 1 as relevance; 0 without any
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from recsys.measurement.log_rows import CREDIT, SPLITS
from recsys.measurement.settings import MeasurementSettings

ALL, NONE = "all", "none"
POPULARITY = "popularity"
OF_ITEMS = ("explored", POPULARITY)
"""splits that differ between the items of a slate"""
BANDS = (("head", 1 / 3), ("middle", 2 / 3), ("tail", 1.0))
"""popularity -> share of the day's positions that the items down to its end hold, the most shown ones first"""
KEY = ("split", "value", "user")


def splits_of(settings: MeasurementSettings) -> tuple[str, ...]:
    """Return the splits in the order of reports."""
    return (ALL, *SPLITS, POPULARITY, *settings.by)


def user_sums(impressions: pl.DataFrame, settings: MeasurementSettings) -> pl.DataFrame:
    """Return the sums of one day from its credited impressions, by split, value and user."""
    counted = impressions.with_columns(_popularity(impressions), pl.lit(ALL).alias(ALL), *_counts(settings))
    slates = _per_slate(counted, ())
    parts = []
    for split in splits_of(settings):
        per_slate = _per_slate(counted, (split,)) if split in OF_ITEMS else slates
        value = pl.col(split).fill_null(NONE).alias("value")
        grouped = per_slate.group_by(value, "user", maintain_order=True).agg(pl.col(*names_of(settings)).sum())
        parts.append(grouped.select(pl.lit(split).alias("split"), pl.all()))
    return pl.concat(parts).sort(KEY)


def names_of(settings: MeasurementSettings) -> tuple[str, ...]:
    """Return the names of the sums."""
    return ("requests", "shown", *(name for one in settings.outcomes for name in _outcome_names(one, settings)))


def _outcome_names(outcome: str, settings: MeasurementSettings) -> list[str]:
    top = (
        []
        if settings.is_amount(outcome)
        else [f"{kind}:{outcome}@{k}" for k in settings.k for kind in ("shown", "hits", "ndcg")]
    )
    return [f"observed:{outcome}", f"sum:{outcome}", *top]


def _popularity(impressions: pl.DataFrame) -> pl.Series:
    """Band of each item by how often it was shown this day; null for an empty slate."""
    counts = impressions.drop_nulls("item").group_by("item").len().sort(["len", "item"], descending=[True, False])
    above = (counts["len"].cum_sum() - counts["len"]) / max(counts["len"].sum(), 1)
    *_, (last, _) = BANDS
    bands = pl.select(
        pl.coalesce(*(pl.when(pl.lit(above) < end).then(pl.lit(name)) for name, end in BANDS), pl.lit(last))
    ).to_series()
    return (
        impressions["item"]
        .replace_strict(counts["item"], bands, default=None, return_dtype=pl.String)
        .alias(POPULARITY)
    )


def _counts(settings: MeasurementSettings) -> Iterator[pl.Expr]:
    """Columns of one item shown, which add up to the sums; those of a slate are put in by `_per_slate`."""
    yield pl.col("item").is_not_null().cast(pl.Int64).alias("shown")
    for outcome in settings.outcomes:
        credit = pl.col(CREDIT + outcome)
        yield credit.fill_null(0.0).alias(f"sum:{outcome}")
        for k in () if settings.is_amount(outcome) else settings.k:
            top = credit.is_not_null() & (pl.col("position") < k).fill_null(False)
            yield top.cast(pl.Int64).alias(f"shown:{outcome}@{k}")
            gained = pl.when(top).then(credit.clip(0, 1)).otherwise(0.0)
            yield gained.alias(f"hits:{outcome}@{k}")
            yield (gained / (pl.col("position").fill_null(0) + 2).log(2)).alias(f"ndcg:{outcome}@{k}")


def _per_slate(counted: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Add up the items of each slate; `by` divides it further."""
    sums = [name for name in counted.columns if name.startswith(("sum:", "shown", "hits:", "ndcg:"))]
    outcomes = [name.removeprefix("sum:") for name in sums if name.startswith("sum:")]
    kept = [name for name in counted.columns if name not in (*sums, "id", *by)]
    observed = (pl.col(CREDIT + one).first().is_not_null().cast(pl.Int64).alias(f"observed:{one}") for one in outcomes)
    grouped = counted.group_by("id", *by, maintain_order=True).agg(pl.col(sums).sum(), pl.col(kept).first(), *observed)
    gains = [name for name in sums if name.startswith("ndcg:")]
    normalised = (_normalised(grouped, name).alias(name) for name in gains)
    return grouped.with_columns(*normalised, requests=pl.lit(1, pl.Int64))


def _normalised(slates: pl.DataFrame, name: str) -> pl.Series:
    """Divide the discounted gains of slates by those of the best order of as many hits."""
    hits = np.ceil(slates[name.replace("ndcg:", "hits:")].to_numpy()).astype(np.int64)
    best = np.cumsum([0.0, *(1 / np.log2(np.arange(2, hits.max(initial=0) + 2)))])
    return pl.Series(slates[name].to_numpy() / np.where(hits > 0, best[hits], 1.0))
