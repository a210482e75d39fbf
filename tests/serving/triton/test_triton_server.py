"""The real tritonserver, with models small enough to read."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from recsys.contracts import Query
from recsys.errors import ConfigError, QueryError, ServingError
from serving.private_folder import socket_folder
from serving.processes import command_line, group, until
from serving.triton.client import Client
from serving.triton.model_failures import MIN_FAILURES, FailureMonitor
from serving.triton.server import SHM, TritonServer
from serving.triton.wheel import shm_namespace

pytestmark = pytest.mark.slow

CONFIG = """
name: "NAME"
backend: "python"
max_batch_size: 32
input [{ name: "QUERY" data_type: TYPE_STRING dims: [1] }]
output [
  { name: "SLATE" data_type: TYPE_STRING dims: [1] },
  { name: "ITEMS" data_type: TYPE_STRING dims: [2] },
  { name: "UTILITIES" data_type: TYPE_FP32 dims: [2] }
]
"""

ENSEMBLE = """
name: "ensemble"
platform: "ensemble"
max_batch_size: 32
input [{ name: "QUERY" data_type: TYPE_STRING dims: [1] }]
output [{ name: "SLATE" data_type: TYPE_STRING dims: [1] }]
ensemble_scheduling {
  step [{
    model_name: "echo" model_version: -1
    input_map { key: "QUERY" value: "QUERY" }
    output_map { key: "SLATE" value: "SLATE" }
  }]
}
"""

ECHO = """
import json
import os

import numpy as np
import triton_python_backend_utils as triton

from recsys.contracts import Query
from recsys.errors import RecsysError


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            rows = triton.get_input_tensor_by_name(request, "QUERY").as_numpy()[:, 0]
            return triton.InferenceResponse(self.tensors([Query.from_json(row) for row in rows]))
        except RecsysError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG))

    def tensors(self, queries):
        slates = [json.dumps(self.slate(query)) for query in queries]
        assert not any(query.user == "whom it fails" for query in queries)
        return [
            triton.Tensor("SLATE", np.array(slates, dtype=object)[:, None]),
            triton.Tensor("ITEMS", np.array([[query.user, "fixed"] for query in queries], dtype=object)),
            triton.Tensor("UTILITIES", np.array([[query.now, 0.5] for query in queries], dtype=np.float32)),
        ]

    def slate(self, query):
        return {
            "user": query.user, "request_id": query.request_id, "items": [], "degraded": list(query.exclude),
            "bundle": os.environ["OMP_NUM_THREADS"], "rules": str(query.k),
        }
"""

BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("the bundle was altered")

    def execute(self, requests):
        return []
"""


def write_model(repository: Path, name: str, source: str) -> Path:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(CONFIG.replace("NAME", name))
    (repository / name / "1" / "model.py").write_text(source)
    return repository


def write_ensemble(repository: Path) -> None:
    (repository / "ensemble" / "1").mkdir(parents=True)
    (repository / "ensemble" / "config.pbtxt").write_text(ENSEMBLE)


def query(user: str) -> Query:
    return Query(user=user, now=7.0, k=3, request_id=f"request of {user}", exclude=("café",))


