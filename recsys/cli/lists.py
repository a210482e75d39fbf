"""Slates of many users as a Parquet file, a row an item, written while they are made."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from recsys.contracts import Slate
from recsys.stores.atomic_files import atomic_file

ROWS = 100_000
"""rows that are kept in memory before they are written"""
TEXTS = pl.List(pl.String)


def write_lists(slates: Iterable[Slate], objectives: Sequence[str], out: Path) -> int:
    """Write slates atomically; return their number. objectives: those that items have a probability of."""
    schema = schema_of_lists(objectives)
    written, failed = 0, None

    def chunks(columns: Any, *_: Any) -> Iterator[pl.DataFrame]:
        nonlocal written, failed
        rows: list[dict[str, Any]] = []
        try:
            for slate in slates:
                written += 1
                rows += _rows(slate)
                if len(rows) >= ROWS:
                    yield pl.DataFrame(rows, schema=schema)
                    rows = []
        except Exception as error:  # polars would wrap it
            failed = error
        yield pl.DataFrame(rows, schema=schema)

    with atomic_file(out) as draft:
        register_io_source(chunks, schema=schema).sink_parquet(draft)
        if failed is not None:
            raise failed
    return written


def schema_of_lists(objectives: Sequence[str]) -> dict[str, Any]:
    """Return the columns of the file."""
    return {
        "user": pl.String,
        "position": pl.Int64,
        "item": pl.String,
        "utility": pl.Float64,
        "sources": TEXTS,
        "rules": TEXTS,
        **{f"p_{name}": pl.Float64 for name in objectives},
        "degraded": TEXTS,
        "bundle": pl.String,
        "rules_hash": pl.String,
    }


def _rows(slate: Slate) -> Iterator[dict[str, Any]]:
    for position, shown in enumerate(slate.items):
        yield {
            "user": slate.user,
            "position": position,
            "item": shown.item,
            "utility": shown.utility,
            "sources": list(shown.sources),
            "rules": list(shown.rules),
            **{f"p_{name}": value for name, value in shown.probabilities.items()},
            "degraded": list(slate.degraded),
            "bundle": slate.bundle,
            "rules_hash": slate.rules,
        }
