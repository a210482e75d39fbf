"""Faults of a stack beside those of chaos_faults.py: releases, rules, disks, damaged files, processes."""

import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton

from benchmarks.lib.attacked_stack import AttackedStack
from benchmarks.lib.attacks import Attack, Scene, Strike, struck
from benchmarks.lib.chaos_faults import (
    Fault,
    corrupt_bundle,
    full_disk,
    halt,
    link,
    reversed_bundle,
    step_clock,
    stub_of,
)
from benchmarks.lib.serving_world import call_entry_point
from recsys.contracts import Query
from recsys.export.releases import served_release
from recsys.signatures import write_keys
from recsys.stages import RELEASE
from serving.processes import until

PATIENCE_S = 120.0
FAULT_S = 4.0
HOUR = 3_600
GARBAGE = b"\x07 no such content " * 500


def during(fault: Fault, check: Callable[[Scene], str]) -> Strike:
    """Return a fault of chaos_faults.py that lasts a few seconds. check: what has to hold meanwhile."""

    @contextmanager
    def strike(scene: Scene) -> Iterator[str]:
        with fault(scene.stack.running):
            time.sleep(FAULT_S)
            happened = check(scene)
        yield happened

    return strike


def served(scene: Scene) -> str:
    """Ask for a slate that keeps the `must`, and post an event."""
    slate = _slate(scene)
    event = _event(scene)
    assert event == 200, f"an event got {event}"
    return f"slates by {slate['rung']} and events go on"


def slates_served(scene: Scene) -> str:
    return f"slates by {_slate(scene)['rung']} go on"


def events_refused(scene: Scene) -> str:
    """Ask for a slate, and post events until they are refused for the disk."""
    assert until(lambda: _event(scene) == 503, PATIENCE_S), "events are acknowledged on a full disk"
    assert until(lambda: "disk" in scene.stack.internal("/readyz").json().get("reasons", {}), PATIENCE_S), "ready"
    return f"events get 503, not ready; slates by {_slate(scene)['rung']} go on"


def halted(scene: Scene) -> str:
    return "halted, as if it hung"


def _slate(scene: Scene) -> Any:
    answer = scene.stack.request("POST", "/v1/recommend", scene.token, {"user": "meanwhile", "k": 20})
    assert answer.status_code == 200, f"a slate got {answer.status_code}"
    assert not scene.stack.forbidden(answer.json()), "a forbidden item was shown"
    return answer.json()


def _event(scene: Scene) -> int:
    event = {"user": "meanwhile", "item": min(scene.stack.allowed), "actions": {"click": 1.0}}
    return scene.stack.request("POST", "/v1/events", scene.token, {"events": [event]}).status_code


def killed(scene: Scene, name: str) -> str:
    """kill -9 of a service."""
    before = scene.stack.pids[name]
    os.kill(before, signal.SIGKILL)
    scene.watch.start()
    assert until(lambda: scene.stack.pids.get(name, before) != before, PATIENCE_S), "it was not started again"
    return "started again by the supervisor"


def killed_stub(scene: Scene, model: str) -> str:
    """kill -9 of the process that runs a model."""
    before = stub_of(scene.stack.running, model)
    os.kill(before, signal.SIGKILL)
    scene.watch.start()
    return f"loaded again; {_slate(scene)['rung']} answers meanwhile"


def killed_supervisor(scene: Scene) -> str:
    """kill -9 of the supervisor; `up` is what the page says."""
    orphans = set(scene.stack.pids.values())
    scene.stack.kill_supervisor()
    scene.watch.start()
    assert scene.stack.status(scene.token) == 200, "nothing is served without a supervisor"
    scene.stack.up()
    assert not orphans & set(scene.stack.pids.values())
    return "served without it; `up` replaced what was left"


def stopped_in_flight(scene: Scene) -> str:
    """SIGTERM while 20 callers ask, who go elsewhere once /readyz says 503, as load balancers do; `up` afterwards."""
    leaving = threading.Event()
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(_asked, scene, leaving) for _ in range(2_000)]
        time.sleep(0.5)
        scene.stack.process.terminate()
        until(lambda: not scene.stack.ready(), PATIENCE_S)
        leaving.set()
        counts = Counter(one.result() for one in asked)
        scene.stack.process.wait(PATIENCE_S)
    scene.watch.start()
    scene.stack.up()
    failed = {name: num for name, num in counts.items() if name not in ("answered", "elsewhere")}
    assert not failed, failed
    return f"{counts['answered']} answered, none cut off; `up`"