def stub_of(server: TritonServer) -> int:
    (pid,) = [pid for pid, model in server._stubs() if model == "echo"]
    return pid


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def regions(prefix: str) -> list[Path]:
    return list(SHM.glob(f"{prefix}*"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = write_model(tmp_path_factory.mktemp("repository"), "echo", ECHO)
    write_ensemble(repository)
    return repository


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as server:
        yield server


def test_every_row_of_every_batch_is_answered_in_order(server: TritonServer) -> None:
    users = [f"user {number}" for number in range(70)]
    with Client(server.grpc_url) as client:
        slates = client.recommend([query(user) for user in users], model="echo")
    assert [slate.user for slate in slates] == users
    assert {(slate.degraded, slate.rules, slate.bundle) for slate in slates} == {(("café",), "3", "1")}


def test_an_ensemble_is_ready_and_answers(server: TritonServer) -> None:
    with Client(server.grpc_url) as client:
        (slate,) = client.recommend([query("ann")], model="ensemble")
    assert slate.request_id == "request of ann"


def test_tensors_arrive_as_they_were_sent(server: TritonServer) -> None:
    with Client(server.grpc_url) as client:
        items, utilities = client.tensors([query("ann"), query("bob")], model="echo")
    assert items.tolist() == [[b"ann", b"fixed"], [b"bob", b"fixed"]]
    assert utilities.tolist() == [[7.0, 0.5], [7.0, 0.5]]


def test_an_invalid_argument_is_a_query_error_with_the_models_sentence(server: TritonServer) -> None:
    refused = Query(user="ann", now=7.0, k=0)
    with Client(server.grpc_url) as client, pytest.raises(QueryError, match=r"^query\.k is 0; send a whole number"):
        client.recommend([refused], model="echo")


def test_an_unknown_model_is_a_serving_error(server: TritonServer) -> None:
    with Client(server.grpc_url) as client, pytest.raises(ServingError, match=r"'nobody'.* did not answer"):
        client.recommend([query("ann")], model="nobody")


def test_the_server_says_its_version(server: TritonServer) -> None:
    assert server.version() == "2.51.0"


def listening(pids: Iterable[int]) -> list[Any]:
    """TCP ports on which one of the processes listens."""
    return [
        one for pid in pids for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN
    ]


def test_no_port_is_open_and_no_other_account_reaches_the_sockets(server: TritonServer) -> None:
    assert listening(group(server.pid)) == []
    sockets = Path(server.grpc_url.removeprefix("unix:")).parent
    assert sorted(path.name for path in sockets.iterdir()) == ["grpc:1", "metrics"]
    assert (sockets.stat().st_mode & 0o777, sockets.stat().st_uid) == (0o700, os.getuid())
    assert {path.stat().st_mode & 0o077 for path in regions(server._shm_prefix)} <= {0}


def test_a_machine_without_namespaces_has_its_shared_memory_closed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.triton.server.shm_namespace", lambda: ())
    with TritonServer(repository) as server:
        assert {path.stat().st_mode & 0o077 for path in regions(server._shm_prefix)} == {0}
        os.kill(stub_of(server), signal.SIGKILL)
        assert server.repair()
        assert {path.stat().st_mode & 0o077 for path in regions(server._shm_prefix)} == {0}
    assert regions(server._shm_prefix) == []


def test_the_command_line_holds_no_secret(server: TritonServer) -> None:
    line = " ".join(command_line(server.pid))
    assert "restricted" not in line
    assert not re.search(r"=[0-9a-f]{16,}( |$)", line)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another account")
@pytest.mark.parametrize(
    "attempt",
    [
        "import tritonclient.grpc as triton; triton.InferenceServerClient(url).unload_model('echo', client_timeout=5)",
        "import tritonclient.grpc as triton; triton.InferenceServerClient(url).is_model_ready('echo', client_timeout=5)",
        "import socket; socket.socket(socket.AF_UNIX).connect(url.removeprefix('unix:'))",
        "import socket; socket.socket(socket.AF_UNIX).connect(url.removeprefix('unix:').replace('grpc:1', 'metrics'))",
        "import pathlib; list(pathlib.Path(url.removeprefix('unix:')).parent.iterdir())",
        "import pathlib; [one.open('rb') for one in [pathlib.Path(f'/proc/{pid}/root/dev/shm'), *map(pathlib.Path, regions)]]",
    ],
)
def test_another_account_reaches_nothing(server: TritonServer, attempt: str) -> None:
    become = f"import os; import tritonclient.grpc; os.setuid({pwd.getpwnam('nobody').pw_uid})"
    shared = [str(path) for path in regions(server._shm_prefix)]
    names = f"url, pid, regions = {server.grpc_url!r}, {server.pid}, {shared!r}"
    script = f"{become}; {names}; {attempt}"
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert outcome.returncode == 1
    assert re.search("ermission denied|UNAVAILABLE", outcome.stderr), outcome.stderr
    assert server.unready() == []


def test_a_long_path_of_sockets_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="a Unix socket may have 107; choose a folder with a shorter path"):
        TritonServer(repository, sockets=tmp_path / ("long" * 30)).start()


def test_sockets_of_a_killed_server_keep_the_next_one_from_nothing(repository: Path) -> None:
    sockets = socket_folder()
    try:
        first = TritonServer(repository, sockets=sockets)
        with first:
            os.kill(first.pid, signal.SIGKILL)
            assert (sockets / "grpc:1").exists()
        with TritonServer(repository, sockets=sockets) as second:
            assert second.probe() is None
    finally:
        shutil.rmtree(sockets)


def test_a_running_server_is_not_started_twice(server: TritonServer) -> None:
    with pytest.raises(ServingError, match="runs already"):
        server.start()
    assert server.unready() == []


def test_a_killed_stub_is_seen_and_healed(server: TritonServer) -> None:
    assert (server.probe(), server.repair()) == (None, False)
    os.kill(stub_of(server), signal.SIGKILL)
    assert server.unready() == ["echo"]
    assert server.probe() == "cannot answer with echo"
    assert server.repair()
    assert server.unready() == []
    assert server.heal("echo") is False
    with Client(server.grpc_url) as client:
        assert client.recommend([query("ann")], model="ensemble")[0].user == "ann"


def test_a_model_that_fails_most_requests_is_reloaded_once_and_then_left_to_a_restart(server: TritonServer) -> None:
    def ask(user: str, times: int) -> None:
        with Client(server.grpc_url) as client:
            for _ in range(times):
                with contextlib.suppress(ServingError):
                    client.recommend([query(user)], model="ensemble")

    assert (server.probe(), server.repair()) == (None, False)
    failing = stub_of(server)
    ask("whom it fails", MIN_FAILURES)
    assert server.probe() == "most requests to echo fail"
    assert server.repair()
    assert until(lambda: not alive(failing), 10), "it goes when another one has its place"
    ask("whom it fails", MIN_FAILURES)
    assert server.probe() == "most requests to echo fail"
    assert not server.repair()
    ask("ann", MIN_FAILURES)
    assert server.probe() is None


def test_a_model_that_heals_into_a_broken_one_says_why(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "echo", ECHO)
    with TritonServer(repository) as server:
        os.kill(stub_of(server), signal.SIGKILL)
        (repository / "echo" / "1" / "model.py").write_text(BROKEN)
        with pytest.raises(ServingError, match="the bundle was altered"):
            server.heal("echo")


def test_two_servers_run_side_by_side_and_the_second_leaves_nothing(
    server: TritonServer, repository: Path, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "triton.log"
    second = TritonServer(repository, log=log)
    with second:
        stub, leader = stub_of(second), os.getpgid(stub_of(second))
        prefix, scratch = second._shm_prefix, second._scratch
        assert leader not in (os.getpgid(0), os.getpgid(stub_of(server)))
        inside = Path(f"/proc/{second.pid}/root/dev/shm")
        assert list(inside.glob(f"{prefix}*"))
        assert shm_namespace() == () or regions(prefix) == []
        for one in (server, second):
            with Client(one.grpc_url) as client:
                assert client.recommend([query("ann")], model="echo")[0].user == "ann"
    assert not alive(stub)
    assert not alive(leader)
    assert not regions(prefix)
    assert scratch is not None
    assert not scratch.exists()
    assert "Started GRPCInferenceService" in log.read_text()
    assert "Started HTTPService" not in log.read_text()
    second.stop()
    assert server.unready() == []


def test_a_stopped_server_has_no_address(repository: Path) -> None:
    with pytest.raises(ServingError, match="not running"):
        _ = TritonServer(repository).grpc_url


def test_nothing_is_left_of_a_server_that_was_killed(repository: Path) -> None:
    server = TritonServer(repository)
    with server:
        stub, prefix = stub_of(server), server._shm_prefix
        os.kill(os.getpgid(stub), signal.SIGKILL)
    assert not alive(stub)
    assert not regions(prefix)


def test_a_broken_model_stops_the_start_with_its_log_line(tmp_path: Path) -> None:
    write_model(tmp_path, "echo", ECHO)
    write_model(tmp_path, "broken", BROKEN)
    before = set(SHM.iterdir())
    server = TritonServer(tmp_path)
    with pytest.raises(ServingError, match=r"failed to load 'broken'.*the bundle was altered") as caught:
        server.start()
    assert "CUDA" not in str(caught.value)
    assert not [path for path in set(SHM.iterdir()) - before if path.name.startswith(f"recsys_{os.getpid()}_")]


def test_a_start_that_takes_too_long_is_given_up(repository: Path) -> None:
    server = TritonServer(repository, start_timeout_s=0.2)
    with pytest.raises(ServingError, match=r"not ready within 0\.2 s"):
        server.start()


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="holds no models"):
        TritonServer(tmp_path / "nothing").start()


def test_a_missing_wheel_says_how_to_get_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServingError, match="pip install --no-deps nvidia-pytriton"):
        TritonServer(repository).start()


