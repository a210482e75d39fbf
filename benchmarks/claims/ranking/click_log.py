"""A click log of a million rows in Criteo's shape: does the ranker learn as much of it as LightGBM?

13 counts and 26 categories, the largest of 100,000 values, a quarter clicks, with a planted logistic truth
(benchmarks/lib/click_world.py). The newest fifth of the rows is the test, the tenth before it stops and calibrates, the rest is
learnt from; LightGBM gets the same rows. It is given its best of two forms: categories as they are, and rates and counts
of their values (rates of the training rows out of fold). A system's share is its AUC over that of the true probabilities.

`python -m benchmarks.claims.ranking.click_log rows=100000` is the quick look; `seed=1` plants another world. Writes
benchmarks/results/click_log.json.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich import box
from rich.table import Table

from benchmarks.lib.click_world import CATEGORIES, LABEL, NUMBERS, ClickWorld
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.cli.experiment import build
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluation.impressions import ImpressionReport, impression_measures

ROWS = 1_000_000
TRUTH, OURS, NATIVE, ENCODED = "the truth", "ranker", "LightGBM, categories", "LightGBM, rates and counts"
VALIDATION, TEST = 0.1, 0.2
FOLDS = 5
PRIOR = 20.0
"""rows at the mean rate, added to those of a value"""
MIN_COUNT = 5
PARAMETERS = {
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.1,
    "num_leaves": 63,
    "min_data_in_leaf": 50,
    "num_threads": 2,
    "verbosity": -1,
    "seed": 0,
}
MAX_ROUNDS = 1_000

Row = dict[str, Any]


def trained(description: Path, folder: Path, overrides: Sequence[str]) -> Row:
    """Train by the recipe; measures of the test, rows a second and the peak memory of this process."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = (
            "recipe=click_log",
            "logger=csv",
            "refit=false",
            f"data.description={description}",
            f"run_dir={folder}",
        )
        config = compose("train", overrides=[*given, *overrides])
    resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    report, _ = build(config).run(folder, resolved, echo=lambda line: console.print(f"  {line}", style="dim"))
    assert isinstance(report, ImpressionReport)
    rows = sum(report.rows.values())
    return {
        "system": OURS,
        **report.test[0][LABEL],
        "seconds": report.seconds,
        "rows_per_second": rows / report.seconds,
        "peak_memory_mib": report.peak_memory_mib,
    }


def boosted(frame: pl.DataFrame, system: str) -> tuple[np.ndarray, float]:
    """Probabilities of the test rows by LightGBM, and the seconds that it took."""
    started, cuts = time.perf_counter(), starts(frame.height)
    categories = native(frame, cuts[0]) if system == NATIVE else rates(frame, cuts[0])
    features = np.concatenate([frame.select(NUMBERS).to_numpy().astype(np.float32), categories], axis=1)
    labels = frame[LABEL].to_numpy()
    train, valid, test = (slice(*ends) for ends in ((0, cuts[0]), cuts, (cuts[1], None)))
    columns = list(range(len(NUMBERS), features.shape[1])) if system == NATIVE else []
    data = lightgbm.Dataset(features[train], labels[train], categorical_feature=columns)
    watched = lightgbm.Dataset(features[valid], labels[valid], reference=data)
    stop = lightgbm.early_stopping(30, verbose=False)
    model = lightgbm.train(PARAMETERS, data, MAX_ROUNDS, valid_sets=[watched], callbacks=[stop])
    return np.asarray(model.predict(features[test])), time.perf_counter() - started


def starts(num_rows: int) -> tuple[int, int]:
    """First rows of validation and test, as the split of the recipe has them."""
    return round((1 - VALIDATION - TEST) * num_rows), round((1 - TEST) * num_rows)


def native(frame: pl.DataFrame, end: int) -> np.ndarray:
    """Numbers of the values that occur often enough in the first `end` rows, by frequency; NaN for all others."""
    columns = []
    for name in CATEGORIES:
        counted = frame[name][:end].value_counts(sort=True).filter(pl.col("count") >= MIN_COUNT)
        numbers = pl.int_range(counted.height, eager=True).cast(pl.Float32)
        codes = frame[name].replace_strict(counted[name], numbers, default=None, return_dtype=pl.Float32)
        columns.append(codes.fill_null(np.nan).to_numpy())
    return np.stack(columns, axis=1)


