"""Sequence files: what is read, what stands beside them, and every mistake with its sentence."""

import json
from pathlib import Path

import polars as pl
import pytest

from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.sequences import SequenceFile
from recsys.data.sources.tables import Tables
from recsys.errors import DataError

LINES = "u2 b a b\nu1 c\n\nzoë a c d é\r\n"
ATTRIBUTES = '{"a": [3, 1, 3], "b": ["red"], "c": [], "d": [1], "never": [7]}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "Some_Toys.txt").write_bytes(LINES.encode())
    return tmp_path / "Some_Toys.txt"


def beside(file: Path, text: str | bytes) -> Path:
    path = file.with_name("Some_Toys_item2attributes.json")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(file: Path, attributes: str | None = None) -> Dataset:
    return SequenceFile(path=str(file), attributes=attributes).load()


def test_a_line_is_a_user_and_the_place_stands_for_the_time(file: Path) -> None:
    dataset = load(file)
    assert dataset.name == "Some_Toys"
    assert sorted(dataset.interactions.rows()) == [
        ("u1", "c", 0.0),
        ("u2", "a", 1.0),
        ("u2", "b", 0.0),
        ("u2", "b", 2.0),
        ("zoë", "a", 0.0),
        ("zoë", "c", 1.0),
        ("zoë", "d", 2.0),
        ("zoë", "é", 3.0),
    ]
    assert set(dataset.items["item"]) == set("abcdé")
    assert (dataset.description.order, dataset.description.items) == ("user", {})
    assert dataset.positives().all()
    assert dataset.labels().shape == (8, 1)
    assert len(dataset.notes) == 1
    assert "order: user, there is no time" in dataset.notes[0]


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_user(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    assert set(load(file).users["user"]) == {"u1", "u2", "zoë"}


def test_attributes_beside_the_file_are_found_and_others_can_be_named(file: Path, tmp_path: Path) -> None:
    beside(file, ATTRIBUTES)
    dataset = load(file)
    attributes = dict(dataset.items.select("item", "attributes").rows())
    assert attributes == {"a": ["3", "1"], "b": ["red"], "c": None, "d": ["1"], "é": None}
    assert dataset.description.items == {"attributes": "categories"}
    assert dataset.notes[1] == f"items of {file.with_name('Some_Toys_item2attributes.json')} that no line of " + (
        "Some_Toys.txt holds were left out: 1"
    )
    other = tmp_path / "other.json"
    other.write_text(json.dumps({item: ["x"] for item in "abcdé"}))
    named = load(file, str(other))
    assert set(named.items["attributes"].explode()) == {"x"}
    assert len(named.notes) == 1


def test_what_was_read_survives_save_and_load(file: Path, tmp_path: Path) -> None:
    beside(file, ATTRIBUTES)
    first = load(file)
    first.save(tmp_path / "kept")
    again = Tables(description=str(tmp_path / "kept" / DESCRIPTION_FILE)).load()
    assert (again.name, again.description, again.hash()) == (first.name, first.description, first.hash())
    for table in ("interactions", "items", "users"):
        assert getattr(again, table).equals(getattr(first, table)), table


def test_the_order_of_the_lines_does_not_matter(file: Path) -> None:
    first = load(file)
    file.write_text("\n".join(reversed(LINES.split("\n"))), encoding="utf-8")
    assert load(file).interactions.equals(first.interactions)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; a line is `user item item ...`"),
        (b"\n \n", "the file is empty"),
        (b"u a b\nv\n", "line 2: 'v' stands alone; a line is `user item item ...`"),
        (b"u a b\n\nv c\nu d\n", "line 4: the user 'u' was on line 1 already; write one line for every user"),
        (b"u a\nv \xe9t\xe9\n", "byte 6 is not UTF-8; save the file anew in UTF-8"),
    ],
)
def test_a_mistake_in_the_sequences_gets_one_clear_sentence(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    refused(file, None, f"Some_Toys.txt.*{message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no valid JSON"),
        ("{", "no valid JSON.*line 1 column 2"),
        ("[" * 100_000, "no valid JSON"),
        ("[1]", r"holds a list; write \{item: \[attribute, ...\]\}"),
        ('{"a": 3}', "the item 'a' has 3; write a list of numbers or words"),
        ('{"a": [true]}', r"the item 'a' has \[True\]; write a list"),
        ('{"a": [1.5]}', r"the item 'a' has \[1.5\]; write a list"),
        ('{"a": [[1]]}', r"the item 'a' has \[\[1\]\]; write a list"),
        ('{"x": [1]}', "knows no item of the sequences; name the file with the same ids, or remove it"),
        ('{"a": [1], "x": [1]}', "4 of 5 items, the first is 'b', are not in column 'item'"),
        (b'{"\xe9": [1]}', "byte 2 is not UTF-8"),
    ],
)
def test_a_mistake_in_the_attributes_gets_one_clear_sentence(file: Path, content: str | bytes, message: str) -> None:
    beside(file, content)
    refused(file, None, f"Some_Toys_item2attributes.json.*{message}|{message}.*Some_Toys_item2attributes.json")


def test_files_that_are_not_there_are_named(file: Path) -> None:
    refused(file, "none.json", "none.json: cannot be read: No such file or directory; correct the path")
    refused(file.with_name("none.txt"), None, "none.txt: cannot be read: No such file")
    refused(file.parent, None, "cannot be read: Is a directory")


def refused(file: Path, attributes: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(file, attributes)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_item_may_come_back(tmp_path: Path) -> None:
    path = tmp_path / "again"
    path.write_text("u a a b a\nv b a b")
    dataset = load(path)
    assert dataset.interactions.filter(pl.col("user") == "u")["item"].to_list() == ["a", "a", "b", "a"]
