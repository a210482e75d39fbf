"""A few hundred of the broken payloads of benchmarks/claims/serving/fuzz.py at the real Triton."""

import pytest

from benchmarks.claims.serving.fuzz import PLANTED, Fuzzed, Told, figures, fuzz
from benchmarks.lib.payloads import BREAKS, Payload, payloads, request_of
from recsys.contracts import Query

NUM = 440


def test_a_server_answers_broken_payloads_in_one_sentence_and_stays_as_it_was(trained, tmp_path):
    (query,) = trained.replay.queries([trained.dataset.num_events - 1], k=5)
    found = fuzz(trained.folder / "serve" / "current" / "models", query, NUM, 1, tmp_path / "triton.log")
    assert len(found.told) == NUM
    assert {name: figure.value for name, figure in figures(found).items()} == dict.fromkeys(figures(found), 0)
    statuses = {one.status for one in found.told}
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= statuses, "the payloads are not broken in enough ways"


def test_the_same_seed_breaks_the_same_way_and_every_break_changes_something():
    query = Query(user=PLANTED, now=1.0, context={"device": "phone"}, request_id="r")
    sent = payloads(query, 220, seed=3)
    assert sent == payloads(query, 220, seed=3)
    assert sent != payloads(query, 220, seed=4)
    assert {one.kind for one in sent} == set(BREAKS)
    whole = request_of(query.to_json().encode()).SerializeToString()
    assert sum(one.message == whole for one in sent) < 10


@pytest.mark.parametrize(
    ("status", "text", "sound"),
    [
        ("OK", "a slate", True),
        ("INVALID_ARGUMENT", "query.k is 0", True),
        ("INTERNAL", "Unable to parse request", True),
        ("INTERNAL", "the stage rank failed", False),
        ("OK", 'Traceback (most recent call last): File "x.py", line 3', False),
        ("DEADLINE_EXCEEDED", "", False),
    ],
)
def test_what_counts_as_sound(status, text, sound):
    assert Told(payload=Payload(kind="cut", message=b""), status=status, text=text).sound is sound


def test_a_log_that_names_who_asked_is_counted():
    found = Fuzzed(told=[], log=f"fine\nuser {PLANTED} failed\n", same_slate=False, unready=["rank"])
    values = {name: figure.value for name, figure in figures(found).items()}
    assert values == {"undeclared_answers": 0, "betraying_log_lines": 1, "models_not_ready": 1, "slates_changed": 1}
