"""One user is not two, and nobody is everybody."""

import polars as pl
import pytest

from recsys.data.ids import ids_of
from recsys.errors import DataError


def ids(values, *missing, dtype=None):
    return ids_of(pl.Series(values, dtype=dtype), "file, column 'user'", missing)[0].to_list()


def test_words_for_nothing_are_no_id() -> None:
    words = ["NULL", "nan", "None", r"\N", "<NA>", "undefined", "", " ", "N/A", None, " null "]
    assert ids([*words, "u"]) == [None] * len(words) + ["u"]
    assert ids(["unknown", "Guest", "u"]) == ["unknown", "Guest", "u"]
    assert ids(["unknown", "Guest", "NULL"], "UNKNOWN", "guest") == [None] * 3
    assert ids(["-1", "-1.0", "0", "10"], "-1", "0") == [None, None, None, "10"]
    assert ids([-1.0, 7.0], "-1") == [None, "7"]


def test_whole_numbers_are_written_one_way() -> None:
    assert ids(["17850.0", "17850", " 17850 ", "C5.0"]) == ["17850", "17850", "17850", "C5.0"]
    assert ids(["1.0", "1.10", "2"]) == ["1.0", "1.10", "2"], "versions"
    assert ids(["007.0", "007"]) == ["007.0", "007"]
    assert ids([17850.0, None, float("nan"), -3.0]) == ["17850", None, None, "-3"]
    assert ids([17850, None]) == ["17850", None]
    assert ids(["a", "b", None], dtype=pl.Categorical) == ["a", "b", None]


def test_letters_are_composed() -> None:
    assert ids(["cafe\u0301", "caf\u00e9", "\ufeffx\u00a0"]) == ["caf\u00e9", "caf\u00e9", "x"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 1.5], "row 2: 1.5 is no id but a number"),
        ([2.0**60], "is no id but a number; store whole numbers or text"),
        (["u", "1.23457E+12"], "row 2: '1.23457E.12' is an id that a spreadsheet rounded; export the column as text"),
        ([b"x"], "holds Binary"),
    ],
)
def test_what_can_be_no_id_is_refused(values, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ids(values)


def test_what_was_made_equal_is_noted() -> None:
    _, notes = ids_of(pl.Series(["u ", "u", "5.0", "5.0", "e\u0301", "NULL "]), "file", ())
    assert notes == (
        "file: ids with blanks around them, which do not count: 1",
        "file: ids with decomposed letters (NFD), read as composed ones (NFC): 1",
        "file: ids written like 17850.0, read like 17850: 2",
    )
    assert ids_of(pl.Series([1.0, None]), "file", ())[1] == ("file: ids stored as Float64, read as whole numbers: 1",)
