"""`python -m recsys data`: reports that are whole at 80 columns and on one page, and mistakes that leave nothing behind."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import recsys.cli.data as data

YAML = """
interactions: {file: events.csv, user: user, item: item, timestamp: at, actions: {rating: number}}
items: {file: items.csv, item: item, columns: {title: text, kind: category}}
objectives: {seen: "1", like: "rating >= 4"}
target: seen
title: title
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Description of 300 events of 60 users and 30 items, of which one is called <b>."""
    names = [f"an-item-with-a-rather-long-name-{index}" if index else "<b>&" for index in range(30)]
    events = [
        f"u{index % 60},{names[index % 30]},{1_700_000_000 + 5_000 * index},{index % 5 + 1}" for index in range(300)
    ]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,at,rating", *events]), encoding="utf-8")
    items = [f"{name},Title of {name},{'<i>' if name == '<b>&' else 'a'}" for name in names[:-1]]
    (tmp_path / "items.csv").write_text("\n".join(["item,title,kind", *items]), encoding="utf-8")
    (tmp_path / "shop.yaml").write_text(YAML, encoding="utf-8")
    return tmp_path / "shop.yaml"


def test_check_is_whole_at_80_columns_and_ends_with_the_next_command(shop, typed, capsys, monkeypatch):
    monkeypatch.chdir(shop.parent)
    assert typed("data", "check", "shop.yaml", width=80) == 0
    printed = capsys.readouterr().out
    for text in (
        "events.csv",
        "items.csv",
        "rating >= 4",
        "an-item-with-a-rather-long-name-29",
        "peak GiB",
        "have no row",
    ):
        assert text in " ".join(printed.split())
    assert "…" not in printed
    assert printed.rstrip().splitlines()[-1] == "next     python -m recsys train data=tables data.description=shop.yaml"


def test_the_page_is_one_file_that_fetches_nothing_and_shows_ids_as_text(shop, typed):
    html = shop.parent / "pages" / "check.html"
    assert typed("data", "check", shop, "--html", html) == 0
    page = html.read_text(encoding="utf-8")
    assert not re.findall(r"https?:|<script|<link|<img|@import|url\(|src=", page)
    assert page.count("<svg") == page.count("</svg>") == 4
    assert "<b>" not in page
    assert "an-item-with-a-rather-long-name-29" in page
    assert [file.name for file in html.parent.iterdir()] == ["check.html"]


def test_the_figures_are_json_and_the_next_command_survives_odd_paths(shop, typed):
    odd = shop.rename(shop.with_name("my shop, 2.yaml"))
    assert typed("data", "check", odd, "--json", shop.parent / "check.json") == 0
    document = json.loads((shop.parent / "check.json").read_text(encoding="utf-8"))
    assert (document["tables"][0]["rows"], document["objectives"][0]["rate"]) == (300, 1.0)
    assert {one["level"] for one in document["advice"]} <= {"warning", "note"}
    override = shlex.split(document["next"])[-1]
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert parsed.value() == str(odd)


def test_a_log_that_cannot_be_read_ends_with_one_sentence_and_no_page(shop, typed, capsys):
    shop.write_text(YAML.replace("timestamp: at", "timestamp: when"), encoding="utf-8")
    html = shop.parent / "check.html"
    assert typed("data", "check", shop, "--html", html) == 2
    assert "there is no column 'when'" in capsys.readouterr().err
    assert not html.exists()
    assert typed("data", "check", shop, "--html", shop.parent) == 2


def test_init_writes_a_description_that_check_reads_and_never_over_another_file(shop, typed, capsys, monkeypatch):
    monkeypatch.chdir(shop.parent)
    before = shop.read_text(encoding="utf-8")
    assert typed("data", "init", "events.csv", "items.csv") == 2
    assert "shop.yaml is there already" in capsys.readouterr().err
    assert shop.read_text(encoding="utf-8") == before
    assert typed("data", "init", "items.csv", "events.csv", "--force") == 0
    printed = capsys.readouterr().out
    assert "UNSURE: 0" in printed
    assert printed.rstrip().splitlines()[-1] == "next     python -m recsys data check shop.yaml"
    assert typed("data", "check", "shop.yaml") == 0
    assert "like" in capsys.readouterr().out


def test_init_of_files_that_are_no_log_leaves_nothing(shop, typed, capsys):
    out = shop.parent / "other.yaml"
    assert typed("data", "init", shop.parent / "nothing.csv", "--out", out) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not out.exists()


def test_a_training_that_the_machine_cannot_hold_is_warned_of(shop, typed, capsys, monkeypatch):
    monkeypatch.setattr(data, "machine_gib", lambda: 0.25)
    assert typed("data", "check", shop) == 0
    assert "this machine has 0.2 GiB: it is refused before it begins" in " ".join(capsys.readouterr().out.split())


def test_looking_at_data_needs_no_torch():
    code = f"import sys, {data.__name__}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
