"""The public names: imported without torch, a bundle in this process, metrics of any system, a wheel without its source."""

import math
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import recsys
from recsys import Query, Recommender, evaluate, evaluate_users, slice_means
from recsys.errors import BundleError, DataError
from recsys.evaluation.intervals import bootstrap_interval
from recsys.metrics import METRICS
from recsys.pipeline import recommend


def test_names_are_imported_when_they_are_used_and_none_needs_torch() -> None:
    script = """
import sys, recsys
assert not {"numpy", "polars", "torch"} & sys.modules.keys(), "import recsys alone brings nothing"
for name in recsys.__all__:
    assert getattr(recsys, name) is not None
assert "torch" not in sys.modules, "no public name needs torch"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="'recsys' has no attribute 'Slates'; it has Bundle"):
        recsys.Slates  # noqa: B018


@pytest.fixture(scope="module")
def recommender(trained: Any) -> Recommender:
    return Recommender.load(str(trained.bundle.path))


def test_slates_are_those_of_the_pipeline(recommender: Recommender, trained: Any, stranger: Query) -> None:
    queries = [trained.replay.latest(str(name), stranger.now, 5) for name in trained.replay.names[:70]]
    assert recommender.recommend_all([*queries, stranger]) == recommend([*queries, stranger], trained.stages)
    assert recommender.recommend(queries[0]) == recommend(queries[:1], trained.stages)[0]


def test_a_known_user_has_a_history_and_sees_nothing_again(recommender: Recommender, trained: Any) -> None:
    events = trained.dataset.interactions
    user = str(events["user"].value_counts(sort=True)["user"][0])
    query = recommender.query(user, k=5, now=float(trained.replay.timestamps.max()))
    assert query.history
    slate = recommender.recommend(query)
    assert len(slate.items) == 5
    assert not {one.item for one in slate.items} & set(events.filter(events["user"] == user)["item"])
    assert recommender.query("nobody").history == ()


def test_reasons_and_absences_are_told(recommender: Recommender, trained: Any) -> None:
    query = recommender.query(str(trained.replay.names[0]), now=float(trained.replay.timestamps.max()))
    explained = recommender.explain(query)
    assert all(one.adds for one in explained.items if one.rank >= 0)
    absent = next(item for item in trained.dataset.items["item"] if item not in {one.item for one in explained.items})
    assert absent in recommender.why_not(query, absent)
    assert "no such item" in recommender.why_not(query, "no such item")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        Recommender.load(tmp_path)


def test_metrics_have_known_values() -> None:
    figures = evaluate(
        {"u": ["a", "b", "c"], "v": ["x"]}, {"u": {"b", "z"}, "v": ["y"], "w": ["a"], "none": []}, ks=(1, 2)
    )
    assert figures["recall@1"] == 0
    assert figures["recall@2"] == pytest.approx(1 / 2 / 3)
    assert figures["ndcg@2"] == pytest.approx(1 / math.log2(3) / (1 + 1 / math.log2(3)) / 3)
    assert figures["coverage@1"] == 2
    low, high = figures["recall@2 ci95"]  # type: ignore[misc]
    assert low <= figures["recall@2"] <= high


def test_metrics_of_users_and_slices_have_known_values() -> None:
    users = evaluate_users(
        {"u": ["a", "b"], "v": ["x"]}, {"u": {"b", "z"}, "v": ["x"], "w": ["a"], "none": []}, ks=(1, 2)
    )
    assert users["user"].to_list() == ["u", "v", "w"]
    assert users["relevant"].to_list() == [2, 1, 1]
    assert users["recall@2"].to_list() == [0.5, 1.0, 0.0]
    assert users["ndcg@1"].to_list() == [0.0, 1.0, 0.0]
    sliced = slice_means(users.with_columns(segment=pl.Series(["old", None, "old"])), "segment", "recall@2")
    assert sliced["segment"].to_list() == ["old", None]
    assert sliced["rows"].to_list() == [2, 1]
    assert sliced["recall@2"].to_list() == [0.25, 1.0]
    assert sliced.row(0)[3:] == bootstrap_interval(np.array([0.5, 0.0]), 0)
    assert sliced.row(1)[3:] == (1.0, 1.0)
    with pytest.raises(DataError, match="there is no column 'age'; the table has user, relevant"):
        slice_means(users, "age", "recall@2")


def test_metrics_are_those_of_our_own_reports(recommender: Recommender, trained: Any) -> None:
    users = [str(name) for name in trained.replay.names[:40]]
    queries = [trained.replay.latest(user, float(trained.replay.timestamps.max()), 10) for user in users]
    slates = recommender.recommend_all([replace(query, history=query.history[:-3]) for query in queries])
    relevant = {user: [event.item for event in query.history[-3:]] for user, query in zip(users, queries, strict=True)}
    rankings = {slate.user: [one.item for one in slate.items] for slate in slates}
    figures = evaluate(rankings, relevant, ks=(10,))
    by_hand = [len(set(rankings[user]) & set(items)) / len(set(items)) for user, items in relevant.items() if items]
    assert "recall@10" in METRICS
    assert figures["recall@10"] == pytest.approx(sum(by_hand) / len(by_hand))


@pytest.mark.parametrize(
    ("rankings", "relevant", "ks", "sentence"),
    [
        ({}, {}, (10,), "no user has a relevant item"),
        ({"u": ["a", "a"]}, {"u": ["a"]}, (10,), "lists an item twice"),
        ({"u": ["a"]}, {"u": ["a"]}, (0,), "give numbers of 1 and more"),
    ],
)
def test_what_cannot_be_measured_is_refused(rankings: Any, relevant: Any, ks: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        evaluate(rankings, relevant, ks=ks)


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel, as pip lays them out."""
    built, unpacked = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_wheel_needs_no_source_tree(installed: Path, tmp_path: Path) -> None:
    """Its own configuration is read, from any folder."""
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "recsys = recsys.cli.main:main" in entry_points.read_text()
    script = f"import sys; sys.path.insert(0, {str(installed)!r}); sys.argv = ['recsys', 'train', '--cfg', 'job', 'seed=7']\n"
    script += "from recsys.cli.configuration import CONF; print(CONF)\nfrom recsys.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{installed / 'recsys' / 'conf'}\n")
    assert "seed: 7\n" in done.stdout


@pytest.mark.parametrize(("given", "taken"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_that_wait_leave_the_core_to_others_unless_the_environment_says_otherwise(given, taken):
    code = "import recsys, os; print(os.environ['GOMP_SPINCOUNT'])"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == taken
