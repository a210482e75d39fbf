"""Start the tritonserver of the nvidia-pytriton wheel, wait until it is ready, keep it so, stop it cleanly.

Neither a container nor a GPU is needed. Every model of the repository is loaded; python models run in this very
environment, with the folder that holds `recsys` and `serving` as working directory: the stub ignores PYTHONPATH, but
its `sys.path` begins with the working directory.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from packaging.requirements import Requirement

from recsys.errors import ConfigError, ServingError

WHEEL = "nvidia-pytriton"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""below Linux's ephemeral ports, so that no outgoing connection takes one before the server has bound it"""
EXIT_TIMEOUT_S = 5
CALL_TIMEOUT_S = 60
POLL_S = 0.05
SHM = Path("/dev/shm")
ROOT = Path(__file__).resolve().parents[1]
NOISE = ("CUDA", "Cuda", "NVML", "DCGM")
"""error lines that every machine without a GPU prints"""
CAUSES = ("error", "Error", "failed to", "Failed to")

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class TritonServer:
    """A tritonserver process on loopback, as a context manager.

    `repository` holds one folder a model. A port of 0 takes a free one. `log` receives what the server and the models
    print; None keeps it in a temporary file that goes with the server. `start_timeout_s` bounds the time until every
    model is ready, in seconds.

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
    ) -> None:
        if not start_timeout_s > 0:
            raise ConfigError(f"start_timeout_s is {start_timeout_s!r}; give a number of seconds above 0")
        self.repository = Path(repository).resolve()
        self._wanted_ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        for name, port in self._wanted_ports.items():
            if not 0 <= port < 65_536:
                raise ConfigError(f"{name} is {port!r}; give a port from 1 to 65535, or 0 for a free one")
        self._wanted_log = None if log is None else Path(log).resolve()
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self._shm_prefix = ""
        self._ports: dict[str, int] = {}

    @property
    def grpc_url(self) -> str:
        """host:port, as gRPC clients want it."""
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
        """What the server and the models printed."""
        path = self._wanted_log or (self._scratch and self._scratch / "triton.log")
        if path is None:
            raise ServingError("the log of a stopped Triton server is gone; give `log` a path to keep it")
        return path

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until every model is ready."""
        if self._process is not None:
            raise ServingError("this Triton server runs already; stop it first or make another one")
        wheel = _wheel()
        _check_numpy()
        models = _models(self.repository)
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="recsys-serving-"))
            backends = _prepare_backends(wheel, self._scratch)
            self._ports = free_ports(self._wanted_ports)
            self._spawn(wheel, backends)
            self._wait(models)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, its stubs and what they left in shared memory; stopping twice is allowed."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
            for region in SHM.glob(f"{self._shm_prefix}*"):
                region.unlink(missing_ok=True)
        self._ports = {}
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def metadata(self) -> dict[str, Any]:
        """What the server says of itself: name, version, extensions."""
        return json.loads(self._call("/v2"))

    def unready(self) -> list[str]:
        """Models that cannot answer: the server says so, or a stub process is dead, which no probe of Triton sees."""
        index = self._index()
        stubs = Counter(model for _, model in self._stubs())
        names = sorted({str(row["name"]) for row in index})
        return [name for name in names if not self._ready(name) or stubs[name] < self._num_stubs(name, index)]

    def heal(self, model: str) -> bool:
        """Reload the model if it is among `unready()`; True if it was. Raises ServingError if that does not mend it.

        A load of an unchanged model does nothing, so its scripts are touched first; the other models, and the living
        instances of this one, go on answering meanwhile.
        """
        if model not in self.unready():
            return False
        for script in (self.repository / model).glob("*/*.py"):
            script.touch()
        self._call(f"/v2/repository/models/{model}/load", body=b"{}")
        if model in self.unready():
            raise ServingError(f"the model {model!r} was loaded again and is still not ready; see {self.log}")
        return True

    def watch(self) -> list[str]:
        """One round: heal what is unready and return the names of what was healed."""
        return [model for model in self.unready() if self.heal(model)]

    def _port(self, name: str) -> int:
        if not self._ports:
            raise ServingError("this Triton server is not running; enter it with `with` or call start()")
        return self._ports[name]

    def _spawn(self, wheel: Path, backends: Path) -> None:
        self._shm_prefix = f"recsys_{os.getpid()}_{secrets.token_hex(4)}_"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                _command(wheel, backends, self.repository, self._ports, self._shm_prefix),
                cwd=ROOT,
                env=_environment(wheel),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
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
        """The last lines of the log that say why, without what every machine without a GPU prints."""
        lines = self.log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if _tells(line)] or lines
        return "\n".join(["its log says", *telling[-5:]])

    def _index(self) -> list[dict[str, Any]]:
        return json.loads(self._call("/v2/repository/index", body=b"{}"))

    def _num_stubs(self, model: str, index: list[dict[str, Any]]) -> int:
        """Stub processes that the model must have: its instances, once for every version that is served."""
        if not self._ready(model):
            return 0
        config = json.loads(self._call(f"/v2/models/{model}/config"))
        versions = sum(row["name"] == model and row.get("state") == "READY" for row in index)
        instances = sum(group["count"] for group in config.get("instance_group", ()))
        return versions * instances if config.get("backend") == "python" else 0

    def _stubs(self) -> Iterator[tuple[int, str]]:
        """Process id and model of every living stub of this server."""
        if self._process is None:
            return
        for pid in _group(self._process.pid):
            words = _command_line(pid)
            if len(words) > 1 and words[0].endswith("triton_python_backend_stub"):
                yield pid, Path(words[1]).parts[-3]

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        url = self.http_url + path
        try:
            with _open(urllib.request.Request(url, data=body), timeout=CALL_TIMEOUT_S) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read().decode(errors="replace")
            raise ServingError(f"Triton refused {path} ({error.code}): {reason}") from None
        except OSError as error:
            raise ServingError(f"Triton at {url} does not answer: {error}; see {self.log}") from None


