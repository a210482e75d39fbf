"""A stack whose disk fills, whose files are damaged and whose supervisor is killed: it says so, goes on, and mends itself."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from serving.layout import DeploymentLayout
from serving.ops.running import leftovers
from serving.processes import choose_ports, until

pytestmark = pytest.mark.slow

PATIENCE_S = 300.0
OPTIONS = ("--budget=20000", "--lame-duck=0")
"""these tests are not about time"""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running stack and its callers."""

    layout: DeploymentLayout
    port: int
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=60.0)

    def post(self, path: str, body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.layout.first_key.read_text().strip()}"}
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, headers=headers, timeout=60.0)

    def click(self, id: str, user: str = "u") -> httpx.Response:
        item = self.slate(user)["items"][0]["item"]
        return self.post("/v1/events", {"events": [{"id": id, "user": user, "item": item, "actions": {"click": 1.0}}]})

    def slate(self, user: str) -> Any:
        answer = self.post("/v1/recommend", {"user": user, "k": 3})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return self.get("/readyz").status_code == 200
        return False

    def metric(self, name: str) -> float:
        return float(re.search(rf"^{name} (\S+)$", self.internal("/metrics").text, re.M)[1])

    def internal(self, path: str) -> httpx.Response:
        """What the gateway's port of metrics answers."""
        return httpx.get(self.addresses["gateway metrics"].removesuffix("/metrics") + path, timeout=60.0)

    @property
    def addresses(self) -> dict[str, str]:
        return json.loads(self.layout.running.read_text())["addresses"]

    @property
    def pids(self) -> dict[str, int]:
        return json.loads(self.layout.running.read_text())["pids"]

    @property
    def log(self) -> str:
        return self.layout.log.read_text(errors="replace")

    def written(self) -> list[str]:
        """Ids of the feedback in the Parquet."""
        files = str(self.layout.events / "feedback" / "*" / "*.parquet")
        try:
            return pl.scan_parquet(files, missing_columns="insert").select("id").collect()["id"].to_list()
        except (FileNotFoundError, pl.exceptions.ComputeError):
            return []

    def users(self) -> set[bytes]:
        with sqlite3.connect(f"file:{self.layout.states}?mode=ro", uri=True) as connection:
            return {bytes(key) for (key,) in connection.execute("SELECT key FROM states")}


def command(name: str, layout: DeploymentLayout, *options: str) -> list[str]:
    return [sys.executable, "-m", "serving", name, str(layout.serve), f"--live={layout.live}", *options]


def done(name: str, layout: DeploymentLayout) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command(name, layout), capture_output=True, text=True, check=False, env=environment)


def started(layout: DeploymentLayout, processes: list[subprocess.Popen[bytes]]) -> Served:
    port = choose_ports({"port": 0})["port"]
    layout.live.mkdir(parents=True, exist_ok=True)
    with (layout.live.parent / "up.log").open("ab") as log:
        words = command("up", layout, f"--port={port}", *OPTIONS)
        served = Served(layout=layout, port=port, process=subprocess.Popen(words, stdout=log, stderr=log))
    processes.append(served.process)
    assert until(lambda: served.process.poll() is not None or served.ready(), PATIENCE_S)
    assert served.process.poll() is None, (layout.live.parent / "up.log").read_text()
    return served


