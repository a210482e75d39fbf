"""Every code block of README and docs/ is run or checked.

Python blocks run on the trained world of the tests, and commands on files of one's own run as they stand. Other commands are
parsed by the program that they call, configurations are composed and built, and request bodies are read by the gateway. YAML is
read by what reads it in use.
"""

import inspect
import itertools
import os
import re
import shlex
import tomllib
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pytest
import torch
import typer
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.utils import instantiate
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

import serving.triton.client
from recsys.cli.experiment import build
from recsys.cli.main import app as recsys_app
from recsys.contracts import Query, Slate
from recsys.data.sources.click_log import ImpressionTable
from recsys.data.sources.tables import Tables
from recsys.experiments.experiment_set import ExperimentSet
from recsys.measurement.drift.thresholds import Thresholds
from recsys.measurement.settings import MeasurementSettings
from recsys.pipeline import recommend
from recsys.policy.rules import RuleSet
from serving.__main__ import app as serving_app
from serving.endpoints import read_endpoints
from serving.gateway.jwt_settings import JwtSettings
from serving.gateway.openapi import document
from serving.gateway.request_parser import RequestLimits, RequestParser
from serving.gateway.routes import routes

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
PROGRAMS = {"recsys": typer.main.get_command(recsys_app), "serving": typer.main.get_command(serving_app)}
LIVE = ("running.json", "stack.log", "first.key", "keys.json")
DATA = os.environ.get("RECSYS_DATA")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    at: str
    """page:line"""
    language: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(at=f"{page.relative_to(ROOT)}:{line}", language=found[1], text=found[2])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(language: str) -> list[Any]:
    return [pytest.param(block.text, id=block.at) for block in BLOCKS if block.language == language]


def commands_of(text: str) -> Iterator[list[str]]:
    """Words of each command of a shell block; comments, variables and redirections are resolved."""
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and (assigned := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            variables[assigned[1]] = assigned[2]
            words = words[1:]
        words = [re.sub(r"\$([A-Z_]+)", lambda name: variables[name[1]], word) for word in words]
        if ">" in words:
            words = words[: words.index(">")]
        if words:
            yield words


COMMANDS = [
    pytest.param(words, id=f"{block.at} {' '.join(words)[:60]}")
    for block in BLOCKS
    if block.language == "sh"
    for words in commands_of(block.text)
]


def test_every_block_is_of_a_language_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} <= {"sh", "python", "yaml", "toml", "json", "text"}
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("\n```") % 2 == 0, page
    for block in BLOCKS:
        if block.language == "toml":
            tomllib.loads(block.text)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_understood(words: list[str]) -> None:
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        case ["python", "train.py", *overrides]:
            composes(overrides)
        case ["torchrun", *options] | ["srun", "--nodes", _, "--ntasks-per-node", _, "torchrun", *options]:
            launched = get_args_parser().parse_args(options)  # ends the test where torchrun lacks an option
            assert launched.training_script == "train.py"
            composes(launched.training_script_args)
        case ["python", "export.py", *overrides]:
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                compose("export", overrides=overrides)
        case ["python", "-m", module, *_] if module.startswith("benchmarks."):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
        case ["python", "-m", program, *arguments]:
            parses(program, arguments)
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case [".venv/bin/python", "-m", "pytest", path]:
            assert (ROOT / path).exists()
        case ["curl", *arguments]:
            reaches(arguments)
        case ["cat", path] | ["tail", "-n", _, path]:
            assert path in [f"runs/demo/live/{name}" for name in LIVE]
        case ["openssl" | "haproxy", *_]:  # run by tests/serving/gateway/test_proxy.py
            assert "deploy/haproxy/haproxy.cfg" in words or "site.pem" in words
        case ["pip", "install", name]:
            assert name in str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
        case ["wandb", "sync", path]:
            assert path.startswith("runs/")
        case ["wandb", "sweep", path]:
            assert any(f"--out {path}" in block.text for block in BLOCKS)
        case _:
            pytest.fail(f"nothing checks {words}")


def composes(overrides: Sequence[str]) -> None:
    """The configuration exists and every part of it is built, for each job of a sweep."""
    if overrides == ["--help"]:
        return
    sweep = [one for one in overrides if one not in ("-m", "--multirun")]
    for job in jobs(sweep):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("train", overrides=[*job, "run_dir=missing"] if "run_dir" not in str(job) else job)
        if not torch.cuda.is_available():
            config.trainer.accelerator, config.trainer.precision = "cpu", "32-true"
        build(config)


