import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from recsys.evaluation.chart import TITLES, short
from recsys.evaluation.further_metrics import TITLES as FURTHER_TITLES
from recsys.evaluation.intervals import bootstrap_interval
from recsys.evaluation.report import Report, conclusion, verdicts
from recsys.evaluation.wide_table import WideTable
from recsys.metrics import METRICS

CHANCES = {"popularity": 0.05, "EASE": 0.3, "retrieval alone": 0.15, "retrieval + ranker": 0.32}


def row_of(values, coverage):
    means = {metric: float(value.mean()) for metric, value in values.items()}
    intervals = {metric: list(bootstrap_interval(value, 0)) for metric, value in values.items()}
    users = len(next(iter(values.values())))
    return {**means, "coverage@10": coverage, "ci95": intervals, "users": users}


@pytest.fixture(scope="module")
def report():
    generator = np.random.default_rng(0)
    luck = generator.random(600)
    per_user = {system: dict.fromkeys(METRICS, (luck < chance).astype(float)) for system, chance in CHANCES.items()}
    rows = {system: row_of(values, 0.25 + place / 10) for place, (system, values) in enumerate(per_user.items())}
    return Report(
        rows=rows,
        protocol="leave-one-out [strict] with $5",
        targets_sha256="0123456789abcdef" * 4,
        users=600,
        notes=("knobs [b] chosen on validation",),
        slices={"new users": {"EASE": rows["EASE"], "popularity": rows["popularity"]}},
        ours=("retrieval alone", "retrieval + ranker"),
        per_user=per_user,
        seeds=(0,),
        seconds=12.3,
        peak_memory_mib=456.0,
    )


def printed(table, width=100):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


def bold_values(table, column):
    return [str(cell).split("\n")[0] for cell in table.columns[column].cells if getattr(cell, "style", "") == "bold"]


def test_the_document_survives_json_and_leaves_per_user_values_out(report):
    document = json.loads(json.dumps(report.to_document(), allow_nan=False))
    assert document == report.to_document()
    assert list(document["rows"]) == list(CHANCES)
    assert document["rows"]["EASE"] == report.rows["EASE"]
    assert document["slices"]["new users"]["EASE"] == report.rows["EASE"]
    assert (document["users"], document["targets_sha256"]) == (600, report.targets_sha256)
    assert (document["seeds"], document["seconds"], document["peak_memory_mib"]) == ([0], 12.3, 456.0)
    assert "per_user" not in document


