"""A stack for attacks: started as `python -m serving up` starts it, stopped, killed and started again at the same port."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from benchmarks.lib.result_file import ROOT
from benchmarks.lib.serving_stack import START_S, RunningStack
from benchmarks.lib.serving_world import call_entry_point
from benchmarks.lib.wall_clock import WallClock
from recsys.errors import ServingError
from recsys.policy.rules.store import RuleStore
from serving.gateway.api_keys import SCOPES, Scope
from serving.gateway.key_file import create_key
from serving.layout import DeploymentLayout
from serving.processes import choose_ports, until

OPTIONS = ("--budget=1000", "--lame-duck=1")
"""attacks are not about time, and their machine is not idle"""
RULES = "rules: [{name: cheap, must: 'price < 12'}]"
MAX_PRICE = 12.0
WORLD = ROOT / "runs" / "hardening_world"
TRAINING = (
    *("recipe=synthetic", "data.users=500", "data.items=800", "data.events=15000", "candidates.total=100"),
    *("retrieval.epochs=1", "ranking.epochs=1", "ranking.sampling.requests_per_user=1"),
)
ANSWER_S = 60.0
WELL_IN_A_ROW = 3


def small_world() -> Path:
    """Folder of a run that is trained and exported where that was not done yet."""
    if not (WORLD / "serve" / "current").exists():
        call_entry_point("train.py", *TRAINING, f"run_dir={WORLD}")
        call_entry_point("export.py", f"bundle={WORLD / 'bundle'}")
    return WORLD


def allowed_items(run: Path) -> frozenset[str]:
    """Items of the catalogue that the `must` of RULES allows."""
    items = pl.read_ipc(run / "bundle" / "items.arrow")
    return frozenset(items.filter(pl.col("price") < MAX_PRICE)["item"].to_list())


@dataclass(kw_only=True)
class AttackedStack:
    """A stack over a copy of a run. allowed: items that no `must` forbids."""

    layout: DeploymentLayout
    allowed: frozenset[str]
    folder: Path
    """for logs and files of attackers"""
    clock: WallClock
    options: Sequence[str] = ()
    port: int = field(default_factory=lambda: choose_ports({"port": 0})["port"])
    _process: "subprocess.Popen[bytes] | None" = None

    @staticmethod
    def over(run: Path, folder: Path, *options: str) -> "AttackedStack":
        """Copy what is served, publish the rules. options: further ones of `up`."""
        serve = shutil.copytree(run / "serve", folder / "serve", symlinks=True)
        RuleStore(serve / "rules").publish(RULES, who="benchmark", why="a must is on", expected=None)
        live = folder / "disk" / "live"
        live.mkdir(mode=0o700, parents=True)
        return AttackedStack(
            layout=DeploymentLayout(serve=serve, live=live),
            allowed=allowed_items(run),
            folder=folder,
            clock=WallClock.made(folder),
            options=options,
        )

    def run_command(self, name: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of `python -m serving` on these folders."""
        return self.run_words(name, str(self.layout.serve), f"--live={self.layout.live}", *options)

    def run_words(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(_serving(*words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=START_S)

    def launch(self) -> None:
        """Start it without waiting."""
        words = _serving(
            "up",
            *(str(self.layout.serve), f"--live={self.layout.live}", f"--port={self.port}", *OPTIONS, *self.options),
        )
        with (self.folder / "up.log").open("ab") as log:
            environment = self.clock.environment
            self._process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=environment)

    def up(self) -> None:
        """Start it and wait until it is ready, and not what a killed supervisor left."""
        self.launch()
        if not until(lambda: self.process.poll() is not None or self._complete(), START_S) or self.process.poll():
            raise ServingError(f"the stack did not start: {(self.folder / 'up.log').read_text()[-500:]}")

    def _complete(self) -> bool:
        try:
            document = self.document
        except (OSError, ValueError):
            return False
        return document["supervisor"] == self.process.pid and "gateway" in document["pids"] and self.ready()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The supervisor."""
        assert self._process is not None
        return self._process

    def terminate(self) -> None:
        """SIGTERM, and wait until all has ended."""
        self.process.terminate()
        self.process.wait(START_S)

    def kill_supervisor(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def create_key(self, name: str, scopes: Sequence[Scope] = SCOPES, **more: Any) -> str:
        """Return the token of a new key without limits, where none are given."""
        limits = {"rate": 1e5, "burst": 100_000, **more}
        return create_key(self.layout.keys, name=name, scopes=scopes, **limits)

    @property
    def marker(self) -> Path:
        """File that code of another account would write as the service; that account itself cannot."""
        return self.folder / "executed"

    @property
    def executed(self) -> bool:
        """Whether code of another account ran since the last look."""
        found = self.marker.exists()
        self.marker.unlink(missing_ok=True)
        return found

    @property
    def running(self) -> RunningStack:
        """The same, for faults of benchmarks/lib/chaos_faults.py."""
        return RunningStack(
            address=f"127.0.0.1:{self.port}",
            headers=(),
            place=self.layout,
            supervisor=self.process.pid,
            clock=self.clock,
        )

    @property
    def document(self) -> Any:
        """running.json."""
        return json.loads(self.layout.running.read_text(encoding="utf-8"))

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids by service; empty where running.json cannot be read."""
        try:
            return dict(self.document["pids"])
        except (OSError, ValueError, KeyError):
            return {}

    def request(self, method: str, path: str, token: str, body: Any = None) -> httpx.Response:
        """One request on a connection of its own."""
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(
            method, f"http://127.0.0.1:{self.port}{path}", json=body, headers=headers, timeout=ANSWER_S
        )

    def status(self, token: str, user: str = "u") -> int | None:
        """Status of a slate, None without an answer."""
        try:
            return self.request("POST", "/v1/recommend", token, {"user": user, "k": 3}).status_code
        except httpx.HTTPError:
            return None

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def internal(self, path: str) -> httpx.Response:
        """Answer at the gateway's port of metrics."""
        address = self.document["addresses"]["gateway metrics"].removesuffix("/metrics")
        return httpx.get(address + path, timeout=ANSWER_S)

    def waiting(self) -> float:
        """Records that Parquet or states do not have yet."""
        page = httpx.get(self.document["addresses"]["consumer"], timeout=ANSWER_S).text
        lines = [line for line in page.splitlines() if line.startswith("recsys_consumer_waiting{")]
        return sum(float(line.split()[-1]) for line in lines)

    def forbidden(self, slate: Any) -> list[str]:
        """Items of a slate that the `must` forbids."""
        return [item["item"] for item in slate["items"] if item["item"] not in self.allowed]

    def written(self) -> list[str]:
        """Ids of the events in the Parquet, foreign files left out."""
        ids: list[str] = []
        for file in self.layout.events.glob("feedback/**/*.parquet"):
            if file.read_bytes()[:4] == b"PAR1" and "id" in pl.read_parquet_schema(file):
                ids += pl.read_parquet(file, columns=["id"])["id"].to_list()
        return ids

    def recovers(self, token: str, patience_s: float) -> bool:
        """Wait until it is ready and the whole cascade answers a few times in a row; False if not within the time."""
        deadline, row = time.monotonic() + patience_s, 0
        while row < WELL_IN_A_ROW:
            if time.monotonic() > deadline:
                return False
            row = row + 1 if self._well(token) else 0
            if not row:
                time.sleep(0.1)
        return True

    def _well(self, token: str) -> bool:
        try:
            answer = self.request("POST", "/v1/recommend", token, {"user": "probe", "k": 5})
            return self.ready() and answer.status_code == 200 and answer.json()["rung"] == "recommend"
        except (httpx.HTTPError, ValueError, KeyError):
            return False


def _serving(*words: str) -> list[str]:
    return [sys.executable, "-m", "serving", *words]
