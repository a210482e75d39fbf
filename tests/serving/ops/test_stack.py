"""Everything that `make serve` starts, with real processes: asked over HTTP, killed piece by piece, stopped by Ctrl-C."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import polars as pl
import psutil
import pytest

from benchmarks.lib.wall_clock import WallClock
from recsys.contracts import Query
from recsys.data.simulation.live_users import HttpDoor, LiveUsers
from recsys.data.simulation.shop import SimulatedShop
from recsys.errors import DataError
from recsys.measurement.consistency import LogReplay, served_slates
from recsys.measurement.gauges import FILE
from recsys.measurement.outcomes import MeasuredLog
from recsys.measurement.settings import MeasurementSettings, Outcome
from recsys.pipeline import recommend
from recsys.stages import read_spec
from serving.endpoints import Server, read_endpoints
from serving.events.connection import Stream
from serving.events.jetstream import JetStreamReader
from serving.layout import DeploymentLayout
from serving.ops.running import GATEWAY_METRICS
from serving.processes import choose_ports, command_line, group, until
from serving.state.exposure_counts import ExposureCounts
from serving.state.seeding import seed
from serving.state.store_factory import open_states

pytestmark = pytest.mark.slow

PATIENCE_S = 120.0
K = 5
NO_HASTE = "--budget=20000"
"""these tests are not about time, on a machine that others use as well"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A stack, and who speaks to it."""

    process: subprocess.Popen[bytes]
    place: DeploymentLayout
    client: httpx.Client
    clock: WallClock
    """of the gateway and of the consumer"""

    @property
    def told(self) -> Any:
        return json.loads(self.place.running.read_text(encoding="utf-8"))

    def slate(self, user: str, **more: Any) -> Any:
        answer = self.client.post("/v1/recommend", json={"user": user, "k": K, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def click(self, user: str, item: str, id: str) -> httpx.Response:
        event = {"id": id, "user": user, "item": item, "actions": {"click": 1.0}}
        return self.client.post("/v1/events", json={"events": [event]})

    def folded(self) -> bool:
        page = httpx.get(self.told["addresses"]["consumer"], timeout=5.0).text
        return 'recsys_consumer_waiting{sink="states"} 0.0' in page


def start(
    serve: Path, live: Path, *options: str, clock: WallClock | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    port = choose_ports({"port": 0})["port"]
    command = ["-m", "serving", "up", str(serve), f"--live={live}", f"--port={port}", *options]
    live.mkdir(parents=True, exist_ok=True)
    with (live / "up.log").open("wb") as log:
        environment = None if clock is None else clock.environment
        command = [sys.executable, *command]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), port


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def stack(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Of a copy of what was exported, because items are changed."""
    live = tmp_path_factory.mktemp("live")
    serve = shutil.copytree(trained.folder / "serve", tmp_path_factory.mktemp("copy") / "serve", symlinks=True)
    clock = WallClock.made(tmp_path_factory.mktemp("clock"))
    process, port = start(serve, live, NO_HASTE, "--drift-minutes=0.5", clock=clock)
    try:
        assert until(lambda: process.poll() is not None or ready(port), PATIENCE_S)
        assert process.poll() is None, (live / "up.log").read_text()
        place = DeploymentLayout(serve=serve, live=live)
        key = {"Authorization": f"Bearer {place.first_key.read_text().strip()}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key, timeout=60.0) as client:
            yield Running(process=process, place=place, client=client, clock=clock)
    finally:
        process.terminate()
        process.wait(60)


def items_of(slate: Mapping[str, Any]) -> list[str]:
    return [place["item"] for place in slate["items"]]


def impressions(stack: Running) -> pl.DataFrame:
    files = str(stack.place.events / "impressions" / "**" / "*.parquet")
    try:
        return pl.read_parquet(files)
    except (FileNotFoundError, pl.exceptions.ComputeError):
        return pl.DataFrame()


def test_the_printed_line_gives_a_slate_with_reasons(stack: Running) -> None:
    said = stack.place.live / "up.log"
    assert until(lambda: re.search(r"curl -s.*\n$", said.read_text(), re.DOTALL) is not None, PATIENCE_S)
    line = said.read_text().replace("\n", " ").partition("curl -s")[2].split("  ")[0]
    answer = subprocess.run(f"curl -s{line}", shell=True, capture_output=True, check=True).stdout
    slate = json.loads(answer)
    assert len(slate["items"]) == K
    assert slate["rung"] == "recommend"
    assert all(place["sources"] and place["probabilities"] for place in slate["items"])


def test_the_users_of_the_training_data_are_no_strangers(stack: Running, trained: Any) -> None:
    log = trained.dataset.interactions
    for user in log["user"].unique(maintain_order=True)[:10]:
        slate = asked_with_state(stack, Query(user=user, now=0.0), f"known-{user}")[1]
        assert "history:empty" not in slate["degraded"]
        assert not set(items_of(slate)) & set(log.filter(pl.col("user") == user)["item"])
    said = (stack.place.live / "up.log").read_text()
    assert f"{trained.dataset.num_users:,} users of the training data are known" in said.replace("\n", " ")


def test_a_click_changes_the_next_slate(stack: Running) -> None:
    before = items_of(stack.slate("newcomer"))
    assert stack.click("newcomer", before[0], "click-1").json()["accepted"] == 1
    assert until(lambda: before[0] not in items_of(stack.slate("newcomer")), PATIENCE_S)
    assert "history:empty" not in stack.slate("newcomer")["degraded"]


def test_what_was_logged_replays_to_the_same_slates(stack: Running, trained: Any) -> None:
    """Parity through gateway, state and Triton: the query in the log gives the slate in the log, in this process."""
    known = trained.replay.queries(np.arange(200, trained.dataset.num_events, 300), k=K)
    for query in known:
        tell(stack, query)
    assert until(stack.folded, PATIENCE_S)
    asked = dict(asked_with_state(stack, query, f"parity-{number}") for number, query in enumerate(known))
    assert until(lambda: len(set(asked) - seen(stack)) == 0, PATIENCE_S)
    logged = impressions(stack).filter(pl.col("query").is_not_null())
    queries = {id: Query.from_json(text) for id, text in logged.select("request_id", "query").rows()}
    assert len(asked) > 20
    assert sum(bool(query.history) for query in queries.values()) > 10
    for id, answer in asked.items():
        (slate,) = recommend([queries[id]], trained.stages)
        assert items_of(answer) == [place.item for place in slate.items]
        told = [place["utility"] for place in answer["items"]]
        np.testing.assert_allclose(told, [place.utility for place in slate.items], rtol=1e-5)
        assert answer["rules"] == slate.rules


def tell(stack: Running, query: Query) -> None:
    """What the user did before, as events."""
    events = [
        {"user": event.user, "item": event.item, "timestamp": event.timestamp, "actions": dict(event.actions)}
        for event in query.history
    ]
    assert not events or stack.client.post("/v1/events", json={"events": events}).status_code == 200


def asked_with_state(stack: Running, query: Query, name: str) -> tuple[str, Any]:
    """Id and answer of the first request for which the state was read in time, which on a busy machine not every one is."""
    answers: dict[str, Any] = {}

    def in_time() -> bool:
        id = f"{name}-{len(answers)}"
        answers[id] = ask(stack, query, id)
        return not {"state:slow", "state:away"} & set(answers[id]["degraded"])

    assert until(in_time, PATIENCE_S)
    return answers.popitem()


def ask(stack: Running, query: Query, request_id: str) -> Any:
    """The device is the only context that the bundle knows."""
    context = {name: value for name, value in query.context.items() if name == "device"}
    body = {"user": query.user, "k": K, "context": context, "profile": dict(query.profile)}
    answer = stack.client.post("/v1/recommend", json=body, headers={"x-request-id": request_id})
    assert answer.status_code == 200, answer.text
    return answer.json()


def seen(stack: Running) -> set[str]:
    found = impressions(stack)
    return set(found["request_id"]) if len(found) else set()


def keys(stack: Running, *arguments: str) -> list[str]:
    """Lines of a command on the keys of a running stack."""
    command = [sys.executable, "-m", "serving", "keys", *arguments, f"--keys={stack.place.keys}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return done.stdout.splitlines()


def new_key(stack: Running, *arguments: str) -> dict[str, str]:
    """Header with the token of a new key."""
    word, token = keys(stack, "create", *arguments)[0].split()
    assert word == "key"
    return {"Authorization": f"Bearer {token}"}


def test_drift_of_what_is_served_becomes_gauges_by_itself(stack: Running) -> None:
    assert until(lambda: len(stack.slate("drifter")["items"]) == K and len(seen(stack)) > 0, PATIENCE_S)
    page = stack.told["addresses"][GATEWAY_METRICS]
    assert until(lambda: "recsys_drift_limit{" in httpx.get(page, timeout=5.0).text, PATIENCE_S)
    assert "drift is not counted" not in stack.place.log.read_text()


def test_visits_of_simulated_users_are_measured_as_they_were(stack: Running, trained: Any, tmp_path: Path) -> None:
    shop = SimulatedShop(users=20, items=40, days=1, slate=K, seed=0)
    users = LiveUsers(shop=shop, catalogue=trained.dataset.items["item"], click={"click": 1.0}, prefix="visitor-")
    with HttpDoor(str(stack.client.base_url), stack.place.first_key.read_text().strip()) as door:
        truth = users.visit(door, 60)
    assert truth.failed == 0
    settings = MeasurementSettings(
        actions={"click": "number"}, outcomes={"click": Outcome(value="click > 0", window_s=1.0)}
    )

    def of_visitors(kind: str) -> pl.DataFrame:
        log = MeasuredLog(log=stack.place.events, folder=tmp_path / "measurement", settings=settings)
        with suppress(DataError):  # nothing has been written yet
            log.update()
        tables = [log.table(kind, day) for day in sorted(log.days(kind))]
        rows = pl.concat([pl.DataFrame({"user": []}, schema={"user": pl.String}), *tables], how="diagonal")
        return rows.filter(pl.col("user").str.starts_with("visitor-"))

    def written() -> bool:  # the consumer collects rows for ten seconds
        return of_visitors("impressions").height >= truth.shown and of_visitors("events").height >= truth.clicks

    assert until(written, PATIENCE_S)
    shown, events = of_visitors("impressions"), of_visitors("events")
    assert (shown.height, shown["id"].n_unique(), events.height) == (truth.shown, truth.requests, truth.clicks)
    assert set(shown["surface"]) == {"home", "search"}
    named = events.join(shown, on=["user", "item", "request_id"])
    assert named.height == truth.clicks
    assert shown["credit_click"].sum() <= truth.clicks
    stack.place.measurement.mkdir(exist_ok=True)
    (stack.place.measurement / FILE).write_text("recsys_measured_until 12.5\n", encoding="utf-8")
    page = httpx.get(stack.told["addresses"]["gateway metrics"], timeout=60.0).text
    assert "recsys_measured_until 12.5\n" in page
    of_models = [one for one in served_slates(stack.place.events, 10_000) if one.query.user.startswith("visitor-")]
    again = LogReplay(bundle=trained.bundle, rules_store=stack.place.rules, items_store=stack.place.items)
    consistency = again.of(of_models)
    assert consistency.compared + consistency.causes.get("fallback", 0) == truth.requests
    assert consistency.causes["same"] == consistency.compared > 0


def test_a_change_of_an_item_reaches_the_next_slates(stack: Running) -> None:
    shown = items_of(stack.slate("somebody"))[0]
    change = {"url": f"/v1/items/{shown}", "json": {"columns": {"category": "crime"}}}
    assert stack.client.put(**change).status_code == 403  # the owner's key changes no catalogue
    admin = new_key(stack, "--name=admin", "--scopes=admin")
    assert until(lambda: stack.client.put(**change, headers=admin).status_code == 200, PATIENCE_S)
    assert until(lambda: shown not in items_of(stack.slate("somebody")), PATIENCE_S)
    assert keys(stack, "revoke", "admin")[-1].startswith("next ")
    assert until(lambda: stack.client.put(**change, headers=admin).status_code == 401, PATIENCE_S)


def test_two_tenants_of_one_user_id_have_two_users(stack: Running) -> None:
    tenants = {name: new_key(stack, f"--name={name}", f"--tenant={name}", "--scopes=recommend,events") for name in "ab"}

    def slate(name: str) -> Any:
        return stack.client.post("/v1/recommend", json={"user": "shared", "k": K}, headers=tenants[name])

    assert until(lambda: slate("b").status_code == 200, PATIENCE_S)
    event = {"id": "1", "user": "shared", "item": items_of(slate("a").json())[0], "actions": {"click": 1.0}}
    answer = stack.client.post("/v1/events", json={"events": [event]}, headers=tenants["a"])
    assert answer.json()["accepted"] == 1
    assert until(stack.folded, PATIENCE_S)
    assert "history:empty" not in slate("a").json()["degraded"]
    for other in (slate("b").json(), stack.slate("shared")):
        assert other["user"] == "shared"
        assert "history:empty" in other["degraded"]


def kill_stub(stack: Running) -> None:
    for pid in group(stack.told["pids"]["triton"]):
        words = command_line(pid)
        if len(words) > 1 and words[0].endswith("triton_python_backend_stub") and "/rank/" in words[1]:
            os.kill(pid, signal.SIGKILL)


def kill(name: str) -> Callable[[Running], None]:
    return lambda stack: os.kill(stack.told["pids"][name], signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "strike"),
    list(enumerate([kill_stub, kill("broker"), kill("consumer"), kill("triton")])),
    ids=["ranking stub", "broker", "consumer", "triton"],
)
def test_whatever_is_killed_slates_and_events_go_on(stack: Running, number: int, strike: Callable[..., None]) -> None:
    pids = stack.told["pids"]
    strike(stack)
    acknowledged = []
    for turn in range(20):
        slate = stack.slate(f"visitor {turn}", budget_ms=2_000)
        assert len(slate["items"]) == K
        assert slate["rung"] == "recommend" or f"rung:{slate['rung']}" in slate["degraded"]
        answer = stack.click(f"visitor {turn}", slate["items"][0]["item"], f"kill-{number}-{turn}")
        if answer.status_code == 200:
            acknowledged += answer.json()["ids"]
    assert until(lambda: stack.slate("witness")["rung"] == "recommend", PATIENCE_S)
    assert len(acknowledged) == 20
    assert until(lambda: set(acknowledged) <= told_events(stack), PATIENCE_S)
    assert strike is kill_stub or stack.told["pids"] != pids


def test_what_a_killed_gateway_had_acknowledged_is_there(stack: Running) -> None:
    item = items_of(stack.slate("witness"))[0]
    acknowledged = [id for turn in range(20) for id in stack.click("witness", item, f"gone-{turn}").json()["ids"]]
    pid = stack.told["pids"]["gateway"]
    kill("gateway")(stack)
    assert until(
        lambda: stack.told["pids"].get("gateway", pid) != pid and ready(stack.client.base_url.port), PATIENCE_S
    )
    assert stack.slate("witness")["rung"] == "recommend"
    assert until(lambda: set(acknowledged) <= told_events(stack), PATIENCE_S)


def test_what_is_hidden_binds_at_once_and_outlives_the_gateway(stack: Running) -> None:
    first, second, *_ = items_of(stack.slate("choosy"))
    for item in (first, second):
        event = {"user": "choosy", "hide": {"item": item}}
        assert stack.client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
        assert item not in items_of(stack.slate("choosy"))
    assert stack.client.put("/v1/users/choosy", json={"profile": {"age": 30.0}}).json()["outcome"] == "changed"
    assert until(stack.folded, PATIENCE_S)
    pid = stack.told["pids"]["gateway"]
    kill("gateway")(stack)
    assert until(
        lambda: stack.told["pids"].get("gateway", pid) != pid and ready(stack.client.base_url.port), PATIENCE_S
    )
    slate = asked_with_state(stack, Query(user="choosy", now=0.0), "choosy")[1]
    assert not {first, second} & set(items_of(slate))
    assert "profile:age" not in slate["degraded"]


@pytest.mark.parametrize("seconds", [3_600, -3_600])
def test_a_wall_clock_that_jumps_and_jumps_back_harms_nobody(stack: Running, seconds: int) -> None:
    user = f"{seconds} seconds off"
    shown = items_of(stack.slate(user))
    stack.clock.step(seconds)
    try:
        assert until(lambda: abs(date_of(stack) - time.time() - seconds) < 60.0, PATIENCE_S)
        acknowledged = stack.click(user, shown[0], f"off-{seconds}-0").json()["ids"]
        assert until(lambda: shown[0] not in items_of(stack.slate(user)), PATIENCE_S)
        assert stack.slate(user)["rung"] == "recommend"
    finally:
        stack.clock.step(0)
    slate = stack.slate(user)
    assert slate["rung"] == "recommend"
    assert not {"history:empty", *shown[:1]} & {*slate["degraded"], *items_of(slate)}
    acknowledged += stack.click(user, items_of(slate)[0], f"off-{seconds}-1").json()["ids"]
    assert until(lambda: set(acknowledged) <= told_events(stack), PATIENCE_S)


def date_of(stack: Running) -> float:
    """What the gateway takes for now."""
    return parsedate_to_datetime(stack.client.get("/healthz").headers["date"]).timestamp()


def told_events(stack: Running) -> set[str]:
    files = str(stack.place.events / "feedback" / "**" / "*.parquet")
    try:
        return set(pl.scan_parquet(files, missing_columns="insert").select("id").collect()["id"])
    except (FileNotFoundError, pl.exceptions.ComputeError):
        return set()


def test_the_log_folded_again_gives_the_same_bytes(stack: Running, trained: Any, tmp_path: Path) -> None:
    assert until(stack.folded, PATIENCE_S)
    copy = tmp_path / "again.db"
    asyncio.run(fold_again(read_endpoints(stack.place.endpoints).broker, copy, trained))
    assert rows(copy) == rows(stack.place.states)


def test_a_state_store_that_was_lost_is_made_anew_from_the_log(stack: Running) -> None:
    before, pid = rows(stack.place.states), stack.told["pids"]["consumer"]
    with sqlite3.connect(stack.place.states) as states:
        states.execute("DELETE FROM states")
    assert rows(stack.place.states) == {}
    done = subprocess.run(
        [sys.executable, "-m", "serving", "rebuild", str(stack.place.serve), f"--live={stack.place.live}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"curl -s {stack.told['addresses']['consumer']}" in done.stdout
    assert until(lambda: rows(stack.place.states) == before, PATIENCE_S)
    assert until(lambda: not stack.place.rebuild.exists(), PATIENCE_S)
    assert stack.told["pids"]["consumer"] != pid


def test_without_a_kept_event_no_state_is_thrown_away(stack: Running, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "rebuild", str(stack.place.serve), f"--live={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "holds no events to rebuild states from" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_ones_own_is_filled_by_a_command(stack: Running, trained: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving", "seed", str(stack.place.serve), f"--live={tmp_path}"]
    filled = []
    for users in ("raw", "hashed", "raw"):
        done = subprocess.run([*command, f"--users={users}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (
            f"{trained.dataset.num_users:,} users of the training data are known to sqlite:///{tmp_path}" in done.stdout
        )
        filled.append(rows(tmp_path / "states.db"))
    assert [len(states) // trained.dataset.num_users for states in filled] == [1, 2, 2]
    assert filled[2] == filled[1]


async def fold_again(broker: Server, copy: Path, trained: Any) -> None:
    reader = JetStreamReader(Stream(server=broker), name="again", limit=7, linger_s=0.01)
    amortised = ExposureCounts(values=dict, half_life_s=7 * 86_400.0)
    states = open_states(
        Server(url=f"sqlite:///{copy}"),
        read_spec(trained.bundle),
        exposure=amortised,
        read_timeout_s=10.0,
        write_timeout_s=10.0,
        ttl_s=None,
    )
    await seed(states, trained.bundle, str)
    batch = await reader.fetch()
    while batch:
        await states.write(batch)
        batch = await reader.fetch() if reader.waiting else []
    await states.close()
    await reader.close()


def rows(database: Path) -> dict[bytes, bytes]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        (table,) = (name for (name,) in connection.execute("select name from sqlite_master where type = 'table'"))
        found = dict(connection.execute(f"select key, value from {table}").fetchall())
    return {bytes(key): bytes(value) for key, value in found.items() if bytes(key).startswith(b"user:")}


def test_no_secret_stands_where_other_accounts_read_and_no_file_is_open_to_them(stack: Running) -> None:
    endpoints = read_endpoints(stack.place.endpoints)
    secrets = [
        endpoints.broker.token,
        stack.place.first_key.read_text().strip(),
        stack.place.identity.read_text().strip(),
    ]
    leader = psutil.Process(stack.process.pid)
    for process in (leader, *leader.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a stub that was replaced meanwhile
            told = " ".join([*process.cmdline(), *process.environ().values()])
            assert not [one for one in secrets if one in told]
    sockets = Path(endpoints.triton.url.removeprefix("unix:")).parent
    for folder in (stack.place.live, sockets):
        assert [path for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077] == []
    assert [lock for lock in stack.place.serve.rglob(".lock") if lock.stat().st_mode & 0o007] == []


def test_the_page_of_metrics_has_the_counters_of_triton(stack: Running) -> None:
    page = httpx.get(stack.told["addresses"]["gateway metrics"], timeout=60.0).text
    assert 'nv_inference_request_success{model="recommend"' in page
    assert "recsys_requests_total" in page


def test_only_http_and_the_broker_listen_on_ports(stack: Running) -> None:
    leader = psutil.Process(stack.process.pid)
    listening = {
        one.laddr
        for process in leader.children(recursive=True)
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    names = ("gateway", "gateway metrics", "consumer", "broker")
    addresses = {name: urlsplit(stack.told["addresses"][name]) for name in names}
    assert listening == {(one.hostname, one.port) for one in addresses.values()}


def test_a_second_stack_on_the_same_folder_is_refused(stack: Running) -> None:
    process, _ = start(stack.place.serve, stack.place.live / "..", f"--live={stack.place.live}")
    assert process.wait(PATIENCE_S) == 2


def test_without_an_exported_bundle_nothing_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "up", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "holds no exported bundle" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing_behind(stack: Running) -> None:
    pids = stack.told["pids"].values()
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0
    assert [pid for leader in pids for pid in group(leader)] == []
    assert not stack.place.running.exists()
    assert "Traceback" not in stack.place.log.read_text()
