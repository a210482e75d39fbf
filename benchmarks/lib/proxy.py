"""The shipped HAProxy in front of a gateway, with a certificate of its own."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.result_file import ROOT
from recsys.errors import ServingError
from serving.processes import HOST, choose_ports, end, spawn, until

SETTINGS = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
KEY = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
NAME = ("-subj", "/CN=localhost", "-addext", f"subjectAltName=DNS:localhost,IP:{HOST}")


@dataclass(frozen=True, kw_only=True)
class RunningProxy:
    """Address as host:port, the certificate to trust, and the process id."""

    address: str
    certificate: Path
    pid: int


@contextmanager
def running_proxy(gateway: str, folder: Path) -> Iterator[RunningProxy]:
    """Start HAProxy in front of the gateway at host:port; ServingError where it does not listen."""
    certificate = folder / "site.pem"
    subprocess.run([*KEY, *NAME, "-keyout", certificate, "-out", certificate], check=True, capture_output=True)
    port = choose_ports({"port": 0})["port"]
    address = f"{HOST}:{port}"
    environment = {"LISTEN": address, "CERTIFICATE": str(certificate), "GATEWAY": gateway}
    log = folder / "haproxy.log"
    command = ["haproxy", "-db", "-f", str(SETTINGS)]
    process = spawn(command, log=log, cwd=folder, environment={**os.environ, **environment})
    try:
        if not until(lambda: process.poll() is not None or _listens(port), 30.0) or process.poll() is not None:
            raise ServingError(f"HAProxy did not start: {log.read_text()[-300:]}")
        yield RunningProxy(address=address, certificate=certificate, pid=process.pid)
    finally:
        end(process)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0
