"""What does diversity cost? NDCG@10 against how unlike the items of a page are, and whom the pages show.

    python benchmarks/diversity.py runs/demo [another run folder ...]

Reads finished runs of train.py: their data, split and bundle. Every question of the test period is retrieved and ranked
once; then each diversity composes the pages at every setting of its dial, without rules. The setting that is kept is the
most diverse one, of popularity dials the most even one, that costs at most 1% of NDCG@10 on VALIDATION; its figures are those
of TEST. Unless the protocol is strict, the bundle has learnt from VALIDATION.

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
from recsys.data.description import ITEM
from recsys.data.splits import TEST, VALIDATION
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluation.attributes import Attributes
from recsys.evaluation.exposure import exposure, gini, intra_list_distance, top_share
from recsys.evaluation.metrics import hits, ndcg
from recsys.evaluation.questions import Questions
from recsys.evaluation.replay import Replay
from recsys.evaluation.stream import Counters, stream
from recsys.pipeline import through
from recsys.policy.compose import Policy
from recsys.policy.diversity import Alike, Determinantal, Diversity, MaximalMarginalRelevance, MaxSum, Proportions
from recsys.policy.explore import Exploration
from recsys.policy.popularity import EVENTS, EXPOSURE, PopularityDial
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula
from recsys.stages import POPULARITY, Rank, Retrieve, load_rank, load_retrieve, rules_maker

DISCOUNTS = (0.05, 0.1, 0.2, 0.3)
DIALS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
LOSS = 0.01
"""of NDCG@10 that diversity may cost"""
WINDOW, PLACES, BATCH = 10, 10, 64
MOST = 2_000
"""questions of a period, at most"""
OFF = PopularityDial.off()
Row = dict[str, Any]

console = Console(width=160)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions of one period, retrieved and ranked."""

    questions: Questions
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
    """A run of train.py."""

    name: str
    bundle: Bundle
    attributes: Attributes
    items: tuple[str, ...]
    """[N] ids"""
    asked: dict[int, Asked]

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


KINDS: tuple[tuple[str, type[Alike], tuple[float, ...]], ...] = (
    ("MMR", MaximalMarginalRelevance, (0.0, 0.5, 1.0)),
    ("max-sum", MaxSum, (0.5, 1.0)),
    ("DPP", Determinantal, (0.0, 0.5, 1.0)),
)
NO_DIVERSITY = MaximalMarginalRelevance(trade_off=1.0, window=0, content=0.0)


def finished(folder: Path, *, periods: Sequence[int], most: int) -> Finished:
    bundle = Bundle.open(folder / "bundle")
    stages = (load_retrieve(bundle), load_rank(bundle))
    config = OmegaConf.create(bundle.document("config.yaml"))
    parts = {key: instantiate(config[key], _convert_="all") for key in ("data", "protocol", "evaluation")}
    dataset = parts["data"].load()
    split = parts["protocol"].splits(dataset)[-1]
    replay = Replay(dataset, split)
    asked = {}
    for period in periods:
        questions = parts["evaluation"].questions(split, replay, period).sample(most, seed=0)
        asked[period] = Asked(questions=questions, tensors=list(_ranked(stages, questions)))
    return Finished(
        name=dataset.name,
        bundle=bundle,
        attributes=Attributes.of(dataset),
        items=tuple(dataset.items[ITEM]),
        asked=asked,
    )


def _ranked(stages: tuple[Retrieve, Rank], questions: Questions) -> Iterator[dict[str, Any]]:
    queries = questions.replay.queries(questions.rows, PLACES)
    for start in track(range(0, len(queries), BATCH), "retrieved and ranked"):
        yield through({"QUERY": queries[start : start + BATCH]}, stages)


def settings(columns: Sequence[str], counts: Sequence[str]) -> Iterator[Setting]:
    for dial in DIALS:
        for name, kind, contents in KINDS:
            for content in contents:
                diversity = kind(trade_off=dial, window=WINDOW, content=content)
                yield Setting(name=f"{name}, content {content:g}", dial=dial, diversity=diversity)
        for column in columns:
            diversity = Proportions(trade_off=dial, window=WINDOW, of=column)
            yield Setting(name=f"proportions of {column}", dial=dial, diversity=diversity)
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
                diversity=MaxSum(trade_off=dial, window=WINDOW, content=1.0),
                popularity=PopularityDial(discount=discount, of=EXPOSURE),
                judged="gini",
            )


