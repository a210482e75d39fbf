"""`python -m serving releases`: what is removed, what stays, and what is printed about it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recsys.errors import ConfigError, ServingError
from recsys.export import releases
from recsys.export.releases import hold_release, list_releases, prune_releases, release_draft
from serving.__main__ import app

NAMES = ("a" * 16, "b" * 16, "c" * 16, "d" * 16)
"""oldest first"""
SERVING = """
import sys
from pathlib import Path
from recsys.export.releases import hold_release

hold_release(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def serve(tmp_path: Path) -> Path:
    """Four releases, the newest of which is the current one."""
    for number, name in enumerate(NAMES):
        with release_draft(tmp_path / "serve", name) as draft:
            (draft / "bundle").mkdir()
            (draft / "bundle" / "weights").write_bytes(bytes((number + 1) << 20))
        os.utime(tmp_path / "serve" / "releases" / name, (1_000.0 * number, 1_000.0 * number))
    return tmp_path / "serve"


@contextmanager
def served(release: Path) -> Iterator[None]:
    """By another process."""
    command = [sys.executable, "-c", SERVING, str(release)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def publish(serve: Path, name: str) -> None:
    (serve / "current").unlink()
    (serve / "current").symlink_to(Path("releases") / name)


def names(serve: Path) -> list[str]:
    return [one.path.name[0] for one in list_releases(serve)]


def lines(*words: str) -> list[list[str]]:
    done = CliRunner().invoke(app, ["releases", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [line.split() for line in done.stdout.splitlines()]


def test_the_newest_the_current_and_the_served_release_stay(serve: Path) -> None:
    publish(serve, NAMES[1])
    with served(serve / "releases" / NAMES[0]):
        assert [one.path.name[0] for one in prune_releases(serve, 1)] == ["c"]
        assert names(serve) == ["d", "b", "a"]
    assert [one.path.name[0] for one in prune_releases(serve, 1)] == ["a"]
    assert names(serve) == ["d", "b"]
    assert prune_releases(serve, 1) == []
    assert (serve / "current" / "bundle" / "weights").stat().st_size == 2 << 20


def test_each_release_is_a_line_with_its_size(serve: Path) -> None:
    with served(serve / "releases" / NAMES[2]):
        assert lines("list", str(serve)) == [
            [NAMES[3], "4.0", "MiB", "1970-01-01", "00:50", "UTC", "current"],
            [NAMES[2], "3.0", "MiB", "1970-01-01", "00:33", "UTC", "served", "now"],
            [NAMES[1], "2.0", "MiB", "1970-01-01", "00:16", "UTC"],
            [NAMES[0], "1.0", "MiB", "1970-01-01", "00:00", "UTC"],
        ]
        pruned = lines("prune", "--keep=1", str(serve / "current"))
    assert [words[:2] for words in pruned] == [
        ["kept", NAMES[3]],
        ["kept", NAMES[2]],
        ["removed", NAMES[1]],
        ["removed", NAMES[0]],
    ]


def test_what_is_being_written_or_was_half_removed_is_no_release(serve: Path, monkeypatch: Any) -> None:
    (serve / "releases" / ".draft").mkdir()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None if ignore_errors else killed(path))
        with pytest.raises(KeyboardInterrupt):
            prune_releases(serve, 3)
    assert names(serve) == ["d", "c", "b"], "half of a release has no name"
    assert prune_releases(serve, 3) == []
    assert sorted(path.name for path in (serve / "releases").iterdir() if path.is_dir()) == [".draft", *NAMES[1:]]


def test_a_release_that_another_account_keeps_locked_is_served_all_the_same(
    serve: Path, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(releases, "HOLD_S", 0.0)
    with releases._free(serve / "releases" / NAMES[0]) as free:
        assert free
        hold_release(serve / "releases" / NAMES[0])
    assert "cannot be marked as served" in caplog.text


@pytest.mark.parametrize("words", [("list",), ("prune", "--keep=1")])
def test_a_folder_without_releases_is_one_sentence(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="holds no releases; export a bundle into it"):
        lines(*words, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_takes_long_is_one_sentence(serve: Path, monkeypatch: Any) -> None:
    def refuse(folder: Path) -> None:
        raise TimeoutError(110, "another process has kept the lock of this folder for 10 s", str(folder))

    monkeypatch.setattr(releases, "locked", refuse)
    with pytest.raises(ServingError, match="cannot be read or removed: another process has kept the lock"):
        lines("prune", "--keep=1", str(serve))
    assert len(names(serve)) == 4
