"""The benchmark of user states, small."""

import asyncio

from benchmarks.claims.serving.state import BATCH, HISTORY, batches, figures, fill, opened, reads, run, summary
from serving.state.store_factory import SQLITE

USERS = 30


def test_every_user_has_a_history_of_full_length_and_batches_are_new_to_all(tmp_path):
    url = f"{SQLITE}{tmp_path / 'states.db'}"

    async def ask():
        await fill(url, USERS)
        states = opened(url)
        before = [await states.get(str(user)) for user in range(USERS)]
        batch = next(batches(USERS, seed=0))
        await states.write(batch)
        after = [await states.get(str(user)) for user in range(USERS)]
        num = len(await reads(states, USERS, 7))
        await states.close()
        return before, batch, after, num

    before, batch, after, num = asyncio.run(ask())
    assert {len(state.history) for state in before} == {HISTORY}
    written = {int(one.record.user) for one in batch}
    assert (len(batch), num) == (BATCH, 7)
    assert {user for user in range(USERS) if after[user] != before[user]} == written


def test_both_stores_are_measured_in_every_case_and_what_is_served_counts(tmp_path):
    rows = run(tmp_path, USERS, 20, 0.0)
    assert {(row["store"], row["writer"]) for row in rows} == {
        (store, writer)
        for store in ("sqlite", "valkey")
        for writer in ("none", "nobody reads", "own process", "same loop")
    }
    assert all(row["batches_per_s"] > 0 for row in rows if row["writer"] in ("own process", "same loop"))
    for row in rows:
        row["get_p99_ms"] = {"none": 1.0, "nobody reads": None, "own process": 2.0, "same loop": 9.0}[row["writer"]]
    rows[0]["get_p99_ms"] = 3.0
    claimed = figures(rows)
    assert claimed["get_p99_ms_sqlite"].value == 3.0
    assert claimed["get_p99_ms_valkey"].value == 2.0
    assert summary(rows).row_count == 8
