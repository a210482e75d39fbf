"""Forty-odd tiny logs that are degenerate in one way each, written as own tables with their description.

from benchmarks.lib.tiny_world_logs import WORLDS
WORLDS["one_user"](folder)      # writes shop.yaml and its tables, returns the path of shop.yaml
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

DAY = 86_400.0
START = 1.6e9
"""unix seconds of the first event"""
OBJECTIVES = {"watch": "1", "like": "rating >= 4"}
Rows = list[dict[str, Any]]


def log(
    users: int = 30,
    items: int = 20,
    per_user: int = 8,
    *,
    seed: int = 0,
    days: float = 60.0,
    rating: Callable[[np.random.Generator], float | None] = lambda rng: float(rng.integers(1, 6)),
) -> Rows:
    """Every user `per_user` times, items by Zipf's law, times even over the days."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, items + 1)
    chosen = rng.choice(items, (users, per_user), p=shares / shares.sum())
    return [
        event(f"u{user}", f"i{item}", START + DAY * days * rng.random(), rating(rng))
        for user, row in enumerate(chosen.tolist())
        for item in row
    ]


def event(user: str, item: str, at: float, rating: float | None = 5.0, **context: Any) -> dict[str, Any]:
    return {"user": user, "item": item, "at": at, "rating": rating, **context}


def renamed(rows: Rows, **names: Callable[[Any], Any]) -> Rows:
    """The rows with other values in some columns."""
    return [row | {name: change(row[name]) for name, change in names.items()} for row in rows]


def write(
    folder: Path,
    rows: Rows,
    *,
    items: Mapping[str, Sequence[Any]] | None = None,
    item_kinds: Mapping[str, str] | None = None,
    users: Mapping[str, Sequence[Any]] | None = None,
    user_kinds: Mapping[str, str] | None = None,
    objectives: Mapping[str, Any] | None = None,
    target: str = "watch",
    order: str | None = None,
    context: Mapping[str, str] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "events.parquet")
    time = {"order": order} if order else {"timestamp": "at"}
    interactions = {"file": "events.parquet", "user": "user", "item": "item", **time}
    document: dict[str, Any] = {
        "interactions": interactions | {"actions": {"rating": "number"}, "context": dict(context or {})},
        "objectives": dict(objectives or OBJECTIVES),
        "target": target,
    }
    for name, key, table, kinds in (("items", "item", items, item_kinds), ("users", "user", users, user_kinds)):
        if table is not None:
            pl.DataFrame(dict(table)).write_parquet(folder / f"{name}.parquet")
            document[name] = {"file": f"{name}.parquet", key: key, "columns": dict(kinds or {})}
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def publish_split(description: Path) -> None:
    """Give a world a split of its own: the newest fifth of its rows is test, what came just before it validation."""
    document = yaml.safe_load(description.read_text(encoding="utf-8"))
    file = description.parent / document["interactions"]["file"]
    events = pl.read_parquet(file)
    late = (
        pl.col("at").rank("ordinal") / pl.len() if "at" in events.columns else (pl.int_range(pl.len()) + 1) / pl.len()
    )
    part = (
        pl.when(late > 0.8).then(pl.lit("test")).when(late > 0.7).then(pl.lit("validation")).otherwise(pl.lit("train"))
    )
    events.with_columns(part=part).write_parquet(file)
    document["interactions"]["split"] = "part"
    description.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


def catalogue(columns: Mapping[str, Callable[[int], Any]], kinds: Mapping[str, str], num: int = 20) -> dict[str, Any]:
    """An items table of columns by number of the item."""
    table = {name: [value(number) for number in range(num)] for name, value in columns.items()}
    return {"items": {"item": [f"i{number}" for number in range(num)], **table}, "item_kinds": kinds}


def profiles(columns: Mapping[str, Callable[[int], Any]], kinds: Mapping[str, str], num: int = 30) -> dict[str, Any]:
    table = {name: [value(number) for number in range(num)] for name, value in columns.items()}
    return {"users": {"user": [f"u{number}" for number in range(num)], **table}, "user_kinds": kinds}


