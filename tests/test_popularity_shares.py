"""What the popularity dial reads of a bundle: a recount of the log says that no event of TEST is in it."""

from collections import Counter

import numpy as np
import pytest
from hydra.utils import instantiate

from recsys.contracts import Query
from recsys.data.splits import TEST
from recsys.features.encode import DAY
from recsys.pipeline import recommend
from recsys.policy.compose import Policy
from recsys.replay.replay import Replay
from recsys.stages import load_rules, popularity_shares
from recsys.training.prepare import RECENT_DAYS


@pytest.fixture(scope="module")
def recount(trained):
    """Shares of the recent positive events among chosen rows of the log, counted one by one."""
    config = trained.bundle.document("config.yaml")
    replay = Replay(trained.dataset, split := instantiate(config["protocol"]).splits(trained.dataset)[-1])

    def recount(chosen):
        rows = np.flatnonzero(chosen & replay.positives).tolist()
        newest = max(replay.timestamps[row] for row in rows)
        met = Counter(replay.items[row] for row in rows if newest - replay.timestamps[row] < RECENT_DAYS * DAY)
        return [met[row] / met.total() for row in range(trained.dataset.num_items)]

    return split, recount


def test_popularity_is_of_what_was_known_before_the_test_period(trained, recount):
    split, count = recount
    found = popularity_shares(trained.bundle)
    assert found == pytest.approx(count(split.known(TEST)), abs=1e-6)
    assert found != pytest.approx(count(split.periods <= TEST), abs=1e-3), "or TEST could not be told from the rest"


def test_a_slate_of_the_bundle_is_discounted_by_it(trained):
    document = trained.bundle.document("policy.yaml")
    policy = Policy.from_document({**document, "popularity": {"discount": 0.5, "of": "events"}})
    stages = (*trained.stages[:-1], load_rules(trained.bundle, policy=policy))
    query = Query(user="nobody", now=float(trained.replay.timestamps.max()), k=10)
    shares = popularity_shares(trained.bundle)
    (plain,), (slate,) = recommend([query], trained.stages), recommend([query], stages)
    rows = trained.replay.rows_of_items
    for item in slate.items:
        factor = (1 + len(rows) * shares[rows[item.item]]) ** -0.5
        assert item.rules.get("policy.popularity") == (f"utility x{factor:.3g}" if factor < 1 else None)
    assert not any("policy.popularity" in item.rules for item in plain.items)
    means = [np.mean([shares[rows[item.item]] for item in one.items]) for one in (plain, slate)]
    assert means[1] < means[0]