def rates(frame: pl.DataFrame, end: int) -> np.ndarray:
    """Rate and count of each value in the first `end` rows; for these rows in the other folds alone."""
    fold = np.random.default_rng(0).integers(0, FOLDS, frame.height)
    fold[end:] = FOLDS  # rows that no fold holds
    labels, mean, columns = frame[LABEL].to_numpy(), float(frame[LABEL].to_numpy()[:end].mean()), []
    for name in CATEGORIES:
        codes = frame[name].rank("dense").to_numpy() - 1
        shape = (FOLDS + 1, int(codes.max()) + 1)
        cells = np.ravel_multi_index((fold, codes), shape)
        shown, clicked = (np.bincount(cells, one, np.prod(shape)).reshape(shape)[:FOLDS] for one in (None, labels))
        none = np.zeros((1, shape[1]))
        others = [(one.sum(axis=0) - np.concatenate([one, none]))[fold, codes] for one in (shown, clicked)]
        columns += [(others[1] + PRIOR * mean) / (others[0] + PRIOR), np.log1p(others[0])]
    return np.stack(columns, axis=1).astype(np.float32)


def measured(world: ClickWorld, overrides: Sequence[str]) -> list[Row]:
    with TemporaryDirectory() as beside:
        folder, started = Path(beside), time.perf_counter()
        truth = world.write(folder)
        console.print(f"  written: {world.rows:,} rows in {time.perf_counter() - started:.0f} s", style="dim")
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn")
        ) as pool:  # its peak memory is that of training alone
            ours = pool.submit(trained, folder / "clicks.yaml", folder / "run", overrides).result()
        names = (LABEL, *NUMBERS, *CATEGORIES)
        types = {name: pl.String if name in CATEGORIES else pl.Int64 for name in names}
        frame = pl.read_csv(folder / "clicks.tsv", separator="\t", has_header=False, schema=types)
    first = starts(world.rows)[1]
    labels, rows = frame[LABEL].to_numpy()[first:, None].astype(float), [ours]
    for system in (TRUTH, NATIVE, ENCODED):
        predicted, seconds = (truth[first:], 0.0) if system == TRUTH else boosted(frame, system)
        own = impression_measures(labels, predicted[:, None], [LABEL], {})[LABEL]
        rows.append({"system": system, **own, "seconds": seconds})
        console.print(f"  {system}: AUC {own['auc']:.4f}", style="dim")
    return rows


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    by = {row["system"]: row for row in rows}
    best = max(by[NATIVE]["auc"], by[ENCODED]["auc"])
    return {
        "share_ahead_of_lightgbm": Figure(
            value=round((by[OURS]["auc"] - best) / by[TRUTH]["auc"], 5),
            unit="share of the Bayes AUC, ours less the best of LightGBM",
            goal=-0.002,
            better="higher",
        ),
        "share_ahead_of_lightgbm_on_the_same_columns": Figure(
            value=round((by[OURS]["auc"] - by[NATIVE]["auc"]) / by[TRUTH]["auc"], 5),
            unit="share of the Bayes AUC, ours less LightGBM on the categories as they are",
            goal=-0.002,
            better="higher",
        ),
        "calibration_error": Figure(value=round(by[OURS]["ece"], 5), unit="ECE", goal=0.01, better="lower"),
        "peak_memory": Figure(
            value=round(by[OURS]["peak_memory_mib"]), unit="MiB of the training's process", goal=4_096, better="lower"
        ),
    }


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="Test rows of a click log with a planted truth", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("system", "AUC", "share of Bayes", "NE", "ECE", "s", "rows/s"):
        shown.add_column(heading, justify="left" if heading == "system" else "right")
    best = next(row["auc"] for row in rows if row["system"] == TRUTH)
    for row in rows:
        rate = f"{row['rows_per_second']:,.0f}" if "rows_per_second" in row else ""
        shown.add_row(
            row["system"],
            f"{row['auc']:.4f}",
            f"{row['auc'] / best:.4f}",
            f"{row['normalised_entropy']:.4f}",
            f"{row['ece']:.4f}",
            f"{row['seconds']:,.0f}",
            rate,
        )
    return shown


def main(arguments: Sequence[str]) -> None:
    start = time.perf_counter()
    own, overrides = {"rows": ROWS, "seed": 0}, []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in own:
            overrides.append(argument)
        elif not value.isdecimal():
            raise ConfigError(f"{key} is {value!r}; give a whole number")
        else:
            own[key] = int(value)
    rows = measured(ClickWorld(**own), overrides)
    claimed = figures(rows)
    console.print(table(rows))
    print_figures(claimed)
    if own["rows"] == ROWS and not overrides:
        console.print(f"\nresult   {write_result('click_log', rows, claimed, time.perf_counter() - start)}")
    console.print("next     python train.py recipe=click_log data.description=clicks.yaml", style="bold")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with exit_on_error():
        main(sys.argv[1:])
