"""Tables of a run for experiment trackers: figures, slices, exposure, verdicts, users with their slates, worst errors.

Shapes: B queries, K positions, R rows of a click log, T labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from recsys.contracts import PAD
from recsys.data.dataset import Dataset
from recsys.evaluation.chart import TITLES
from recsys.evaluation.further_metrics import TITLES as FURTHER_TITLES
from recsys.evaluation.impressions import ImpressionReport
from recsys.evaluation.objectives import MEASURES, mean
from recsys.evaluation.report import Report, Rows, conclusion, verdicts
from recsys.metrics import hits, ndcg
from recsys.replay.evaluation_queries import EvaluationQueries

LISTED = 10
"""items of a slate, and of the newest part of a history"""
SAMPLED_USERS = 20
WORST = 20
"""rows of the tables of worst errors"""
SEPARATOR = " · "
Tables = dict[str, pl.DataFrame]


def report_tables(report: Report) -> Tables:
    """Return the tables of a report by name; those without rows are left out."""
    tables = {
        "systems": _frame(_figures(report.rows)),
        "slices": _frame({"slice": name, **row} for name, rows in report.slices.items() for row in _figures(rows)),
        "exposure": _frame({"system": system, **measures} for system, measures in report.shown.items()),
        "probabilities": _frame(
            {"objective": name, **{key: one[key] for key in MEASURES}} for name, one in report.objectives.items()
        ),
        "verdicts": _frame({"verdict": line} for line in (conclusion(report), *verdicts(report)) if line),
        "user_groups": _frame(_user_groups(report)),
        **report.user_tables,
    }
    return {name: table for name, table in tables.items() if not table.is_empty()}


def user_tables(queries: EvaluationQueries, rankings: Mapping[str, np.ndarray], ours: str) -> Tables:
    """Return `users`, a sample with histories and slates, and `worst_users`, who lose most NDCG@10 against another system.

    rankings: system -> [B, K] catalogue rows. ours: the evaluated system; the other one is the best of the rest.
    """
    titles = _titles(queries.replay.dataset)
    values = {name: _ndcg(queries, ranking) for name, ranking in rankings.items()}
    rest = [name for name in rankings if name != ours]
    drawn = np.sort(np.random.default_rng(0).permutation(len(queries))[:SAMPLED_USERS])
    tables = {"users": _users(queries, titles, drawn, {ours: rankings[ours]}, values)}
    if rest:
        rival = max(rest, key=lambda name: float(values[name].mean()))
        loss = values[rival] - values[ours]
        worst = np.argsort(-loss, kind="stable")[: min(WORST, int((loss > 0).sum()))]
        shown = {ours: rankings[ours], rival: rankings[rival]}
        tables["worst_users"] = _users(queries, titles, worst, shown, values)
    return tables


def impression_tables(report: ImpressionReport, worst: pl.DataFrame) -> Tables:
    """Return the tables of a click log: measures of each label, deciles of its probabilities, the worst rows."""
    period, measured = ("test", report.test) if report.test else ("validation", report.validation)
    measures = mean(measured)
    bins = {label: one["reliability"] for label, one in measures.items()}
    tables = {
        "labels": _frame(
            {"period": period, "label": label, **{key: value for key, value in one.items() if key != "reliability"}}
            for label, one in measures.items()
        ),
        "deciles": _frame(
            {"label": label, "decile": number, **dict(zip(columns, values, strict=True))}
            for label, columns in bins.items()
            for number, values in enumerate(zip(*columns.values(), strict=True), 1)
        ),
        "worst_rows": worst,
    }
    return {name: table for name, table in tables.items() if not table.is_empty()}


def worst_rows(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], rows: np.ndarray) -> pl.DataFrame:
    """Return the most confident wrong predictions of each label by likelihood; rows: [R] of the log, counted from 0."""
    found: list[dict[str, Any]] = []
    for column, name in enumerate(names):
        chance = np.where(labels[:, column] > 0, predicted[:, column], 1 - predicted[:, column])
        order = np.argsort(np.where(np.isnan(labels[:, column]), np.inf, chance), kind="stable")[:WORST]
        found += [
            {"label": name, "row": int(rows[at]), "observed": float(labels[at, column]), "predicted": float(one)}
            for at, one in zip(order, predicted[order, column], strict=True)
            if not np.isnan(labels[at, column])
        ]
    return _frame(found)


def _figures(rows: Rows) -> Iterator[dict[str, Any]]:
    for system, row in rows.items():
        measured = {metric: float(row[metric]) for metric in {**TITLES, **FURTHER_TITLES} if metric in row}
        yield {"system": system, **measured, "users": row["users"]}


def _user_groups(report: Report) -> Iterator[dict[str, Any]]:
    for system, columns in report.fairness.items():
        for column, found in columns.items():
            for metric, one in found["ratios"].items():
                low, high = one["ci95"]
                figures = {key: one[key] for key in ("worst", "best", "ratio", "chance")}
                yield {"system": system, "column": column, "metric": metric, **figures, "low": low, "high": high}


def _users(
    queries: EvaluationQueries,
    titles: Sequence[str],
    chosen: np.ndarray,
    rankings: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """Return a row for each chosen query, [b] indices."""
    histories, targets = queries.histories, queries.targets
    named = queries.replay.names[queries.users]

    def text(rows: np.ndarray) -> str:
        return SEPARATOR.join(titles[row] for row in rows if row != PAD)

    return _frame(
        {
            "user": str(named[at]),
            "history": text(histories.items[histories.indptr[at] : histories.indptr[at + 1]][-LISTED:]),
            "targets": text(targets.items[targets.indptr[at] : targets.indptr[at + 1]]),
            **{f"slate of {name}": text(ranking[at, :LISTED]) for name, ranking in rankings.items()},
            **{f"ndcg@10 of {name}": float(values[name][at]) for name in rankings},
        }
        for at in chosen
    )


def _ndcg(queries: EvaluationQueries, ranking: np.ndarray) -> np.ndarray:
    return ndcg(hits(ranking[:, :LISTED], queries.targets), queries.targets.num_targets, LISTED)


def _titles(dataset: Dataset) -> list[str]:
    """Return the display name of each catalogue row."""
    title = dataset.description.title
    if title not in dataset.items.columns:
        return dataset.items["item"].to_list()
    return dataset.items.select(pl.coalesce(pl.col(title), "item"))[title].to_list()


def _frame(rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)
