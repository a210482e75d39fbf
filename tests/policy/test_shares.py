"""The file of what was shown: whole at every moment, followed without waiting, and never trusted blindly."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.policy.shares import FILE, LiveShares, ShareFile

PATIENCE_S = 60
SHARES = st.dictionaries(st.text(), st.floats(0, 1), max_size=9)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline


@given(SHARES, SHARES)
def test_what_was_written_last_is_read(tmp_path_factory: pytest.TempPathFactory, first: dict, last: dict) -> None:
    file = ShareFile(tmp_path_factory.mktemp("exposure") / "not there yet")
    assert (file.stamp(), file.read()) == (None, {})
    file.write(first)
    before = file.stamp()
    file.write(last)
    assert file.stamp() != before
    assert file.read() == last


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 1, "shares": {"a": .5',
        "\xff",
        json.dumps({"format": 2, "shares": {}}),
        json.dumps({"format": 1}),
        json.dumps({"format": 1, "shares": {"a": "x"}}),
        json.dumps({"format": 1, "shares": {"a": True}}),
        json.dumps({"format": 1, "shares": {"a": float("nan")}}),
    ],
)
def test_a_file_that_holds_none_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="holds no shares") as refused:
        ShareFile(tmp_path).read()
    assert "\n" not in str(refused.value)


def test_readers_see_one_of_what_several_write_and_never_a_part(tmp_path: Path) -> None:
    written = [{f"item={item}": number / 4 for item in range(3_000)} for number in range(3)]
    file, errors = ShareFile(tmp_path), []
    file.write(written[0])

    def write(shares: dict[str, float]) -> None:
        try:
            for _ in range(10):
                file.write(shares)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(shares,)) for shares in written]
    for writer in writers:
        writer.start()
    found = [file.read()]
    while any(writer.is_alive() for writer in writers):
        found.append(file.read())
    assert errors == []
    assert all(one in written for one in found)


def test_what_cannot_be_read_leaves_the_older_shares_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = ShareFile(tmp_path)
    file.write({"item=a": 0.5})
    live = LiveShares(file)
    assert (live.now(), live.stale) == ({"item=a": 0.5}, False)
    (tmp_path / "draft").write_text("nonsense")
    (tmp_path / "draft").replace(file.path)
    until(lambda: bool(live.now()) and live.stale)
    assert live.now() == {"item=a": 0.5}
    file.write({"item=a": 0.25})
    until(lambda: live.now() == {"item=a": 0.25})
    assert not live.stale
    assert [record.getMessage().count("the older shares go on serving") for record in caplog.records] == [1]


def test_it_may_begin_with_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("nonsense")
    live = LiveShares(ShareFile(tmp_path))
    assert (live.now(), live.stale) == ({}, True)
    ShareFile(tmp_path).write({"item=a": 0.5})
    until(lambda: live.now() == {"item=a": 0.5})
