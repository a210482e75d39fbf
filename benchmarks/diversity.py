"""What does diversity cost? NDCG@10 against how unlike the items of a page are, and whom the pages show.

    python benchmarks/diversity.py runs/demo [another run folder ...]

Reads finished runs of train.py: their data, split and bundle. Every question of the test period is retrieved and ranked
once; then each diversity composes the pages at every setting of its dial, without rules. The setting that is kept is the
most diverse one that costs at most 1% of NDCG@10 on VALIDATION; its figures are those of TEST.

Intra-list distance: mean over pairs of a page of 1 - cosine of the items' genres or attributes. Exposure Gini: over all
items of the catalogue, 0 if all are shown alike, 1 if only one is.

Shapes: B questions, K places, N items, D values of categories.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diversity_chart import draw_fronts
from hydra.utils import instantiate
from omegaconf import OmegaConf
from result_file import RESULTS, Figure, print_figures, write_result
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from recsys.bundle import Bundle
from recsys.contracts import PAD
from recsys.data.splits import TEST, VALIDATION
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluation.metrics import hits, ndcg
from recsys.evaluation.questions import Questions
from recsys.evaluation.replay import Replay
from recsys.pipeline import through
from recsys.policy.compose import Policy
from recsys.policy.diversity import Determinantal, Diversity, MaximalMarginalRelevance, Proportions
from recsys.policy.explore import Exploration
from recsys.policy.quotas import grouping
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula
from recsys.stages import Rank, Retrieve, load_rank, load_retrieve, read_ruled_items, rules_maker

DIALS = (1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3)
LOSS = 0.01
"""of NDCG@10 that diversity may cost"""
WINDOW, PLACES, BATCH = 10, 10, 64
MOST = 3_000
"""questions of a period, at most"""
Row = dict[str, Any]

console = Console(width=160)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions of one period, retrieved and ranked."""

    questions: Questions
    tensors: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run of train.py."""

    name: str
    bundle: Bundle
    categories: np.ndarray
    """[N, D] float32 of length 1 or 0"""
    asked: dict[int, Asked]


def finished(folder: Path) -> Finished:
    bundle = Bundle.open(folder / "bundle")
    stages = (load_retrieve(bundle), load_rank(bundle))
    config = OmegaConf.create(bundle.document("config.yaml"))
    parts = {key: instantiate(config[key], _convert_="all") for key in ("data", "protocol", "evaluation")}
    dataset = parts["data"].load()
    split = parts["protocol"].splits(dataset)[-1]
    replay = Replay(dataset, split)
    asked = {}
    for period in (VALIDATION, TEST):
        questions = parts["evaluation"].questions(split, replay, period).sample(MOST, seed=0)
        asked[period] = Asked(questions=questions, tensors=list(_ranked(stages, questions)))
    return Finished(name=dataset.name, bundle=bundle, categories=_categories(bundle), asked=asked)


def _ranked(stages: tuple[Retrieve, Rank], questions: Questions) -> Iterator[dict[str, Any]]:
    queries = questions.replay.queries(questions.rows, PLACES)
    for start in track(range(0, len(queries), BATCH), "retrieved and ranked"):
        yield through({"QUERY": queries[start : start + BATCH]}, stages)


def _categories(bundle: Bundle) -> np.ndarray:
    """All values of all categories, one column each; ids and titles are none."""
    types = {
        name: kind for name, kind in bundle.document("catalogue.json").items() if kind in ("category", "categories")
    }
    columns = read_ruled_items(bundle).columns
    grouped = {name: grouping("diversity", name, columns, types) for name in types}
    few = {name: rows for name, rows in grouped.items() if len({one for row in rows for one in row}) < 0.5 * len(rows)}
    place_of = {
        pair: place
        for place, pair in enumerate({(name, one) for name, rows in few.items() for row in rows for one in row})
    }
    values = np.zeros((len(columns["item"]), len(place_of)), dtype=np.float32)
    for name, rows in few.items():
        for row, mine in enumerate(rows):
            values[row, [place_of[name, one] for one in mine]] = 1
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


def diversities(columns: Sequence[str]) -> Iterator[tuple[str, Diversity]]:
    for dial in DIALS:
        for content in (0.0, 0.5, 1.0):
            yield f"MMR, content {content:g}", MaximalMarginalRelevance(trade_off=dial, window=WINDOW, content=content)
            yield f"DPP, content {content:g}", Determinantal(trade_off=dial, window=WINDOW, content=content)
        for column in columns:
            yield f"proportions of {column}", Proportions(trade_off=dial, window=WINDOW, of=column)


def pages(run: Finished, diversity: Diversity, period: int) -> np.ndarray:
    """[B, K] catalogue rows."""
    own = ValueFormula(**run.bundle.document("policy.yaml")["value"])
    policy = Policy(value=own, diversity=diversity, exploration=Exploration(kind="none", rate=0.0, first=0))
    stage = rules_maker(run.bundle, policy=policy)(RuleSet.parse({"rules": []}))
    shown = [stage.rows(tensors) for tensors in run.asked[period].tensors]
    return np.concatenate([np.pad(rows, ((0, 0), (0, PLACES - rows.shape[1])), constant_values=PAD) for rows in shown])


def measured(run: Finished, rows: np.ndarray, period: int) -> Row:
    targets = run.asked[period].questions.targets
    shown = rows[rows != PAD]
    counts = np.sort(np.bincount(shown, minlength=len(run.categories)).astype(float))
    share = np.arange(1, len(counts) + 1)
    return {
        "ndcg@10": float(ndcg(hits(rows, targets), targets.num_targets, PLACES).mean()),
        "distance": float(np.mean([_distance(run.categories[page[page != PAD]]) for page in rows])),
        "coverage": float((counts > 0).mean()),
        "gini": float((2 * (share * counts).sum() / counts.sum() - len(counts) - 1) / len(counts)),
        "top 1% of the items": float(counts[-max(1, len(counts) // 100) :].sum() / counts.sum()),
    }


def _distance(vectors: np.ndarray) -> float:
    cosines = vectors @ vectors.T
    return float(1 - cosines[np.triu_indices(len(vectors), 1)].mean()) if len(vectors) > 1 else 0.0


def fronts(run: Finished) -> list[Row]:
    """Every diversity at every dial, on both periods."""
    types = run.bundle.document("catalogue.json")
    columns = [name for name, kind in types.items() if kind == "categories"]
    listed = list(diversities(columns))
    return [
        {
            "run": run.name,
            "diversity": name,
            "trade_off": diversity.trade_off,
            **{
                key: measured(run, pages(run, diversity, period), period)
                for key, period in (("validation", VALIDATION), ("test", TEST))
            },
        }
        for name, diversity in track(listed, run.name)
    ]


def kept(rows: Sequence[Row]) -> dict[str, Row]:
    """Of each diversity of a run the setting with the greatest distance that costs little enough on VALIDATION."""
    plain = next(row for row in rows if row["trade_off"] == 1)["validation"]["ndcg@10"]
    cheap = [row for row in rows if row["validation"]["ndcg@10"] >= (1 - LOSS) * plain]
    names = dict.fromkeys(row["diversity"] for row in rows)
    return {
        name: max((row for row in cheap if row["diversity"] == name), key=lambda row: row["validation"]["distance"])
        for name in names
    }


def changes(rows: Sequence[Row], row: Row) -> dict[str, float]:
    """Against relevance alone, on TEST."""
    plain = next(one for one in rows if one["trade_off"] == 1)["test"]
    return {key: row["test"][key] / plain[key] - 1 for key in ("ndcg@10", "distance", "coverage", "gini")}


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    found = {}
    for name in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == name]
        best = max(kept(own).values(), key=lambda row: row["validation"]["distance"])
        change = changes(own, best)
        unit = f"{best['diversity']}, dial {best['trade_off']}, NDCG@10 {change['ndcg@10']:+.1%}"
        key = name.lower().replace(" ", "_")
        found[f"{key}_distance_gained"] = Figure(
            value=round(change["distance"], 4), unit=unit, goal=0.3, better="higher"
        )
        found[f"{key}_gini_change"] = Figure(value=round(change["gini"], 4), unit=unit, goal=-0.2, better="lower")
    return found


def table(rows: Sequence[Row]) -> Table:
    shown = Table(
        title=f"{rows[0]['run']}, TEST, at most {LOSS:.0%} of NDCG@10 lost on VALIDATION",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for heading in ("diversity", "dial", "NDCG@10", "distance", "coverage", "Gini", "top 1%"):
        shown.add_column(heading, justify="left" if heading == "diversity" else "right")
    for name, row in {"relevance alone": rows[0], **kept(rows)}.items():
        change, test = changes(rows, row), row["test"]
        cells = [f"{test[key]:.4f} ({change[key]:+.1%})" for key in ("ndcg@10", "distance", "coverage", "gini")]
        shown.add_row(name, str(row["trade_off"]), *cells, f"{test['top 1% of the items']:.1%}")
    return shown


def main() -> None:
    start, folders = time.perf_counter(), [Path(one) for one in sys.argv[1:]] or [Path("runs/demo")]
    for folder in folders:
        if not (folder / "bundle").is_dir():
            raise ConfigError(f"{folder} has no bundle; run `make demo` or train.py first and give its run folder")
    rows: list[Row] = []
    for folder in folders:
        own = fronts(finished(folder))
        console.print(table(own))
        rows += own
    claimed = figures(rows)
    print_figures(console, claimed)
    draw_fronts(RESULTS / "diversity.png", rows)
    console.print(f"\nresult   {write_result('diversity', rows, claimed, time.perf_counter() - start)}")
    console.print(f"picture  {RESULTS / 'diversity.png'}")
    console.print("next     python train.py policy.diversity.trade_off=...", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
