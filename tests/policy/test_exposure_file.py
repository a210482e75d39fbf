"""The file of what was shown: whole at every moment, followed without waiting, and never trusted blindly."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.policy.exposure.exposure_file import FILE, PER_LINE, ExposureShares, LiveShares, ShareFile

PATIENCE_S = 60
SHARES = st.dictionaries(st.text(), st.floats(0, 1), max_size=9)
MANY = {f"item={number}": number / 9_999 for number in range(PER_LINE * 3 + 7)}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline


@given(SHARES, SHARES)
@example({}, MANY)
def test_what_was_written_last_is_read(tmp_path_factory: pytest.TempPathFactory, first: dict, last: dict) -> None:
    file = ShareFile(tmp_path_factory.mktemp("exposure") / "not there yet")
    assert (file.stamp(), file.read()) == (None, {})
    file.write(first)
    before = file.stamp()
    assert file.write(last) == file.stamp() != before
    assert file.read() == last


HEAD = '{"format": 1, "shares": 1}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        HEAD,
        HEAD + '\n{"a": .5',
        HEAD + '\n{"a": 0.5, "b": 0.5}',
        HEAD + "\n[0.5]",
        "\xff",
        '{"format": 2, "shares": 1}\n{"a": 0.5}',
        '{"shares": 1}\n{"a": 0.5}',
        *(f'{HEAD}\n{{"a": {share}}}' for share in ('"x"', "true", "null", "NaN", "-0.1", "1.1", "9" * 400)),
        HEAD + "\n" + "[" * 100_000,
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
    assert live.current() == ExposureShares(shares={"item=a": 0.5})
    (tmp_path / "draft").write_text("nonsense")
    (tmp_path / "draft").replace(file.path)
    until(lambda: live.current().stale)
    assert live.current().shares == {"item=a": 0.5}
    file.write({"item=a": 0.25})
    until(lambda: live.current() == ExposureShares(shares={"item=a": 0.25}))
    assert [record.getMessage().count("the older shares stay in use") for record in caplog.records] == [1]


def test_it_may_begin_with_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("nonsense")
    live = LiveShares(ShareFile(tmp_path))
    assert live.current() == ExposureShares(stale=True)
    ShareFile(tmp_path).write({"item=a": 0.5})
    until(lambda: live.current() == ExposureShares(shares={"item=a": 0.5}))