def _wheel() -> Path:
    """The folder of the wheel that holds tritonserver; pytriton itself is not imported."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ServingError(f"tritonserver is not installed here; run `pip install --no-deps {WHEEL}`")
    return Path(spec.submodule_search_locations[0]) / "tritonserver"


def _check_numpy() -> None:
    """The stub is compiled against one layout of numpy and hands models wrong numbers, silently, under another."""
    needs = (Requirement(line) for line in importlib.metadata.requires(WHEEL) or ())
    wanted = next((need.specifier for need in needs if need.name == "numpy"), None)
    found = importlib.metadata.version("numpy")
    if wanted is not None and found not in wanted:
        raise ServingError(
            f"numpy {found} is installed, but the python backend of {WHEEL} reads arrays of numpy{wanted} only and "
            f"would hand wrong numbers to the models; run `pip install 'numpy{wanted}'`"
        )


def _models(repository: Path) -> list[str]:
    folders = [path for path in repository.iterdir() if path.is_dir()] if repository.is_dir() else []
    models = sorted(path.name for path in folders if not path.name.startswith("."))
    if not models:
        raise ServingError(f"{repository} holds no models; export a bundle into it first")
    return models


def _prepare_backends(wheel: Path, scratch: Path) -> Path:
    """Put the stub for this Python beside the python backend, which is where Triton looks for it."""

    stubs = wheel / "python_backend_stubs"
    stub = stubs / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted(path.name for path in stubs.glob("*")))
        raise ServingError(f"{WHEEL} has no stub for Python {PYTHON}; use one of {known}")
    backends = scratch / "backends"
    shutil.copytree(wheel / "backends", backends, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(stub, backends / "python")
    return backends


def free_ports(wanted: dict[str, int]) -> dict[str, int]:
    """Check the ports that were asked for and choose the others, those of 0; ServingError when one is not free."""
    held: dict[str, socket.socket] = {}
    try:
        for name, port in wanted.items():
            held[name] = _hold(name, port) if port else _hold_any(name)
        return {name: holder.getsockname()[1] for name, holder in held.items()}
    finally:
        for holder in held.values():
            holder.close()


def _hold(name: str, port: int) -> socket.socket:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((HOST, port))
        holder.listen()
    except OSError as error:
        holder.close()
        raise ServingError(f"{name} {port} is not free ({error.strerror}); choose another one, or 0 for any") from None
    return holder


def _hold_any(name: str) -> socket.socket:
    for port in random.SystemRandom().sample(PORTS, 100):
        with contextlib.suppress(ServingError):
            return _hold(name, port)
    raise ServingError(f"no free port was found for {name}; give one that is free")


def _command(wheel: Path, backends: Path, repository: Path, ports: dict[str, int], shm_prefix: str) -> list[str]:
    return [
        str(wheel / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--cache-directory={wheel / 'caches'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *(f"--{name}-address={HOST}" for name in ("http", "grpc", "metrics")),
        *(f"--{name.replace('_', '-')}={port}" for name, port in ports.items()),
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
    ]


def _environment(wheel: Path) -> dict[str, str]:
    libraries = f"{sys.base_prefix}/lib", f"{wheel.parents[1]}/nvidia_pytriton.libs"
    return {
        **os.environ,
        "PATH": f"{sys.prefix}/bin:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": ":".join(filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH")])),
        "OMP_NUM_THREADS": "1",
    }


def _tells(line: str) -> bool:
    is_error = (line[:1] == "E" and line[1:5].isdigit()) or any(cause in line for cause in CAUSES)
    return is_error and not any(noise in line for noise in NOISE)


def _answers(url: str) -> bool:
    try:
        with _open(url, timeout=5) as response:
            return response.status == 200
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to go, then make sure that nothing of its process group is left."""
    process.terminate()
    if not _until(lambda: process.poll() is not None, EXIT_TIMEOUT_S + 5):
        process.kill()
        process.wait()
    for pid in _group(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _until(lambda: not _group(process.pid), 5)


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _group(leader: int) -> list[int]:
    """Processes of a process group that are alive; a zombie is not."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if _group_if_alive(pid) == leader]


def _group_if_alive(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[2]) if fields[0] not in "ZX" else None


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []
