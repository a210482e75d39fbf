"""Lists of many users: in order, in parts, and nothing left behind by an error."""

import polars as pl
import pytest

from recsys.cli import lists
from recsys.cli.lists import schema_of_lists, write_lists
from recsys.contracts import Slate, SlateItem
from recsys.errors import QueryError


def slates(num, fail_at=None):
    for number in range(num):
        if number == fail_at:
            raise QueryError("query.now is too large")
        items = tuple(
            SlateItem(item=f"i{at}", utility=at / 2, sources=("a",), probabilities={"click": 0.5}) for at in range(3)
        )
        yield Slate(user=f"u{number}", request_id="", items=items, degraded=(), bundle="b", rules="r")


def test_rows_are_written_in_parts_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "ROWS", 10)
    assert write_lists(slates(50), ("click", "buy"), tmp_path / "lists.parquet") == 50
    found = pl.read_parquet(tmp_path / "lists.parquet")
    assert found.schema == schema_of_lists(("click", "buy"))
    assert found["user"].to_list() == [f"u{number}" for number in range(50) for _ in range(3)]
    assert found["position"].to_list() == [0, 1, 2] * 50
    assert found["p_click"].to_list() == [0.5] * 150
    assert found["p_buy"].null_count() == 150


def test_nobody_gives_an_empty_table(tmp_path):
    assert write_lists(slates(0), (), tmp_path / "lists.parquet") == 0
    assert pl.read_parquet(tmp_path / "lists.parquet").schema == schema_of_lists(())


def test_an_error_on_the_way_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "ROWS", 10)
    with pytest.raises(QueryError, match=r"query\.now is too large"):
        write_lists(slates(50, fail_at=20), (), tmp_path / "lists.parquet")
    assert not list(tmp_path.iterdir())
