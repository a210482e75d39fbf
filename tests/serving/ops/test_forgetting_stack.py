"""A user is forgotten in a running stack, does not come back, and is forgotten once more while nothing runs."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from recsys.bundle import MANIFEST, Bundle, write_bundle
from recsys.data.forgotten import read_forgotten
from recsys.data.sources.tables import Tables
from recsys.export.repository import write_repository
from recsys.user_seed import USER_SEED
from serving.gateway.api_keys import SCOPES
from serving.gateway.key_file import create_key
from serving.layout import DeploymentLayout
from serving.processes import choose_ports, until

pytestmark = pytest.mark.slow

NAME = "susan.distinctive.7391"
PATIENCE_S = 120.0


@dataclass(kw_only=True)
class Deployment:
    """An exported bundle whose training data knew the user, and the stack that serves it."""

    layout: DeploymentLayout
    data: Path
    options: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    client: httpx.Client | None = None
    token: str = ""
    """of a key that may do everything"""

    def start(self) -> None:
        port = choose_ports({"port": 0})["port"]
        self.layout.live.mkdir(parents=True, exist_ok=True)
        if not self.token:
            self.token = create_key(self.layout.keys, name="owner", scopes=SCOPES, rate=1_000.0, burst=1_000)
        arguments = [str(self.layout.serve), f"--live={self.layout.live}", f"--port={port}", "--budget=20000"]
        with (self.layout.live / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving", "up", *arguments, *self.options], stdout=log, stderr=subprocess.STDOUT
            )
        url = f"http://127.0.0.1:{port}"
        assert until(lambda: ready(url) or self.process.poll() is not None, PATIENCE_S)  # type: ignore[union-attr]
        assert self.process.poll() is None, (self.layout.live / "up.log").read_text()
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60.0)

    def stop(self) -> None:
        if self.client is not None:
            self.client.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Send until it is no 503: on a busy machine the state is not read in time by every request."""
        answers: list[httpx.Response] = []

        def in_time() -> bool:
            assert self.client is not None
            answers.append(self.client.request(method, path, json=body))
            return answers[-1].status_code != 503

        assert until(in_time, PATIENCE_S)
        assert answers[-1].status_code == status, answers[-1].text
        return answers[-1].json()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        options = [str(self.layout.serve), f"--live={self.layout.live}"]
        return subprocess.run(
            [sys.executable, "-m", "serving", words[0], *words[1:], *options],
            capture_output=True,
            text=True,
            check=False,
        )

    def click(self, user: str, item: str, **more: float) -> None:
        event = {"user": user, "item": item, "actions": {"click": 1.0}, **more}
        self.call("POST", "/v1/events", {"events": [event]})

    def written(self, sink: str = "states") -> bool:
        address = json.loads(self.layout.running.read_text())["addresses"]["consumer"]
        page = httpx.get(address, timeout=5.0).text
        return f'recsys_consumer_waiting{{sink="{sink}"}} 0.0' in page

    def in_parquet(self) -> bool:
        files = self.layout.events.glob("*/*/*.parquet")
        kinds = {file.parts[-3] for file in files if NAME in pl.read_parquet(file, glob=False)["user"].to_list()}
        return kinds == {"feedback", "impressions", "preferences"}

    def open_entries(self) -> int:
        return len(read_forgotten(self.layout.forgotten).open)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


