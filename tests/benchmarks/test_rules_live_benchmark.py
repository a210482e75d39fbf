"""The benchmark of published rules, without its server."""

from benchmarks.claims.serving.rules_live import (
    NUM_RULES,
    Answer,
    Load,
    changed,
    figures,
    publish,
    races,
    summary,
    tampering,
    text,
)
from recsys.policy.rules import RuleSet
from recsys.policy.rules.store import RuleStore


def answer(client, start, stop, version):
    return Answer(client=client, start=start, stop=stop, version=version)


def test_every_number_is_another_rule_set_of_the_same_size():
    sets = [RuleSet.parse(text(number)) for number in range(30)]
    assert {len(one.rules) for one in sets} == {NUM_RULES}
    assert len({one.hash for one in sets}) == 30


def test_of_every_race_one_editor_wins(tmp_path):
    assert sorted(races(tmp_path, 2)) == ["conflict", "conflict", "won", "won"]


def test_every_alteration_is_seen(tmp_path):
    seen = tampering(tmp_path)
    assert len(seen) == 6
    assert all(seen.values())


class Heard(Load):
    """Answers that were given before the change, in seconds after its start."""

    def until(self, version, start):
        self._answers += [answer(client, start + at, start + at + 0.5, by) for client, at, by in self.coming(version)]

    def coming(self, version):
        return [(0, 0.0, version), (1, 0.5, "older"), (0, 1.0, version), (1, 1.5, None)]


def test_a_change_is_over_when_nothing_else_answers_any_more(tmp_path):
    load, store = Heard("", []), RuleStore(tmp_path / "rules")
    rows = [changed(load, kind, lambda number=number: publish(store, number)) for number, kind in enumerate(KINDS)]
    assert [(row["seconds_first"], row["seconds_all"], row["slowest_ms"]) for row in rows] == [(0.5, 2.0, 500.0)] * 3
    claimed = figures(rows, load, ["won", "conflict"], {"a": "seen", "b": None})
    assert claimed["failed_requests"].value == 3
    assert claimed["seconds_until_old_version_answers"].value == 2.0
    assert (claimed["conflicts_refused"].value, claimed["tampering_detected"].value) == (1, 1)
    assert summary(rows).row_count == 3


KINDS = ("publish", "undo", "far")
