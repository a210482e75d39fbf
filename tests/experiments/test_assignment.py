"""Who sees which arm: uniform, stable, and independent from one experiment to another. No seed: hashes are fixed."""

from collections import Counter

import pytest

from recsys.errors import ConfigError
from recsys.experiments.assignment import Assignment

USERS = [f"user-{number}" for number in range(20_000)]


def halves(salt):
    return Assignment(salt=salt, shares={"a": 0.5, "b": 0.5})


def test_arms_get_their_shares():
    shares = {"old": 0.7, "new": 0.25, "holdout": 0.05}
    counts = Counter(map(Assignment(salt="ranker", shares=shares).arm, USERS))
    assert set(counts) == set(shares)
    for arm, share in shares.items():
        assert abs(counts[arm] / len(USERS) - share) < 4 * (share * (1 - share) / len(USERS)) ** 0.5


def test_places_are_uniform():
    places = sorted(map(halves("ranker").hash_point, USERS))
    assert places[0] >= 0
    assert places[-1] < 1
    distance = max(abs(place - rank / len(USERS)) for rank, place in enumerate(places))
    assert distance < 1.63 / len(USERS) ** 0.5  # Kolmogorov-Smirnov, 1%


def test_a_user_keeps_the_arm_for_good():
    one = halves("ranker")
    assert [one.arm(user) for user in USERS[:100]] == [halves("ranker").arm(user) for user in USERS[:100]]
    assert "".join(one.arm(str(user)) for user in range(12)) == "abaabbbbbabb"


def test_experiments_are_independent_of_each_other():
    pairs = Counter((halves("ranker").arm(user), halves("rules").arm(user)) for user in USERS)
    assert all(abs(count / len(USERS) - 0.25) < 0.015 for count in pairs.values())
    assert len(pairs) == 4


def test_a_growing_arm_keeps_those_it_has():
    small = Assignment(salt="ranker", shares={"new": 0.1, "old": 0.9})
    large = Assignment(salt="ranker", shares={"new": 0.3, "old": 0.7})
    assert all(large.arm(user) == "new" for user in USERS if small.arm(user) == "new")


def test_salt_and_user_do_not_run_into_each_other():
    assert halves("a").hash_point("bc") != halves("ab").hash_point("c")


def test_an_arm_without_a_share_gets_nobody():
    one = Assignment(salt="ranker", shares={"none": 0.0, "all": 1.0, "last": 0.0})
    assert {one.arm(user) for user in USERS[:1000]} == {"all"}


@pytest.mark.parametrize(
    ("salt", "shares", "sentence"),
    [
        ("", {"a": 1.0}, "assignment.salt is empty"),
        ("x", {"a": 0.5, "b": 0.4}, r"add up to 0.9; make it 1"),
        ("x", {}, "add up to 0"),
        ("x", {"a": 1.5, "b": -0.5}, r"assignment.shares.a is 1.5; choose a number from 0 to 1"),
        ("x", {"a": float("nan")}, "assignment.shares.a is nan"),
    ],
)
def test_what_is_no_distribution_is_refused(salt, shares, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Assignment(salt=salt, shares=shares)
