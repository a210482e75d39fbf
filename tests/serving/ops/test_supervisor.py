"""What a guard does to a service that fails in every way, by a clock that the test moves."""

import threading
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from recsys.errors import ServingError
from serving.ops.supervisor import Guard, RestartPolicy
from serving.processes import until

POLICY = RestartPolicy(interval_s=1.0, max_silence_s=10.0, first_pause_s=0.5, max_pause_s=4.0, stable_s=60.0)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Patient:
    """A service whose health the test decides."""

    name: str = "patient"
    pid: int = 1
    here: bool = True
    fault: str | None = None
    remedy: bool | Exception = False
    problem: Exception | None = None
    """why it does not start"""
    has_room: bool = True
    """on its disk"""
    done: list[str] = field(default_factory=list)

    def restartable(self) -> bool:
        return self.has_room

    def start(self) -> None:
        self.done.append("start")
        if self.problem is not None:
            raise self.problem
        self.here, self.fault = True, None

    def stop(self) -> None:
        self.done.append("stop")
        self.here = False

    def running(self) -> bool:
        return self.here

    def probe(self) -> str | None:
        return self.fault

    def repair(self) -> bool:
        if isinstance(self.remedy, Exception):
            raise self.remedy
        if self.remedy:
            self.done.append("mend")
            self.fault = None
        return self.remedy


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


def guard_of(patient: Patient, said: list[str], clock: Clock) -> Guard:
    return Guard(patient, said.append, policy=POLICY, clock=clock)


def test_a_healthy_service_is_left_alone(clock: Clock, said: list[str]) -> None:
    patient = Patient()
    guard = guard_of(patient, said, clock)
    guard.check()
    assert (patient.done, said, guard.fault) == ([], [], None)


def test_a_service_that_is_gone_is_started_at_once(clock: Clock, said: list[str]) -> None:
    patient = Patient(here=False)
    guard = guard_of(patient, said, clock)
    guard.check()
    guard.check()
    assert patient.done == ["stop", "start"]
    assert guard.num_restarts == 1
    assert said == ["patient: is gone", "patient was started again", "patient answers again"]


@pytest.mark.parametrize("problem", [ServingError("its port is taken"), OSError("No space left on device")])
def test_the_pause_between_failed_starts_doubles_up_to_its_bound(
    clock: Clock, said: list[str], problem: Exception
) -> None:
    patient = Patient(here=False, problem=problem)
    guard = guard_of(patient, said, clock)
    times = []
    for _ in range(400):
        before = guard.num_restarts
        guard.check()
        if guard.num_restarts > before:
            times.append(clock.now)
        clock.now += 0.125
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert set(pauses[3:]) == {4.0}
    assert said == ["patient: is gone", f"patient: did not start again: {problem}"]


def test_a_small_remedy_comes_before_a_restart(clock: Clock, said: list[str]) -> None:
    patient = Patient(fault="a stub is dead", remedy=True)
    guard = guard_of(patient, said, clock)
    guard.check()
    guard.check()
    assert patient.done == ["mend"]
    assert (guard.num_repairs, guard.num_restarts, guard.fault) == (1, 0, None)


def test_silence_is_borne_for_a_while_and_then_ended(clock: Clock, said: list[str]) -> None:
    patient = Patient(fault="no answer within 1 s")
    guard = guard_of(patient, said, clock)
    for _ in range(10):
        guard.check()
        clock.now += 1.0
    assert patient.done == []
    guard.check()
    assert patient.done == ["stop", "start"]
    assert said.count("patient: no answer within 1 s") == 1


def test_a_service_that_comes_back_by_itself_is_not_restarted(clock: Clock, said: list[str]) -> None:
    patient = Patient(fault="no answer within 1 s")
    guard = guard_of(patient, said, clock)
    for second in range(40):
        patient.fault = "no answer within 1 s" if second % 8 < 5 else None
        guard.check()
        clock.now += 1.0
    assert patient.done == []


def test_a_remedy_that_fails_ends_in_a_restart(clock: Clock, said: list[str]) -> None:
    patient = Patient(fault="a stub is dead", remedy=ServingError("the model does not load"))
    guard = guard_of(patient, said, clock)
    for _ in range(11):
        guard.check()
        clock.now += 1.0
    assert patient.done == ["stop", "start"]
    assert "patient: the model does not load" in said


def test_a_long_time_without_faults_forgets_the_pause(clock: Clock, said: list[str]) -> None:
    patient = Patient(here=False)
    guard = guard_of(patient, said, clock)
    guard.check()
    clock.now += 1.0
    patient.here = False
    guard.check()
    clock.now += 61.0
    guard.check()
    for _ in range(2):
        patient.here = False
        guard.check()
        clock.now += 0.5
    assert guard.num_restarts == 4


@pytest.mark.parametrize("here", [True, False])
def test_on_a_full_disk_nothing_is_restarted_until_there_is_room(clock: Clock, said: list[str], here: bool) -> None:
    patient = Patient(here=here, fault="its disk is full", has_room=False)
    guard = guard_of(patient, said, clock)
    for _ in range(60):
        guard.check()
        clock.now += 1.0
    assert patient.done == []
    patient.has_room = True
    guard.check()
    assert patient.done == ["stop", "start"]


class Defective(Patient):
    """Whose probe has a defect for some rounds."""

    def probe(self) -> str | None:
        if self.fault == "defect":
            raise ZeroDivisionError
        return super().probe()


def test_a_guard_outlives_a_defect_and_says_where_it_is(clock: Clock) -> None:
    service, said = Defective(fault="defect"), []
    guard = Guard(service, said.append, policy=replace(POLICY, interval_s=0.001), clock=clock)
    stopped = threading.Event()
    watching = threading.Thread(target=guard.run, args=(stopped,))
    watching.start()
    try:
        assert until(lambda: said, 30.0)
        service.fault = None
        assert until(lambda: len(said) == 2, 30.0)
    finally:
        stopped.set()
        watching.join(30.0)
    assert said[0].startswith("patient: cannot be supervised: ZeroDivisionError at ")
    assert said[1] == "patient answers again"