def _everybody_everything() -> Rows:
    rng = np.random.default_rng(0)
    return [event(f"u{u}", f"i{i}", START + DAY * 30 * rng.random()) for u in range(15) for i in range(12)]


def _crawler() -> Rows:
    rng = np.random.default_rng(0)
    crawled = [event("crawler", f"i{i}", START + DAY * 60 * rng.random()) for i in range(400)]
    return log(40, 50, 5) + crawled


def _long_history() -> Rows:
    rng = np.random.default_rng(1)
    own = [event("u0", f"i{rng.integers(20)}", START + DAY * 60 * rng.random()) for _ in range(3000)]
    return log(30, 20, 5) + own


def _new_item_last() -> Rows:
    last = START + DAY * 60
    return log() + [event(f"u{user}", "brand-new", last - 60.0 * user) for user in range(15)]


def _new_users_in_test() -> Rows:
    old = renamed(log(30, 20, 8), at=lambda at: START + (at - START) * 0.75)
    late = renamed(
        log(30, 20, 3, seed=2), at=lambda at: START + DAY * 46 + (at - START) * 0.2, user=lambda u: f"new{u}"
    )
    return old + late


def _guests() -> Rows:
    return log(150, 15, 1, seed=3) + renamed(log(40, 15, 6), user=lambda user: f"back-{user}")


def _bursts() -> Rows:
    return renamed(log(), at=lambda at: START + DAY * 10 * round((at - START) / DAY / 10))


def _one_popular() -> Rows:
    return renamed(log(40, 30, 8), item=lambda item: "i0" if int(item[1:]) % 15 else item)


def _alternating() -> Rows:
    return [event(f"u{u}", f"i{n % 2}", START + DAY * n + u) for u in range(20) for n in range(10)]


def _rare_target() -> Rows:
    rows = log(60, 20, 10, rating=lambda rng: 1.0)
    return [row | {"rating": 5.0 if number % 150 == 0 else 1.0} for number, row in enumerate(rows)]


def _impressions() -> Rows:
    return log(60, 20, 10, rating=lambda rng: 5.0 if rng.random() < 0.05 else 0.0)


def _last_first() -> Rows:
    """Every user's last event is of an item nobody else has."""
    own = [event(f"u{user}", f"own-{user}", START + DAY * 60 + user) for user in range(30)]
    return log() + own


def _cases() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    def case(name: str, rows: Callable[[], Rows], **knobs: Any) -> tuple[str, Callable[[Path], Path]]:
        return name, lambda folder: write(folder, rows(), **knobs)

    plain = log
    yield case("plain", plain)
    yield case("all_users_once", partial(log, 80, 10, 1))
    yield case("mostly_guests", _guests)
    yield case("one_user", partial(log, 1, 30, 60))
    yield case("two_users", partial(log, 2, 30, 40))
    yield case("one_item", partial(log, 40, 1, 4))
    yield case("two_items", partial(log, 40, 2, 4))
    yield case("everybody_everything", _everybody_everything)
    yield case("one_event", lambda: [event("u", "i", START)])
    yield case("three_events", partial(log, 3, 3, 1))
    yield case("ten_events", partial(log, 5, 5, 2))
    yield case("never", plain, objectives={"watch": "1", "never": "rating >= 9"})
    yield case("always", plain, objectives={"watch": "1", "always": "rating >= 0"})
    yield case("target_never", plain, objectives={"watch": "1", "never": "rating >= 9"}, target="never")
    yield case("one_timestamp", lambda: renamed(log(), at=lambda at: START))
    yield case("two_timestamps", lambda: renamed(log(), at=lambda at: START + DAY * (at > START + 30 * DAY)))
    yield case("one_second", lambda: renamed(log(), at=lambda at: START + (at - START) / (60 * DAY)))
    yield case("one_day", partial(log, days=1.0))
    yield case("before_1970", lambda: renamed(log(), at=lambda at: at - START - 5e8))
    yield case("five_bursts", _bursts)
    yield case("long_history", _long_history)
    yield case("crawler", _crawler)
    yield case(
        "repeats_only", lambda: [event(f"u{u}", f"i{u % 7}", START + DAY * n + u) for u in range(30) for n in range(8)]
    )
    yield case("two_in_turn", _alternating)
    yield case("one_popular_item", _one_popular)
    yield case("own_last_item", _last_first)
    yield case("new_item_last", _new_item_last)
    yield case("new_users_in_test", _new_users_in_test)
    yield case("unicode_ids", lambda: renamed(log(), user=lambda u: f"ü{u}\u200d🙂", item=lambda i: f"片 {i}\u0301"))
    yield case("rare_target", _rare_target, objectives={"buy": "rating >= 4", "view": "1"}, target="buy")
    yield case("impressions", _impressions, objectives={"click": "rating >= 4"}, target="click")
    yield case(
        "no_ratings", lambda: renamed(log(), rating=lambda r: None), objectives={"watch": "1", "like": "rating >= 4"}
    )
    yield case("amounts", plain, objectives={"stars": {"grade": "rating", "levels": [1, 2, 3, 4, 5]}}, target="stars")
    yield case("order_none", plain, order="none")
    yield case("order_file", plain, order="file")
    yield case("order_user", plain, order="user")
    yield from _tables(case)