def files_with(folder: Path, text: str) -> list[str]:
    """Files below a folder that hold the bytes of a text."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(str(file.relative_to(folder)) for file in files if text.encode() in file.read_bytes())


@pytest.fixture(params=["sqlite", "redis"])
def deployment(request: pytest.FixtureRequest, trained: Any, tmp_path: Path) -> Iterator[Deployment]:
    users = trained.dataset.interactions["user"].value_counts(sort=True)["user"]
    known = users[len(users) // 2]

    def renamed(column: pl.Expr) -> pl.Expr:
        return pl.when(column == known).then(pl.lit(NAME)).otherwise(column).alias("user")

    data = shutil.copytree(trained.folder / "data", tmp_path / "data")
    for table in ("interactions", "users"):
        pl.read_parquet(data / f"{table}.parquet").with_columns(renamed(pl.col("user"))).write_parquet(
            data / f"{table}.parquet"
        )
    with write_bundle(tmp_path / "bundle", trained.bundle.spec_fingerprint) as draft:
        shutil.copytree(trained.bundle.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        seed = pl.read_ipc(io.BytesIO((draft.path / USER_SEED).read_bytes()))
        seed.with_columns(renamed(pl.col("user"))).write_ipc(draft.path / USER_SEED)
    write_repository(Bundle.open(tmp_path / "bundle"), tmp_path / "serve", "cpu")
    layout = DeploymentLayout(serve=tmp_path / "serve", live=tmp_path / "live")
    found = Deployment(layout=layout, data=data, options=(f"--state={request.param}",))
    try:
        yield found
    finally:
        found.stop()


def assert_learnt_without(
    deployment: Deployment, composed: Callable[..., Any], run: Callable[..., Any], tiny: tuple[str, ...], folder: Path
) -> None:
    """A new training on the log holds the bystander and not the forgotten user."""
    assert files_with(deployment.data, NAME)
    run(
        composed(
            folder,
            *(one for one in tiny if not one.startswith("data.")),
            "evaluation.baselines={}",
            "data=event_log",
            f"data.folder={deployment.layout.events}",
            f"data.description={deployment.data / 'description.yaml'}",
        )
    )
    assert files_with(folder, NAME) == []
    assert "bystander" in Tables(description=str(folder / "data" / "description.yaml")).load().users["user"].to_list()


def test_a_forgotten_user_is_in_no_file_and_does_not_come_back(
    deployment: Deployment, composed: Callable[..., Any], run: Callable[..., Any], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    deployment.start()
    live, path = deployment.layout.live, f"/v1/users/{NAME}"
    seeded = deployment.call("GET", path)
    assert seeded["history"]
    slate = deployment.call("POST", "/v1/recommend", {"user": NAME, "k": 5})
    items = [one["item"] for one in slate["items"]]
    deployment.click(NAME, items[0])
    deployment.click("bystander", items[0])
    deployment.call("PUT", path, {"profile": {"age": 30.0}})
    deployment.call("POST", "/v1/events", {"events": [{"user": NAME, "hide": {"item": items[1]}}]})
    assert until(deployment.in_parquet, PATIENCE_S)
    assert until(deployment.written, PATIENCE_S)
    assert {file.split("/")[0] for file in files_with(live, NAME)} >= {"broker", "events"}

    assert deployment.call("DELETE", path)["outcome"] == "forgotten"
    assert "history:empty" in deployment.call("POST", "/v1/recommend", {"user": NAME, "k": 5})["degraded"]
    assert until(lambda: deployment.open_entries() == 0, PATIENCE_S)
    shown_later = deployment.call("GET", path) if until_impression(deployment, path) else {}
    assert {name: shown_later[name] for name in ("history", "seen", "hidden", "profile")} == {
        "history": [],
        "seen": [],
        "hidden": {},
        "profile": {},
    }

    deployment.click(NAME, items[2], timestamp=time.time() + 2.0)  # a later second, as the set of seen items has it
    assert until(lambda: [one["item"] for one in deployment.call("GET", path)["history"]] == [items[2]], PATIENCE_S)
    assert deployment.call("GET", "/v1/users/bystander")["seen"][0]["item"] == items[0]

    assert deployment.command("rebuild").returncode == 0
    assert until(lambda: not deployment.layout.rebuild.exists(), PATIENCE_S)
    assert until(deployment.written, PATIENCE_S)
    assert [one["item"] for one in deployment.call("GET", path)["seen"]] == [items[2]]

    done = deployment.command("forget", NAME)
    assert (done.returncode, deployment.open_entries()) == (0, 0), done.stderr
    assert files_with(live, NAME) == []
    deployment.call("GET", path, status=404)

    deployment.click(NAME, items[3])
    assert until(deployment.written, PATIENCE_S)
    deployment.stop()
    assert {file.split("/")[0] for file in files_with(live, NAME)} >= {"broker"}
    done = deployment.command("forget", NAME)
    assert done.returncode == 0, done.stderr
    assert re.search(r"log +1 records", done.stdout)
    assert files_with(live, NAME) == []
    assert_learnt_without(deployment, composed, run, tiny, tmp_path / "run")


def until_impression(deployment: Deployment, path: str) -> bool:
    """Whether the slate of after the forgetting is counted in the new state."""
    return until(lambda: deployment.client.get(path).status_code == 200, PATIENCE_S)  # type: ignore[union-attr]
