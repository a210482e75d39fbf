"""What does diversity cost? NDCG@10 against how unlike the items of a page are, and whom the pages show.

    python train.py recipe=movielens_100k protocol.later=0.2 protocol.test=0.1 run_dir=runs/earlier
    python -m benchmarks.claims.policy.diversity runs/demo:runs/earlier [another run folder ...]

Reads finished runs of train.py: their data, split and bundle. Every question of the test period is retrieved and ranked
once; then each diversity composes the pages at every setting of its dial, without rules. The setting that is kept is the
most diverse one, of popularity dials the most even one, that costs at most 1% of NDCG@10 where settings are chosen: on
VALIDATION under a strict protocol; otherwise what serves has learnt from VALIDATION, and a run of the same recipe whose log
ended before (`protocol.later`) is asked in its own TEST. Figures are those of the TEST of the first run.

Intra-list distance: mean over pairs of a page of 1 - cosine of the items' genres or attributes. Exposure Gini: over all
items of the catalogue, 0 if all are shown alike, 1 if only one is.

Shapes: B questions, K places, N items.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich import box
from rich.progress import track
from rich.table import Table

from benchmarks.lib.diversity_chart import draw_fronts
from benchmarks.lib.result_file import RESULTS, Figure, console, print_figures, write_result
from recsys.bundle import Bundle
from recsys.contracts import PAD
from recsys.data.description import ITEM
from recsys.data.splits import TEST, VALIDATION, Split
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluation.attributes import Attributes
from recsys.evaluation.exposure import exposure, gini, intra_list_distance, top_share
from recsys.evaluation.stream import ExposureCounters, stream_slates
from recsys.metrics import hits, ndcg
from recsys.pipeline import through
from recsys.policy.compose import Policy
from recsys.policy.diversity import (
    Determinantal,
    Diversity,
    MaximalMarginalRelevance,
    MaxSum,
    Proportions,
)
from recsys.policy.diversity.item_vectors import CosineDiversity
from recsys.policy.exploration import NoExploration
from recsys.policy.popularity import EVENTS, EXPOSURE, PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.replay import Replay
from recsys.stages import POPULARITY, Rank, Retrieve, load_rank, load_retrieve, rules_maker

DISCOUNTS = (0.05, 0.1, 0.2, 0.3)
DIALS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
SPANS = (0.001, 0.002, 0.003, 0.0045, 0.0065, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)
"""utilities that make a relevance of 1, the same for all"""
LOSS = 0.01
"""of NDCG@10 that diversity may cost"""
WINDOW, PLACES, BATCH = 10, 10, 64
MOST = 2_000
"""questions of a period, at most"""
OFF = PopularityDial.off()
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions of one period, retrieved and ranked."""

    questions: EvaluationQueries
    tensors: list[dict[str, Any]]

    def singles(self) -> list[dict[str, Any]]:
        """One question after the other."""
        return [
            {name: values[place : place + 1] for name, values in tensors.items()}
            for tensors in self.tensors
            for place in range(len(tensors["QUERY"]))
        ]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run of train.py, asked in one period."""

    name: str
    bundle: Bundle
    attributes: Attributes
    items: tuple[str, ...]
    """[N] ids"""
    split: Split
    asked: Asked

    @property
    def num_items(self) -> int:
        return len(self.items)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One policy of a front."""

    name: str
    dial: float
    diversity: Diversity
    popularity: PopularityDial = OFF
    judged: str = "distance"
    """what is greatest, or least for gini, in the setting that is kept"""


KINDS: tuple[tuple[str, type[CosineDiversity], tuple[float, ...]], ...] = (
    ("MMR", MaximalMarginalRelevance, (0.0, 0.5, 1.0)),
    ("max-sum", MaxSum, (0.5, 1.0)),
    ("DPP", Determinantal, (0.0, 0.5, 1.0)),
)
NO_DIVERSITY = MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0)


def finished(folder: Path, *, period: int, most: int) -> Finished:
    """ConfigError where there is no finished run."""
    check(folder)
    bundle = Bundle.open(folder / "bundle")
    stages = (load_retrieve(bundle), load_rank(bundle))
    config = OmegaConf.create(bundle.document("config.yaml"))
    parts = {key: instantiate(config[key], _convert_="all") for key in ("data", "protocol", "evaluation")}
    dataset = parts["data"].load()
    split = parts["protocol"].splits(dataset)[-1]
    questions = parts["evaluation"].queries(split, Replay(dataset, split), period).sample(most, seed=0)
    return Finished(
        name=dataset.name,
        bundle=bundle,
        attributes=Attributes.of(dataset),
        items=tuple(dataset.items[ITEM]),
        split=split,
        asked=Asked(questions=questions, tensors=list(_ranked(stages, questions))),
    )