def test_a_python_without_a_stub_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.triton.server.check_numpy", lambda: None)
    monkeypatch.setattr("serving.triton.wheel.PYTHON", "2.7")
    with pytest.raises(ServingError, match=r"no stub for Python 2\.7; use one of 3\.10, 3\.11"):
        TritonServer(repository).start()


def test_a_numpy_that_the_stub_misreads_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.4.6")
    with pytest.raises(ServingError, match=r"numpy 2\.4\.6 is installed.*wrong numbers"):
        TritonServer(repository).start()


def test_a_start_timeout_of_nothing_is_named(repository: Path) -> None:
    with pytest.raises(ConfigError, match="start_timeout_s is 0"):
        TritonServer(repository, start_timeout_s=0)


def page(success: int, failure: int) -> str:
    return (
        "# TYPE nv_inference_request_success counter\n"
        f'nv_inference_request_success{{model="rank",version="1"}} {success}\n'
        f'nv_inference_request_failure{{model="rank",version="1",reason="BACKEND"}} {failure}\n'
        'nv_inference_request_failure{model="rank",version="1",reason="OTHER"} 1\n'
    )


@pytest.mark.parametrize(
    ("success", "failure", "failing"),
    [
        (0, MIN_FAILURES, True),
        (0, MIN_FAILURES - 1, False),
        (MIN_FAILURES, MIN_FAILURES, False),
        (MIN_FAILURES - 1, MIN_FAILURES, True),
        (100, 40, False),
    ],
)
def test_what_counts_as_failing(success: int, failure: int, failing: bool) -> None:
    failures = FailureMonitor()
    assert failures.failing(page(50, 70)) == [], "what was before the first look is past"
    assert failures.failing(page(50 + success, 70 + failure)) == ["rank"] * failing
    assert failures.failing(page(50 + success, 70 + failure)) == []