def countable(bundle: Bundle) -> tuple[str, ...]:
    """What the popularity dial may count; an older bundle tells no events."""
    return (EVENTS, EXPOSURE) if bundle.has(POPULARITY) else (EXPOSURE,)


def pages(run: Finished, setting: Setting, period: int) -> np.ndarray:
    """[B, K] catalogue rows. A dial on exposure is told what was shown before, request by request."""
    policy = Policy(
        value=ValueFormula(**run.bundle.document("policy.yaml")["value"]),
        popularity=setting.popularity,
        diversity=setting.diversity,
        exploration=Exploration(kind="none", rate=0.0, first=0),
    )
    stage = rules_maker(run.bundle, policy=policy)(RuleSet.parse({"rules": []}))
    asked = run.asked[period]
    if setting.popularity.of == EXPOSURE:
        counters = Counters({}, run.items, half_life=len(asked.questions) * PLACES)
        return stream(stage, asked.singles(), counters, PLACES).rows
    shown = [stage.rows(tensors) for tensors in asked.tensors]
    return np.concatenate([np.pad(rows, ((0, 0), (0, PLACES - rows.shape[1])), constant_values=PAD) for rows in shown])


def measured(run: Finished, rows: np.ndarray, period: int) -> Row:
    targets = run.asked[period].questions.targets
    shown = exposure(rows, run.num_items, PLACES, discounted=False)
    return {
        "ndcg@10": float(ndcg(hits(rows, targets), targets.num_targets, PLACES).mean()),
        "distance": float(intra_list_distance(rows, run.attributes.units, PLACES).mean()),
        "coverage": float((shown > 0).mean()),
        "gini": gini(shown),
        "top 1% of the items": top_share(shown, 0.01),
    }


def fronts(run: Finished) -> list[Row]:
    """Every diversity at every dial, on both periods."""
    types = run.bundle.document("catalogue.json")
    columns = [name for name, kind in types.items() if kind == "categories"]
    listed = list(settings(columns, countable(run.bundle)))
    return [
        {
            "run": run.name,
            "diversity": setting.name,
            "dial": setting.dial,
            "judged": setting.judged,
            **{
                key: measured(run, pages(run, setting, period), period)
                for key, period in (("validation", VALIDATION), ("test", TEST))
            },
        }
        for setting in track(listed, run.name)
    ]


def kept(rows: Sequence[Row]) -> dict[str, Row]:
    """Of each diversity of a run the best setting that costs little enough on VALIDATION, where there is one."""
    plain = rows[0]["validation"]["ndcg@10"]
    cheap = [row for row in rows if row["validation"]["ndcg@10"] >= (1 - LOSS) * plain]
    names = dict.fromkeys(row["diversity"] for row in cheap)
    return {name: max((row for row in cheap if row["diversity"] == name), key=_merit) for name in names}


def _merit(row: Row) -> float:
    value: float = row["validation"][row["judged"]]
    return -value if row["judged"] == "gini" else value


def changes(rows: Sequence[Row], row: Row) -> dict[str, float]:
    """Against relevance alone, on TEST."""
    plain = rows[0]["test"]
    return {key: row["test"][key] / plain[key] - 1 for key in ("ndcg@10", "distance", "coverage", "gini")}


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    found = {}
    for name in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == name]
        unlike = max(kept(own).values(), key=lambda row: row["validation"]["distance"])
        even = min(kept(own).values(), key=lambda row: row["validation"]["gini"])
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
        title=f"{rows[0]['run']}, TEST, at most {LOSS:.0%} of NDCG@10 lost on VALIDATION",
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
    start, folders = time.perf_counter(), [Path(one) for one in sys.argv[1:]] or [Path("runs/demo")]
    for folder in folders:
        if not (folder / "bundle").is_dir():
            raise ConfigError(f"{folder} has no bundle; run `make demo` or train.py first and give its run folder")
    rows: list[Row] = []
    for folder in folders:
        own = fronts(finished(folder, periods=(VALIDATION, TEST), most=MOST))
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
