"""The users in a bundle: those of the data set, as folding every event one by one would leave them."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event
from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.features.memory import fold_with_memory
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.user_seed import NEVER, USER_SEED, SeededUsers, most_active_user, read_users, user_seed

DESCRIPTION = Description(
    actions=("click", "rating"),
    context={"device": "category"},
    items={},
    users={"age": "number", "note": "text"},
    objectives={"watch": "click", "like": "rating >= 4"},
    target="watch",
    title=None,
    order="time",
)
SPEC = FeatureSpec(
    items=TableSpec(name="items", columns=()),
    profile=TableSpec(name="profile", columns=(Column(name="age", kind="number"),)),
    context=TableSpec(name="context", columns=(Column(name="device", kind="category"),)),
    history_length=3,
    actions=DESCRIPTION.actions,
    objectives=DESCRIPTION.objectives,
    target="watch",
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.sampled_from("uvw"),
            "item": st.sampled_from(["a", "b", "plumless", "buckeroo", "é"]),
            "timestamp": st.sampled_from([-1.5, 0.0, 0.5, 1.0, 2.0, 7.25]),
            "click": st.none() | st.sampled_from([0.0, 1.0]),
            "rating": st.none() | st.sampled_from([1.0, 4.0]),
            "device": st.none() | st.just("tv"),
        }
    ),
    min_size=1,
    max_size=20,
)
USERS = pl.DataFrame({"user": ["u", "x"], "age": [30.0, None], "note": ["read by nobody", None]})
SCHEMA = {"user": pl.String, "item": pl.String, "timestamp": pl.Float64}
SCHEMA |= {"click": pl.Float64, "rating": pl.Float64, "device": pl.String}


def dataset_of(rows: list[dict[str, Any]]) -> Any:
    frame = pl.DataFrame(rows, schema=SCHEMA)
    return canonical(name="few", interactions=frame, items=None, users=USERS, description=DESCRIPTION)


def events_of(dataset: Any) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = defaultdict(list)
    for row in dataset.interactions.rows(named=True):
        known = {name: value for name, value in row.items() if value is not None}
        actions = {name: known[name] for name in DESCRIPTION.actions if name in known}
        context = {"device": known["device"]} if "device" in known else {}
        ids = {name: known[name] for name in ("user", "item", "timestamp")}
        events[row["user"]].append(Event(**ids, actions=actions, context=context))
    return events


@given(ROWS)
def test_histories_and_seen_items_are_what_folding_event_by_event_leaves(tmp_path_factory, rows) -> None:
    dataset = dataset_of(rows)
    file = tmp_path_factory.mktemp("seed") / USER_SEED
    user_seed(dataset, SPEC).write_ipc(file)
    users = {one.user: one for batch in read_users(file, 2) for one in batch}
    assert users.keys() == {*dataset.users["user"]}
    for user, events in events_of(dataset).items():
        assert (users[user].history, users[user].memory) == fold_with_memory((), {}, events, SPEC)
        assert seen_of(users[user]) == slow_seen(events)
    by_key = SeededUsers(file, lambda user: f"hash of {user}")
    assert by_key.get("nobody") is None
    for user, one in users.items():
        assert repr(by_key.get(f"hash of {user}")) == repr(one)
    assert (users["u"].profile, users["x"].profile, users["x"].history, users["x"].seen) == ({"age": 30.0}, {}, (), ())


def seen_of(user: Any) -> list[tuple[Any, ...]]:
    never = np.full(len(user.seen), NEVER)
    return [
        (item, last, *(user.reached.get(name, never)[row] for name in DESCRIPTION.objectives))
        for row, (item, last) in enumerate(zip(user.seen, user.last.tolist(), strict=True))
    ]


def slow_seen(events: list[Event]) -> list[tuple[Any, ...]]:
    def newest(item: str, name: str, least: float) -> int:
        times = [math.floor(one.timestamp) for one in events if one.item == item and one.actions.get(name, 0) >= least]
        return max(times, default=NEVER)

    last = {one.item: max(math.floor(e.timestamp) for e in events if e.item == one.item) for one in events}
    order = sorted(last, key=lambda item: (last[item], item))
    return [(item, last[item], newest(item, "click", 1), newest(item, "rating", 4)) for item in order]


def test_the_well_known_user_has_many_events_but_something_left_to_see(tmp_path) -> None:
    def row(user: str, item: str, time: float) -> dict[str, Any]:
        return {"user": user, "item": item, "timestamp": time, "click": 1.0, "rating": None, "device": None}

    crawler = [row("crawler", item, float(number)) for number, item in enumerate("abcdefgh")]
    usual = [row("v", item, float(number)) for number, item in enumerate("abc")]
    file = tmp_path / USER_SEED
    user_seed(dataset_of([*crawler, *usual, row("w", "a", 1.0)]), SPEC).write_ipc(file)
    assert most_active_user(file, 8) == "v"
    user_seed(dataset_of(crawler), SPEC).write_ipc(file)
    assert most_active_user(file, 8) == "crawler"
    user_seed(dataset_of(crawler), SPEC).filter(pl.col("user") == "x").write_ipc(file)
    assert most_active_user(file, 8) is None
