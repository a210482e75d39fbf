"""The synthetic world: the same every time, rates and rarities as planned, and truth that shows in the log."""

import numpy as np
import polars as pl
import pytest

from recsys.data.sources.synthetic import COLD_FROM, DAY_S, DAYS, OBJECTIVES, START, Synthetic, SyntheticWorld
from recsys.errors import ConfigError

SOURCE = Synthetic(users=300, items=200, events=30_000, seed=3)
LATE = START + COLD_FROM * DAYS * DAY_S


@pytest.fixture(scope="module")
def world() -> SyntheticWorld:
    return SOURCE.world()


def test_the_same_arguments_give_the_same_tables() -> None:
    one, same = SOURCE.load(), Synthetic(users=300, items=200, events=30_000, seed=3).load()
    other = Synthetic(users=300, items=200, events=30_000, seed=4).load()
    assert one.hash() == same.hash() != other.hash()
    assert one.items.equals(same.items)
    assert one.users.equals(same.users)


def test_rates_fall_from_click_to_buy() -> None:
    labels = SOURCE.load().labels()
    np.testing.assert_allclose(labels.mean(axis=0), (0.30, 0.12, 0.04, 0.01), rtol=0.15)
    assert (labels[:, 1:] <= labels[:, :1]).all(), "like, share and buy come only after a click"


def test_logged_actions_follow_the_true_probabilities(world: SyntheticWorld) -> None:
    impressions = SOURCE.impressions(world)
    probabilities = SOURCE.probabilities(world, impressions)
    keys = {"user": world.users[impressions.user], "item": world.items[impressions.item], "timestamp": impressions.time}
    truth = pl.DataFrame(keys | {f"p_{name}": probabilities[:, column] for column, name in enumerate(OBJECTIVES)})
    logged = SOURCE.load().interactions.join(truth.unique(["user", "item", "timestamp"]), on=list(keys))
    for name in OBJECTIVES:
        bins = logged.sort(f"p_{name}").with_row_index().with_columns(bin=pl.col("index") * 5 // pl.len())
        means = bins.group_by("bin").agg(pl.col(name, f"p_{name}").mean(), count=pl.len()).to_dict(as_series=False)
        actual, wanted, count = (np.array(means[key]) for key in (name, f"p_{name}", "count"))
        assert (np.abs(actual - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count) + 1e-3).all()


def test_relevance_is_free_of_position_and_ranks_clicks(world: SyntheticWorld) -> None:
    impressions = SOURCE.impressions(world)
    relevance = world.relevance()
    assert relevance.shape == (300, 200, 4)
    probabilities = SOURCE.probabilities(world, impressions)[:, 0]
    truth = relevance[impressions.user, impressions.item, 0]
    top = impressions.position == 0
    assert np.corrcoef(truth[top], probabilities[top])[0, 1] > 0.8
    likely = truth > np.median(truth)
    assert probabilities[likely].mean() > 1.5 * probabilities[~likely].mean()
    assert probabilities[top].mean() > 1.3 * probabilities[impressions.position >= 5].mean()


def test_cold_users_and_items_come_late_and_do_come(world: SyntheticWorld) -> None:
    events = SOURCE.load().interactions
    assert START <= events["timestamp"].min() <= events["timestamp"].max() < START + DAYS * DAY_S  # type: ignore[operator]
    for key, ids, cold in (("user", world.users, world.cold_users), ("item", world.items, world.cold_items)):
        of_cold = events.filter(pl.col(key).is_in(ids[cold].tolist()))
        assert of_cold["timestamp"].min() >= LATE  # type: ignore[operator]
        assert of_cold[key].n_unique() >= 0.8 * cold.sum() > 0


def test_some_values_are_missing_and_vectors_carry_the_topics(world: SyntheticWorld) -> None:
    dataset = SOURCE.load()
    for table, column, share in ((dataset.users, "age", 0.05), (dataset.items, "price", 0.05)):
        assert 0 < table[column].null_count() < 3 * share * table.height
    assert 0 < dataset.interactions["device"].null_count() < 0.04 * dataset.num_events
    vectors = np.array(dataset.items.sort("item")["vector"].to_list())
    assert vectors.shape == (200, 8)
    assert np.corrcoef(vectors.ravel(), world.topics.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("key", ["users", "items", "events", "seed"])
@pytest.mark.parametrize("value", [-1, 5.0, True])
def test_a_number_out_of_range_is_named(key: str, value: object) -> None:
    good = {"users": 50, "items": 50, "events": 200, "seed": 0}
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        Synthetic(**{**good, key: value})  # type: ignore[arg-type]
