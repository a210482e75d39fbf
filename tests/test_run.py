"""A run read back: its figures again from its users one by one, its probabilities, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys import Run, evaluate_users
from recsys.contracts import Query
from recsys.data.splits import TEST, GlobalTime
from recsys.errors import ConfigError, DataError
from recsys.evaluation.probabilities import auc


@pytest.fixture(scope="module")
def finished(trained: Any) -> Run:
    return Run.open(trained.folder)


@pytest.fixture(scope="module")
def queries(finished: Run) -> list[Query]:
    return finished.queries()


def test_the_users_one_by_one_give_the_figures_of_the_report(finished: Run, queries: list[Query]) -> None:
    slates = finished.recommender.recommend_all(queries)
    rankings = {slate.user: [one.item for one in slate.items] for slate in slates}
    users = evaluate_users(rankings, finished.relevant(), ks=(10,))
    (row,) = finished.figures().filter(pl.col("system") == "pipeline").to_dicts()
    assert row["ndcg@10 low"] < row["ndcg@10"] < row["ndcg@10 high"]
    assert users["ndcg@10"].mean() == pytest.approx(row["ndcg@10"])
    assert users["recall@10"].mean() == pytest.approx(row["recall@10"])
    assert users["user"].to_list() == [query.user for query in queries]


def test_what_is_relevant_is_new_and_later(finished: Run, queries: list[Query], trained: Any) -> None:
    """Against a reading of the log row by row."""
    (split,) = GlobalTime(**{key: one for key, one in finished.config["protocol"].items() if key != "_target_"}).splits(
        trained.dataset
    )
    before: dict[str, set[str]] = {}
    later: dict[str, set[str]] = {}
    for row, period in zip(trained.dataset.interactions.iter_rows(named=True), split.periods, strict=True):
        user, item = row["user"], row["item"]
        if period < TEST:
            before.setdefault(user, set()).add(item)
        elif item not in before.get(user, set()) and row["click"] > 0:
            later.setdefault(user, set()).add(item)
    relevant = finished.relevant()
    assert set(relevant) <= set(later)
    assert all(set(items) <= later[user] for user, items in relevant.items())
    assert len(finished.known()) == (split.periods < TEST).sum()
    for query in queries:
        assert {event.item for event in query.history} <= before.get(query.user, set())


def test_the_probabilities_are_those_of_the_report(finished: Run) -> None:
    outcomes = finished.outcomes(max_requests=5_000)
    for name, measured in finished.metrics["objectives"].items():
        labels, predicted = (outcomes[column].to_numpy().astype(float) for column in (name, f"p_{name}"))
        assert labels.mean() == pytest.approx(measured["rate"])
        assert auc(labels, predicted) == pytest.approx(measured["auc"])


def test_validation_is_read_back_too(finished: Run) -> None:
    users, figures = finished.validation_users(), finished.figures("validation")
    (value,) = figures.filter(pl.col("system") == "pipeline")["ndcg@10"]
    assert users["pipeline/ndcg@10"].mean() == pytest.approx(value)


def test_a_bundle_that_knows_the_test_period_is_not_looked_at(finished: Run) -> None:
    served = Run(finished.folder)
    served.__dict__["config"] = {**finished.config, "refit": True}
    for read in (served.queries, served.relevant, served.outcomes):
        with pytest.raises(DataError, match=r"fitted again on all events.*train with refit=false"):
            read()


def test_what_is_not_there_is_named(tmp_path: Path, finished: Run) -> None:
    with pytest.raises(DataError, match=r"has no metrics\.json; give the run_dir"):
        Run.open(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"validation": finished.metrics["validation"]}))
    assert Run.open(tmp_path).figures("validation").equals(finished.figures("validation"))
    with pytest.raises(DataError, match="has no figures of TEST; continue it by evaluate=test"):
        Run.open(tmp_path).figures()
    with pytest.raises(DataError, match="the period is 'tests'; choose one of validation, test"):
        finished.figures("tests")


def test_a_click_log_has_a_row_a_label(tmp_path: Path) -> None:
    measured = {"click": {"auc": 0.75, "rows": 10, "reliability": {"rows": [5, 5]}}}
    (tmp_path / "metrics.json").write_text(json.dumps({"task": "ranking", "validation": measured, "test": {}}))
    assert Run.open(tmp_path).figures("validation").to_dicts() == [{"label": "click", "auc": 0.75, "rows": 10}]
    with pytest.raises(DataError, match="no figures of TEST"):
        Run.open(tmp_path).figures()


def test_candidates_hold_what_the_slates_are_made_of(finished: Run, queries: list[Query]) -> None:
    candidates, some = finished.recommender.candidates(queries[:70]), queries[:70]
    by_key = {(row["user"], row["item"]): row for row in candidates.iter_rows(named=True)}
    assert len(by_key) == len(candidates)
    for slate in finished.recommender.recommend_all(some):
        for one in slate.items:
            row = by_key[slate.user, one.item]
            assert {name: row[f"p_{name}"] for name in one.probabilities} == pytest.approx(dict(one.probabilities))
            offered = {name.removeprefix("from_") for name in row if name.startswith("from_") and row[name] is not None}
            assert offered == set(one.sources)
    for user, own in candidates.group_by("user"):
        assert own["rank"].to_list() == list(range(len(own))), user


def test_vectors_give_the_scores_of_the_towers(finished: Run, queries: list[Query]) -> None:
    recommender, some = finished.recommender, queries[:5]
    candidates = recommender.candidates(some).drop_nulls("from_two_tower")
    row_of = {item: row for row, item in enumerate(recommender.items["item"])}
    users = dict(zip((query.user for query in some), recommender.user_vectors(some), strict=True))
    expected = [
        users[user] @ recommender.item_vectors[row_of[item]] for user, item in candidates["user", "item"].iter_rows()
    ]
    np.testing.assert_allclose(candidates["from_two_tower"], expected, atol=1e-5)


def test_another_policy_orders_the_same_candidates(finished: Run, queries: list[Query]) -> None:
    plain = {"kind": "mmr", "trade_off": 1.0, "window": 0, "span": None, "content": 0.0}
    value = {"formula": "w * buy", "weights": {"w": 2.0}}
    bought = finished.recommender.with_policy(value=value, diversity=plain)
    query = replace(queries[0], k=5)
    slate = bought.recommend(query)
    for one in slate.items:
        assert one.utility == pytest.approx(2 * one.probabilities["buy"]) or one.rules
    single = finished.recommender.with_policy(value=value | {"weights": {"w": 1.0}}, diversity=plain)
    for double, one in zip(bought.explain(query).items, single.explain(query).items, strict=True):
        assert double.item == one.item
        assert double.adds == pytest.approx({group: 2 * added for group, added in one.adds.items()}, abs=1e-6)
    with pytest.raises(ConfigError, match="repeat also decides"):
        finished.recommender.with_policy(repeat={"default": "always", "objectives": {}})
    with pytest.raises(ConfigError, match="vale"):
        finished.recommender.with_policy(vale=value)


def test_a_slate_is_a_table_for_people(finished: Run, queries: list[Query]) -> None:
    slate = finished.recommender.recommend(queries[0])
    table = finished.recommender.table(slate)
    assert table["item"].to_list() == [one.item for one in slate.items]
    assert table["utility"].to_list() == [one.utility for one in slate.items]
    assert {"title", "category", "price", "p_click", "sources", "rules"} <= set(table.columns)
    titles = dict(finished.dataset.items["item", "title"].iter_rows())
    assert table["title"].to_list() == [titles[item] for item in table["item"]]