@contextmanager
def ending(layout: DeploymentLayout) -> Iterator[list[subprocess.Popen[bytes]]]:
    """For the processes that the test starts; nothing of them is left."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        stopped = done("down", layout)
        assert stopped.returncode == 0, stopped.stderr
        for process in processes:
            process.wait(PATIENCE_S)


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a disk of its own needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(file: Path) -> Iterator[None]:
    """No byte is left on the disk."""
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while stream.write(bytes(size)) == size:
                    pass
    try:
        yield
    finally:
        file.unlink()


def served_at(trained: Any, live: Path) -> DeploymentLayout:
    return DeploymentLayout(serve=trained.folder / "serve", live=live)


def test_a_full_disk_refuses_events_and_room_brings_all_back(trained: Any, tmp_path: Path) -> None:
    layout = served_at(trained, tmp_path / "disk" / "live")
    with small_disk(tmp_path / "disk", 200), ending(layout) as processes:
        served = started(layout, processes)
        acknowledged = [id for number in range(5) for id in served.click(f"before-{number}").json()["ids"]]
        assert served.metric("recsys_disk_full") == 0
        with filled(tmp_path / "disk" / "filling"):
            assert until(lambda: not served.ready(), PATIENCE_S)
            assert "is full" in served.internal("/readyz").json()["reasons"]["disk"]
            assert served.metric("recsys_disk_full") == 1
            refused = [served.click(f"during-{number}") for number in range(5)]
            acknowledged += [id for one in refused if one.status_code == 200 for id in one.json()["ids"]]
            assert refused[-1].status_code == 503
            assert until(
                lambda: "broker: the disk of" in served.log or "broker: the disk of" in out(layout), PATIENCE_S
            )
            status = done("status", layout)
            assert status.returncode == 1
            assert "is full" in status.stdout
        assert until(served.ready, PATIENCE_S)
        assert until(
            lambda: (answer := served.click("after")).status_code == 200 and told(answer, acknowledged), PATIENCE_S
        )
        assert until(lambda: set(acknowledged) <= set(served.written()), PATIENCE_S)
        assert len(served.written()) == len(set(served.written()))
        assert done("status", layout).returncode == 0


def told(answer: httpx.Response, acknowledged: list[str]) -> bool:
    acknowledged += answer.json()["ids"]
    return True


def out(layout: DeploymentLayout) -> str:
    """Output of `up`, in one line."""
    return " ".join((layout.live.parent / "up.log").read_text().split())


def test_a_disk_without_room_for_the_log_is_refused_in_one_sentence(trained: Any, tmp_path: Path) -> None:
    layout = served_at(trained, tmp_path / "disk" / "live")
    with small_disk(tmp_path / "disk", 8):
        answer = subprocess.run(command("up", layout), capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "has room for 8 MiB, at least 32 MiB are needed; free some space there" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_and_a_taken_port_are_one_sentence(trained: Any, tmp_path: Path) -> None:
    layout = served_at(trained, tmp_path / "disk" / "live")
    with small_disk(tmp_path / "disk", 100):
        layout.live.mkdir()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            refused(layout, f"--port={other.getsockname()[1]}", "is not free")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        refused(layout, "--port=0", "Read-only file system")


def refused(layout: DeploymentLayout, option: str, sentence: str) -> None:
    answer = subprocess.run(command("up", layout, option), capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
    assert sentence in answer.stderr


def garbage(file: Path) -> None:
    file.write_bytes(b"\x07 no such content " * 500)


def test_damaged_files_are_mended_while_it_runs_and_when_it_starts_behind_a_killed_supervisor(
    trained: Any, tmp_path: Path
) -> None:
    layout = served_at(trained, tmp_path / "live")
    with ending(layout) as processes:
        served = started(layout, processes)
        acknowledged = [id for number in range(5) for id in served.click(f"c-{number}", f"v{number}").json()["ids"]]
        assert until(lambda: set(acknowledged) <= set(served.written()), PATIENCE_S)
        assert until(lambda: b"user:v4" in served.users(), PATIENCE_S)
        before = served.users()

        garbage(layout.states)
        assert len(served.slate("v1")["items"]) == 3
        assert until(lambda: any(layout.live.glob("states.db.damaged-*")), PATIENCE_S)
        assert until(lambda: not layout.rebuild.exists() and served.users() == before, PATIENCE_S)
        assert until(lambda: not {"state:away", "history:empty"} & set(served.slate("v1")["degraded"]), PATIENCE_S)
        assert "is damaged" in served.log

        sockets = Path(served.addresses["triton"].removeprefix("unix:")).parent
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait()
        assert sockets.is_dir()
        orphans = set(leftovers(layout.live))
        assert set(served.pids.values()) <= orphans
        assert len(served.slate("v1")["items"]) == 3
        status = done("status", layout)
        assert (status.returncode, "its supervisor is gone" in status.stdout) == (1, True)

        layout.exposure.mkdir(exist_ok=True)
        for file in (layout.states, layout.keys, layout.exposure / "shares.json", layout.running):
            garbage(file)
        (layout.spool / "000000000001.spool").write_bytes(b"")
        again = started(layout, processes)
        assert not orphans & set(leftovers(layout.live))
        assert not sockets.exists()
        assert until(lambda: not layout.rebuild.exists() and again.users() == before, PATIENCE_S)
        assert until(lambda: not {"state:away", "history:empty"} & set(again.slate("v1")["degraded"]), PATIENCE_S)
        assert until(lambda: (layout.exposure / "shares.json").read_bytes().startswith(b'{"format"'), PATIENCE_S)
        assert "keys.json is damaged and was moved to" in out(layout)
        assert again.click("late").status_code == 200

        garbage(layout.states)
        assert done("rebuild", layout).returncode == 0
        assert until(lambda: len(list(layout.live.glob("states.db.damaged-*"))) >= 3, PATIENCE_S)
        assert until(lambda: not layout.rebuild.exists() and again.users() >= before, PATIENCE_S)
        assert served_lines(done("status", layout)) == ["stack", "broker", "triton", "consumer", "gateway", "disk"]

        pids = again.pids
        stopped = done("down", layout)
        assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
        assert again.process.wait(60) == 0
        assert leftovers(layout.live) == {}
        assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
        assert done("status", layout).returncode == 3


def served_lines(status: subprocess.CompletedProcess[str]) -> Sequence[str]:
    """Names of the lines of `status`, which says that all is well."""
    assert status.returncode == 0, status.stdout
    lines = status.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    return [line.split()[0] for line in lines if not line.startswith(" ")]
