"""A slice of the tiny worlds: each ends with a bundle that serves or with one sentence, never with a traceback."""

import pytest

from benchmarks.claims.data import tiny_worlds
from benchmarks.claims.data.tiny_worlds import REFUSED, SERVES, attempt
from benchmarks.lib.eager_graphs import eager_graphs
from benchmarks.lib.tiny_world_logs import WORLDS
from recsys.data.sources.tables import Tables
from recsys.errors import RecsysError

SMALL = (*tiny_worlds.CUT, "evaluation.baselines.als=null", "evaluation.baselines.linear_mix=null")
ENDS = [
    ("all_users_once", "global_time", "default", SERVES, ""),
    ("one_user", "random", "default", SERVES, ""),
    ("one_item", "random", "synthetic", SERVES, ""),
    ("everybody_everything", "leave_one_out", "default", SERVES, ""),
    ("order_none", "random", "movielens_100k_sets", SERVES, ""),
    ("missing_columns", "leave_one_out", "sequence", SERVES, ""),
    ("one_user", "leave_one_out", "default", REFUSED, "no user meets a new item in the test period"),
    ("one_timestamp", "global_time", "default", REFUSED, "events share too few timestamps"),
    ("order_none", "global_time", "default", REFUSED, "choose protocol=leave_one_out or protocol=random"),
]


@pytest.mark.parametrize(("world", "protocol", "recipe", "outcome", "sentence"), ENDS)
def test_a_tiny_world_serves_or_is_refused_in_one_sentence(tmp_path, world, protocol, recipe, outcome, sentence):
    with eager_graphs():
        cell = attempt(world, protocol, recipe, tmp_path, SMALL)
    assert (cell.outcome, sentence in cell.reason) == (outcome, True), cell.reason
    assert "\n" not in cell.reason


@pytest.mark.parametrize("world", WORLDS)
def test_every_tiny_world_is_read_or_refused(world, tmp_path):
    try:
        reason = f"{Tables(description=str(WORLDS[world](tmp_path))).load().num_events} events"
    except RecsysError as error:
        reason = str(error)
    assert "\n" not in reason


def test_there_are_forty_of_them():
    assert len(WORLDS) >= 40
