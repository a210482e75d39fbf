"""A small simulated shop and its log, shared by the tests of measurement."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import SimulatedLog
from recsys.data.simulation.visits import Visits, reactions, visits
from recsys.measurement.settings import MeasurementSettings, Outcome

ACTIONS = {"kind": "word", "amount": "number", "seconds": "number"}
SETTINGS = MeasurementSettings(
    actions=ACTIONS,
    outcomes={
        "click": Outcome(value="kind == 'click'", window_s=3_600.0),
        "buy": Outcome(value="kind == 'buy'", window_s=86_400.0),
        "revenue": Outcome(value="where(kind == 'buy', amount)", window_s=86_400.0, credit="linear"),
    },
    k=(1, 3),
    by=("context.arm", "profile.segment"),
    return_days=(1, 2),
)


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A log and what it was made from."""

    log: Path
    shop: SimulatedShop
    visits: Visits


@pytest.fixture(scope="session")
def settings() -> MeasurementSettings:
    return SETTINGS


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Three days with an outage, late and repeated events; items come again soon, since there are few."""
    shop = SimulatedShop(
        users=60, items=30, days=3, slate=3, seed=1, arms={"control": 0.0, "treatment": 0.5}, outages=[(1.5, 2.0)]
    )
    shown = visits(shop)
    log = tmp_path_factory.mktemp("simulated") / "events"
    SimulatedLog(named=0.6, late=0.2, twice=0.1, history=2, files_per_day=2).write(
        log, shop, shown, reactions(shop, shown)
    )
    return Simulated(log=log, shop=shop, visits=shown)
