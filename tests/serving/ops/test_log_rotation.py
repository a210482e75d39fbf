"""The log of a stack, which all processes append to, stays within its size."""

import os
from pathlib import Path

import pytest

from serving.ops.log_rotation import rotate


def test_a_log_above_its_size_becomes_a_copy_and_its_writers_go_on(tmp_path: Path) -> None:
    log = tmp_path / "stack.log"
    with log.open("ab", buffering=0) as writer:
        for turn in range(6):
            writer.write(b"%d" % turn * 100 + b"\n")
            assert rotate(log, 100)
        assert not rotate(log, 100)
        writer.write(b"last\n")
    assert log.read_text() == "last\n"
    kept = [log.with_name(f"stack.log.{number}").read_text()[:1] for number in (1, 2, 3)]
    assert kept == ["5", "4", "3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stack.log", *(f"stack.log.{n}" for n in (1, 2, 3))]


def test_a_log_within_its_size_and_a_missing_one_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "stack.log"
    assert not rotate(log, 10)
    log.write_text("short")
    assert not rotate(log, 10)
    assert log.read_text() == "short"


def test_a_disk_that_refuses_empties_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack tries again every few seconds, which costs neither the log nor its older copies."""
    log = tmp_path / "stack.log"
    log.write_bytes(b"x" * 100)
    for number in (1, 2, 3):
        log.with_name(f"stack.log.{number}").write_text(f"{number}")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("serving.ops.log_rotation.shutil.copyfileobj", refuse)
    with pytest.raises(OSError, match="No space left"):
        rotate(log, 10)
    assert log.read_bytes() == b"x" * 100
    assert sorted(os.listdir(tmp_path)) == ["stack.log", *(f"stack.log.{number}" for number in (1, 2, 3))]
    assert [log.with_name(f"stack.log.{number}").read_text() for number in (1, 2, 3)] == ["1", "2", "3"]
