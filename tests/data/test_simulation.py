"""The simulated shop: what it draws has the probabilities that it tells, and its users see what a door answers."""

import numpy as np
import pytest

from recsys.data.simulation.live_users import HttpDoor, LiveUsers
from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.visits import reactions, visits
from recsys.errors import ConfigError, ServingError

SHOP = SimulatedShop(users=400, items=60, days=4, slate=5, seed=2, arms={"a": 0.0, "b": 1.0}, outages=[(1.0, 2.0)])


@pytest.fixture(scope="module")
def shown():
    return visits(SHOP)


def test_what_users_do_has_the_probabilities_of_the_shop(shown):
    done = reactions(SHOP, shown)
    for happened, probability in ((done.clicked, shown.click), (done.bought, shown.buy)):
        deviation = np.sqrt((probability * (1 - probability)).sum())
        assert abs(happened.sum() - probability.sum()) < 4 * deviation
    assert not (done.bought & ~done.clicked).any()
    assert (done.clicked_at > shown.now[:, None]).all()


def test_position_arm_and_outage_do_what_they_say(shown):
    assert (np.diff(shown.click.mean(axis=0)) < 0).all()
    arms = [shown.click[SHOP.arm[shown.user] == arm].mean() for arm in (0, 1)]
    assert arms[1] > 1.3 * arms[0]
    assert 0 < shown.outage.mean() < 0.5
    assert np.abs(shown.propensity[shown.outage] - 1 / (30 - np.arange(5))).max() < 1e-12


def test_users_come_back_as_the_closed_forms_say():
    shop = SimulatedShop(users=4_000, items=30, days=6, slate=1, seed=0)
    came = (np.random.default_rng(0).random((shop.users, shop.days)) < shop.active[:, None]).astype(float)
    assert came[:, 0] @ came[:, 3] / came[:, 0].sum() == pytest.approx(shop.retained(), abs=0.03)
    assert came[:, 0] @ came[:, 1:3].max(axis=1) / came[:, 0].sum() == pytest.approx(shop.returned(2), abs=0.03)


def test_another_population_visits_the_same_items():
    other = SimulatedShop(users=400, items=60, days=4, slate=5, seed=2, population=1)
    assert np.array_equal(other.world.price, SHOP.world.price)
    assert np.array_equal(other.world.tastes, SHOP.world.tastes)
    assert not np.array_equal(other.world.age, SHOP.world.age)


def test_a_shop_of_impossible_numbers_is_refused():
    with pytest.raises(ConfigError, match=r"shop\.items is 3"):
        SimulatedShop(users=10, items=3, days=1, slate=2, seed=0)


class ScriptedDoor:
    """A door that shows the first items of a catalogue, and is away for some requests."""

    def __init__(self, catalogue, away):
        self.catalogue, self.away, self.requests, self.events = catalogue, away, [], []

    def recommend(self, request):
        self.requests.append(request)
        if len(self.requests) in self.away:
            raise ServingError("away")
        items = [{"item": item} for item in self.catalogue[: request["k"]]]
        return {"request_id": f"r{len(self.requests)}", "items": items}

    def send(self, events):
        self.events += [(len(self.requests), event) for event in events]


def test_users_click_what_they_were_shown_after_a_delay():
    door = ScriptedDoor([f"item {row}" for row in range(90)], away=(2, 3))
    truth = LiveUsers(shop=SHOP, catalogue=door.catalogue, click={"click": 1.0}, delay=2).visit(door, 60)
    assert (truth.requests, truth.failed, truth.shown) == (60, 2, 58 * SHOP.slate)
    assert truth.clicks == len(door.events)
    assert abs(truth.clicks - truth.expected_clicks) < 4 * truth.expected_clicks**0.5
    for sent_after, event in door.events:
        number = int(event["request_id"].removeprefix("r"))
        assert event["item"] == f"item {event['position']}"
        assert event["user"] == door.requests[number - 1]["user"]
        assert sent_after >= min(number + 2, 60)


def test_a_gateway_that_is_not_there_is_one_sentence():
    with pytest.raises(ServingError, match="cannot be reached"):
        HttpDoor("http://127.0.0.1:1").recommend({"user": "a"})
    with pytest.raises(ServingError, match="no address"):
        HttpDoor("localhost")
