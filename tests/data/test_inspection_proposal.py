"""Descriptions that are proposed for files of known content."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import time, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import strict_yaml
from recsys.data.dataset import Dataset
from recsys.data.inspection.advice import next_command
from recsys.data.inspection.columns import look, record_kind
from recsys.data.inspection.findings import find
from recsys.data.inspection.proposal import propose
from recsys.data.inspection.written import written
from recsys.data.sources.synthetic import Synthetic
from recsys.data.sources.tables import Tables
from recsys.errors import DataError

HEADER = ("user", "item", "at", "rating")
ROWS = [(f"u{index % 7}", f"i{index % 5}", str(1_700_000_000 + 600 * index), str(index % 4 + 2)) for index in range(40)]


def lines(rows: Iterable[Iterable[str]], delimiter: str) -> str:
    return "".join(f"{delimiter.join(row)}\n" for row in rows)


def described(folder: Path, *files: str) -> dict[str, Any]:
    """The document that is proposed for files of a folder; it lies there as shop.yaml."""
    (folder / "shop.yaml").write_text(
        written(propose([folder / one for one in files], folder), "init"), encoding="utf-8"
    )
    return strict_yaml.load((folder / "shop.yaml").read_text(encoding="utf-8"))


def loaded(folder: Path) -> Dataset:
    return Tables(description=str(folder / "shop.yaml")).load()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("commas.csv", lines([HEADER, *ROWS], ",").encode()),
        ("semicolons.csv", lines([HEADER, *ROWS], ";").encode()),
        ("tabs-named.csv", lines([HEADER, *ROWS], "\t").encode()),
        ("bars.txt", lines([HEADER, *ROWS], "|").encode()),
        ("utf-16.csv", lines([HEADER, *ROWS], ",").encode("utf-16")),
        ("headerless.csv", lines(ROWS, ",").encode()),
        ("headerless.dat", lines(ROWS, "::").encode()),
    ],
)
def test_one_log_in_many_forms_is_described_and_read_alike(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    document = described(tmp_path, name)
    assert document["objectives"] == {"seen": "1", "like": "rating >= 4"}
    assert document["target"] == "seen"
    log = loaded(tmp_path).interactions
    known = [(user, item, float(time), float(rating)) for user, item, time, rating in ROWS]
    assert sorted(log.rows()) == sorted(known)


@pytest.mark.parametrize(
    ("write", "at"),
    [
        (lambda second: f"2023-11-{14 + second // 86_400:02d} 10:00:00", "written out"),
        (lambda second: str(1_700_000_000 + second), "seconds since 1970"),
        (lambda second: str(1_700_000_000_000 + 1_000 * second), "milliseconds since 1970"),
        (lambda second: str(20_231_101 + second // 86_400), "days like 20231114"),
        (lambda second: f"2023-11-14T10:00:{second % 60:02d}+01:00", "written out"),
        (lambda second: str(45_000 + second / 86_400), "days of a spreadsheet"),
    ],
)
def test_the_unit_of_the_time_is_named(tmp_path, write: Callable[[int], str], at):
    rows = [(user, item, write(40_000 * index), rating) for index, (user, item, _, rating) in enumerate(ROWS[:20])]
    (tmp_path / "log.csv").write_text(lines([HEADER, *rows], ","), encoding="utf-8")
    assert described(tmp_path, "log.csv")["interactions"]["timestamp"] == "at"
    assert f"timestamp: at  # {at}" in (tmp_path / "shop.yaml").read_text(encoding="utf-8")


def shop(folder: Path) -> tuple[str, str, str]:
    """Three files whose names tell nothing, and whose columns are called alike in two of them only."""
    events = [
        (f"c{index % 9}", f"p{index % 6}", f"2024-05-{index % 28 + 1:02d}", ["web", "app"][index // 7 % 2])
        for index in range(90)
    ]
    items = [
        (f"p{index}", f"The great thing {index}", "a|b" if index % 2 else "b|c", str(index * 1.5)) for index in range(8)
    ]
    people = [(f"c{index}", str(20 + index), "ab"[index % 2]) for index in range(9)]
    tables = {
        "one.csv": [("client_id", "sku", "day", "device"), *events],
        "two.csv": [("sku", "headline", "labels", "price"), *items],
        "three.csv": [("id", "age", "group"), *people],
    }
    for name, rows in tables.items():
        (folder / name).write_text(lines(rows, ","), encoding="utf-8")
    return "one.csv", "two.csv", "three.csv"


def test_three_files_in_any_order_find_their_roles(tmp_path):
    files = shop(tmp_path)
    documents = [described(tmp_path, *order) for order in permutations(files)]
    assert all(document == documents[0] for document in documents)
    document = documents[0]
    assert {key: document[key]["file"] for key in ("interactions", "items", "users")} == {
        "interactions": "one.csv",
        "items": "two.csv",
        "users": "three.csv",
    }
    assert document["interactions"]["context"] == {"device": "category"}
    assert document["items"]["columns"] == {"headline": "text", "labels": "categories", "price": "number"}
    assert document["users"] == {"file": "three.csv", "user": "id", "columns": {"age": "number", "group": "category"}}
    assert document["title"] == "headline"
    dataset = loaded(tmp_path)
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (9, 8, 90)


def test_what_a_run_has_saved_is_described_as_it_was(tmp_path):
    dataset = Synthetic(users=60, items=40, events=900, seed=0).load()
    dataset.save(tmp_path)
    document = described(tmp_path, "interactions.parquet", "items.parquet", "users.parquet")
    own = dataset.description
    assert (document["interactions"]["user"], document["interactions"]["timestamp"]) == ("user", "timestamp")
    assert set(document["interactions"]["actions"]) <= set(own.actions)
    assert document["items"]["columns"].items() <= dict(own.items).items()
    assert document["users"]["columns"].items() <= dict(own.users).items()
    assert loaded(tmp_path).num_events == dataset.num_events


@pytest.mark.parametrize(
    ("values", "objectives", "target"),
    [
        (["view", "view", "cart", "purchase"], {"view": "view", "cart": "cart", "buy": "purchase"}, "view"),
        (["impression", "impression", "click"], {"impression": "impression", "click": "click"}, "click"),
        (["Add to Cart", "Add to Cart", "1-click"], {"cart": "Add to Cart", "event_type_1_click": "1-click"}, "cart"),
    ],
)
def test_words_become_one_objective_each_the_commonest_first(tmp_path, values, objectives, target):
    rows = [(user, item, at, values[index % len(values)]) for index, (user, item, at, _) in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(lines([("user", "item", "at", "event_type"), *rows], ","), encoding="utf-8")
    document = described(tmp_path, "log.csv")
    assert document["interactions"]["actions"] == {"event_type": "word"}
    assert document["objectives"] == {name: f"event_type == {word!r}" for name, word in objectives.items()}
    assert document["target"] == target
    dataset = loaded(tmp_path)
    assert dataset.labels().sum() == dataset.num_events


@pytest.mark.parametrize(
    ("column", "values", "objectives"),
    [
        ("stars", ["1", "2", "3", "4", "5"], {"seen": "1", "like": "stars >= 4"}),
        ("rating", ["0", "3", "10"], {"seen": "1", "like": "rating >= 8"}),
        ("score", ["10", "55", "100"], {"seen": "1", "like": "score >= 80"}),
        ("thumb", ["-1", "1"], {"like": "thumb > 0"}),
        ("clicked", ["0", "1"], {"clicked": "clicked > 0"}),
        ("hours", ["0.5", "7", "300"], {"seen": "1"}),
        ("Book-Rating", ["1", "5", "10"], {"seen": "1"}),
    ],
)
def test_numbers_become_objectives_by_their_scale(tmp_path, column, values, objectives):
    rows = [(user, item, at, values[index % len(values)]) for index, (user, item, at, _) in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(lines([("user", "item", "at", column), *rows], ","), encoding="utf-8")
    document = described(tmp_path, "log.csv")
    assert document["interactions"]["actions"] == {column: "number"}
    assert document["objectives"] == objectives
    loaded(tmp_path)


def test_a_log_without_time_has_no_order_and_names_what_is_unsure(tmp_path):
    rows = [(user, item, f"x{index}") for index, (user, item, *_) in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(lines([("visitorid", "itemid", "note"), *rows], ","), encoding="utf-8")
    document = described(tmp_path, "log.csv")["interactions"]
    assert document == {"file": "log.csv", "user": "visitorid", "item": "itemid", "order": "none"}
    text = (tmp_path / "shop.yaml").read_text(encoding="utf-8")
    assert "order: none  # UNSURE" in text
    assert "#   note: UNSURE" in text


def test_sessions_stand_for_users_that_are_not_known(tmp_path):
    rows = [(f"s{index // 4}", item, at) for index, (_, item, at, _) in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(lines([("session_id", "item_id", "time"), *rows], ","), encoding="utf-8")
    log = described(tmp_path, "log.csv")["interactions"]
    assert log == {"file": "log.csv", "session": "session_id", "item": "item_id", "timestamp": "time"}
    assert loaded(tmp_path).num_users == 10
    known = [("" if index % 3 else "u1", *row) for index, row in enumerate(rows)]
    (tmp_path / "log.csv").write_text(lines([("user", "visit", "item", "time"), *known], ","), encoding="utf-8")
    log = described(tmp_path, "log.csv")["interactions"]
    assert (log["user"], log["session"]) == ("user", "visit")
    assert loaded(tmp_path).num_events == len(known)


def test_a_published_split_is_named_and_checked_with_its_protocol(tmp_path):
    rows = [(*row, "Train" if index < 30 else "test") for index, row in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(lines([(*HEADER, "set"), *rows], ","), encoding="utf-8")
    assert described(tmp_path, "log.csv")["interactions"]["split"] == "set"
    tables, dataset = Tables(description=str(tmp_path / "shop.yaml")).read()
    assert next_command(find(tables, dataset, now=2e9), "shop.yaml").endswith(" protocol=predefined")


def test_words_that_may_be_nobody_are_named_as_missing(tmp_path):
    rows = [("Unknown" if index % 4 == 0 else row[0], *row[1:3]) for index, row in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(lines([("user", "item", "at"), *rows], ","), encoding="utf-8")
    assert described(tmp_path, "log.csv")["interactions"]["missing"] == ["Unknown"]
    assert "missing: [Unknown]  # UNSURE" in (tmp_path / "shop.yaml").read_text(encoding="utf-8")
    assert loaded(tmp_path).num_events == 30


def test_columns_that_go_with_the_item_and_second_times_are_left_out_with_the_reason(tmp_path):
    rows = [(*row[:3], f"brand {row[1]}", "2024-01-01", str(index)) for index, row in enumerate(ROWS * 2)]
    header = ("user", "item", "at", "brand", "removed_at", "_id")
    (tmp_path / "log.csv").write_text(lines([header, *rows], ","), encoding="utf-8")
    described(tmp_path, "log.csv")
    text = (tmp_path / "shop.yaml").read_text(encoding="utf-8")
    assert "#   brand: the same for all events of an item" in text
    assert "#   removed_at: one value in all rows" in text
    assert "#   _id: another value in every row" in text


def test_columns_with_reserved_names_are_left_out_where_they_are_no_key(tmp_path):
    rows = [(user, item, at, str(index % 3), f"t{index % 4}") for index, (user, item, at, _) in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(
        lines([("user_id", "item_id", "at", "user", "item"), *rows], ","), encoding="utf-8"
    )
    items = [(f"i{index}", "abc"[index % 3], str(index)) for index in range(5)]
    (tmp_path / "items.csv").write_text(lines([("item_id", "text", "item"), *items], ","), encoding="utf-8")
    document = described(tmp_path, "log.csv", "items.csv")
    assert (document["interactions"]["user"], document["interactions"]["item"]) == ("user_id", "item_id")
    assert document["items"]["columns"] == {"text": "text"}
    loaded(tmp_path)


def test_files_that_do_not_belong_together_and_too_few_columns_are_refused(tmp_path):
    for name in ("views.csv", "carts.csv"):
        (tmp_path / name).write_text(lines([HEADER, *ROWS], ","), encoding="utf-8")
    with pytest.raises(DataError, match="join them into one file"):
        described(tmp_path, "views.csv", "carts.csv")
    (tmp_path / "one.csv").write_text("user\na\nb\n", encoding="utf-8")
    with pytest.raises(DataError, match="one column"):
        described(tmp_path, "one.csv")
    (tmp_path / "numbers.csv").write_text("price,weight\n1.5,2.5\n3.5,1.25\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column looks like the ids of users; the file has price, weight"):
        described(tmp_path, "numbers.csv")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["Drama|War", "War", "War|Crime"] * 9, "categories"),
        (["0.1;0.2", "0.3;0.4"] * 9, "vector"),
        (["a, rather long sentence", "another one, not shorter"] * 9, "text"),
        (["red", "blue", None] * 9, "category"),
        (["1", "2.5", "NA"] * 9, "number"),
        (["2024-05-31", "2024-06-01"] * 9, "timestamp"),
        ([f"https://shop/{index}.png" for index in range(60)], None),
        (["same"] * 9, None),
        ([None, None, ""], None),
        ([["a"], ["a", "b"]] * 9, "categories"),
        ([[0.5, 1.0], [1.0, 2.0]] * 9, "vector"),
    ],
)
def test_kinds_of_record_columns(values, kind):
    (found,) = look(pl.DataFrame({"thing": values})).values()
    assert record_kind(found)[0] == kind


def test_types_that_hold_no_ids_numbers_or_times_are_left_out(tmp_path):
    frame = pl.DataFrame([row[:3] for row in ROWS], schema=["user", "item", "at"], orient="row")
    odd = {
        "lag": [timedelta(1), timedelta(2)],
        "clock": [time(1), time(2)],
        "raw": [b"a", b"b"],
        "more": [{"x": 1}, {"x": 2}],
    }
    odd["lists"] = [[{"x": 1}], [{"x": 2}]]
    frame.with_columns(pl.Series(name, values * 20) for name, values in odd.items()).write_parquet(
        tmp_path / "log.parquet"
    )
    assert set(described(tmp_path, "log.parquet")["interactions"]) == {"file", "user", "item", "timestamp"}
    loaded(tmp_path)


@pytest.mark.parametrize(("text", "sentence"), [("user,item\n", "no rows"), ("1 2 3\n4 5 6\n", "recipe=sequence")])
def test_files_that_hold_no_table_are_refused(tmp_path, text, sentence):
    (tmp_path / "log.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=sentence):
        described(tmp_path, "log.txt")


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
VALUES = st.one_of(
    st.none(), NAMES, st.integers(-5, 2_000_000_000).map(str), st.sampled_from(["view", "2024-01-01", "a|b"])
)


@settings(max_examples=60)
@given(st.data())
def test_whatever_a_table_holds_the_proposal_is_strict_yaml_that_names_its_columns(tmp_path_factory, data):
    names = data.draw(st.lists(NAMES, min_size=2, max_size=5, unique=True))
    rows = data.draw(st.lists(st.tuples(*[VALUES] * len(names)), min_size=2, max_size=12))
    folder = tmp_path_factory.mktemp("shop")
    pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row").write_parquet(folder / "log.parquet")
    try:
        log = described(folder, "log.parquet")["interactions"]
    except DataError:
        return
    columns = [log["user"], log["item"], *log.get("actions", {}), *log.get("context", {})]
    assert {*columns} <= {*names}
    assert len({*columns}) == len(columns)
    with suppress(DataError):
        loaded(folder)
