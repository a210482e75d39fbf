"""Start the tritonserver of the nvidia-pytriton wheel, wait until it is ready, reload its models, stop it cleanly.

It listens on Unix sockets in a folder of our account, so that no other account reaches its control, and on no TCP port; its
HTTP endpoint is off, since version 2.51 ends with a segmentation fault on a request body of one-byte chunks.
Neither a container nor a GPU is needed. Every model of the repository is loaded. Python models run in this environment
with the folder that holds `recsys` and `serving` as working directory: the stub ignores PYTHONPATH, but its `sys.path`
begins with the working directory.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import tritonclient.grpc as triton

from recsys.contracts import Query
from recsys.errors import ConfigError, RecsysError, ServingError
from recsys.export.release_manifest import check_models
from recsys.stages import NO_SLATE
from serving.private_folder import FILE_MODE, check_socket_path, make_private, socket_folder
from serving.processes import POLL_S, ROOT, ServerProcess, command_line, group, last_lines, spawn
from serving.triton.client import Client
from serving.triton.model_failures import FailureMonitor
from serving.triton.unix_http import get
from serving.triton.wheel import (
    METRICS_SOCKET,
    check_numpy,
    find_wheel,
    grpc_address,
    prepare_backends,
    server_command,
    server_environment,
    shm_namespace,
)

LOAD_S = 60.0
PROBE_S = 2.0
READY = "READY"
PROBE_QUERY = Query(user="", now=0.0, request_id="probe")
SHM = Path("/dev/shm")  # nosec B108: Triton chooses it; its regions are closed to others
NOISE = ("CUDA", "Cuda", "NVML", "DCGM")
"""error lines that every machine without a GPU prints"""
CAUSES = ("error", "Error", "failed to", "Failed to")

T = TypeVar("T")


class TritonServer(ServerProcess):
    """A tritonserver process, as a context manager.

    `repository` holds one folder a model. `sockets` is a folder for its sockets, made where it lacks; None takes a new one,
    removed with the server. `log` receives the output of server and models; None keeps it in a temporary file that is
    removed with the server. `start_timeout_s` bounds the time until every model is ready. `probed_models` take queries; a
    probe asks each for an unknown user's slate.

    Raises ConfigError for a value out of range; on entering, ServingError when the wheel, its stub for this Python or
    the models are missing, a socket cannot be made, a model does not load, or the time is up.
    """

    def __init__(
        self,
        repository: Path,
        *,
        sockets: Path | None = None,
        log: Path | None = None,
        start_timeout_s: float = 120.0,
        probed_models: Sequence[str] = (),
    ) -> None:
        if not start_timeout_s > 0:
            raise ConfigError(f"start_timeout_s is {start_timeout_s!r}; give a number of seconds above 0")
        self.repository = Path(repository).resolve()
        super().__init__("triton")
        self._own_sockets = sockets is None
        self._sockets = socket_folder() if sockets is None else Path(sockets).absolute()
        self._probed_models = tuple(probed_models)
        self._requested_log = None if log is None else Path(log).resolve()
        self._start_timeout_s = start_timeout_s
        self._scratch: Path | None = None
        self._connection: triton.InferenceServerClient | None = None
        self._client: Client | None = None
        self._shm_prefix = ""
        self._log_start = 0
        self._failures = FailureMonitor()
        self._failing: set[str] = set()
        self._reloaded: set[str] = set()

    @property
    def grpc_url(self) -> str:
        """unix:path for gRPC clients."""
        if self._process is None:
            raise ServingError("this Triton server is not running; enter it with `with` or call start()")
        return grpc_address(self._sockets)

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
        self._check_models()
        self._failures, self._failing, self._reloaded = FailureMonitor(), set(), set()
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="recsys-serving-"))
            backends = prepare_backends(wheel, self._scratch)
            self._make_sockets()
            self._spawn(wheel, backends)
            self._wait(models)
            self._close_regions()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and its stubs and remove their shared memory; stopping twice is allowed."""
        self._disconnect()
        if self._process is not None:
            super().stop()
            for region in self._regions():
                region.unlink(missing_ok=True)
        if self._own_sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def version(self) -> str:
        """Version of the server."""
        return str(
            self._call("say its version", lambda client: client.get_server_metadata(client_timeout=PROBE_S)).version
        )

    def unready(self) -> list[str]:
        """Models that cannot answer: not ready, or with a dead stub process, which Triton itself does not report."""
        versions = self._versions()
        stubs = Counter(model for _, model in self._stubs())
        return [
            name for name in sorted(versions) if not self._ready(name) or stubs[name] < self._num_stubs(name, versions)
        ]

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
            self._client = self._client or Client(self.grpc_url)
            for model in self._probed_models:
                self._client.recommend([PROBE_QUERY], model=model, timeout_s=PROBE_S)
            self._failing = {model for model in self._failures.failing(self._page()) if self._scripts(model)}
        except RecsysError as error:
            self._disconnect()
            return None if NO_SLATE in str(error) else str(error)  # another start would not bring lost rules back
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
        self._check_models()
        for script in self._scripts(model):
            script.touch()
        self._call(f"load {model}", lambda client: client.load_model(model, client_timeout=LOAD_S))
        self._close_regions()
        if model in self.unready():
            raise ServingError(f"the model {model!r} was loaded again and is still not ready; see {self.log}")

    def _check_models(self) -> None:
        """ServingError, which a guard expects, for models without the signature that is configured."""
        try:
            check_models(self.repository)
        except RecsysError as error:
            raise ServingError(str(error)) from None

    def _page(self) -> str:
        return get(self._sockets / METRICS_SOCKET, "/metrics", timeout_s=PROBE_S).decode()

    def _make_sockets(self) -> None:
        """Make the folder; sockets that a killed server left in it would keep the next one from listening."""
        check_socket_path(Path(grpc_address(self._sockets).removeprefix("unix:")))
        for left in make_private(self._sockets).iterdir():
            left.unlink()

    def _spawn(self, wheel: Path, backends: Path) -> None:
        self._shm_prefix = f"recsys_{os.getpid()}_{secrets.token_hex(4)}_"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = spawn(
            [
                *shm_namespace(),
                *server_command(wheel, backends, self.repository, sockets=self._sockets, shm_prefix=self._shm_prefix),
            ],
            log=self.log,
            cwd=ROOT,
            environment=server_environment(wheel),
        )

    def _wait(self, models: list[str]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while not all(map(self._ready, models)):
            if self._process.poll() is not None:
                raise ServingError(f"Triton did not start (exit code {self._process.returncode}): {self._causes()}")
            if time.monotonic() > deadline:
                raise ServingError(f"Triton was not ready within {self._start_timeout_s:g} s: {self._causes()}")
            time.sleep(POLL_S)

    def _regions(self) -> list[Path]:
        return list(SHM.glob(f"{self._shm_prefix}*"))

    def _close_regions(self) -> None:
        """Close the shared memory of server and stubs to other accounts, which the server opens to be read by all."""
        for region in self._regions():
            with contextlib.suppress(FileNotFoundError):
                region.chmod(FILE_MODE)

    def _ready(self, model: str) -> bool:
        try:
            return bool(self._call("answer", lambda client: client.is_model_ready(model, client_timeout=PROBE_S)))
        except ServingError:
            return False

    def _causes(self) -> str:
        """Last error lines of the log, without GPU noise."""
        return last_lines(self.log, self._log_start, keep=_is_cause)

    def _versions(self) -> dict[str, int]:
        """Model -> number of its versions that are served."""
        index = self._call("list its models", lambda client: client.get_model_repository_index(client_timeout=PROBE_S))
        found = Counter(row.name for row in index.models if row.state == READY)
        return {row.name: found[row.name] for row in index.models}

    def _num_stubs(self, model: str, versions: dict[str, int]) -> int:
        """Expected number of stub processes: instances times served versions."""
        if not self._ready(model):
            return 0
        config = self._call(
            f"describe {model}", lambda client: client.get_model_config(model, client_timeout=PROBE_S).config
        )
        instances = sum(group.count for group in config.instance_group)
        return versions[model] * instances if config.backend == "python" else 0

    def _stubs(self) -> Iterator[tuple[int, str]]:
        """Process id and model of every living stub of this server."""
        if self._process is None:
            return
        for pid in group(self._process.pid):
            words = command_line(pid)
            if len(words) > 1 and words[0].endswith("triton_python_backend_stub"):
                yield pid, Path(words[1]).parts[-3]

    def _call(self, operation: str, action: Callable[[triton.InferenceServerClient], T]) -> T:
        """Call the server; ServingError without an answer.

        The connection is kept: a probe makes a dozen calls a second, and a new connection costs more than a call.
        """
        self._connection = self._connection or triton.InferenceServerClient(self.grpc_url)
        try:
            return action(self._connection)
        except triton.InferenceServerException as error:
            self._disconnect()
            raise ServingError(
                f"Triton did not {operation} ({error.status()}: {error.message()}); see {self.log}"
            ) from None

    def _disconnect(self) -> None:
        """Close the connections, so that the next call does not wait for the reconnection of a broken one."""
        for connection in (self._connection, self._client):
            if connection is not None:
                connection.close()
        self._connection = self._client = None


def _models(repository: Path) -> list[str]:
    folders = [path for path in repository.iterdir() if path.is_dir()] if repository.is_dir() else []
    models = sorted(path.name for path in folders if not path.name.startswith("."))
    if not models:
        raise ServingError(f"{repository} holds no models; export a bundle into it first")
    return models


def _is_cause(line: str) -> bool:
    is_error = (line[:1] == "E" and line[1:5].isdigit()) or any(cause in line for cause in CAUSES)
    return is_error and not any(noise in line for noise in NOISE)
