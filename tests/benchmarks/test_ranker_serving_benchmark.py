"""The benchmark of what a ranker costs to serve, on a world that takes no time."""

from dataclasses import replace

import pytest

from benchmarks.claims.ranking import ranker_serving
from benchmarks.claims.ranking.ranker_serving import DEFAULT, LARGE, draw, figures, measured, sizes, table
from recsys.data.sources.planted import EFFECTS, Planted

TINY = Planted(users=60, items=60, rounds=12, slate=5, seed=0, strength=2.0, effects=tuple(EFFECTS))


@pytest.fixture(scope="module")
def rows():
    few = {name: replace(sizes()[name], epochs=1) for name in (DEFAULT, LARGE)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker_serving, "ROUNDS", 2)
        patch.setattr(ranker_serving, "REPEATS", 1)
        return measured(TINY, few)


def test_sizes_rise_and_the_default_is_the_one_of_the_configuration():
    shapes = [(one.dim, one.num_experts * one.expert_dim) for one in (config.sizes for config in sizes().values())]
    assert shapes == sorted(shapes)
    assert list(sizes())[-1] == LARGE


def test_every_size_is_measured_beside_the_large_one(rows):
    assert [row["system"] for row in rows] == [DEFAULT, LARGE]
    assert rows[1]["loss_over_large"] == 1
    assert rows[0]["parameters"] < rows[1]["parameters"]
    for row in rows:
        assert row["difference_to_eager"] <= 1e-5
        assert row["candidates_per_second"] == pytest.approx(500 / row["milliseconds"] * 1e3, abs=1)


def test_the_figures_are_those_of_the_default_and_the_front_is_a_picture(rows, tmp_path):
    claimed = figures(rows)
    assert claimed["default_cpu_ms_500_candidates"].value == rows[0]["milliseconds"]
    assert claimed["default_loss_over_large"].value == rows[0]["loss_over_large"]
    assert table(rows).row_count == 2
    assert draw(rows, tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