def _asked(scene: Scene, leaving: threading.Event) -> str:
    if leaving.is_set():
        return "elsewhere"
    try:
        scene.stack.request("POST", "/v1/recommend", scene.token, {"user": "u", "k": 3})
    except httpx.HTTPError as error:
        return type(error).__name__
    return "answered"


def second_stack(scene: Scene) -> str:
    """Start another stack over the same folder."""
    return _refusal(scene.stack, "up", "--port=0")


def taken_port(scene: Scene) -> str:
    """Start another stack at a port that is taken."""
    other = AttackedStack(
        layout=type(scene.stack.layout)(serve=scene.stack.layout.serve, live=scene.stack.folder / "other"),
        allowed=scene.stack.allowed,
        folder=scene.stack.folder,
        clock=scene.stack.clock,
    )
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        return _refusal(other, "up", f"--port={held.getsockname()[1]}")


def unsigned(scene: Scene) -> str:
    """Serve a bundle without a signature where a public key is configured."""
    public = write_keys(scene.stack.folder / "signing.key")
    stack = scene.stack
    words = [f"--public-key={public}", "up", str(stack.layout.serve), f"--live={stack.folder / 'unsigned'}", "--port=0"]
    return _one_sentence(stack.run_words(*words))


def _refusal(stack: AttackedStack, name: str, *options: str) -> str:
    return _one_sentence(stack.run_command(name, *options))


def _one_sentence(done: Any) -> str:
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), f"{done.returncode}: {done.stderr[-300:]}"
    return "exit code 2, one sentence"


def foreign_tensor(scene: Scene) -> str:
    """Send the ranking model candidates of another release."""
    query = np.array([[Query(user="u", now=time.time(), k=5, request_id="x").to_json().encode()]], dtype=object)
    with triton.InferenceServerClient(scene.stack.document["addresses"]["triton"]) as client:
        answer = client.infer("retrieve", [_tensor("QUERY", query, "BYTES")])
        inputs = [_relayed(one, query, answer) for one in client.get_model_metadata("rank").inputs]
        answer_of_rank = _error(lambda: client.infer("rank", inputs))
    assert "serves the release" in answer_of_rank, answer_of_rank
    return "refused: the release is another one"


def _error(infer: Callable[[], object]) -> str:
    """Return the sentence by which Triton refuses."""
    try:
        infer()
    except triton.InferenceServerException as error:
        return str(error)
    return "the model ranked candidates of another release"


def _relayed(wanted_input: Any, query: np.ndarray, answer: Any) -> Any:
    name = wanted_input.name
    values = query if name == "QUERY" else answer.as_numpy(name)
    return _tensor(name, values + 1 if name == RELEASE.name else values, wanted_input.datatype)


def _tensor(name: str, values: np.ndarray, kind: str) -> Any:
    tensor = triton.InferInput(name, list(values.shape), kind)
    tensor.set_data_from_numpy(values)
    return tensor


def _other_bundle(scene: Scene) -> Path:
    return reversed_bundle(scene.stack.layout, scene.stack.folder / "other" / "bundle")


@contextmanager
def exported_over(scene: Scene) -> Iterator[str]:
    """Export another release over the served folder, then restart one stage."""
    serve, before = scene.stack.layout.serve, _fingerprint(scene)
    current = served_release(serve)
    call_entry_point("export.py", f"bundle={_other_bundle(scene)}", f"repository={serve}")
    try:
        assert served_release(serve) != current
        os.kill(stub_of(scene.stack.running, "rank"), signal.SIGKILL)
        scene.watch.start()
        assert scene.stack.recovers(scene.token, PATIENCE_S)
        assert _fingerprint(scene) == before, "another release is served"
        yield "the release of the start is served on"
    finally:
        link(serve, current)


def _fingerprint(scene: Scene) -> str:
    return scene.stack.request("POST", "/v1/recommend", scene.token, {"user": "u", "k": 3}).json()["bundle"]


@contextmanager
def replaced_beneath(scene: Scene) -> Iterator[str]:
    """Replace the bundle beneath a running stage and restart it: its tensors are refused until the right one is back."""
    bundle = scene.stack.layout.bundle
    aside = bundle.with_name("aside")
    bundle.rename(aside)
    try:
        shutil.copytree(_other_bundle(scene), bundle)
        os.kill(stub_of(scene.stack.running, "rank"), signal.SIGKILL)
        time.sleep(2 * FAULT_S)
        answer = scene.stack.request("POST", "/v1/recommend", scene.token, {"user": "u", "k": 5})
        assert answer.status_code == 200, answer.text
        assert answer.json()["rung"] != "recommend", "stages of two releases made a slate"
        tier = answer.json()["rung"]
    finally:
        shutil.rmtree(bundle, ignore_errors=True)
        aside.rename(bundle)
    os.kill(stub_of(scene.stack.running, "rank"), signal.SIGKILL)
    yield f"tensors refused, {tier} answers; the right bundle is loaded again"


