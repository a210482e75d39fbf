"""The ranker alone on a click log: it learns, looks at no later row, and its file gives the probabilities that were judged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.bundle import Bundle
from recsys.cli.experiment import build
from recsys.click_model import ClickModel
from recsys.contracts import PROBABILITIES
from recsys.data.click_log import ClickLog
from recsys.data.sources.click_log import ImpressionTable
from recsys.errors import BundleError, ConfigError, DataError
from recsys.evaluation.impressions import impression_measures
from recsys.evaluation.probabilities import auc
from recsys.features.batches import ItemBatch
from recsys.features.numbers import ENCODINGS
from recsys.features.spec import Features
from recsys.ranking.impression import impression_batch
from recsys.recommender import Recommender
from recsys.stages import OnnxModel
from recsys.training import impression_examples as examples

pytestmark = pytest.mark.slow

ROWS = 6_000
QUICK = (
    "recipe=click_log",
    "logger=csv",
    "trainer.progress=false",
    "trainer.threads=1",
    "ranking.batch_size=256",
    "ranking.learning_rate=0.02",
    "ranking.epochs=3",
    "refit=false",
)
IMPRESSIONS = {
    "file": "clicks.csv",
    "labels": ["click", "buy"],
    "numbers": {"price": "log", "age": {"buckets": 8}, "dwell": {"piecewise": 8}, "rank": "standard"},
    "categories": {"site": {"hash": 200}, "device": "vocabulary"},
    "user": "user",
    "groups": ["device"],
    "timestamp": "at",
}

Written = Callable[..., Path]


def world(seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Impressions whose clicks follow a known logit, with their probabilities."""
    rng = np.random.default_rng(seed)
    site, device = rng.integers(0, 30, ROWS), rng.integers(0, 3, ROWS)
    price, age, dwell = rng.lognormal(1, 1, ROWS), rng.integers(18, 80, ROWS), rng.exponential(1, ROWS)
    lost = rng.random(ROWS) < 0.2
    logit = np.random.default_rng(9).normal(0, 1, 30)[site] + np.where(lost, 1.0, 0.8 * (np.log1p(price) - 1.3))
    logit = logit + np.where(device == 1, 1.0, -1.0) * np.where(age > 50, 1.0, -0.5) - 0.5
    truth = 1 / (1 + np.exp(-logit))
    clicks = rng.random(ROWS) < truth
    frame = pl.DataFrame(
        {
            "click": clicks.astype(int),
            "buy": (clicks & (rng.random(ROWS) < 0.5)).astype(int),
            "price": pl.Series(price).set(pl.Series(lost), None),
            "age": age,
            "dwell": dwell,
            "rank": rng.integers(0, 5, ROWS),
            "site": [f"s{one}" for one in site],
            "device": np.array(["tv", "phone", "web"])[device],
            "user": [f"u{one}" for one in rng.integers(0, 200, ROWS)],
            "at": 1_700_000_000 + 60 * np.arange(ROWS),
        }
    )
    return frame, truth


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A description with its file; keys replace those above."""

    def written(frame: pl.DataFrame, **keys: Any) -> Path:
        folder = tmp_path_factory.mktemp("clicks")
        frame.write_csv(folder / "clicks.csv")
        (folder / "clicks.yaml").write_text(
            yaml.safe_dump({"task": "ranking", "impressions": IMPRESSIONS | keys}, sort_keys=False)
        )
        return folder / "clicks.yaml"

    return written


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, written: Written, composed: Any, run: Any) -> Any:
    """Frame, truth, folder, report and bundle of one training."""
    frame, truth = world()
    folder = tmp_path_factory.mktemp("learnt") / "run"
    config = composed(folder, *QUICK, f"data.description={written(frame)}")
    return frame, truth, folder, *run(config)


def test_the_ranker_learns_most_of_what_there_is(learnt: Any) -> None:
    frame, truth, _, report, _ = learnt
    newest = slice(int(0.8 * ROWS), None)
    best = auc(frame["click"].to_numpy()[newest].astype(float), truth[newest])
    own = report.test[0]["click"]
    assert own["rows"] == int(0.2 * ROWS)
    assert (own["auc"] - 0.5) / (best - 0.5) > 0.85
    assert own["normalised_entropy"] < 0.9
    assert own["predicted_over_observed"] == pytest.approx(1, abs=0.1)
    assert {"gauc/user", "gauc/device"} < own.keys()
    assert report.test[0]["buy"]["auc"] > 0.6


def test_the_figures_are_those_of_the_file_that_scores(learnt: Any) -> None:
    frame, _, folder, report, bundle = learnt
    model = ClickModel.load(bundle.path)
    newest = frame.tail(int(0.2 * ROWS))
    scored = model.score(newest)
    found = impression_measures(newest.select("click", "buy").to_numpy().astype(float), scored, model.labels, {})
    assert found["click"]["auc"] == pytest.approx(report.test[0]["click"]["auc"], abs=1e-9)
    assert found["buy"]["log_loss"] == pytest.approx(report.test[0]["buy"]["log_loss"], abs=1e-9)
    assert (scored[:, 1] <= scored[:, 0]).all(), "who buys has clicked"
    assert json.loads((folder / "metrics.json").read_text())["test"]["click"] == report.to_document()["test"]["click"]
    assert (folder / "reliability.png").is_file()


def test_rows_are_scored_alike_alone_shuffled_and_from_any_file(learnt: Any, tmp_path: Path) -> None:
    frame, _, _, _, bundle = learnt
    model, rows = ClickModel.load(bundle.path), frame.tail(300)
    whole = model.score(rows)
    np.testing.assert_allclose(model.score(rows[7]), whole[7:8], atol=1e-6)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_allclose(model.score(rows[order.tolist()]), whole[order], atol=1e-6)
    rows.write_parquet(tmp_path / "rows.parquet")
    (scored,) = model.score_file(tmp_path / "rows.parquet", ("user",))
    assert scored.columns == ["user", "p_click", "p_buy"]
    np.testing.assert_allclose(scored["p_buy"].to_numpy(), whole[:, 1], atol=1e-6)
    assert model.score(rows.head(0)).shape == (0, 2)


def test_missing_and_unseen_values_are_scored_and_an_absent_column_is_refused(learnt: Any) -> None:
    frame, _, _, _, bundle = learnt
    model = ClickModel.load(bundle.path)
    rows = frame.tail(50).with_columns(
        pl.lit(None).alias("price"), pl.lit("never seen").alias("site"), pl.lit("fridge").alias("device")
    )
    assert np.isfinite(model.score(rows)).all()
    labels = rows.drop("click", "buy", "user")
    np.testing.assert_array_equal(model.score(labels), model.score(rows))
    with pytest.raises(DataError, match=r"no column 'site'; the model reads price, age, dwell, rank, site, device, at"):
        model.score(rows.drop("site"))
    with pytest.raises(DataError, match="rows, column 'price', row 1: 'dear' is not a finite number"):
        model.score(rows.with_columns(pl.lit("dear").alias("price")))


def spec_of(log: ClickLog, train: np.ndarray, leave_out: tuple[str, ...] = ()) -> Any:
    features = Features(history_length=1, max_values=1, min_count=2, leave_out=leave_out)
    return examples.fit_spec(log, train, features, examples.number_encodings(log), lambda chunks, *_: chunks)


def test_nothing_is_fitted_on_later_rows(written: Written, composed: Any, run: Any, tmp_path: Path) -> None:
    """Poison: all values of the test rows are changed, and neither the spec nor a weight moves."""
    frame, _ = world()
    late = pl.int_range(pl.len()) >= int(0.8 * ROWS)
    poisoned = frame.with_columns(
        *(pl.when(late).then(1e6).otherwise(pl.col(name).cast(pl.Float64)).alias(name) for name in ("price", "dwell")),
        pl.when(late).then(pl.lit("poison")).otherwise(pl.col("site")).alias("site"),
        pl.when(late).then(pl.lit("poison")).otherwise(pl.col("device")).alias("device"),
        pl.when(late).then(1 - pl.col("click")).otherwise(pl.col("click")).alias("click"),
    )
    weights = []
    for number, rows in enumerate((frame, poisoned)):
        folder = tmp_path / str(number)
        report, bundle = run(composed(folder, *QUICK, f"data.description={written(rows)}", "ranking.epochs=1"))
        kept = torch.load(folder / "checkpoints" / "seed_0" / "ranker" / "trained.pt", weights_only=True)
        weights.append((bundle.spec_fingerprint, report.validation, kept["state_dict"]))
    (spec, validation, state), (again, validation_again, state_again) = weights
    assert spec == again
    assert validation == validation_again
    assert state.pop("_extra_state").keys() == state_again.pop("_extra_state").keys()
    assert all(torch.equal(state[name], state_again[name]) for name in state)


def test_a_spec_reads_the_training_rows_alone_and_counts_rare_values_out(written: Written) -> None:
    frame, _ = world()
    frame = frame.with_columns(device=pl.Series(["once", *frame["device"][1:-1], "late"]))
    log = ImpressionTable(description=str(written(frame))).load()
    train = np.arange(ROWS) < 4_000
    spec = spec_of(log, train, leave_out=("rank",))
    columns = {column.name: column for column in spec.items.columns}
    assert set(columns["device"].vocabulary) == {"tv", "phone", "web"}
    assert columns["site"].num_ids == 202
    assert "rank" not in columns
    known = np.log1p(frame["price"].to_numpy()[:4_000])
    assert columns["price"].mean == pytest.approx(np.nanmean(known))
    assert {columns[name].encoding for name in ("price", "age", "dwell")} == set(ENCODINGS) - {"standard"}


def test_the_impressions_are_the_catalogue_of_their_candidates(written: Written) -> None:
    frame, _ = world()
    log = ImpressionTable(description=str(written(frame))).load()
    keys = log.keys(lambda chunks, *_: chunks)
    spec = spec_of(log, np.ones(ROWS, dtype=bool))
    kept = np.arange(ROWS) % 3 == 1
    items = examples.encoded_impressions(log, spec, keys, kept, lambda chunks, *_: chunks)
    whole = examples.encoded_impressions(log, spec, keys, np.ones(ROWS, dtype=bool), lambda chunks, *_: chunks)
    for part, array in items.encoded.items():
        np.testing.assert_array_equal(array[:-1], whole.encoded[part][:-1][kept])
        assert not array[-1].any(), "padding"
    one = examples.impression_examples(spec, np.array([4, 2]), keys.labels[[4, 2]])
    assert one.candidate_rows.tolist() == [[4], [2]]
    assert one.request["history_ids"].shape == (2, 0, spec.items.widths["ids"])
    stored = sum(array[:1].nbytes for array in items.encoded.values())
    assert examples.bytes_a_row(spec) == stored + one.candidate_rows[:1].nbytes + one.labels[:1].nbytes


@pytest.mark.parametrize("model", ["default", "field_dcn"])
def test_an_empty_history_scores_as_one_event_of_padding(
    model: str, written: Written, composed: Any, tmp_path: Path
) -> None:
    """Training has no history, an exported graph one of padding."""
    log = ImpressionTable(description=str(written(world()[0]))).load()
    keys = log.keys(lambda chunks, *_: chunks)
    spec = spec_of(log, np.ones(ROWS, dtype=bool))
    items = examples.encoded_impressions(log, spec, keys, np.arange(ROWS) < 50, lambda chunks, *_: chunks)
    config = composed(tmp_path, *QUICK, "data.description=x", f"ranking/model={model}").ranking
    torch.manual_seed(0)
    ranker = instantiate(config, _convert_="all").ranker(spec, 0, (None, None)).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.normal_(std=0.1)
        rows = {f"item_{part}": torch.from_numpy(array[:50]) for part, array in items.encoded.items()}
        padded = impression_batch(spec, rows)
        empty = {name: one[:, :0] if name.startswith("history_") else one for name, one in padded.items()}
        torch.testing.assert_close(ranker(empty), ranker(padded))


def test_the_served_ranker_is_fitted_again_on_what_came_before_the_test(
    learnt: Any, written: Written, composed: Any, run: Any, tmp_path: Path
) -> None:
    frame, _, _, measured, bundle = learnt
    quick = [one for one in QUICK if one != "refit=false"]
    report, again = run(composed(tmp_path / "again", *quick, f"data.description={written(frame)}"))
    assert report.test == measured.test, "figures are of the first fit"
    assert "fitted again" in report.served
    assert again.fingerprint != bundle.fingerprint
    rows = frame.tail(1_000)
    assert auc(rows["click"].to_numpy().astype(float), ClickModel.load(again.path).score(rows)[:, 0]) > 0.7


def test_a_run_goes_on_from_its_validation_and_refuses_other_data(
    written: Written, composed: Any, run: Any, tmp_path: Path
) -> None:
    frame, _ = world()
    quick = (*QUICK, f"data.description={written(frame)}", "ranking.epochs=1")
    config = composed(tmp_path / "run", *quick, "evaluate=validation")
    resolved = OmegaConf.to_container(config, resolve=True)
    figures = build(config).validate(tmp_path / "run", resolved, echo=lambda _: None)
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert document["test"] == {}
    assert figures.values == (document["validation"]["click"]["auc"],)
    assert not (tmp_path / "run" / "bundle").exists()
    fitted = (tmp_path / "run" / "checkpoints" / "seed_0" / "ranker" / "trained.pt").stat().st_mtime_ns
    report, _ = run(composed(tmp_path / "run", *quick))
    assert report.validation == figures.validation
    assert (tmp_path / "run" / "checkpoints" / "seed_0" / "ranker" / "trained.pt").stat().st_mtime_ns == fitted
    other = (*QUICK, f"data.description={written(frame.head(5_000))}", "ranking.epochs=1")
    with pytest.raises(ConfigError, match="was begun with data"):
        run(composed(tmp_path / "run", *other))


@pytest.mark.parametrize("model", ["default", "dlrm", "deepfm", "two_tower_score"])
def test_every_ranker_can_be_trained_on_a_click_log(
    model: str, written: Written, composed: Any, run: Any, tmp_path: Path
) -> None:
    frame, _ = world()
    overrides = (
        *QUICK,
        f"data.description={written(frame.head(3_000))}",
        f"ranking/model={model}",
        "ranking.batch_size=64",
        "ranking.learning_rate=0.01",
    )
    report, bundle = run(composed(tmp_path / model, *overrides))
    assert report.test[0]["click"]["auc"] > 0.5
    inputs = ItemBatch.specs(ClickModel.load(bundle.path).spec.sizes)
    assert OnnxModel(bundle.file("ranker.onnx"), inputs).outputs == (PROBABILITIES,)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["ranking.watch=ndcg@10"],
            ConfigError,
            r"ranking\.watch is 'ndcg@10', but an impression .* leave it at likelihood",
        ),
        (["ranking.num_positions=3"], ConfigError, r"ranking\.num_positions is 3"),
        (
            ["limits.memory_gib=0.001", "ranking.sizes.dim=1024"],
            DataError,
            r"take 0\.\d+ GiB, there are 0\.0 GiB \(limits\.memory_gib\); give fewer",
        ),
        (["features.leave_out=[colour]"], ConfigError, r"leave_out names the unknown column 'colour'"),
        (["ranking=multi_objective"], ConfigError, r"task=ranking is for a click log; choose recipe=click_log"),
        (["task=retrieve"], ConfigError, r"task is 'retrieve'; choose one of cascade, retrieval, ranking"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_before_anything_is_trained(
    written: Written,
    composed: Any,
    run: Any,
    tmp_path: Path,
    overrides: list[str],
    error: type[Exception],
    message: str,
) -> None:
    frame, _ = world()
    with pytest.raises(Exception, match=message) as refused:
        run(composed(tmp_path / "run", *QUICK, f"data.description={written(frame)}", *overrides))
    assert isinstance(refused.value, error) or isinstance(refused.value.__cause__, error)
    assert not (tmp_path / "run" / "bundle").exists()


def test_an_encoding_that_does_not_exist_names_its_column(written: Written) -> None:
    log = ImpressionTable(description=str(written(world()[0], numbers={"price": "lgo"}))).load()
    with pytest.raises(
        DataError, match=r"impressions\.numbers\.price: the encoding of a number is 'lgo'; choose one of"
    ):
        examples.number_encodings(log)


def test_bundles_of_one_task_are_refused_by_the_other(learnt: Any, trained: Any) -> None:
    with pytest.raises(BundleError, match="is no bundle of a click log; load it by recsys"):
        ClickModel.load(trained.bundle.path)
    with pytest.raises(BundleError, match=r"is missing|click log"):
        Recommender.load(learnt[4].path)


def test_a_damaged_bundle_is_refused(learnt: Any) -> None:
    bundle = learnt[4]
    file = bundle.path / "click_log.json"
    text = file.read_text()
    try:
        file.write_text(text.replace('"click"', '"clack"', 1))
        with pytest.raises(BundleError, match=r"click_log\.json was altered"):
            Bundle.open(bundle.path)
    finally:
        file.write_text(text)
