"""The benchmark of the ranker on a device runs on a CPU too, small, and says so where it measured nothing."""

import sys

import pytest

from benchmarks.claims.ranking import ranker_device
from recsys.nn import sparse_embedding


def test_every_way_to_train_is_measured(monkeypatch):
    for name, value in {"REQUESTS": 2, "CANDIDATES": 3, "WARM": 0, "STEPS": 1, "FEW_ITEMS": 500}.items():
        monkeypatch.setattr(ranker_device, name, value)
    monkeypatch.setattr(sparse_embedding, "SPARSE_THRESHOLD_ROWS", sparse_embedding.SPARSE_THRESHOLD_ROWS)
    found = list(ranker_device.speed(600, "cpu"))
    assert [row["system"] for row in found] == [
        "row-wise Adagrad, 32-true",
        "row-wise Adagrad, bf16-mixed",
        "dense AdamW, bf16-mixed",
    ]
    for row in found:
        assert row["items"] == 600
        assert row["requests_per_second"] > 0
        assert 0 < row["mfu"] < 1


def test_figures_take_the_fastest_of_our_own_and_the_worse_precision():
    measured = [
        {"system": "row-wise Adagrad, 32-true", "requests_per_second": 3_000},
        {"system": "row-wise Adagrad, bf16-mixed, compiled", "requests_per_second": 4_000},
        {"system": "dense AdamW, bf16-mixed", "requests_per_second": 9_000},
        {"system": "planted world, 32-true", "over_float32": 1.0005},
    ]
    figures = ranker_device.figures(measured)
    assert figures["requests_per_second_100m_rows"].value == 4_000
    assert figures["bf16_loss_over_float32"].reached
    assert all(figure.reached is None for figure in ranker_device.figures([]).values())


def test_without_a_device_it_measures_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(ranker_device.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["ranker_device.py"])
    written = {}

    def keep(claim, measured, figures, seconds):
        written.update(claim=claim, rows=measured)
        return tmp_path / "kept.json"

    monkeypatch.setattr(ranker_device, "write_result", keep)
    ranker_device.main()
    assert written == {"claim": "ranker_device", "rows": [{"system": "ranker on CUDA", "skipped": "no CUDA device"}]}


def test_an_unknown_argument_is_said(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ranker_device.py", "large"])
    with pytest.raises(ranker_device.ConfigError, match="knows no 'large'"):
        ranker_device.main()