def empty(folder: Path) -> None:
    for file in _files(folder):
        file.unlink()


def truncate(folder: Path) -> None:
    _overwrite(folder, b"")


def garble(folder: Path) -> None:
    _overwrite(folder, GARBAGE)


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def lose_texts(folder: Path) -> None:
    remove(folder / "objects")


def _overwrite(folder: Path, content: bytes) -> None:
    for file in _files(folder):
        file.chmod(0o600)
        file.write_bytes(content)


def _files(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file()]


@contextmanager
def damaged_rules(scene: Scene, damage: Callable[[Path], None], restart: bool) -> Iterator[str]:
    """Damage the published rules, put them back afterwards. restart: the gateway and all models start again meanwhile."""
    with _kept(scene.stack.layout.rules):
        damage(scene.stack.layout.rules)
        scene.watch.start()
        if restart:
            _restart_readers(scene)
        assert scene.stack.recovers(scene.token, PATIENCE_S), "no whole slate without the store of rules"
        yield _obeyed(scene, "the last good rules go on" + (" after the restart" if restart else ""))


def _obeyed(scene: Scene, happened: str) -> str:
    """Ask for 20 long slates; AssertionError where one has an item that the `must` forbids."""
    for number in range(20):
        body = {"user": f"careful {number}", "k": 50}
        slate = scene.stack.request("POST", "/v1/recommend", scene.token, body).json()
        assert slate["items"], "a slate is empty"
        assert not scene.stack.forbidden(slate), f"forbidden items were shown: {scene.stack.forbidden(slate)}"
    return f"{happened}: kept in 20 slates of 50"


@contextmanager
def no_rules_left(scene: Scene) -> Iterator[str]:
    """Damage the rules and the copy that served last, and restart: nothing may be served. Then put them back."""
    layout = scene.stack.layout
    with _kept(layout.last_good), _kept(layout.rules):
        garble(layout.rules)
        remove(layout.last_good)
        _restart_readers(scene)
        assert until(lambda: _refuses(scene), PATIENCE_S), "slates are served without rules"
    scene.watch.start()
    yield "503 with a reason, not ready; well when they are back"