def test_save_writes_both_files_and_nothing_else(report, tmp_path):
    folder = tmp_path / "run" / "7"
    report.save(folder)
    report.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "metrics.png"]
    assert json.loads((folder / "metrics.json").read_text("utf-8")) == report.to_document()
    assert (folder / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_save_keeps_the_old_document(report, tmp_path):
    report.save(tmp_path)
    broken = replace(report, rows={"EASE": {**report.rows["EASE"], "recall@10": float("nan")}}, ours=(), per_user={})
    before = (tmp_path / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.save(tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_table_shows_systems_intervals_slices_and_notes(report):
    text = printed(report.table())
    row = report.rows["EASE"]
    low, high = row["ci95"]["ndcg@10"]
    shown = [f"{value:.4f}"[1:] for value in (row["ndcg@10"], low, high, row["coverage@10"])]
    assert shown[0] in text
    assert f"{shown[1]}–{shown[2]}" in text
    assert shown[3] in text
    order = [text.index(system) for system in CHANCES]
    assert order == sorted(order)
    for words in ("NDCG@10", "[strict]", "knobs [b] chosen", "new users (600)", "600 users", "0123456789ab"):
        assert words in text


def test_the_table_shows_seeds_spread_knobs_and_cost(report):
    ours, theirs = report.rows["retrieval + ranker"], report.rows["EASE"]
    rows = {**report.rows, "EASE": {**theirs, "knobs": {"regularisation": 50.0, "b": [1, 2]}}}
    rows["retrieval + ranker"] = {**ours, "spread": dict.fromkeys((*METRICS, "coverage@10"), 0.0123)}
    text = printed(replace(report, rows=rows, seeds=(0, 7)).table())
    assert text.count("±.0123") == len(TITLES)
    for words in ("over seeds 0, 7", "EASE: regularisation 50.0, b [1, 2]", "12 s, at most 456 MiB"):
        assert words in text
    assert "±." not in printed(report.table())


def test_a_slice_shows_ours_beside_the_strongest_of_the_others(report):
    slices = {"cold items": report.rows}
    table = replace(report, slices=slices).table()
    names = [str(cell) for cell in table.columns[0].cells]
    assert names == [*CHANCES, "cold items (600)", "EASE", "retrieval alone", "retrieval + ranker"]


def test_the_best_of_a_column_is_bold_in_each_section(report):
    table = report.table()
    best, of_slice = (f"{report.rows[system]['recall@10']:.4f}"[1:] for system in ("retrieval + ranker", "EASE"))
    assert bold_values(table, 1) == [best, of_slice]
    assert bold_values(table, 5) == [".5500", ".3500"]


def test_what_reads_the_same_is_equally_bold(report):
    row = report.rows["EASE"]
    twins = {"a": row, "b": {**row, "recall@10": row["recall@10"] + 1e-6}}
    assert len(bold_values(replace(report, rows=twins, slices={}, ours=(), per_user={}).table(), 1)) == 2


def test_the_chart_grows_with_the_systems(report, tmp_path):
    from matplotlib.image import imread

    many = {f"system {place}": report.rows["EASE"] for place in range(12)}
    report.draw(tmp_path / "few.png")
    replace(report, rows=many, ours=(), per_user={}).draw(tmp_path / "many.png")
    few, tall = (imread(tmp_path / name).shape for name in ("few.png", "many.png"))
    assert few[1] == tall[1]
    assert tall[0] > few[0]


def test_a_chart_of_zeros_can_be_drawn(report, tmp_path):
    zeros = row_of(dict.fromkeys(METRICS, np.zeros(5)), 0.0)
    replace(report, rows={"constant": zeros}, ours=(), per_user={}).draw(tmp_path / "zeros.png")
    assert (tmp_path / "zeros.png").stat().st_size > 0


def test_verdicts_name_winner_and_loser(report):
    sentences = verdicts(report)
    assert len(sentences) == 2 + 2 * 2
    ours, rival = report.rows["retrieval alone"], report.rows["EASE"]
    loss = f"{ours['ndcg@10']:.4f}"[1:] + " vs " + f"{rival['ndcg@10']:.4f}"[1:]
    assert any(
        line.startswith(f"retrieval alone is BELOW EASE at NDCG@10: {loss} (difference -.") for line in sentences
    )
    assert any(line.startswith("retrieval + ranker improves recall@100 over retrieval alone: ") for line in sentences)
    assert not any("popularity" in line for line in sentences)


def test_a_difference_within_the_noise_is_called_that(report):
    values = report.per_user["EASE"]["recall@100"]
    per_user = {"EASE": {"recall@100": values}, "retrieval + ranker": {"recall@100": np.roll(values, 1)}}
    (sentence,) = verdicts(replace(report, ours=(), per_user=per_user))
    assert sentence == "cannot be told apart: retrieval + ranker and EASE at recall@100"


def test_all_that_is_undecided_is_one_line(report):
    same = dict.fromkeys(report.per_user, report.per_user["EASE"])
    sentences = verdicts(replace(report, per_user=same))
    assert len(sentences) == 1
    assert sentences[0].count(" and ") == 2 + 2 * 2


def test_a_table_that_is_too_wide_goes_on_below_and_names_every_row_again(report):
    rows = {**report.rows, "a system with quite a long name, longer than half a screen": report.rows["EASE"]}
    table = replace(report, rows=rows, slices={"cold items": report.rows}, ours=()).table()
    text = printed(WideTable(table), 80)
    assert max(map(len, text.splitlines())) <= 80
    wide = printed(WideTable(table), 200)
    repeated = text.count("retrieval alone") / wide.count("retrieval alone")
    assert repeated >= 2
    for values in report.rows.values():
        for metric in TITLES:
            assert f"{values[metric]:.4f}"[1:] in text
    assert wide.count("recall@500") == text.count("recall@500") == 1
    assert text.count(report.protocol[:20]) == 1


def test_the_conclusion_names_the_best_simple_system_first_and_what_the_cascade_adds_and_costs(report):
    told = replace(report, cost={"cpu_ms": 4.25, "bundle_mib": 12.0, "training_cpu_s": 1_230.0})
    simple = short(report.rows["EASE"]["ndcg@10"])
    difference = short(report.rows["retrieval + ranker"]["ndcg@10"] - report.rows["EASE"]["ndcg@10"])
    line = conclusion(told)
    assert line.startswith(
        f"the best simple system is EASE with NDCG@10 {simple}; retrieval + ranker adds {difference}"
    )
    assert "95% interval" in line
    costs = "4.25 CPU ms a request (in batches), 12 MiB of files, 1,230 CPU s of training in this run"
    assert line.endswith(f"better; it costs {costs}")
    worse = replace(told, ours=("retrieval + ranker", "retrieval alone"), cost={})
    assert conclusion(worse).endswith(": WORSE")
    same = dict.fromkeys(report.per_user, report.per_user["EASE"])
    assert conclusion(replace(report, per_user=same)).endswith("no difference beyond chance")
    assert conclusion(replace(report, per_user={})) is None
    assert conclusion(replace(report, ours=tuple(report.rows))) is None
    assert json.loads(json.dumps(told.to_document()))["conclusion"] == line


def test_further_figures_stand_in_a_table_of_their_own_of_eighty_columns(report):
    further = {name: 0.125 * (1 + at) for at, name in enumerate(FURTHER_TITLES)}
    told = replace(report, rows={system: {**row, **further} for system, row in report.rows.items()})
    text = printed(WideTable(told.further()), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(text.count(short(value)) == 3 for value in further.values()), "the strongest baseline and ours"
    assert "popularity" not in text
    assert "precision" not in printed(told.table(), 200)


def test_the_table_of_user_groups_names_worst_and_best(report):
    ratio = {"worst": "young", "best": "old", "ratio": 0.5, "ci95": [0.375, 0.625], "chance": 0.9375}
    column = {"ratios": {"recall@10": ratio}, "too_small": {"rare": 3}, "num_too_small": 1}
    told = replace(report, fairness={system: {"age": column} for system in report.rows})
    text = printed(told.user_groups(), 80)
    for words in ("young", "old", ".5000", ".3750–.6250", ".9375", "1 groups of fewer than 30 users", "rare 3"):
        assert words in text
    assert told.to_document()["fairness"]["EASE"]["age"] == column


def test_without_values_there_is_no_verdict(report):
    assert verdicts(replace(report, per_user={})) == ()


def test_names_without_a_row_are_refused(report):
    with pytest.raises(ValueError, match="no row for 'tower'"):
        replace(report, ours=("tower",))
    with pytest.raises(ValueError, match="at least one system"):
        replace(report, rows={}, ours=(), per_user={})


def test_the_table_of_exposure_has_the_strongest_baseline_and_ours(report):
    shown = {"gini": 0.25, "from_relevance/genres": 0.125}
    told = replace(report, shown={**dict.fromkeys(CHANCES, shown), "retrieval alone": {"gini": 0.5}})
    lines = [line.split() for line in printed(told.exposure()).splitlines()]
    assert ["EASE", ".2500", ".1250"] in lines
    assert ["retrieval", "alone", ".5000"] in lines
    assert not [line for line in lines if line[:1] == ["popularity"]]
    assert any("Gini" in line for line in lines)
    assert any("genres" in line for line in lines)
    assert told.to_document()["shown"]["EASE"] == shown
