"""Fingerprints: equal for equal inputs in every process, different for every input that could change a result."""

import enum
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys.cache.code_digest import code_digest
from recsys.cache.fingerprint import NoFingerprintError, fingerprint
from recsys.retrieval.softmax import SoftmaxLoss

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: float
    weights: np.ndarray

    @cached_property
    def total(self) -> float:
        return float(self.weights.sum())


class Plain:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


def half(value: float, by: float = 2.0) -> float:
    return value / by


@given(NESTED, NESTED)
def test_values_have_equal_fingerprints_if_and_only_if_they_are_equal_and_of_equal_types(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ("1", b"1"),
        (0.0, -0.0),
        (["ab", "c"], ["a", "bc"]),
        ([[1], [2]], [[1, 2]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Colour.RED, Colour.BLUE),
        (Path("a"), "a"),
        (np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.array(["a", None], dtype=object), np.array(["a", "None"], dtype=object)),
        (torch.zeros(2), torch.ones(2)),
        (pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]})),
        (pl.Series([1, None]), pl.Series([1, 0])),
        (sparse.csr_array(np.eye(2)), sparse.csr_array(2 * np.eye(2))),
        (partial(half, by=2.0), partial(half, by=3.0)),
        (half, partial(half)),
        (Point(1.0, np.zeros(2)), Point(2.0, np.zeros(2))),
        (Plain(a=1), Plain(a=2)),
        (Plain(a=1), Plain(b=1)),
    ],
)
def test_what_may_change_a_result_changes_the_fingerprint(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_memory_order_and_values_that_an_object_computed_change_nothing() -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    assert fingerprint(matrix) == fingerprint(np.asfortranarray(matrix)) == fingerprint(matrix.copy()[::1])
    point = Point(1.0, matrix)
    before = fingerprint(point)
    assert point.total == 15.0
    assert fingerprint(point) == before == fingerprint(replace(point))
    assert fingerprint({"b", "a"}) == fingerprint({"a", "b"})


@pytest.mark.parametrize(
    "value", [lambda: 1, (one for one in []), threading.Lock()], ids=["lambda", "generator", "lock"]
)
def test_values_without_content_are_refused(value: Any) -> None:
    with pytest.raises(NoFingerprintError):
        fingerprint([value])


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NoFingerprintError, match="contains itself"):
        fingerprint(value)


def test_a_class_of_a_notebook_has_no_source_that_a_key_could_hold() -> None:
    kind = type("Own", (), {"__module__": "a_module_that_is_in_no_file"})
    with pytest.raises(NoFingerprintError, match="in no file"):
        fingerprint(kind())


def test_another_process_finds_the_same_fingerprint() -> None:
    code = (
        "from recsys.cache.fingerprint import fingerprint; from recsys.retrieval.softmax import SoftmaxLoss;"
        "print(fingerprint({'loss': SoftmaxLoss(temperature=0.1), 'names': {'b', 'a'}}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == fingerprint({"loss": SoftmaxLoss(temperature=0.1), "names": {"a", "b"}})


def test_the_digest_of_code_follows_imports_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (
        ("stage_one", "def f():\n    from stage_two import g\n"),
        ("stage_two", "import numpy\nimport stage_one\ndef g(): pass\n"),
        ("stage_three", "X = 1\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)

    def digest() -> str | None:
        import recsys.cache.code_digest as room

        for cached in (room.code_digest, room._closure, room._source, room._origin, room._installed, room._imports):
            cached.cache_clear()
        return code_digest("stage_one")

    before = digest()
    assert before is not None
    (tmp_path / "stage_three.py").write_text("X = 2\n")
    assert digest() == before
    (tmp_path / "stage_two.py").write_text("import numpy\nimport stage_one\ndef g(): return 1\n")
    assert digest() != before


def test_the_code_of_the_towers_is_not_that_of_the_rankers() -> None:
    from recsys.cache.code_digest import _closure

    names = {f"{file.parent.name}/{file.name}" for file in _closure("recsys.training.retrieval")}
    assert {"training/retrieval.py", "nn/blocks.py", "retrieval/two_tower.py"} <= names
    assert not [name for name in names if name.startswith("ranking/")]


def test_installed_packages_count_by_their_version() -> None:
    assert code_digest("numpy.linalg") == code_digest("json") != code_digest("recsys.errors")
