"""The tritonserver binary of the nvidia-pytriton wheel: location, requirements, command line."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

from recsys.errors import ServingError
from serving.processes import EXIT_TIMEOUT_S

WHEEL = "nvidia-pytriton"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
GRPC_SOCKET, GRPC_PORT = "grpc", 1
"""Triton appends a port to every address, so the socket of gRPC is the file `grpc:1`"""
METRICS_SOCKET = "metrics"


def find_wheel() -> Path:
    """Folder of the wheel that holds tritonserver; pytriton itself is not imported."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ServingError(f"tritonserver is not installed here; run `pip install --no-deps {WHEEL}`")
    return Path(spec.submodule_search_locations[0]) / "tritonserver"


def check_numpy() -> None:
    """ServingError for a numpy the stub was not compiled against: it would silently pass wrong numbers to the models."""
    requirements = (Requirement(line) for line in importlib.metadata.requires(WHEEL) or ())
    required = next((requirement.specifier for requirement in requirements if requirement.name == "numpy"), None)
    found = importlib.metadata.version("numpy")
    if required is not None and found not in required:
        raise ServingError(
            f"numpy {found} is installed, but the python backend of {WHEEL} reads arrays of numpy{required} only and "
            f"would pass wrong numbers to the models; run `pip install 'numpy{required}'`"
        )


def prepare_backends(wheel: Path, scratch: Path) -> Path:
    """Copy the backends with the stub of this Python beside the python backend, where Triton looks for it."""
    stubs = wheel / "python_backend_stubs"
    stub = stubs / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted(path.name for path in stubs.glob("*")))
        raise ServingError(f"{WHEEL} has no stub for Python {PYTHON}; use one of {known}")
    backends = scratch / "backends"
    shutil.copytree(wheel / "backends", backends, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(stub, backends / "python")
    return backends


def grpc_address(sockets: Path) -> str:
    """Address of gRPC for clients, unix:path."""
    return f"unix:{sockets / GRPC_SOCKET}:{GRPC_PORT}"


def server_command(wheel: Path, backends: Path, repository: Path, *, sockets: Path, shm_prefix: str) -> list[str]:
    """Command line of a server that listens on Unix sockets in this folder and on no port.

    Nothing in it is secret: other accounts can read it.
    """
    return [
        str(wheel / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--cache-directory={wheel / 'caches'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--allow-http=false",
        f"--grpc-address=unix:{sockets / GRPC_SOCKET}",
        f"--grpc-port={GRPC_PORT}",
        f"--metrics-address=unix:{sockets / METRICS_SOCKET}",
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
    ]


@cache
def shm_namespace() -> tuple[str, ...]:
    """Return the words before a command that give it a /dev/shm of its own; none where the machine does not allow it.

    The server opens its shared memory to be read by all, and an account that opened it once reads it for good.
    """
    users = () if os.getuid() == 0 else ("--user", "--map-root-user")
    words = ("unshare", *users, "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
    if shutil.which("unshare") is None:
        return ()
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if tried.returncode == 0 else ()


def server_environment(wheel: Path) -> dict[str, str]:
    """Environment in which the server and its stubs find their libraries and this Python."""
    libraries = f"{sys.base_prefix}/lib", f"{wheel.parents[1]}/nvidia_pytriton.libs"
    return {
        **os.environ,
        "PATH": f"{sys.prefix}/bin:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": ":".join(filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH")])),
        "OMP_NUM_THREADS": "1",
    }
