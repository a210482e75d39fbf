"""Own tables: what is read, and every mistake a person can make in them, each with its sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.sources.tables import Tables
from recsys.errors import DataError

YAML = """
interactions:
  {file: events.csv, user: user_id, item: movie, timestamp: ts, actions: {rating: number}, context: {device: category}}
items: {file: movies.csv, item: movie, columns: {title: text, genres: categories, year: number, vec: vector}}
users: {file: people.tsv, user: user_id, columns: {age: number, job: category}}
objectives: {watch: "1", like: "rating >= 4"}
target: like
title: title
"""
FILES = {
    "data.yaml": YAML,
    "events.csv": """user_id,movie,ts,rating,device
007,m1,100,4,tv
8,m2,1970-01-01T00:01:30Z,,
007,m2,110.5,2,phone
""",
    "movies.csv": 'movie,title,genres,year,vec\nm1,"One, two",War| Crime|,1999,0.5|1\nm3,,,,\n',
    "people.tsv": "user_id\tage\tjob\n007\t 41 \tspy\n",
}

Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def load(folder: Path) -> Dataset:
    return Tables(description=str(folder / "data.yaml")).load()


def swap(file: str, old: str, new: str) -> Change:
    """Replace text that must be there."""

    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return change


def write(file: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def test_reads_three_tables(folder: Path) -> None:
    dataset = load(folder)
    assert dataset.interactions.rows() == [
        ("8", "m2", 90.0, None, None),
        ("007", "m1", 100.0, 4.0, "tv"),
        ("007", "m2", 110.5, 2.0, "phone"),
    ]
    assert dataset.items.sort("item").rows() == [
        ("m1", "One, two", ["War", "Crime"], 1999.0, [0.5, 1.0]),
        ("m2", None, None, None, None),
        ("m3", None, None, None, None),
    ]
    assert dataset.users.sort("user").rows() == [("007", 41.0, "spy"), ("8", None, None)]
    assert dataset.name == folder.name
    assert dataset.notes == ()


def test_items_and_users_are_optional_and_file_order_can_stand_for_time(folder: Path) -> None:
    write(
        "data.yaml",
        "interactions: {file: events.csv, user: user_id, item: movie, order: file}\n"
        "objectives: {watch: '1'}\ntarget: watch\nname: bare\n",
    )(folder)
    dataset = load(folder)
    assert dataset.name == "bare"
    assert dataset.interactions.rows() == [("007", "m1", 0.0), ("8", "m2", 1.0), ("007", "m2", 2.0)]
    assert dataset.items.sort("item").rows() == [("m1",), ("m2",)]
    assert "order: file" in dataset.notes[0]


@pytest.mark.parametrize(("order", "times"), [("file", [0, 1, 2, 3]), ("user", [0, 0, 1, 1]), ("none", [0, 0, 0, 0])])
def test_what_stands_for_time_where_there_is_none(folder: Path, order: str, times: list[int]) -> None:
    write("events.csv", "user_id,movie\n007,m1\n8,m2\n007,m2\n8,m1\n")(folder)
    write(
        "data.yaml",
        f"interactions: {{file: events.csv, user: user_id, item: movie, order: {order}}}\n"
        "objectives: {watch: '1'}\ntarget: watch\n",
    )(folder)
    dataset = load(folder)
    found = {(user, item): time for user, item, time in dataset.interactions.rows()}
    assert found == dict(zip([("007", "m1"), ("8", "m2"), ("007", "m2"), ("8", "m1")], times, strict=True))
    assert dataset.description.order == order
    assert dataset.notes[0].startswith(f"order: {order}, there is no time: ")
    assert (dataset.description.clock, dataset.description.timeline) == (False, order == "file")


def test_parquet_keeps_its_types(folder: Path) -> None:
    frame = pl.DataFrame(
        {
            "movie": [2, 1],
            "title": ["Two", ""],
            "genres": [["a", None, ""], []],
            "year": [True, False],
            "vec": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)),
        }
    )
    frame.write_parquet(folder / "movies.parquet")
    times = pl.Series("ts", ["1970-01-01T00:00:01.5", "1970-01-01T00:00:02"]).str.to_datetime()
    pl.DataFrame(
        {"user_id": [7, 8], "movie": [1, 2], "ts": times, "rating": [4, 5], "device": ["a", "b"]}
    ).write_parquet(folder / "events.parquet")
    write("people.tsv", "user_id\tage\tjob\n7\t41\tspy\n")(folder)
    swap("data.yaml", "movies.csv", "movies.parquet")(folder)
    swap("data.yaml", "events.csv", "events.parquet")(folder)
    dataset = load(folder)
    assert dataset.interactions["timestamp"].to_list() == [1.5, 2.0]
    assert dataset.items.sort("item").rows() == [
        ("1", None, None, 0.0, [3.0, 4.0]),
        ("2", "Two", ["a"], 1.0, [1.0, 2.0]),
    ]


def test_files_without_a_header_get_their_columns_from_the_description(folder: Path) -> None:
    events = (folder / "events.csv").read_text().split("\n", 1)[1]
    movies = (folder / "movies.csv").read_text().split("\n", 1)[1]
    expected = load(folder)
    write("events.csv", events.replace(",", ";"))(folder)
    write("movies.csv", movies)(folder)
    with pytest.raises(
        DataError, match=r"no column 'user_id'; the first line, '007;m1;100;4;tv', looks like data: write"
    ):
        load(folder)
    swap("data.yaml", "events.csv,", "events.csv, columns: [user_id, movie, ts, rating, device],")(folder)
    kinds = "[movie, title: text, genres: categories, year: number, vec: vector]"
    swap("data.yaml", "{title: text, genres: categories, year: number, vec: vector}", kinds)(folder)
    dataset = load(folder)
    assert dataset.interactions.equals(expected.interactions)
    assert dataset.items.equals(expected.items)
    assert "read with semicolons" in dataset.notes[0]


EVENTS = "user_id,movie,ts,rating,device\n"
MISTAKES: dict[str, tuple[Change, str]] = {
    "no YAML": (lambda folder: (folder / "data.yaml").unlink(), r"data.yaml: the description cannot be read"),
    "bad YAML": (
        write("data.yaml", "interactions: {file: a\nitems: b"),
        r"data.yaml: no valid YAML at line 2, column 6",
    ),
    "YAML is a list": (write("data.yaml", "- a"), r"data.yaml: the file is \['a'\]; write a mapping"),
    "unknown key": (
        swap("data.yaml", "objectives:", "objektives:"),
        "unknown key 'objektives'.*did you mean 'objectives'",
    ),
    "unknown table key": (swap("data.yaml", "timestamp:", "time:"), "interactions has the unknown key 'time'"),
    "missing key": (swap("data.yaml", "target: like", ""), "the file has no 'target'"),
    "missing table key": (swap("data.yaml", "item: movie, timestamp", "timestamp"), "interactions has no 'item'"),
    "no order": (swap("data.yaml", "timestamp: ts, ", ""), "either `timestamp: <column>` or.*`order: file`"),
    "both time and order": (swap("data.yaml", "timestamp: ts, ", "timestamp: ts, order: file, "), "needs either"),
    "unknown order": (
        swap("data.yaml", "timestamp: ts,", "order: rows,"),
        "order is 'rows'; write one of `order: file`",
    ),
    "time as an order": (swap("data.yaml", "timestamp: ts,", "order: time,"), "order is 'time'; write one of"),
    "name is no text": (swap("data.yaml", "user: user_id, columns", "user: 3, columns"), "users.user is 3; write text"),
    "unknown kind": (
        swap("data.yaml", "genres: categories", "genres: categorys"),
        r"data.yaml: items.*did you mean 'categor",
    ),
    "action no number": (
        swap("data.yaml", "rating: number", "rating: text"),
        r"'rating' is of kind 'text'; write number or word",
    ),
    "unknown column in objective": (
        swap("data.yaml", "rating >= 4", "ratings >= 4"),
        "data.yaml: .*objectives.like.*ratings",
    ),
    "target never positive": (swap("data.yaml", "rating >= 4", "rating >= 6"), "'like'.*true for none of 3 rows"),
    "missing file": (swap("data.yaml", "events.csv", "event.csv"), "event.csv: there is no such file"),
    "unknown suffix": (
        lambda folder: swap("data.yaml", "events.csv", "data.yaml")(folder),
        r"the suffix '.yaml' is not known",
    ),
    "other format": (
        lambda folder: (
            swap("data.yaml", "movies.csv", "movies.parquet")(folder),
            write("movies.parquet", "movie,title\n1,2\n")(folder),
        ),
        "movies.parquet: cannot be read as parquet",
    ),
    "other encoding": (
        write("events.csv", EVENTS.encode() + "a,m1,1,4,téléä\n".encode() + b"a,m1,1,4,t\xe9l\n"),
        "events.csv, line 3: bytes that are not UTF-8",
    ),
    "ragged": (write("events.csv", EVENTS + "a,m1,1,4,tv,extra\n"), "events.csv, line 2: 6 fields.*column 'device'"),
    "nothing": (write("events.csv", ""), "events.csv: the file is empty"),
    "no rows": (write("events.csv", EVENTS), "events.csv: the table has no rows"),
    "no item rows": (write("movies.csv", "movie,title,genres,year,vec\n"), "movies.csv: the table has no rows"),
    "missing column": (
        swap("movies.csv", "genres", "genre"),
        r"movies.csv: there is no column 'genres' \(did you mean 'genre'",
    ),
    "no user": (
        lambda folder: [swap("events.csv", old, new)(folder) for old, new in [("007,", ","), ("8,m2", "NULL,m2")]],
        "events.csv, column 'user_id': no row has a user; name another column",
    ),
    "future": (swap("events.csv", "110.5", "9000000000"), "row 3: '9000000000' lies in the future; correct the time"),
    "unknown unit": (
        swap("data.yaml", "timestamp: ts,", "timestamp: ts, unit: days,"),
        r"unit is 'days'.*write one of s,",
    ),
    "missing of no list": (
        swap("data.yaml", "timestamp: ts,", "timestamp: ts, missing: x,"),
        "missing is 'x'; write a",
    ),
    "missing of a truth": (swap("data.yaml", "timestamp: ts,", "timestamp: ts, missing: [no],"), "missing holds False"),
    "comma in a number": (swap("events.csv", ",2,phone", ',"2,5",phone'), "'2,5' is not a number; write a point where"),
    "empty time": (swap("events.csv", "110.5", ""), "column 'ts', row 3: empty is no time"),
    "text for time": (
        swap("events.csv", "110.5", "noon"),
        "events.csv, column 'ts', row 3: 'noon' is no time; write unix",
    ),
    "compact day": (swap("events.csv", "110.5", "20240531"), "row 3: '20240531' is a day or so many seconds"),
    "separator of nothing": (swap("data.yaml", "vec: vector}", 'vec: vector}, separator: ""'), "separator is empty"),
    "delimiter of no text": (
        swap("data.yaml", "events.csv,", "events.csv, delimiter: 1,"),
        "delimiter is 1; write text",
    ),
    "quoting of words": (swap("data.yaml", "events.csv,", "events.csv, quoting: x,"), "quoting is 'x'; write true or"),
    "columns of kinds": (
        swap("data.yaml", "events.csv,", "events.csv, columns: [a: text],"),
        "interactions.columns gives kinds",
    ),
    "columns of numbers": (
        swap("data.yaml", "events.csv,", "events.csv, columns: [1],"),
        "columns holds 1; write names",
    ),
    "order of lists": (swap("data.yaml", "timestamp: ts,", "order: [file],"), r"order is \['file'\]; write one of"),
    "key twice": (
        swap("data.yaml", "target: like", "target: like\ntarget: watch"),
        "'target' stands there a second time",
    ),
    "text that is none": (
        swap("data.yaml", "genres: categories", "text: category"),
        "'text' is what all columns of kind",
    ),
    "milliseconds": (swap("events.csv", "110.5", "1700000000000"), "row 3: '1700000000000' looks like milliseconds"),
    "NaN time": (swap("events.csv", "110.5", "nan"), "column 'ts', row 3: 'nan' is no time; give every row"),
    "infinite": (swap("movies.csv", "1999", "inf"), "column 'year', row 1: 'inf' is not a finite"),
    "no number": (swap("people.tsv", " 41 ", "old"), "people.tsv, column 'age', row 1: 'old' is not a number"),
    "unequal vectors": (
        swap("movies.csv", "m3,,,,", "m3,,,,1|2|3"),
        "column 'vec', row 2: 3 is the length.*the first one has 2",
    ),
    "vector of words": (swap("movies.csv", "0.5|1", "0.5|one"), r"column 'vec', row 1: '0.5\|one' has entries"),
    "item twice": (swap("movies.csv", "m3", "m1"), "movies.csv, column 'movie', row 2: 'm1' occurs a second time"),
    "user twice": (swap("people.tsv", "spy\n", "spy\n007\t2\tx\n"), "people.tsv.*row 2: '007' occurs a second time"),
    "other ids": (
        swap("movies.csv", "m1", "tt1"),
        "column 'movie': 2 of 2 items, the first is 'm1', are not in column 'movie'",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_clear_sentence(folder: Path, case: str) -> None:
    change, message = MISTAKES[case]
    change(folder)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_float_ids_and_other_types_are_refused(folder: Path) -> None:
    swap("data.yaml", "events.csv", "events.parquet")(folder)
    columns = {"user_id": ["a"], "movie": ["m1"], "ts": [1], "rating": [5], "device": ["tv"]}
    for column, value, message in [
        ("movie", 1.5, "'movie', row 1: 1.5 is no id but a number"),
        ("movie", 2.0**60, "'movie', row 1: .* is no id but a number"),
        ("rating", [5], r"'rating': holds List\(Int64\); numbers were wanted"),
        ("device", b"x", "'device': holds Binary; text was wanted"),
        ("rating", float("inf"), "'rating', row 1: inf is not a finite number"),
        ("ts", True, "'ts': holds Boolean; times were wanted"),
    ]:
        pl.DataFrame({**columns, column: [value]}).write_parquet(folder / "events.parquet")
        with pytest.raises(DataError, match=message):
            load(folder)


WORDS = """
interactions: {file: events.csv, user: user, item: item, timestamp: at, actions: {kind: word, price: number}}
objectives:
  buy: "kind == 'purchase'"
  deep: "kind in ['cart', 'purchase']"
  revenue: {amount: price, steps: [0, 10], where: "kind == 'purchase'"}
