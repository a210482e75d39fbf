"""Experiments as a document: what is refused, who takes part, and which parts of the users two of them share."""

import copy
from collections import Counter

import pytest
import yaml

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.experiments.experiment_set import ExperimentSet
from recsys.experiments.experiment_store import ExperimentStore

WIDER = {
    "name": "wider",
    "hypothesis": "more different slates are clicked more",
    "arms": {"control": {"share": 0.5}, "wide": {"share": 0.5, "policy": {"diversity": {"trade_off": 0.6}}}},
    "primary": "click_per_request",
    "start": "2026-12-01",
    "end": "2026-12-15",
}
DURING, BEFORE, AFTER = 1_796_800_000.0, 1_796_000_000.0, 1_797_500_000.0
TYPES = {"user.age": "number", "context.device": "category"}
USERS = [f"user-{number}" for number in range(20_000)]


def document(*changes):
    """One experiment for each change of WIDER."""
    return {"experiments": [{**copy.deepcopy(WIDER), **change} for change in changes]}


def compiled(*changes):
    return ExperimentSet.parse(document(*changes)).compile(TYPES)


def query(user="ann", **given):
    return Query(user=user, **{"now": DURING, **given})


def counts(experiments, name):
    return Counter(experiments.assign(query(user))[0].get(name) for user in USERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "two words"}, "up to 64 letters"),
        ({"arms": {"control": {"share": 1.0}}}, "has 1 arm; give two or more"),
        ({"arms": {"control": {"share": 0.5}, "b": {"share": 0.4}}}, r"the shares of its arms add up to 0\.9"),
        ({"arms": {"control": {"share": 1.0}, "b": {"share": 0.0}}}, r"arms\.b\.share is 0"),
        ({"arms": {"none": {"share": 0.5}, "b": {"share": 0.5}}}, "by which figures name those who take no part"),
        ({"less": ["click_per_reqest"]}, "less names 'click_per_reqest'; did you mean 'click_per_request'"),
        ({"guardrails": ["a", "a"]}, "a guardrail twice"),
        ({"when": "num_events >="}, "is no expression"),
        ({"planned_users": 2.7}, "write a whole number"),
        ({"interleave": "yes"}, "interleave is 'yes'; write true or false"),
        ({"interleave": True, "guardrails": ["revenue_per_user"]}, "no guardrails and no least_share"),
        ({"interleave": True, "least_share": 0.1}, "no guardrails and no least_share"),
        ({"interleave": True, "primary": "click_users"}, "interleaved arms compete for click_per_request"),
        (
            {
                "interleave": True,
                "arms": {"a": {"share": 0.5}, "b": {"share": 0.5, "policy": {"rules": {"without": ["x"]}}}},
            },
            "b changes rules",
        ),
        (
            {"arms": {"a": {"share": 0.5}, "b": {"share": 0.5, "policy": {"interleave": {"x": {}, "y": {}}}}}},
            "write interleave: true beside the arms",
        ),
        (
            {"arms": {"a": {"share": 0.5}, "b": {"share": 0.5, "policy": {"weights": {"w": "x"}}}}},
            r"arms\.b\.policy\.weights\.w is 'x'; write a finite number",
        ),
        ({"arms": {"control": {"share": 0.5}, "b": {"share": 0.5, "rules": "x"}}}, "write share, and policy"),
        (
            {"arms": {"control": {"share": "half"}, "b": {"share": 0.5}}},
            r"arms\.control\.share is 'half'; write a number",
        ),
        (
            {"arms": {"control": {"share": 0.5}, "b": {"share": 0.5, "policy": {"diversty": {}}}}},
            r"arms\.b\.policy has the unknown key 'diversty'; did you mean 'diversity'",
        ),
        ({"users": [0.6, 0.5]}, r"users is \[0.6, 0.5\]; write a part of 0 to 1"),
        ({"users": [0.0, 0.5, 1.0]}, "write a part of 0 to 1"),
        ({"end": "2026-12-01"}, "not after its start"),
        ({"start": "soon"}, "write a date"),
        ({"primry": "x"}, "has the unknown key 'primry'; did you mean 'primary'"),
        ({"guardrails": ["click_per_request"]}, "primary metric and a guardrail"),
        ({"surfaces": "home"}, r"write a list, for instance \[home\]"),
        ({"planned_users": 1}, "plan for two at least"),
        ({"effect": True}, "effect is True; write a number"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        ExperimentSet.parse(document(change))


@pytest.mark.parametrize("text", ["", "[]", "experiments: 3", "experiments: [3]", "a: [", "experiments: []\nmore: 1"])
def test_what_is_no_set_of_experiments_is_refused_in_a_sentence(text):
    with pytest.raises(ConfigError, match=r"experiments"):
        ExperimentSet.parse(text)


@pytest.mark.parametrize("key", ["name", "hypothesis", "arms", "primary", "start", "end"])
def test_a_key_that_is_needed_is_asked_for(key):
    without = {name: value for name, value in WIDER.items() if name != key}
    with pytest.raises(ConfigError, match=f"lacks the key '{key}'"):
        ExperimentSet.parse({"experiments": [without]})


def test_a_condition_that_reads_another_column_is_refused_before_it_serves():
    with pytest.raises(ConfigError, match=r"the experiment 'wider': when.*user\.height"):
        compiled({"when": "user.height > 3"})


def test_arms_have_their_shares_of_the_part_of_the_users():
    found = counts(compiled({"users": [0.2, 0.6]}), "wider")
    for arm, share in ((None, 0.6), ("control", 0.2), ("wide", 0.2)):
        assert abs(found[arm] / len(USERS) - share) < 4 * (share * (1 - share) / len(USERS)) ** 0.5


def test_a_user_keeps_the_arm_when_the_part_grows_and_others_come():
    small = compiled({"users": [0.0, 0.3], "layer": "slate"})
    large = compiled({"users": [0.0, 0.5], "layer": "slate"}, {"name": "other", "users": [0.5, 1.0], "layer": "slate"})
    for user in USERS[:2_000]:
        before, after = (one.assign(query(user))[0].get("wider") for one in (small, large))
        assert before in (None, after)


def test_experiments_of_one_layer_share_no_user_and_of_two_layers_are_independent():
    one_layer = compiled({"users": 0.5, "layer": "slate"}, {"name": "other", "users": [0.5, 1.0], "layer": "slate"})
    assert all(len(one_layer.assign(query(user))[0]) == 1 for user in USERS[:2_000])
    same = {"arms": {"control": {"share": 0.5}, "b": {"share": 0.5}}}
    apart = compiled({}, {"name": "other", **same})
    pairs = Counter(tuple(apart.assign(query(user))[0].values()) for user in USERS)
    assert len(pairs) == 4
    assert all(abs(count / len(USERS) - 0.25) < 0.015 for count in pairs.values())


def test_experiments_that_get_in_each_others_way_are_refused():
    with pytest.raises(ConfigError, match="have users in common at the same time"):
        ExperimentSet.parse(document({"layer": "x"}, {"name": "b", "layer": "x", "users": [0.9, 1.0]}))
    with pytest.raises(ConfigError, match=r"both change policy\.diversity of the same requests"):
        ExperimentSet.parse(document({}, {"name": "b"}))
    with pytest.raises(ConfigError, match="two experiments are called 'wider'"):
        ExperimentSet.parse(document({}, {}))
    ExperimentSet.parse(document({}, {"name": "b", "start": "2026-12-15", "end": "2027-01-01"}))
    ExperimentSet.parse(document({"surfaces": ["home"]}, {"name": "b", "surfaces": ["search"]}))


@pytest.mark.parametrize(
    ("given", "takes_part"),
    [
        ({}, False),
        ({"profile": {"age": 30}}, True),
        ({"profile": {"age": 10}}, False),
        ({"profile": {"age": 30}, "surface": "search"}, False),
        ({"profile": {"age": 30}, "now": BEFORE}, False),
        ({"profile": {"age": 30}, "now": AFTER}, False),
    ],
)
def test_who_takes_part(given, takes_part):
    experiments = compiled({"when": "user.age > 17", "surfaces": ["home"]})
    arms, policy = experiments.assign(query(**{"surface": "home", **given}))
    assert bool(arms) == takes_part
    assert not policy or arms == {"wider": "wide"}


def test_the_policy_of_an_arm_comes_with_it():
    experiments = compiled({})
    found = {tuple(arms.items()): policy for arms, policy in (experiments.assign(query(user)) for user in USERS[:50])}
    assert found == {(("wider", "control"),): {}, (("wider", "wide"),): {"diversity": {"trade_off": 0.6}}}


def test_interleaved_arms_come_together_to_all_who_take_part():
    experiments = compiled({"interleave": True, "users": 0.5})
    found = [experiments.assign(query(user)) for user in USERS]
    taken = [(arms, policy) for arms, policy in found if arms]
    assert abs(len(taken) / len(USERS) - 0.5) < 0.02
    both = {"control": {}, "wide": {"diversity": {"trade_off": 0.6}}}
    assert all(one == ({"wider": "interleaved"}, {"interleave": both}) for one in taken)
    others = [
        {"name": "other", "arms": {"a": {"share": 0.5}, "b": {"share": 0.5, "policy": policy}}}
        for policy in ({}, both["wide"])
    ]
    compiled({"interleave": True}, others[0])
    with pytest.raises(ConfigError, match=r"both change policy\.diversity"):
        compiled({"interleave": True}, others[1])


def test_an_experiment_is_independent_of_a_layer_of_its_name():
    same = {"arms": {"control": {"share": 0.5}, "b": {"share": 0.5}}}
    found = compiled({"name": "slate", "users": 0.5, **same}, {"layer": "slate", "users": [0.5, 1.0], **same})
    both = sum(len(found.assign(query(user))[0]) == 2 for user in USERS)
    assert abs(both / len(USERS) - 0.25) < 0.015


def test_a_version_is_named_by_what_it_says():
    one, other = (yaml.safe_dump(document({}), sort_keys=order) for order in (True, False))
    assert one != other
    assert ExperimentSet.parse(one).hash == ExperimentSet.parse(other).hash
    assert ExperimentSet.parse(document({"users": 0.5})).hash != ExperimentSet.parse(one).hash
    assert ExperimentSet.parse(document({"interleave": False})).hash == ExperimentSet.parse(one).hash
    assert ExperimentSet.parse(document({"interleave": True})).hash != ExperimentSet.parse(one).hash
    order = {"arms": dict(reversed(WIDER["arms"].items()))}
    assert ExperimentSet.parse(document(order)).hash != ExperimentSet.parse(one).hash, "another arm is the control"


def test_versions_are_published_and_undone_with_an_author(tmp_path):
    store = ExperimentStore(tmp_path / "experiments")
    first = store.publish(yaml.safe_dump(document({})), who="ann", why="first")
    second = store.publish(yaml.safe_dump(document({"users": 0.5})), who="bob", why="half", expected=first.version)
    assert store.rollback(who="ann", why="too small").version == first.version
    assert [one.who for one in store.verify()] == ["ann", "bob", "ann"]
    assert second.version != first.version
    with pytest.raises(ConfigError, match="has 1 arm"):
        store.publish(
            yaml.safe_dump(document({"arms": {"a": {"share": 1}}})), who="ann", why="x", expected=first.version
        )
