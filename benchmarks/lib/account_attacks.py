"""Attacks by another account of the machine: root starts a child that becomes nobody and tries.

A script reaches something where it ends without an error; one that is refused ends with the error of the refusal.
"""

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.lib.attacks import ACCOUNT, Attack, Scene, struck
from benchmarks.lib.result_file import ROOT
from serving.endpoints import read_endpoints
from serving.ops.running import leftovers
from serving.processes import group, until

REFUSED = re.compile("Permission denied|UNAVAILABLE|not permitted|Authorization Violation|no secret|no user")
CHILD_S = 120.0
EVIL = """
import pathlib

class TritonPythonModel:
    def initialize(self, args):
        pathlib.Path({marker!r}).write_text("executed")
"""
LOAD = """
import tritonclient.grpc as triton
config = json.dumps({{"name": "evil", "backend": "python"}})
files = {{"file:1/model.py": {evil!r}.encode()}}
triton.InferenceServerClient({triton!r}).load_model("evil", config=config, files=files, client_timeout=10)
"""
UNLOAD = """
import tritonclient.grpc as triton
triton.InferenceServerClient({triton!r}).unload_model("rank", client_timeout=10)
"""
INFER = """
import tritonclient.grpc as triton
triton.InferenceServerClient({triton!r}).is_model_ready("rank", client_timeout=10)
"""
CONNECT = """
for name in ("grpc:1", "metrics"):
    attempt(lambda: socket.socket(socket.AF_UNIX).connect({sockets!r} + "/" + name))
"""
LIST = "attempt(lambda: os.listdir({sockets!r}))\nattempt(lambda: os.listdir({live!r}))"
SHARED_MEMORY = """
for one in glob.glob("/dev/shm/recsys_{supervisor}_*"):
    attempt(lambda: os.close(os.open(one, os.O_RDONLY)))
    attempt(lambda: os.close(os.open(one, os.O_RDWR)))
for pid in {pids!r}:
    attempt(lambda: os.listdir(f"/proc/{{pid}}/root/dev/shm"))
"""
BROKER = """
link = socket.create_connection({broker!r}, 10)
link.recv(65_536)
link.sendall(b'CONNECT {{"verbose":false}}\\r\\nSUB > 1\\r\\nPING\\r\\n')
answer = link.recv(65_536)
if b"Authorization Violation" in answer:
    raise PermissionError("the broker answers Authorization Violation")
"""
READ = "for one in {files!r}:\n    attempt(lambda: open(one, 'rb').read(1))"
WRITE = """
for one in {folders!r}:
    attempt(lambda: open(one + "/planted", "wb"))
for one in {files!r}:
    attempt(lambda: open(one, "ab"))
    attempt(lambda: os.unlink(one))
"""
LOCK = """
for one in {locks!r}:
    attempt(lambda: fcntl.flock(os.open(one, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB))
"""
ENVIRONMENT = "for pid in {pids!r}:\n    attempt(lambda: open(f'/proc/{{pid}}/environ', 'rb').read(1))"
MEMORY = """
for pid in {pids!r}:
    attempt(lambda: open(f'/proc/{{pid}}/mem', 'rb'))
    attempt(lambda: os.listdir(f'/proc/{{pid}}/fd'))
"""
SIGNAL = "for pid in {pids!r}:\n    attempt(lambda: os.kill(pid, 9))"
COMMAND_LINES = """
text = b"".join(open(one, "rb").read() for one in glob.glob("/proc/[0-9]*/cmdline"))
if not any(secret.encode() in text for secret in json.loads(input())):
    raise PermissionError("no secret in a command line")
"""
METRICS = """
text = b"".join(urllib.request.urlopen(one, timeout=10).read() for one in {pages!r})
if not re.search(rb"caller \\d|rk_[A-Za-z0-9_-]{{20}}", text):
    raise PermissionError("no user and no key in metrics")
"""
BEFORE = """
import encodings.idna, fcntl, glob, json, os, re, socket, sys, urllib.request
import tritonclient.grpc
os.setgroups([])
os.setgid({gid})
os.setuid({uid})

def attempt(action):
    try:
        action()
    except PermissionError as error:
        refusals.append(error)
    except FileNotFoundError:
        pass  # it ended or was removed meanwhile
    else:
        sys.exit(0)

refusals = []
"""
AFTER = "\nif refusals:\n    raise refusals[0]\n"
WATCH = """
import glob, os, select, sys
os.setgroups([])
os.setgid({gid})
os.setuid({uid})
opened = {{}}
while not select.select([sys.stdin], [], [], 0.002)[0]:
    for one in glob.glob("/dev/shm/recsys_{supervisor}_*"):
        try:
            opened[one] = opened.get(one) or os.open(one, os.O_RDONLY)
        except OSError:
            pass
print(len(opened))
"""
SCRIPTS = {
    "load a model with code of its own into Triton": LOAD,
    "unload a model of Triton": UNLOAD,
    "ask Triton past the gateway": INFER,
    "connect to the Unix sockets": CONNECT,
    "list the folders of sockets and of live data": LIST,
    "open the shared memory of the models": SHARED_MEMORY,
    "read the event log from the broker without a token": BROKER,
    "read keys, secrets, states, log and Parquet": READ,
    "write into rules, items, releases and live data": WRITE,
    "hold a lock of the stores for ever": LOCK,
    "read the environment of the processes": ENVIRONMENT,
    "read memory and open files of the processes": MEMORY,
    "find a secret in a command line": COMMAND_LINES,
    "find a user or a key in the metrics": METRICS,
    "end the processes": SIGNAL,
}
"""what is tried -> script"""