def check(folder: Path) -> None:
    if not (folder / "bundle").is_dir():
        raise ConfigError(
            f"{folder} has no bundle; train it first, the head of diversity.py says how, and give its folder"
        )


def chosen_on(folder: Path, run: Finished, earlier: str) -> Finished:
    """Who is asked where settings are chosen; ConfigError where that would not be before the test, or already learnt."""
    if not earlier:
        if not run.split.strict:
            raise ConfigError(
                f"{folder} has learnt from its VALIDATION period; train the same with protocol.later=0.2 "
                f"protocol.test=0.1 run_dir=runs/earlier and write {folder}:runs/earlier"
            )
        return finished(folder, period=VALIDATION, most=MOST)
    other = finished(Path(earlier), period=TEST, most=MOST)
    ends, begins = (other.split.cuts or ())[3:], (run.split.cuts or ())[2:3]
    if not ends or not begins or ends > begins:
        raise ConfigError(f"the test of {earlier} does not end before that of {folder}; raise its protocol.later")
    return other


def _ranked(stages: tuple[Retrieve, Rank], questions: EvaluationQueries) -> Iterator[dict[str, Any]]:
    queries = questions.replay.queries(questions.rows, PLACES)
    for start in track(range(0, len(queries), BATCH), "retrieved and ranked"):
        yield through({"QUERY": queries[start : start + BATCH]}, stages)


def settings(columns: Sequence[str], counts: Sequence[str]) -> Iterator[Setting]:
    diversity: Diversity
    for dial in DIALS:
        for name, kind, contents in KINDS:
            for content in contents:
                diversity = kind(trade_off=dial, window=WINDOW, span=None, content=content)
                yield Setting(name=f"{name}, content {content:g}", dial=dial, diversity=diversity)
        for column in columns:
            diversity = Proportions(trade_off=dial, window=WINDOW, span=None, of=column)
            yield Setting(name=f"proportions of {column}", dial=dial, diversity=diversity)
    for span in SPANS:
        for name, kind, contents in KINDS[:2]:
            diversity = kind(trade_off=0.5, window=WINDOW, span=span, content=contents[-1])
            yield Setting(name=f"{name}, content {contents[-1]:g}, one span", dial=span, diversity=diversity)
    for discount in DISCOUNTS:
        for of in counts:
            popularity = PopularityDial(discount=discount, of=of)
            yield Setting(
                name=f"popularity, {of}", dial=discount, diversity=NO_DIVERSITY, popularity=popularity, judged="gini"
            )
    for discount in DISCOUNTS:
        for dial in (0.5, 0.4):
            yield Setting(
                name=f"popularity, exposure {discount:g}, max-sum",
                dial=dial,
                diversity=MaxSum(trade_off=dial, window=WINDOW, span=None, content=1.0),
                popularity=PopularityDial(discount=discount, of=EXPOSURE),
                judged="gini",
            )


def countable(bundle: Bundle) -> tuple[str, ...]:
    """What the popularity dial may count; an older bundle tells no events."""
    return (EVENTS, EXPOSURE) if bundle.has(POPULARITY) else (EXPOSURE,)


def pages(run: Finished, setting: Setting) -> np.ndarray:
    """[B, K] catalogue rows. A dial on exposure is told what was shown before, request by request."""
    policy = Policy(
        value=ValueFormula(**run.bundle.document("policy.yaml")["value"]),
        popularity=setting.popularity,
        diversity=setting.diversity,
        exploration=NoExploration(),
        repeat=Repeat.never(),
    )
    stage = rules_maker(run.bundle, policy=policy)(RuleSet.parse({"rules": []}))
    asked = run.asked
    if setting.popularity.of == EXPOSURE:
        counters = ExposureCounters({}, run.items, half_life=len(asked.questions) * PLACES)
        return stream_slates(stage, asked.singles(), counters, PLACES).rows
    shown = [stage.rows(tensors) for tensors in asked.tensors]
    return np.concatenate([np.pad(rows, ((0, 0), (0, PLACES - rows.shape[1])), constant_values=PAD) for rows in shown])