def jobs(overrides: Sequence[str]) -> Iterator[list[str]]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [
        [f"{one.get_key_element()}={value}" for value in values_of(one)] if one.is_sweep_override() else [text]
        for one, text in zip(parsed, overrides, strict=True)
    ]
    return (list(job) for job in itertools.product(*choices))


def values_of(override: Override) -> Sequence[object]:
    """Choices of a sweep, the two ends of an interval."""
    interval = override.value()
    if isinstance(interval, IntervalSweep):
        return interval.start, interval.end
    return list(override.sweep_string_iterator())


def parses(program: str, arguments: list[str]) -> None:
    """A command exists and takes these arguments and options."""
    command: Any = PROGRAMS[program]
    while hasattr(command, "commands"):
        while arguments[0].startswith("--"):
            assert arguments[0] in [name for one in command.params for name in one.opts]
            del arguments[:2]
        command = command.commands[arguments.pop(0)]
    command.make_context("command", arguments)


def reaches(arguments: Sequence[str]) -> None:
    """A route exists, and the gateway reads the body."""
    (url,) = [one for one in arguments if one.startswith(("http://127.0.0.1:8080/", "https://localhost:8443/"))]
    path = urllib.parse.urlparse(url).path
    method = "post" if "-d" in arguments else "delete" if "DELETE" in arguments else "get"
    path = path.replace("/v1/users/405", "/v1/users/{user}")
    assert method in document(routes(DOCUMENTS), keyed=True)["paths"][path]
    if method == "post":
        body = arguments[arguments.index("-d") + 1].encode()
        readers: dict[str, Any] = {"/v1/recommend": DOCUMENTS.recommend, "/v1/onboarding": DOCUMENTS.onboarding}
        readers["/v1/events"] = lambda text: DOCUMENTS.events(text, str)
        readers[path](body)


DOCUMENTS = RequestParser(
    context={},
    profile={"age": "number"},
    items={"genres": "categories", "year": "number", "stock": "number"},
    liked=("genres",),
    hideable=("item", "genres"),
    actions={"rating": "number"},
    limits=RequestLimits(),
    now=lambda: 0.0,
    ranked=True,
)