target: buy
"""
KINDS = "user,item,at,kind,price\nu,a,1,view,\nu,a,2,cart,20\nu,a,3,purchase,15\nv,a,4, purchase ,\nv,b,5,,3\n"


def test_a_word_for_the_kind_of_event(tmp_path: Path) -> None:
    write("data.yaml", WORDS)(tmp_path)
    write("events.csv", KINDS)(tmp_path)
    dataset = load(tmp_path)
    assert dataset.interactions["kind"].to_list() == ["view", "cart", "purchase", "purchase", None]
    nan = float("nan")
    labels = [[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 1, nan, nan], [0, 0, 0, 0]]
    np.testing.assert_array_equal(dataset.labels(), np.float32(labels))
    assert dataset.positives().tolist() == [False, False, True, True, False]
    dataset.save(tmp_path / "saved")
    again = Tables(description=str(tmp_path / "saved" / "description.yaml")).load()
    assert again.interactions.equals(dataset.interactions)
    assert again.description == dataset.description
    assert again.hash() == dataset.hash()
    swap("events.csv", "purchase,15", "refund,15")(tmp_path)
    assert load(tmp_path).hash() != dataset.hash()


def test_a_misspelt_word_is_said_and_one_that_never_comes_is_not(tmp_path: Path) -> None:
    write("data.yaml", WORDS.replace("kind == 'purchase'\"\n", "kind == 'purchas'\"\n", 1))(tmp_path)
    write("events.csv", KINDS)(tmp_path)
    with pytest.raises(
        DataError, match=r"objectives.buy reads 'purchas' \(did you mean 'purchase'\?\), which no row has"
    ):
        load(tmp_path)
    write("data.yaml", WORDS.replace("target", "  refund: \"kind == 'xyz'\"\ntarget"))(tmp_path)
    assert "refund" in load(tmp_path).description.objectives


def test_rows_without_a_user_are_left_out_and_named(folder: Path) -> None:
    rows = "".join(f"{user},m1,{200 + number},,\n" for number, user in enumerate(["NULL", "nan", "", "NULL", "Guest"]))
    events = FILES["events.csv"] + rows + "007, ,300,NaN,\n"
    write("events.csv", events)(folder)
    swap("data.yaml", "timestamp: ts,", "timestamp: ts, missing: [guest, NULL, -1],")(folder)
    dataset = load(folder)
    assert dataset.interactions.height == 3
    assert dataset.interactions["user"].unique().sort().to_list() == ["007", "8"]
    notes = [note.partition("column ")[2] for note in dataset.notes]
    assert notes == [
        "'rating': words for nothing, read as missing: 1 (NaN 1)",
        "'user_id': rows without a user that were left out: 5 (NULL 2, nan 1, empty 1, Guest 1)",
        "'movie': rows without an item that were left out: 1 (empty 1)",
    ]


def test_ids_are_equal_across_files_by_one_rule(folder: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write("events.csv", EVENTS + f"17850.0,{decomposed},1,4,\n17850 ,m1,2,4,\n{decomposed},m1.0,3,4,\n")(folder)
    write("movies.csv", f"movie,title,genres,year,vec\n{composed},C,,,\nm1,M,,,\n m1.0,N,,,\n")(folder)
    write("people.tsv", f"user_id\tage\tjob\n17850\t41\tspy\n{composed}\t3\t\n")(folder)
    dataset = load(folder)
    assert dataset.interactions.rows() == [
        ("17850", composed, 1.0, 4.0, None),
        ("17850", "m1", 2.0, 4.0, None),
        (composed, "m1.0", 3.0, 4.0, None),
    ]
    assert sorted(dataset.items["item"]) == sorted([composed, "m1", "m1.0"])
    assert sorted(dataset.users["user"]) == sorted([composed, "17850"])
    assert len(dataset.notes) == 5, "blanks, NFD twice, 17850.0, blanks of an item"


def test_a_session_stands_for_a_user_that_is_missing(tmp_path: Path) -> None:
    yaml = """
interactions: {file: events.csv, user: user, session: visit, item: item, timestamp: at}
objectives: {watch: "1"}
target: watch
"""
    write("data.yaml", yaml)(tmp_path)
    write("events.csv", "user,visit,item,at\nu1,v1,a,1\n,v2,b,2\nNULL,v2,c,3\n,,d,4\n")(tmp_path)
    dataset = load(tmp_path)
    assert dataset.interactions["user"].to_list() == ["u1", "v2", "v2"]
    assert dataset.notes[0].endswith("rows without a user that count for their session: 2")
    assert dataset.notes[1].endswith("rows without a user that were left out: 1 (empty 1)")
    swap("events.csv", "u1,v1", "v2,v1")(tmp_path)
    assert load(tmp_path).interactions["user"].to_list() == ["v2", "session v2", "session v2"]
    swap("data.yaml", "user: user, ", "")(tmp_path)
    assert load(tmp_path).interactions["user"].to_list() == ["v1", "v2", "v2"]
    load(tmp_path).save(tmp_path / "saved")
    assert Tables(description=str(tmp_path / "saved" / "description.yaml")).load().num_users == 2
