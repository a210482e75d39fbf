"""State of a stack for operators: what runs, what is at fault, and how full its disk is."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from serving.disk import MIB, disk_problem, free_bytes
from serving.layout import DeploymentLayout
from serving.ops.running import GATEWAY, GATEWAY_METRICS, leftovers, read_running, supervised
from serving.processes import alive

PROBE_S = 5.0
CLOCK_TICKS = 100.0
"""a second, as /proc counts them"""

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Health(IntEnum):
    """State of a stack, which is the exit code of `serving status`; 3 as of init scripts."""

    well = 0
    faulty = 1
    stopped = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStatus:
    """State of a stack, and lines of a name and a text."""

    health: Health
    lines: tuple[tuple[str, str], ...]


def stack_status(layout: DeploymentLayout) -> StackStatus:
    """Read the state of the stack whose files are in `layout.live`; nothing is changed."""
    running, held, disk = read_running(layout.running), supervised(layout.live), _disk(layout.live)
    if not held:
        return _unsupervised(layout, disk)
    if running is None:
        return StackStatus(health=Health.faulty, lines=(("stack", f"{layout.live} is starting or stopping"), *disk))
    services = tuple(_service_lines(running["services"]))
    gateway = _gateway(running["addresses"][GATEWAY_METRICS].removesuffix("/metrics"))
    lines = (("stack", f"runs, supervisor {running['supervisor']}"), *services, *gateway, *disk)
    faulty = bool(gateway) or any(not text.startswith("answers") for _, text in services) or _full(layout)
    return StackStatus(health=Health.faulty if faulty else Health.well, lines=lines)


def _unsupervised(layout: DeploymentLayout, disk: tuple[tuple[str, str], ...]) -> StackStatus:
    if not (left := leftovers(layout.live)):
        return StackStatus(health=Health.stopped, lines=(("stack", f"nothing runs at {layout.live}"), *disk))
    text = f"its supervisor is gone; {len(left)} processes go on without one"
    advice = "`python -m serving up` replaces them, `down` ends them"
    return StackStatus(health=Health.faulty, lines=(("stack", text), ("next", advice), *disk))


def _service_lines(services: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, service in services.items():
        if service["fault"] is not None:
            state = service["fault"]
        elif not alive(service["pid"]):
            state = "is gone"
        else:
            state = f"answers, for {_duration(_age_s(service['pid']))}"
        yield name, f"{state}; process {service['pid']}, {service['restarts']} restarts"


def _gateway(url: str) -> tuple[tuple[str, str], ...]:
    """Reasons for which the gateway is not ready; none for a ready one. url: of its port of metrics, which has the details."""
    try:
        with _open(f"{url}/readyz", timeout=PROBE_S):
            return ()
    except urllib.error.HTTPError as error:
        with error:
            return tuple(_reasons(error.read()))
    except (OSError, http.client.HTTPException):
        return (("not ready", f"{url}/readyz does not answer"),)


def _reasons(body: bytes) -> Iterator[tuple[str, str]]:
    try:
        reasons = json.loads(body)["reasons"]
    except (ValueError, KeyError, TypeError):
        reasons = {GATEWAY: "/readyz answers with an error"}
    return (("not ready", f"{name}: {reason}") for name, reason in reasons.items())


def _disk(live: Path) -> tuple[tuple[str, str], ...]:
    return (("disk", disk_problem(live) or f"{free_bytes(live) / MIB:,.0f} MiB are free"),)


def _full(layout: DeploymentLayout) -> bool:
    return disk_problem(layout.live) is not None or disk_problem(layout.spool) is not None


def _age_s(pid: int) -> float:
    """Seconds since the process started; 0 for one that ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / CLOCK_TICKS


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
