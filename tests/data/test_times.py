"""Times in every unit and spelling that logs have: read right, or refused with the row."""

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.times import seconds_of
from recsys.errors import DataError

START = datetime(2023, 11, 14, tzinfo=UTC).timestamp()
DAY = 86_400.0
NOON = datetime(2023, 11, 14, 12, tzinfo=UTC).timestamp()


def read(values, unit=None):
    times = seconds_of(pl.Series("at", values), "file, column 'at'", unit)
    return times.seconds.to_list()


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([20231114, 20231231, 20240101], [START, START + 47 * DAY, START + 48 * DAY]),
        ([2023, 2024], [START - 317 * DAY, START + 48 * DAY]),
        ([45244, 45244.5], [START, NOON]),
        ([19675, 19676], [START, START + DAY]),
        ([1699920000, 1699963200], [START, NOON]),
        ([1699920000000, 1699963200500], [START, NOON + 0.5]),
        ([1699920000000000, 1699963200000000], [START, NOON]),
        ([1699920000000000000], [START]),
        ([0, 20231114, 2.5], [0, 20231114, 2.5]),
        ([100, 1999], [100, 1999]),
        ([], []),
    ],
)
def test_the_unit_of_numbers_is_found(values, expected, as_text) -> None:
    series = [str(value) for value in values] if as_text else values
    dtype = pl.String if as_text else pl.Float64 if any(isinstance(value, float) for value in values) else pl.Int64
    assert read(pl.Series(series, dtype=dtype)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14 12:00:00 UTC", NOON),
        ("2023-11-14 12:00:00.250 UTC", NOON + 0.25),
        ("2023-11-14T12:00:00Z", NOON),
        ("2023-11-14 12:00:00 GMT", NOON),
        ("2023-11-14 14:00:00 +0200", NOON),
        ("2023-11-14T14:00:00+02:00", NOON),
        (" 2023-11-14 12:00 ", NOON),
        ("2023-11-14", START),
        ("2023-11-14 12:00:00.123456789", NOON + 0.123456),
        ("2016-12-31 23:59:60 UTC", datetime(2017, 1, 1, tzinfo=UTC).timestamp()),
        ("2017-01-01T05:29:60+05:30", datetime(2017, 1, 1, tzinfo=UTC).timestamp()),
    ],
)
def test_spellings(text: str, expected: float) -> None:
    assert read([text])[0] == pytest.approx(expected, abs=1e-6)


def test_a_told_unit_counts() -> None:
    assert read([1, 2], "epoch_day") == [DAY, 2 * DAY]
    assert read(["20231114"], "s") == [20231114.0]
    assert read([1999], "year") == [datetime(1999, 1, 1, tzinfo=UTC).timestamp()]
    assert read([1_500], "ms") == [1.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1699920000, 1699920000000], r"row 2: 1699920000000 looks like milliseconds or finer, unlike other rows"),
        ([1699920000, 1699920001, 20231114], r"row 3: 20231114 is a day or so many seconds"),
        ([20230231, 20230301], r"row 1: 20230231 is none of the days like 20231114"),
        (["2023-11-14 12:00:60"], "row 1: '2023-11-14 12:00:60' is no time"),
        (["14.11.2023"], "row 1: '14.11.2023' is no time"),
        (["2023-11-14 12:00:00 CET"], "is no time; write unix seconds"),
        (["2023-11-14T12:00:00+02:00", "2023-11-14T12:00:00"], r"row 2: .* has no zone, as other rows have"),
        ([float("inf")], "is not a finite number"),
        ([True], "holds Boolean"),
    ],
)
def test_what_cannot_be_read_right_is_refused_by_row(values, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(values)


def test_what_was_found_is_noted() -> None:
    assert "numbers read as days like 20231114" in seconds_of(pl.Series([20231114]), "file").notes[0]
    assert seconds_of(pl.Series([1699920000]), "file").notes == ()
    bare = seconds_of(pl.Series(["2023-11-14 12:00:00", "2023-11-14 12:00:00Z"]), "file")
    assert bare.notes == ("file: times without a zone, read as UTC: 1",)


@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2090, 1, 1)), min_size=1, max_size=5))
def test_every_spelling_of_a_moment_is_that_moment(moments: list[datetime]) -> None:
    expected = [moment.replace(tzinfo=UTC).timestamp() for moment in moments]
    for spelled in ("%Y-%m-%d %H:%M:%S.%f UTC", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%d %H:%M:%S.%f"):
        texts = [f"{moment:%Y}".zfill(4) + moment.strftime(spelled)[len(f"{moment:%Y}") :] for moment in moments]
        assert read(texts) == pytest.approx(expected, abs=1e-5)
    assert read(pl.Series(moments, dtype=pl.Datetime("us"))) == pytest.approx(expected, abs=1e-5)
