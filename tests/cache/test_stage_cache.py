"""The cache of stages: a result is computed once, by whatever process, and never read back damaged."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.cache.stage_cache import ENTRY, RESULT, STAGES_FILE, Result, StageCache
from recsys.errors import ConfigError


class Stage:
    """A stage that counts how often it was computed."""

    def __init__(self, size: int = 3) -> None:
        self.size, self.times = size, 0

    def __call__(self) -> Result:
        self.times += 1
        return {"seen": [1, "two", None]}, {"values": np.arange(self.size, dtype=np.float32), "none": np.empty((0, 2))}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / STAGES_FILE).read_text().splitlines()]


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    run = tmp_path / "run"
    run.mkdir()
    return StageCache(folder=str(tmp_path / "stages"), max_gib=1.0).of_run(run)


def test_equal_inputs_are_computed_once_and_read_back_equal(cache: StageCache) -> None:
    stage = Stage()
    first, again = (cache.arrays("towers", stage, seed=0, data=np.arange(3)) for _ in range(2))
    assert stage.times == 1
    assert list(first[1]) == list(again[1])
    assert first[0] == again[0] == {"seen": [1, "two", None]}
    assert {name: (one.dtype, one.tolist()) for name, one in again[1].items()} == {
        "values": (np.float32, [0.0, 1.0, 2.0]),
        "none": (np.float64, []),
    }
    assert cache.run is not None
    assert [line["found"] for line in lines(cache.run)] == [False, True]


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": 0.0}, {"seed": 0, "data": np.arange(3)}])
def test_other_inputs_are_computed(cache: StageCache, other: dict[str, Any]) -> None:
    stage = Stage()
    cache.arrays("towers", stage, seed=0)
    cache.arrays("towers", stage, **other)
    assert stage.times == 2


def test_a_stage_of_another_name_is_computed(cache: StageCache) -> None:
    stage = Stage()
    for name in ("towers", "ranker"):
        cache.arrays(name, stage, seed=0)
    assert stage.times == 2


@pytest.mark.parametrize("folder", [None, ""])
def test_without_a_folder_everything_is_computed_and_nothing_is_written(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache, stage = StageCache(folder=folder, max_gib=1.0), Stage()
    for _ in range(2):
        cache.arrays("towers", stage, seed=0)
        with cache.file("towers", tmp_path / "missing", seed=0):
            pass
    assert stage.times == 2
    assert not list(tmp_path.iterdir())


def test_inputs_without_a_fingerprint_are_computed_and_named(cache: StageCache) -> None:
    stage = Stage()
    for _ in range(2):
        cache.arrays("towers", stage, own=lambda: 1)
    assert stage.times == 2
    assert cache.run is not None
    assert "lambda" in lines(cache.run)[0]["note"]


def test_an_error_of_the_stage_leaves_no_entry(cache: StageCache) -> None:
    def failing() -> Result:
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        cache.arrays("towers", failing, seed=0)
    stage = Stage()
    cache.arrays("towers", stage, seed=0)
    assert stage.times == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "no result", "no description", "foreign description"])
def test_a_damaged_entry_is_computed_again(cache: StageCache, damage: str) -> None:
    stage = Stage(size=1_000)
    cache.arrays("towers", stage, seed=0)
    (entry,) = cache.entries()
    result = entry.folder / RESULT
    if damage == "cut":
        os.truncate(result, 100)
    elif damage == "flipped":
        data = bytearray(result.read_bytes())
        data[-1] ^= 1
        result.write_bytes(data)
    elif damage == "foreign description":
        (entry.folder / ENTRY).write_text("{}")
    else:
        (entry.folder / (RESULT if damage == "no result" else ENTRY)).unlink()
    _, arrays = cache.arrays("towers", stage, seed=0)
    assert stage.times == 2
    assert arrays["values"].tolist() == list(range(1_000))
    cache.arrays("towers", stage, seed=0)
    assert stage.times == 2


def test_a_file_is_put_where_the_stage_would_write_it(cache: StageCache, tmp_path: Path) -> None:
    def train(folder: Path) -> str:
        with cache.file("towers", folder / "trained", seed=0):
            found = (folder / "trained").is_file()
            if not found:
                folder.mkdir()
                (folder / "trained").write_text(folder.name)
        return f"{(folder / 'trained').read_text()} {found}"

    assert [train(tmp_path / name) for name in ("one", "two")] == ["one False", "one True"]
    with cache.file("towers", tmp_path / "three" / "trained", seed=1):
        assert not (tmp_path / "three").exists()  # a stage that writes nothing leaves no entry
    assert len(cache.entries()) == 1


def test_the_results_that_were_unused_for_longest_make_room(tmp_path: Path) -> None:
    size = 2**16
    cache = StageCache(folder=str(tmp_path), max_gib=3.5 * 4 * size / 2**30)
    for seed in range(3):
        cache.arrays("towers", Stage(size), seed=seed)
        os.utime(cache.entries()[-1].folder / ENTRY, (seed + 1, seed + 1))
    cache.arrays("towers", Stage(size), seed=0)  # used again: now the newest
    cache.arrays("towers", Stage(size), seed=3)
    kept = [Stage(size) for _ in range(4)]
    for seed in (3, 0, 2, 1):
        cache.arrays("towers", kept[seed], seed=seed)
    assert [one.times for one in kept] == [0, 1, 0, 0]


@pytest.mark.parametrize("max_gib", [0.0, -1.0, float("nan")])
def test_an_impossible_size_is_refused(max_gib: float) -> None:
    with pytest.raises(ConfigError, match=r"cache\.max_gib"):
        StageCache(folder=None, max_gib=max_gib)


WORKER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from recsys.cache.stage_cache import StageCache

    def compute():
        with open(sys.argv[2], "a") as log:
            log.write("computed\\n")
        if len(sys.argv) > 3:
            print("computing", flush=True)
            sys.stdin.read()
        return {}, {"values": np.arange(5)}

    print(StageCache(folder=sys.argv[1], max_gib=1.0).arrays("towers", compute, seed=0)[1]["values"].tolist())
"""


def worker(tmp_path: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path / "stages"), str(tmp_path / "log"), *more]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_process_waits_for_the_one_that_computes_the_same(tmp_path: Path) -> None:
    first = worker(tmp_path, "slowly")
    assert first.stdout is not None
    assert first.stdout.readline() == "computing\n"
    others = [worker(tmp_path) for _ in range(3)]
    assert first.communicate(input="")[0] == "[0, 1, 2, 3, 4]\n"
    assert [one.communicate()[0] for one in others] == ["[0, 1, 2, 3, 4]\n"] * 3
    assert (tmp_path / "log").read_text() == "computed\n"


def test_a_killed_process_leaves_no_entry_and_no_lock(tmp_path: Path) -> None:
    first = worker(tmp_path, "slowly")
    assert first.stdout is not None
    assert first.stdout.readline() == "computing\n"
    second = worker(tmp_path)
    first.send_signal(signal.SIGKILL)
    assert second.communicate()[0] == "[0, 1, 2, 3, 4]\n"
    assert (tmp_path / "log").read_text() == "computed\n" * 2
    first.communicate()