def _refuses(scene: Scene) -> bool:
    return scene.stack.status(scene.token) == 503 and not scene.stack.ready()


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Put the folder back as it was."""
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}.kept"))
    try:
        yield
    finally:
        remove(folder)
        copy.rename(folder)


def _restart_readers(scene: Scene) -> None:
    for name in ("triton", "gateway"):
        killed(scene, name)
    until(lambda: scene.stack.status(scene.token) is not None, PATIENCE_S)


@contextmanager
def missing_label(scene: Scene) -> Iterator[str]:
    """Put an item without the label that the `must` needs, and ask for its like."""
    _put_item(scene)
    time.sleep(2.0)
    yield _obeyed(scene, "not shown")


def _put_item(scene: Scene) -> None:
    answer = scene.stack.request("PUT", "/v1/items/no-price", scene.token, {"columns": {"category": "music"}})
    assert answer.is_success, answer.text


@contextmanager
def damaged_states(scene: Scene) -> Iterator[str]:
    """Overwrite states.db while it runs."""
    layout = scene.stack.layout
    before = len(list(layout.live.glob("states.db.damaged-*")))
    scene.watch.start()
    layout.states.write_bytes(GARBAGE)
    assert until(lambda: len(list(layout.live.glob("states.db.damaged-*"))) > before, PATIENCE_S), "not noticed"
    assert until(lambda: not layout.rebuild.exists(), PATIENCE_S), "not made anew"
    yield "moved aside, made anew from training data and log"


@contextmanager
def damaged_exposure(scene: Scene) -> Iterator[str]:
    """Overwrite the exposure shares while it runs."""
    file = scene.stack.layout.exposure / "shares.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(GARBAGE)
    scene.watch.start()
    assert until(lambda: file.read_bytes().startswith(b'{"format"'), PATIENCE_S), "not written anew"
    yield "written anew"


def damaged_items(scene: Scene) -> str:
    """Garble the log of items while it runs, with a restart of all that reads it."""
    items = scene.stack.layout.items
    _put_item(scene)
    with _kept(items):
        garble(items)
        scene.watch.start()
        _restart_readers(scene)
        assert scene.stack.recovers(scene.token, PATIENCE_S), "not well without the log of items"
    return "the last good items go on after the restart"


def foreign_parquet(scene: Scene) -> str:
    """Put a file that is no Parquet among the Parquet, and restart the consumer."""
    day = scene.stack.layout.events / "feedback" / "day=2020-01-01"
    day.mkdir(parents=True, exist_ok=True)
    (day / "foreign.parquet").write_bytes(GARBAGE)
    killed(scene, "consumer")
    assert until(lambda: _drained(scene.stack), PATIENCE_S), "the consumer does not go on"
    return "skipped; the consumer goes on"


def _drained(stack: AttackedStack) -> bool:
    with suppress(httpx.HTTPError, ValueError):
        return stack.waiting() < 50
    return False


def damaged_at_start(scene: Scene) -> str:
    """Damage states, spool, exposure and running.json behind a killed supervisor; then `up`."""
    layout = scene.stack.layout
    scene.stack.kill_supervisor()
    scene.watch.start()
    for file in (layout.states, layout.exposure / "shares.json", layout.running):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(GARBAGE)
    (layout.spool / "000000000001.spool").write_bytes(b"")
    scene.stack.up()
    assert until(lambda: not layout.rebuild.exists(), PATIENCE_S), "states were not made anew"
    return "moved aside or written anew; started"


FAULTS: tuple[tuple[str, str, Strike], ...] = (
    ("bundle", "Candidates of another release at the ranking model", struck(foreign_tensor)),
    ("bundle", "Another release exported over the served folder, one stage restarted", exported_over),
    ("bundle", "The bundle replaced beneath a stage that restarts", replaced_beneath),
    ("bundle", "A byte of the ranker's graph flipped, one stage restarted", during(corrupt_bundle, served)),
    ("bundle", "An unsigned bundle where a public key is configured", struck(unsigned)),
    ("rules", "An item without the label that a must needs", missing_label),
    *(
        ("rules", f"Rules {words} while running", partial(damaged_rules, damage=damage, restart=False))
        for words, damage in (
            ("deleted", remove),
            ("emptied", truncate),
            ("garbled", garble),
            ("without texts", lose_texts),
        )
    ),
    *(
        ("rules", f"Rules {words}, then a restart", partial(damaged_rules, damage=damage, restart=True))
        for words, damage in (("deleted", remove), ("garbled", garble))
    ),
    ("rules", "Rules and their last good copy lost, then a restart", no_rules_left),
    ("disk", "Disk of log, states and Parquet full, then free", during(full_disk, events_refused)),
    ("damaged files", "states.db overwritten while running", damaged_states),
    ("damaged files", "Exposure shares overwritten while running", damaged_exposure),
    ("damaged files", "Log of items garbled, then a restart", struck(damaged_items)),
    ("damaged files", "A foreign file among the Parquet, then a restart", struck(foreign_parquet)),
    ("damaged files", "States, spool, shares and running.json damaged at start", struck(damaged_at_start)),
    *(
        ("processes", f"kill -9 of the {name}", struck(partial(killed, name=name)))
        for name in ("gateway", "triton", "broker", "consumer")
    ),
    *(
        ("processes", f"kill -9 of the process of {model}", struck(partial(killed_stub, model=model)))
        for model in ("retrieve", "rank", "rules")
    ),
    ("processes", f"SIGSTOP of Triton for {FAULT_S:g} s", during(halt("triton"), slates_served)),
    ("processes", f"SIGSTOP of the broker for {FAULT_S:g} s", during(halt("broker"), slates_served)),
    ("processes", f"SIGSTOP of the gateway for {FAULT_S:g} s", during(halt("gateway"), halted)),
    ("processes", "kill -9 of the supervisor, then `up`", struck(killed_supervisor)),
    ("processes", "SIGTERM while 20 callers ask, then `up`", struck(stopped_in_flight)),
    ("processes", "A second stack on the same folder", struck(second_stack)),
    ("processes", "A stack at a port that is taken", struck(taken_port)),
    ("clock", "Wall clock an hour ahead, then right", during(step_clock(HOUR), served)),
    ("clock", "Wall clock an hour behind, then right", during(step_clock(-HOUR), served)),
)
ROOT_ONLY = ("disk",)
ATTACKS = tuple(
    Attack(group=group, tried=tried, strike=strike, root=group in ROOT_ONLY) for group, tried, strike in FAULTS
)
