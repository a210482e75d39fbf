"""Start the tritonserver of the nvidia-pytriton wheel, wait until it is ready, reload its models, stop it cleanly.

Neither a container nor a GPU is needed. Every model of the repository is loaded. Python models run in this environment
with the folder that holds `recsys` and `serving` as working directory: the stub ignores PYTHONPATH, but its `sys.path`
begins with the working directory.
"""

import http.client
import json
import os
import secrets
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recsys.contracts import Query
from recsys.errors import ConfigError, RecsysError, ServingError
from serving.client import Client
from serving.model_failures import FailureMonitor
from serving.processes import (
    HOST,
    POLL_S,
    ROOT,
    ServerProcess,
    check_ports,
    choose_ports,
    command_line,
    group,
    last_lines,
    spawn,
)
from serving.triton_wheel import (
    CONTROL_HEADER,
    check_numpy,
    find_wheel,
    prepare_backends,
    server_command,
    server_environment,
)

LOAD_S = 60.0
PROBE_S = 2.0
CONNECTION_ERRORS = (OSError, http.client.HTTPException)
"""no answer or a truncated one"""
PROBE_QUERY = Query(user="", now=0.0, request_id="probe")
SHM = Path("/dev/shm")
NOISE = ("CUDA", "Cuda", "NVML", "DCGM")
"""error lines that every machine without a GPU prints"""
CAUSES = ("error", "Error", "failed to", "Failed to")

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class TritonServer(ServerProcess):
    """A tritonserver process on loopback, as a context manager.

    `repository` holds one folder a model. Port 0 takes a free port and keeps it for the next start. `log` receives the
    output of server and models; None keeps it in a temporary file that is removed with the server. `start_timeout_s`
    bounds the time until every model is ready. `probed_models` take queries; a probe asks each for an unknown user's slate.

    Raises ConfigError for a value out of range; on entering, ServingError when the wheel, its stub for this Python or
    the models are missing, a port is taken, a model does not load, or the time is up.
    """

    def __init__(
        self,
        repository: Path,
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        log: Path | None = None,
        start_timeout_s: float = 120.0,
        probed_models: Sequence[str] = (),
    ) -> None:
        if not start_timeout_s > 0:
            raise ConfigError(f"start_timeout_s is {start_timeout_s!r}; give a number of seconds above 0")
        self.repository = Path(repository).resolve()
        self._requested_ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        check_ports(self._requested_ports)
        super().__init__("triton")
        self._probed_models = tuple(probed_models)
        self._requested_log = None if log is None else Path(log).resolve()
        self._start_timeout_s = start_timeout_s
        self._scratch: Path | None = None
        self._shm_prefix = ""
        self._secret = ""
        self._log_start = 0
        self._ports: dict[str, int] = {}
        self._failures = FailureMonitor()
        self._failing: set[str] = set()
        self._reloaded: set[str] = set()

    @property
    def grpc_url(self) -> str:
        """host:port for gRPC clients."""
        return f"{HOST}:{self._port('grpc_port')}"

    @property
    def http_url(self) -> str:
        """http://host:port, without a path."""
        return f"http://{HOST}:{self._port('http_port')}"

    @property
    def metrics_url(self) -> str:
        """The Prometheus page."""
        return f"http://{HOST}:{self._port('metrics_port')}/metrics"

    @property
    def log(self) -> Path:
        """File with the output of the server and its models."""
        path = self._requested_log or (self._scratch and self._scratch / "triton.log")
        if path is None:
            raise ServingError("the log of a stopped Triton server is gone; give `log` a path to keep it")
        return path

    def start(self) -> None:
        """Start the server and wait until every model is ready."""
        if self._process is not None:
            raise ServingError("this Triton server runs already; stop it first or make another one")
        wheel = find_wheel()
        check_numpy()
        models = _models(self.repository)
        self._failures, self._failing, self._reloaded = FailureMonitor(), set(), set()
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="recsys-serving-"))
            backends = prepare_backends(wheel, self._scratch)
            self._ports = self._requested_ports = choose_ports(self._requested_ports)
            self._spawn(wheel, backends)
            self._wait(models)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and its stubs and remove their shared memory; stopping twice is allowed."""
        if self._process is not None:
            super().stop()
            for region in SHM.glob(f"{self._shm_prefix}*"):
                region.unlink(missing_ok=True)
        self._ports = {}
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def metadata(self) -> dict[str, Any]:
        """Server metadata: name, version, extensions."""
        return json.loads(self._call("/v2"))

    def unready(self) -> list[str]:
        """Models that cannot answer: not ready, or with a dead stub process, which Triton itself does not report."""
        index = self._index()
        stubs = Counter(model for _, model in self._stubs())
        names = sorted({str(row["name"]) for row in index})
        return [name for name in names if not self._ready(name) or stubs[name] < self._num_stubs(name, index)]

    def heal(self, model: str) -> bool:
        """Reload the model if it is among `unready()`; True if it was. Raises ServingError if it is still not ready."""
        if model not in self.unready():
            return False
        self._reload(model)
        return True

    def answers(self) -> bool:
        """Whether every model is ready."""
        return not self.unready()

    def probe(self) -> str | None:
        """None if every model is ready, the probed ones answer and none fails most of its requests; else one sentence."""
        try:
            if unready := self.unready():
                return f"cannot answer with {', '.join(unready)}"
            with Client(self.grpc_url) as client:
                for model in self._probed_models:
                    client.recommend([PROBE_QUERY], model=model, timeout_s=PROBE_S)
            self._failing = {model for model in self._failures.failing(self._page()) if self._scripts(model)}
        except RecsysError as error:
            return str(error)
        self._reloaded &= self._failing
        return f"most requests to {', '.join(sorted(self._failing))} fail" if self._failing else None

    def repair(self) -> bool:
        """Reload unready models and, once each, those that the last probe found failing; True if any was reloaded.

        ServingError when a reload did not help.
        """
        failing = self._failing - self._reloaded
        models = sorted({*self.unready(), *failing})
        for model in models:
            self._reload(model)
        self._reloaded |= failing
        return bool(models)

    def _scripts(self, model: str) -> list[Path]:
        """Scripts of a python model; none for an ensemble."""
        return list((self.repository / model).glob("*/*.py"))

    def _reload(self, model: str) -> None:
        """Reload a model. Triton skips unchanged models, so the scripts are touched first; other models and living instances
        of this one keep answering meanwhile.
        """
        for script in self._scripts(model):
            script.touch()
        self._call(f"/v2/repository/models/{model}/load", body=b"{}")
        if model in self.unready():
            raise ServingError(f"the model {model!r} was loaded again and is still not ready; see {self.log}")

    def _page(self) -> str:
        try:
            with _open(self.metrics_url, timeout=PROBE_S) as response:
                return response.read().decode()
        except CONNECTION_ERRORS as error:
            raise ServingError(f"{self.metrics_url} does not answer: {error}") from None

    def _port(self, name: str) -> int:
        if not self._ports:
            raise ServingError("this Triton server is not running; enter it with `with` or call start()")
        return self._ports[name]

    def _spawn(self, wheel: Path, backends: Path) -> None:
        self._shm_prefix = f"recsys_{os.getpid()}_{secrets.token_hex(4)}_"
        self._secret = secrets.token_hex(16)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = spawn(
            server_command(
                wheel,
                backends,
                self.repository,
                ports=self._ports,
                shm_prefix=self._shm_prefix,
                secret=self._secret,
            ),
            log=self.log,
            cwd=ROOT,
            environment=server_environment(wheel),
        )

    def _wait(self, models: list[str]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while not (all(map(self._ready, models)) and _answers(self.metrics_url)):
            if self._process.poll() is not None:
                raise ServingError(f"Triton did not start (exit code {self._process.returncode}): {self._causes()}")
            if time.monotonic() > deadline:
                raise ServingError(f"Triton was not ready within {self._start_timeout_s:g} s: {self._causes()}")
            time.sleep(POLL_S)

    def _ready(self, model: str) -> bool:
        return _answers(f"{self.http_url}/v2/models/{model}/ready")

    def _causes(self) -> str:
        """Last error lines of the log, without GPU noise."""
        return last_lines(self.log, self._log_start, keep=_is_cause)

    def _index(self) -> list[dict[str, Any]]:
        return self._document("/v2/repository/index", body=b"{}")

    def _num_stubs(self, model: str, index: list[dict[str, Any]]) -> int:
        """Expected number of stub processes: instances times served versions."""
        if not self._ready(model):
            return 0
        config = self._document(f"/v2/models/{model}/config")
        versions = sum(row["name"] == model and row.get("state") == "READY" for row in index)
        instances = sum(group["count"] for group in config.get("instance_group", ()))
        return versions * instances if config.get("backend") == "python" else 0

    def _stubs(self) -> Iterator[tuple[int, str]]:
        """Process id and model of every living stub of this server."""
        if self._process is None:
            return
        for pid in group(self._process.pid):
            words = command_line(pid)
            if len(words) > 1 and words[0].endswith("triton_python_backend_stub"):
                yield pid, Path(words[1]).parts[-3]

    def _document(self, path: str, body: bytes | None = None) -> Any:
        answer = self._call(path, body, timeout_s=PROBE_S)
        try:
            return json.loads(answer)
        except ValueError:
            raise ServingError(f"Triton answers {path} with something that is no JSON; see {self.log}") from None

    def _call(self, path: str, body: bytes | None = None, *, timeout_s: float = LOAD_S) -> bytes:
        url = self.http_url + path
        request = urllib.request.Request(url, data=body, headers={CONTROL_HEADER: self._secret})
        try:
            with _open(request, timeout=timeout_s) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read().decode(errors="replace")
            raise ServingError(f"Triton refused {path} ({error.code}): {reason}") from None
        except CONNECTION_ERRORS as error:
            raise ServingError(f"Triton at {url} does not answer: {error}; see {self.log}") from None


def _models(repository: Path) -> list[str]:
    folders = [path for path in repository.iterdir() if path.is_dir()] if repository.is_dir() else []
    models = sorted(path.name for path in folders if not path.name.startswith("."))
    if not models:
        raise ServingError(f"{repository} holds no models; export a bundle into it first")
    return models


def _is_cause(line: str) -> bool:
    is_error = (line[:1] == "E" and line[1:5].isdigit()) or any(cause in line for cause in CAUSES)
    return is_error and not any(noise in line for noise in NOISE)


def _answers(url: str) -> bool:
    try:
        with _open(url, timeout=PROBE_S) as response:
            return response.status == 200
    except CONNECTION_ERRORS as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        return False
