"""A budget is divided as the usual one is."""

from dataclasses import asdict

import pytest

from recsys.errors import ConfigError
from serving.gateway.settings import Settings


@pytest.mark.parametrize("budget_ms", [5.0, 20.0, 99.0])
def test_a_smaller_budget_keeps_the_shares(budget_ms: float) -> None:
    usual, own = Settings(), Settings.within(budget_ms, liked=("like",))
    for name in ("state_ms", "light_ms", "fallback_ms"):
        assert getattr(own, name) / budget_ms == pytest.approx(getattr(usual, name) / usual.budget_ms)
    assert own.liked == ("like",)


def test_a_larger_budget_goes_to_the_state_and_the_cascade() -> None:
    assert asdict(Settings.within(20_000.0, liked=())) == asdict(
        Settings(budget_ms=20_000.0, state_ms=14_000.0, requests_at_once=6_400)
    )


@pytest.mark.parametrize("budget_ms", [1.0, float("nan"), float("inf")])
def test_a_budget_out_of_range_is_named_as_it_was_given(budget_ms: float) -> None:
    with pytest.raises(ConfigError, match=rf"gateway\.budget_ms is {budget_ms:g}"):
        Settings.within(budget_ms, liked=())
