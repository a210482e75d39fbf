"""Where benchmarks/claims/policy/diversity.py chooses its settings: never by what has learnt from it, and before the test."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.claims.policy import diversity
from benchmarks.claims.policy.diversity import chosen_on
from recsys.data.splits import TEST, VALIDATION
from recsys.errors import ConfigError

FOLDER = Path("runs/demo")


def run_of(cuts, strict=False):
    return SimpleNamespace(split=SimpleNamespace(cuts=cuts, strict=strict))


@pytest.fixture
def earlier(monkeypatch):
    """Every run is one whose test ends at 30; it is given back with the period that it was asked in."""

    def finished(folder, *, period, most):
        return SimpleNamespace(folder=folder, period=period, split=run_of((0.0, 10.0, 20.0, 30.0)).split)

    monkeypatch.setattr(diversity, "finished", finished)


def test_what_serves_does_not_choose_on_what_it_has_learnt(earlier):
    with pytest.raises(ConfigError, match=r"runs/demo has learnt from its VALIDATION .* write runs/demo:runs/earlier"):
        chosen_on(FOLDER, run_of((10.0, 20.0, 30.0)), "")
    assert chosen_on(FOLDER, run_of(None, strict=True), "").period == VALIDATION


def test_an_earlier_run_chooses_in_its_own_test_if_that_ends_before(earlier):
    assert chosen_on(FOLDER, run_of((10.0, 20.0, 30.0)), "runs/earlier").period == TEST
    for cuts in ((10.0, 20.0, 29.0), None):
        with pytest.raises(ConfigError, match=r"the test of runs/earlier does not end before"):
            chosen_on(FOLDER, run_of(cuts), "runs/earlier")
