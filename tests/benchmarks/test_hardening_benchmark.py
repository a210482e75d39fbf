"""The benchmark of attacks, without its stack: counts, verdicts, selection, and the table."""

from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks.claims.serving.hardening import ATTACKS, line, selected, table
from benchmarks.lib.attacks import MIN_ATTACKS, Attack, Outcome, Stopwatch, carry_out, figures, struck
from benchmarks.lib.other_caller import Witnessed
from recsys.errors import ConfigError


def outcome(**changes):
    fields = {
        "group": "requests",
        "tried": "x",
        "happened": "refused",
        "came_through": False,
        "executed": False,
        "recovered_s": 0.5,
        "restarted_gateway": False,
        "asked": 4,
        "failed": 0,
        "forbidden": 0,
    }
    return Outcome(**{**fields, **changes})


def reached(outcomes, acknowledged=("a",), written=("a",)):
    """Names of the figures that miss their goal, beside the number of attacks."""
    found = figures(outcomes, acknowledged, written)
    return {name for name, one in found.items() if not one.reached} - {"attacks"}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, set()),
        ({"group": "another account", "came_through": True}, {"other_account_came_through"}),
        ({"executed": True}, {"code_executed_by_another_account"}),
        ({"group": "rules", "came_through": True}, {"other_attacks_came_through"}),
        ({"restarted_gateway": True}, {"gateway_restarts_by_requests"}),
        ({"group": "processes", "restarted_gateway": True}, set()),
        ({"failed": 1}, {"others_refused_meanwhile"}),
        ({"group": "disk", "failed": 9}, set()),
        ({"group": "disk", "forbidden": 1}, {"must_violations"}),
        ({"recovered_s": None}, {"not_recovered_alone"}),
    ],
)
def test_each_failure_misses_its_goal_and_no_other(changes, missed):
    assert reached([outcome(), outcome(**changes)]) == missed


def test_lost_and_doubled_events_are_counted_once_each():
    found = figures([outcome()], ["a", "b", "c"], ["a", "a", "c", "stranger"])
    assert (found["acknowledged_events_lost"].value, found["acknowledged_events_doubled"].value) == (1, 1)


def test_the_number_of_attacks_has_a_goal_that_the_list_reaches():
    assert not figures([outcome()], [], [])["attacks"].reached
    assert figures([outcome()] * MIN_ATTACKS, [], [])["attacks"].reached
    assert len(ATTACKS) >= MIN_ATTACKS
    assert max(Counter(one.tried for one in ATTACKS).values()) == 1


class FakeStack:
    """Pids, and an answer to whether it is well again."""

    executed = False

    def __init__(self, recovered=True):
        self.pids, self._recovered = {"gateway": 1}, recovered

    def recovers(self, token, patience_s):
        return self._recovered


def scene(stack):
    counts = iter([Witnessed(answers=3, failures=1, forbidden=0), Witnessed(answers=5, failures=1, forbidden=2)])
    return SimpleNamespace(
        stack=stack,
        token="t",
        watch=Stopwatch(),
        caller=SimpleNamespace(witnessed=lambda *before: next(counts)),
    )


def test_an_attack_that_is_refused_is_a_row_with_what_happened_meanwhile():
    made = carry_out(Attack(group="g", tried="t", strike=struck(lambda scene: "a\n  b")), scene(FakeStack()))
    assert (made.happened, made.came_through, made.recovered_s) == ("a b", False, 0.0)
    assert (made.asked, made.failed, made.forbidden, made.restarted_gateway) == (5, 1, 2, False)


def test_an_attack_that_comes_through_is_a_row_and_ends_nothing():
    def strike(scene):
        scene.stack.pids = {"gateway": 2}
        raise AssertionError("reached")

    made = carry_out(Attack(group="g", tried="t", strike=struck(strike)), scene(FakeStack(recovered=False)))
    assert (made.happened, made.came_through) == ("AssertionError: reached", True)
    assert (made.recovered_s, made.restarted_gateway) == (None, True)


def test_damage_is_put_back_after_the_recovery():
    steps = []

    class Recovering(FakeStack):
        def recovers(self, token, patience_s):
            steps.append("recovery")
            return True

    @contextmanager
    def strike(scene):
        steps.append("damage")
        yield "x"
        steps.append("back")

    assert not carry_out(Attack(group="g", tried="t", strike=strike), scene(Recovering())).came_through
    assert steps == ["damage", "recovery", "back"]


def test_attacks_are_selected_by_group_or_description():
    assert {one.group for one in selected("keys and")} == {"keys and tenants"}
    assert any("Slow loris" in one.tried for one in selected("slow LORIS"))
    with pytest.raises(ConfigError, match="no attack has the word 'zebra'; the groups are another account, requests"):
        selected("zebra")


def test_the_table_fits_80_columns_and_names_each_group_once():
    console = Console(width=200, record=True)
    rows = [outcome(tried="word " * 30), outcome(happened="word " * 60, came_through=True), outcome(group="rules")]
    console.print(table(rows))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.strip() for line in lines if line.strip() in ("requests", "rules")] == ["requests", "rules"]
    assert "came through" in line(rows[1], 2, 3, 60.0).lower()
