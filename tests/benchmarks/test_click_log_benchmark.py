"""The benchmark of click logs: its world is what it says, its peers see no later row, and its figures are right."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.claims.ranking.click_log import ENCODED, NATIVE, OURS, PRIOR, TRUTH, figures, native, rates, starts
from benchmarks.lib.click_world import CATEGORIES, LABEL, NUMBERS, ClickWorld
from recsys.data.sources.click_log import ImpressionTable


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    ((frame, _),) = ClickWorld(rows=4_000, seed=0).chunks()
    return frame


def test_the_world_has_criteos_shape_and_its_own_loader_reads_it(tmp_path: Path) -> None:
    truth = ClickWorld(rows=4_000, seed=0).write(tmp_path)
    log = ImpressionTable(description=str(tmp_path / "clicks.yaml")).load()
    assert (len(NUMBERS), len(CATEGORIES)) == (13, 26)
    assert log.columns.features == (*NUMBERS, *CATEGORIES)
    labels = log.keys(lambda chunks, *_: chunks).labels[:, 0]
    assert truth.mean() == pytest.approx(0.25, abs=0.01)
    assert labels.mean() == pytest.approx(truth.mean(), abs=0.03)
    again = ClickWorld(rows=4_000, seed=0).write(tmp_path / "again")
    np.testing.assert_array_equal(again, truth)
    assert (tmp_path / "again" / "clicks.tsv").read_bytes() == (tmp_path / "clicks.tsv").read_bytes()


def test_peers_learn_nothing_from_later_rows(frame: pl.DataFrame) -> None:
    end = starts(frame.height)[0]
    late = pl.int_range(pl.len()) >= end
    poisoned = frame.with_columns(pl.when(late).then(1 - pl.col(LABEL)).otherwise(pl.col(LABEL)).alias(LABEL))
    np.testing.assert_array_equal(rates(frame, end), rates(poisoned, end))
    assert np.nanmax(native(frame, end)[:, 8]) == 2, "three values"


def test_the_rate_of_a_training_row_does_not_hold_its_own_label(frame: pl.DataFrame) -> None:
    end = starts(frame.height)[0]
    once = frame.with_columns(C1=pl.int_range(pl.len()).cast(pl.String))
    mean = frame[LABEL].to_numpy()[:end].mean()
    found = rates(once, end)[:, :2]
    np.testing.assert_allclose(found[:, 0], mean, rtol=1e-6)
    assert not found[:, 1].any()
    value = frame["C9"] == frame["C9"][-1]
    labels = frame.filter(value & (pl.int_range(pl.len()) < end))[LABEL]
    expected = (labels.sum() + PRIOR * mean) / (len(labels) + PRIOR)
    assert rates(frame, end)[-1, 2 * 8] == pytest.approx(expected, rel=1e-5)


def test_the_lead_is_a_share_of_the_bayes_auc_against_the_better_form_of_lightgbm() -> None:
    aucs = {OURS: 0.75, TRUTH: 0.8, NATIVE: 0.7, ENCODED: 0.76}
    rows = [{"system": name, "auc": auc, "ece": 0.004, "peak_memory_mib": 900.0} for name, auc in aucs.items()]
    claimed = figures(rows)
    assert claimed["share_ahead_of_lightgbm"].value == pytest.approx(-0.0125)
    assert not claimed["share_ahead_of_lightgbm"].reached
    assert claimed["peak_memory"].reached