def _tables(case: Callable[..., Any]) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """The worlds that are strange in their columns."""
    kinds = {"colour": "category", "tags": "categories", "price": "number", "title": "text"}
    columns = {
        "colour": lambda n: "red",
        "tags": lambda n: ["a"],
        "price": lambda n: 1.0,
        "title": lambda n: "the same words",
    }
    yield case("constant_columns", log, **catalogue(columns, kinds))
    missing: dict[str, Any] = {
        "colour": pl.Series([None] * 20, dtype=pl.String),
        "tags": pl.Series([None] * 20, dtype=pl.List(pl.String)),
        "price": pl.Series([None] * 20, dtype=pl.Float64),
        "title": pl.Series([None] * 20, dtype=pl.String),
    }
    yield case("missing_columns", log, items={"item": [f"i{n}" for n in range(20)], **missing}, item_kinds=kinds)
    yield case("no_columns", log, **catalogue({}, {}), **profiles({}, {}))
    yield case("one_profile", log, **profiles({"sex": lambda n: "x"}, {"sex": "category"}))
    yield case("huge_numbers", log, **catalogue({"price": lambda n: (-1) ** n * 10.0 ** (n * 15)}, {"price": "number"}))
    yield case("empty_titles", log, **catalogue({"title": lambda n: " " * (n % 3)}, {"title": "text"}))
    yield case("own_categories", log, **catalogue({"colour": lambda n: f"c{n}"}, {"colour": "category"}))
    many = {"tags": lambda n: [f"t{one}" for one in range(n * 5)]}
    yield case("many_tags", log, **catalogue(many, {"tags": "categories"}))
    yield case(
        "cold_catalogue", log, **catalogue({"title": lambda n: f"word{n % 9} words"}, {"title": "text"}, num=200)
    )
    strangers = {"user": [f"stranger{n}" for n in range(5)] + ["u1"], "age": [1.0, 2.0, 3.0, None, 5.0, 6.0]}
    yield case("profiles_of_strangers", log, users=strangers, user_kinds={"age": "number"})
    vectors = {"look": lambda n: [float(n), -1.0, 0.0]}
    yield case("vectors", log, **catalogue(vectors, {"look": "vector"}))
    yield case("zero_vectors", log, **catalogue({"look": lambda n: [0.0, 0.0]}, {"look": "vector"}))
    devices = lambda: [row | {"device": "app"} for row in log()]  # noqa: E731
    yield case("one_context", devices, context={"device": "category"})
    absent = lambda: [row | {"device": None if n else "app"} for n, row in enumerate(log())]  # noqa: E731
    yield case("missing_context", absent, context={"device": "category"})


WORLDS: dict[str, Callable[[Path], Path]] = dict(_cases())
