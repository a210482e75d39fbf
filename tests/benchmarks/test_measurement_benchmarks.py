"""The benchmarks of measurement on a handful of users: their figures follow from their rows."""

from dataclasses import replace

import pytest

from benchmarks.claims.measurement import experiments, outcomes


def test_experiments_of_known_effect_give_a_row_a_claim(monkeypatch):
    monkeypatch.setattr(experiments, "SHOP", replace(experiments.SHOP, users=120))
    monkeypatch.setattr(experiments, "BIG", 500)
    rows = [
        *experiments.covered(3),
        experiments.a_a(2),
        experiments.worse(2),
        experiments.power(2),
        experiments.ratios(50),
    ]
    assert {row["metric"] for row in rows if row["part"] == "coverage"} == set(experiments.METRICS)
    for row in rows:
        if row["part"] == "CUPED":
            assert row["error_to_plain"] == pytest.approx(row["theory"], rel=0.1)
    claimed = experiments.figures(rows)
    assert claimed["worse_arm_shipped"].value == 0
    assert claimed["planted_ratio_found"].value > 0.9


def test_the_coverage_of_figures_is_counted_by_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(outcomes, "SMALL", replace(outcomes.SMALL, users=60, items=40))
    (tmp_path / "settings.yaml").write_text(outcomes.YAML)
    shares = outcomes.coverage(tmp_path / "shops", tmp_path / "settings.yaml", shops=1, big=400)
    assert set(shares) == set(outcomes.truths(outcomes.SMALL, outcomes.visits(outcomes.SMALL)))
    assert set(shares.values()) <= {0.0, 1.0}