@pytest.fixture(scope="module")
def deployment(trained: Any, composed: Any, run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which runs/demo and runs/research are the trained world, and runs/clicks the click log of its page."""
    folder = tmp_path_factory.mktemp("deployment")
    shop(folder)
    page = ROOT / "docs" / "how-to" / "click-log.md"
    described = next(block.text for block in blocks_of(page) if block.language == "yaml")
    (folder / "clicks.yaml").write_text(described, encoding="utf-8")
    quick = ("recipe=click_log", "logger=csv", "ranking.epochs=1", "trainer.progress=false", "refit=false")
    run(composed(folder / "runs" / "clicks", *quick, f"data.description={folder / 'clicks.yaml'}"))
    (folder / "runs" / "demo").mkdir()
    (folder / "runs" / "demo" / "bundle").symlink_to(trained.bundle.path)
    (folder / "runs" / "demo" / "serve").symlink_to(trained.folder / "serve")
    (folder / "runs" / "research").symlink_to(trained.folder)
    if DATA is not None:
        (folder / "open-bandit-small").symlink_to(Path(DATA, "open-bandit-small").resolve())
    return folder


class InProcess:
    """The client of a server that runs in this process: queries and slates travel as JSON."""

    stages: Any = None

    def __init__(self, grpc_url: str) -> None:
        assert re.fullmatch(r"unix:/.+:1", grpc_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def recommend(self, queries: Sequence[Query], **options: Any) -> list[Slate]:
        inspect.signature(serving.triton.client.Client.recommend).bind(self, queries, **options)
        sent = [Query.from_json(query.to_json()) for query in queries]
        return [Slate.from_json(slate.to_json()) for slate in recommend(sent, self.stages)]


@pytest.mark.parametrize("text", of("python"))
def test_a_python_block_runs(
    text: str, deployment: Path, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "open-bandit-small" in text and DATA is None:
        pytest.skip("RECSYS_DATA names no folder of data sets")
    monkeypatch.chdir(deployment)
    text = text.replace("from serving.triton.client import Client\n", "")
    stand_in = type("Client", (InProcess,), {"stages": trained.stages})
    (file := tmp_path / "block.py").write_text(text, encoding="utf-8")  # numba keeps what it compiled beside the file
    exec(compile(text, str(file), "exec"), {"Client": stand_in})


def shop(folder: Path) -> None:
    """Files with all columns that the descriptions of the pages name."""
    rng = np.random.default_rng(0)
    events = pl.DataFrame(
        {
            "customer": [f"c{number}" for number in rng.integers(20, size=300)],
            "sku": [f"s{number}" for number in rng.integers(30, size=300)],
            "at": 1_700_000_000 + np.sort(rng.integers(0, 10_000_000, 300)),
            "event_type": rng.choice(["view", "view", "purchase"], 300),
            "price": rng.integers(1, 80, 300),
            "device": rng.choice(["tv", "phone"], 300),
            "clicked": rng.integers(0, 2, 300),
            "rating": rng.integers(1, 6, 300),
            "minutes": rng.integers(0, 40, 300),
        }
    )
    events.write_csv(folder / "events.csv")
    for part, rows in (("train", (0, 200)), ("validation", (200, 50)), ("test", (250, 50))):
        events.slice(*rows).write_csv(folder / f"{part}.csv")
    skus, customers = [f"s{number}" for number in range(30)], [f"c{number}" for number in range(20)]
    items = {"sku": skus, "name": [f"thing {one}" for one in skus], "tags": ["a|b", "c"] * 15, "price": range(30)}
    pl.DataFrame(items).write_csv(folder / "items.csv")
    pl.DataFrame({"customer": customers, "age": range(20, 40)}).write_csv(folder / "users.csv")
    clicks = events.with_columns(
        pl.col("clicked").alias("click"),
        (pl.col("clicked") * (pl.col("rating") > 3)).alias("buy"),
        pl.col("minutes").alias("dwell"),
        pl.col("rating").alias("rank"),
        pl.col("sku").alias("site"),
        pl.lit(30).alias("age"),
    )
    clicks.write_csv(folder / "clicks.csv")


def described(fragment: dict[str, Any]) -> dict[str, Any]:
    """A whole description around a part of one."""
    if {"interactions", "objectives"} <= fragment.keys():
        return fragment
    events = {"file": "events.csv", "user": "customer", "item": "sku", "timestamp": "at"}
    actions = {"clicked": "number", "rating": "number", "minutes": "number"}
    whole = {"interactions": events, "objectives": {"click": "clicked > 0"}, "target": "click", **fragment}
    return whole | {"interactions": {**whole["interactions"], "actions": actions}}


@pytest.mark.parametrize("text", of("json"))
def test_a_json_block_is_a_file_of_endpoints(text: str, tmp_path: Path) -> None:
    (file := tmp_path / "endpoints.json").write_text(text, encoding="utf-8")
    file.chmod(0o600)
    assert read_endpoints(file).broker.url


@pytest.mark.parametrize("text", of("yaml"))
def test_a_yaml_block_is_read(text: str, tmp_path: Path) -> None:
    written = yaml.safe_load(text)
    if "rules" in written:
        assert len(RuleSet.parse(written).rules) == len(written["rules"])
        return
    if "experiments" in written:
        assert len(ExperimentSet.parse(written).experiments) == len(written["experiments"])
        return
    if "outcomes" in written:
        (tmp_path / "measurement.yaml").write_text(text, encoding="utf-8")
        assert list(MeasurementSettings.read(tmp_path / "measurement.yaml").outcomes) == list(written["outcomes"])
        return
    if "errors" in written:
        (tmp_path / "thresholds.yaml").write_text(text, encoding="utf-8")
        assert Thresholds.read(tmp_path / "thresholds.yaml").windows == written["windows"]
        return
    if "issuer" in written:
        (tmp_path / "jwt.yaml").write_text(text, encoding="utf-8")
        assert JwtSettings.from_file(tmp_path / "jwt.yaml").audience == written["audience"]
        return
    if "_target_" in written:
        given = {name: "somewhere" if value == "???" else value for name, value in written.items()}
        assert instantiate(given) is not None
        return
    shop(tmp_path)
    if "task" in written:
        (tmp_path / "clicks.yaml").write_text(text, encoding="utf-8")
        log = ImpressionTable(description=str(tmp_path / "clicks.yaml")).load()
        assert len(log.keys(lambda chunks, *_: chunks)) == 300
        return
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(described(written)), encoding="utf-8")
    dataset = Tables(description=str(tmp_path / "shop.yaml")).load()
    assert dataset.num_events > 250


def test_the_commands_for_files_of_ones_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = next(block.text for block in BLOCKS if block.at.startswith("README.md") and "data init" in block.text)
    ran = [words[3:] for words in commands_of(text) if words[:3] == ["python", "-m", "recsys"]]
    assert [words[1] for words in ran] == ["init", "check"]
    for words in ran:
        done = CliRunner().invoke(recsys_app, words)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "check.html").is_file()
