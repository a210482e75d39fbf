"""Attacks and faults on the real stack: what was tried, what happened, did it recover alone, and after how many seconds?

A stack as `python -m serving up` starts it, over a small made-up catalogue with a `must` on the price, on a disk of its own.
One attack after the other, while another caller with a key of its own asks for slates and posts events with known ids.

* came through: the attacker reached or got what is not for it, or the stack did not do what its page says
* recovered: ready, and the whole cascade answers a few times in a row; seconds count from the end of the attack
* lost, doubled: events that were answered with 200 and are not in the Parquet that the consumer writes, or twice

    python -m benchmarks.claims.serving.hardening
    python -m benchmarks.claims.serving.hardening only=rules     attacks whose group or description has the word

Needs root for another account and a disk of its own (without it fewer attacks are made), and a C compiler for the wall clock.
Writes benchmarks/results/hardening.json when all were made.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.table import Table

from benchmarks.lib import account_attacks, request_attacks, stack_faults
from benchmarks.lib.attacked_stack import AttackedStack, small_world
from benchmarks.lib.attacks import Attack, Outcome, Scene, carry_out, figures
from benchmarks.lib.http_attacks import Target
from benchmarks.lib.other_caller import OtherCaller
from benchmarks.lib.request_attacks import write_issuer
from benchmarks.lib.result_file import console, print_figures, write_result
from recsys.errors import ConfigError, ServingError, exit_on_error
from serving.gateway.connection_limits import ConnectionLimits
from serving.processes import until

ATTACKS = (*account_attacks.ATTACKS, *request_attacks.ATTACKS, *stack_faults.ATTACKS)
DISK_MIB = 500
TABLE_WIDTH = 80
DRAIN_S = 120.0
ONLY = "only="


def selected(only: str) -> tuple[Attack, ...]:
    """Return the possible attacks whose group or description has the word. ConfigError without one."""
    found = tuple(one for one in ATTACKS if only.lower() in f"{one.group} {one.tried}".lower() and one.possible)
    if not found:
        groups = ", ".join(dict.fromkeys(one.group for one in ATTACKS))
        raise ConfigError(f"no attack has the word {only!r}; the groups are {groups}")
    return found


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Give the folder a file system of its own where this process is root."""
    folder.mkdir()
    if os.geteuid():
        yield
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0755", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        raise ServingError(f"no small disk could be mounted at {folder}; run this where root may mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextmanager
def attacked(run: Path, folder: Path) -> Iterator[Scene]:
    """Start a stack and stop it at the end."""
    folder.chmod(0o755)  # other accounts get as far as the rights of the stack's own folders let them
    settings, _ = write_issuer(folder)
    with small_disk(folder / "disk"):
        stack = AttackedStack.over(run, folder, f"--jwt={settings}")
        stack.up()
        try:
            yield _scene(stack)
        finally:
            stack.terminate()


def _scene(stack: AttackedStack) -> Scene:
    token, other, attacker = (stack.create_key(name) for name in ("probe", "other", "attacker"))
    if not until(lambda: {stack.status(one) for one in (token, other, attacker)} == {200}, DRAIN_S):
        raise ServingError("the new keys are not accepted")
    limits = ConnectionLimits()
    target = Target(
        host="127.0.0.1",
        port=stack.port,
        attacker="127.0.2.1",
        key=attacker,
        per_peer=limits.per_peer,
        total=limits.total,
    )
    return Scene(stack=stack, token=token, target=target, caller=OtherCaller(stack, other, sorted(stack.allowed)))


def attack_all(scene: Scene, attacks: Sequence[Attack]) -> list[Outcome]:
    """Carry them out in order, while the other caller calls."""
    begin, outcomes = time.monotonic(), list[Outcome]()
    for number, attack in enumerate(attacks, start=1):
        outcomes.append(carry_out(attack, scene))
        left_s = (time.monotonic() - begin) / number * (len(attacks) - number)
        console.print(line(outcomes[-1], number, len(attacks), left_s), markup=False, soft_wrap=True)
    return outcomes


def line(outcome: Outcome, number: int, num: int, left_s: float) -> str:
    """Progress: one attack, and an estimate of the time that the others take."""
    result = "CAME THROUGH" if outcome.came_through else seconds(outcome)
    more = f": {outcome.happened}" if outcome.came_through or outcome.recovered_s is None else ""
    return f"{number:3}/{num}  {result:>7}  {outcome.group}: {outcome.tried}{more}  (about {left_s / 60:.0f} min left)"


def seconds(outcome: Outcome) -> str:
    return "never" if outcome.recovered_s is None else f"{outcome.recovered_s:.1f} s"


def written_events(scene: Scene) -> list[str]:
    """Return the ids of all written events, once every acknowledged one is among them or the time is over."""
    until(lambda: set(scene.caller.acknowledged) <= set(scene.stack.written()), DRAIN_S)
    return scene.stack.written()


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row an attack, in sections by group, for 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, width=TABLE_WIDTH, title=f"{len(outcomes)} attacks", title_justify="left")
    shown.add_column("what was tried", ratio=5)
    shown.add_column("what happened", ratio=4)
    shown.add_column("well after", justify="right", width=8)
    before = None
    for one in outcomes:
        if one.group != before:
            shown.add_section()
            shown.add_row(f"[bold]{one.group}[/]", "", "")
        before = one.group
        happened = f"[bold red]came through:[/] {one.happened[:120]}" if one.came_through else one.happened
        shown.add_row(one.tried, happened, seconds(one))
    return shown


def main(only: str) -> None:
    start, attacks = time.perf_counter(), selected(only)
    run = small_world()
    with TemporaryDirectory(prefix="hardening-") as folder, attacked(run, Path(folder)) as scene:
        console.print(f"{len(attacks)} attacks on a stack at port {scene.stack.port}")
        with scene.caller.calling():
            outcomes = attack_all(scene, attacks)
        written = written_events(scene)
    claimed = figures(outcomes, scene.caller.acknowledged, written)
    console.print(table(outcomes))
    print_figures(claimed)
    if len(attacks) < len(ATTACKS):
        console.print(f"\n{len(attacks)} of {len(ATTACKS)} attacks were made: no result is written")
        return
    file = write_result("hardening", [asdict(one) for one in outcomes], claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}")


if __name__ == "__main__":
    with exit_on_error():
        match sys.argv[1:]:
            case []:
                main("")
            case [word] if word.startswith(ONLY):
                main(word.removeprefix(ONLY))
            case other:
                raise ConfigError(f"the arguments are {' '.join(other)!r}; give none, or only=WORD")