def attack_as_another_account(script: str, scene: Scene) -> str:
    """Return the refusal; AssertionError where the script reached something or failed otherwise."""
    nobody, values = pwd.getpwnam("nobody"), _values(scene)
    text = (BEFORE + script + AFTER).format(uid=nobody.pw_uid, gid=nobody.pw_gid, **values)
    done = subprocess.run(
        [sys.executable, "-c", text],
        input=json.dumps(_secrets(scene)) + "\n",
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=CHILD_S,
    )
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    assert not scene.stack.marker.exists(), "code of another account was executed"
    assert done.returncode == 1, f"reached: {done.stdout[-200:]}"
    assert REFUSED.search(last), last
    return next(iter(REFUSED.findall(last)))


def _values(scene: Scene) -> dict[str, object]:
    """Names that scripts may use."""
    layout, addresses = scene.stack.layout, scene.stack.document["addresses"]
    triton = addresses["triton"]
    host, port = addresses["broker"].rpartition("//")[2].rpartition("@")[2].split(":")
    files = [one for folder in (layout.live, layout.serve) for one in folder.rglob("*") if one.is_file()]
    return {
        "triton": triton,
        "sockets": str(Path(triton.removeprefix("unix:")).parent),
        "live": str(layout.live),
        "broker": (host, int(port)),
        "files": [str(one) for one in files if one.is_relative_to(layout.live)][:200],
        "folders": [str(one) for one in (layout.live, layout.serve, *layout.serve.rglob("*")) if one.is_dir()],
        "locks": [str(one) for one in files if "lock" in one.name],
        "pids": sorted({*leftovers(layout.live), *group(scene.stack.pids["triton"]), scene.stack.process.pid}),
        "pages": [addresses["consumer"], addresses["gateway metrics"]],
        "supervisor": scene.stack.process.pid,
        "evil": EVIL.format(marker=str(scene.stack.marker)),
    }


def _secrets(scene: Scene) -> list[str]:
    """Tokens that no command line may hold; they reach the child by its input, which is no command line."""
    endpoints = read_endpoints(scene.stack.layout.endpoints)
    found = [scene.token, endpoints.broker.token, endpoints.broker.password, endpoints.state.password]
    return [one for one in found if one]


def _attack(tried: str, script: str) -> Attack:
    run: Callable[[Scene], str] = partial(attack_as_another_account, script)
    return Attack(group=ACCOUNT, tried=tried, strike=struck(run), root=True)


@contextmanager
def open_at_start(scene: Scene) -> Iterator[str]:
    """Watch for shared memory that Triton makes as it starts again, and keep what can be opened."""
    nobody = pwd.getpwnam("nobody")
    text = WATCH.format(uid=nobody.pw_uid, gid=nobody.pw_gid, supervisor=scene.stack.process.pid)
    with subprocess.Popen(
        [sys.executable, "-c", text], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        before = scene.stack.pids["triton"]
        os.kill(before, signal.SIGKILL)
        until(lambda: scene.stack.pids.get("triton", before) != before, CHILD_S)
        output, _ = child.communicate(b"end\n", CHILD_S)
    assert int(output) == 0, f"{int(output)} regions were opened before they were closed to others"
    yield "none can be opened"


ATTACKS = (
    *(_attack(tried, script) for tried, script in SCRIPTS.items()),
    Attack(
        group=ACCOUNT,
        tried="open shared memory while Triton starts again",
        strike=open_at_start,
        root=True,
    ),
)