def measured(run: Finished, setting: Setting) -> Row:
    rows, targets = pages(run, setting), run.asked.questions.targets
    shown = exposure(rows, run.num_items, PLACES, discounted=False)
    return {
        "ndcg@10": float(ndcg(hits(rows, targets), targets.num_targets, PLACES).mean()),
        "distance": float(intra_list_distance(rows, run.attributes.units, PLACES).mean()),
        "coverage": float((shown > 0).mean()),
        "gini": gini(shown),
        "top 1% of the items": top_share(shown, 0.01),
    }


def fronts(run: Finished, choosing: Finished) -> list[Row]:
    """Every diversity at every dial, where it is chosen and on TEST."""
    types = run.bundle.document("catalogue.json")
    columns = [name for name, kind in types.items() if kind == "categories"]
    listed = list(settings(columns, countable(run.bundle)))
    return [
        {
            "run": run.name,
            "diversity": setting.name,
            "dial": setting.dial,
            "judged": setting.judged,
            "choice": measured(choosing, setting),
            "test": measured(run, setting),
        }
        for setting in track(listed, run.name)
    ]


def kept(rows: Sequence[Row]) -> dict[str, Row]:
    """Of each diversity of a run the best setting that costs little enough where it is chosen, if there is one."""
    plain = rows[0]["choice"]["ndcg@10"]
    cheap = [row for row in rows if row["choice"]["ndcg@10"] >= (1 - LOSS) * plain]
    names = dict.fromkeys(row["diversity"] for row in cheap)
    return {name: max((row for row in cheap if row["diversity"] == name), key=_merit) for name in names}


def _merit(row: Row) -> float:
    value: float = row["choice"][row["judged"]]
    return -value if row["judged"] == "gini" else value


def changes(rows: Sequence[Row], row: Row) -> dict[str, float]:
    """Against relevance alone, on TEST."""
    plain = rows[0]["test"]
    return {key: row["test"][key] / plain[key] - 1 for key in ("ndcg@10", "distance", "coverage", "gini")}


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    found = {}
    for name in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == name]
        unlike = max(kept(own).values(), key=lambda row: row["choice"]["distance"])
        even = min(kept(own).values(), key=lambda row: row["choice"]["gini"])
        key = name.lower().replace(" ", "_")
        found[f"{key}_distance_gained"] = Figure(
            value=round(changes(own, unlike)["distance"], 4), unit=_told(own, unlike), goal=0.3, better="higher"
        )
        found[f"{key}_gini_change"] = Figure(
            value=round(changes(own, even)["gini"], 4), unit=_told(own, even), goal=-0.2, better="lower"
        )
    return found


def _told(rows: Sequence[Row], row: Row) -> str:
    return f"{row['diversity']}, dial {row['dial']}, NDCG@10 {changes(rows, row)['ndcg@10']:+.1%}"


def table(rows: Sequence[Row]) -> Table:
    shown = Table(
        title=f"{rows[0]['run']}, TEST, at most {LOSS:.0%} of NDCG@10 lost before it",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for heading in ("diversity", "dial", "NDCG@10", "distance", "coverage", "Gini", "top 1%"):
        shown.add_column(heading, justify="left" if heading == "diversity" else "right")
    for name, row in {"relevance alone": rows[0], **kept(rows)}.items():
        change, test = changes(rows, row), row["test"]
        cells = [f"{test[key]:.4f} ({change[key]:+.1%})" for key in ("ndcg@10", "distance", "coverage", "gini")]
        shown.add_row(name, str(row["dial"]), *cells, f"{test['top 1% of the items']:.1%}")
    return shown


def main() -> None:
    start, rows = time.perf_counter(), []
    pairs = [argument.partition(":")[::2] for argument in sys.argv[1:] or ["runs/demo:runs/earlier"]]
    for named in (one for pair in pairs for one in pair if one):
        check(Path(named))
    for folder, earlier in pairs:
        run = finished(Path(folder), period=TEST, most=MOST)
        own = fronts(run, chosen_on(Path(folder), run, earlier))
        console.print(table(own))
        rows += own
    claimed = figures(rows)
    print_figures(claimed)
    draw_fronts(RESULTS / "diversity.png", rows)
    console.print(f"\nresult   {write_result('diversity', rows, claimed, time.perf_counter() - start)}")
    console.print(f"picture  {RESULTS / 'diversity.png'}")
    console.print("next     python train.py policy.diversity.trade_off=... policy.diversity.span=...", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
