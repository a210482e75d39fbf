"""Search by Optuna: its proposals, what it checks before, and that a killed search goes on. The launcher computes a figure."""

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from recsys.cli.search import Search, distribution, ends
from recsys.cli.sweep import corners
from recsys.cli.trial import PRUNERS, STUDY, TrialCurve, drop_torn_line, pruner, storage_of
from recsys.errors import ConfigError
from recsys.training.pruning import PrunedError
from recsys.training.sweeps import attempt

SPACE = ("retrieval.dropout=interval(0.0,0.9)", "retrieval.dim=choice(8,16)")
BEST = 0.3
"""value of retrieval.dropout, with retrieval.dim=16"""


class Computing:
    """Launcher whose jobs return a known figure; some fail."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.killed_at = killed_at
        self.jobs: dict[int, list[str]] = {}

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        return [self._run(number, list(job)) for number, job in enumerate(jobs, initial_job_idx)]

    def _run(self, number: int, overrides: list[str]) -> JobReturn:
        self.jobs[number] = overrides
        if number == self.killed_at:
            raise KeyboardInterrupt
        done, failed = JobReturn(overrides=overrides), number % 7 == 3
        done.return_value, done.status = math.nan if failed else self.figure(overrides), JobStatus.COMPLETED
        return done

    @staticmethod
    def figure(overrides: list[str]) -> float:
        values = dict(one.split("=") for one in overrides)
        return 1 - (float(values["retrieval.dropout"]) - BEST) ** 2 - (values["retrieval.dim"] == "8")


@contextmanager
def searching(root: Path, folder: Path, launcher: Any, *arguments: str, **options: Any) -> Iterator[Search]:
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        given = [f"hydra.sweeper.{key}={value}" for key, value in options.items()]
        goals = [one for one in arguments if one.startswith(("optimised_metric", "budget"))]
        overrides = ["hydra/sweeper=optuna", "hydra/launcher=basic", f"hydra.sweep.dir={folder}", *given, *goals]
        config = compose("train", overrides=overrides, return_hydra_config=True)
        OmegaConf.set_readonly(config, False)
        config.hydra.job.config_name = "train"
        config.hydra.overrides.hydra = overrides
        yield Search(config, GlobalHydra.instance().config_loader(), launcher, arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(8,16)", CategoricalDistribution(["8", "16"])),
        ("8,16", CategoricalDistribution(["8", "16"])),
        ("{a: 1},{b: 2}", CategoricalDistribution(["{a:1}", "{b:2}"])),
        ("range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("int(interval(1,64))", IntDistribution(1, 64)),
        ("tag(log,interval(0.001,0.1))", FloatDistribution(0.001, 0.1, log=True)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
    ],
)
def test_a_sweep_of_hydra_is_a_distribution(text: str, expected: BaseDistribution) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    assert distribution(override) == expected


def test_every_end_and_choice_is_a_corner_once() -> None:
    space: dict[str, BaseDistribution] = {
        "a": FloatDistribution(0.0, 1.0),
        "b": CategoricalDistribution(["x", "y", "z"]),
    }
    found = list(corners({key: ends(one) for key, one in space.items()}))
    assert found == [{"a": 0.0, "b": "x"}, {"a": 1.0, "b": "x"}, {"a": 0.0, "b": "y"}, {"a": 0.0, "b": "z"}]


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (("retrieval.dropout=interval(0.0,3.0)",), "retrieval.dropout is 3.0; choose"),
        (("retrieval.dimm=choice(8,16)",), "dimm"),
        (("retrieval.dim=16",), "nothing to choose"),
    ],
)
def test_a_space_is_checked_before_the_first_job(
    space: tuple[str, ...], sentence: str, root: Path, tmp_path: Path
) -> None:
    launcher = Computing()
    with pytest.raises(ConfigError, match=sentence), searching(root, tmp_path / "search", launcher, *space) as search:
        search.run()
    assert launcher.jobs == {}
    assert not (tmp_path / "search").exists()


def test_an_unknown_sampler_is_refused(root: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"sampler is 'grid'; choose one of tpe, nsga2, random"),
        searching(root, tmp_path, Computing(), *SPACE, sampler="grid"),
    ):
        pass


def test_proposals_come_closer_to_the_best(root: Path, tmp_path: Path) -> None:
    launcher = Computing()
    with searching(root, tmp_path, launcher, "seed=1", *SPACE, trials=40, at_once=2) as search:
        search.run()
    assert list(launcher.jobs) == list(range(40))
    assert all(job[0] == "seed=1" for job in launcher.jobs.values())
    figures = [launcher.figure(job) for job in launcher.jobs.values()]
    drawn, proposed = figures[:10], figures[10:]  # TPE draws its first 10
    assert sum(proposed) / len(proposed) > sum(drawn) / len(drawn) + 0.1
    assert max(proposed) > 0.999


def test_a_killed_search_runs_its_last_job_again_and_repeats_no_other(root: Path, tmp_path: Path) -> None:
    whole, first, second = Computing(), Computing(killed_at=5), Computing()
    with searching(root, tmp_path / "whole", whole, *SPACE, trials=12) as search:
        search.run()
    with pytest.raises(KeyboardInterrupt), searching(root, tmp_path / "killed", first, *SPACE, trials=12) as search:
        search.run()
    with searching(root, tmp_path / "killed", second, *SPACE, trials=12) as search:
        search.run()
    assert list(first.jobs) == list(range(6))
    assert list(second.jobs) == list(range(5, 12))
    assert second.jobs[5] == first.jobs[5] == whole.jobs[5]
    with (
        pytest.raises(ConfigError, match=r"was begun with the search space .*; choose another hydra\.sweep\.dir"),
        searching(root, tmp_path / "killed", Computing(), SPACE[0], "retrieval.dim=choice(8,32)") as search,
    ):
        search.run()


def test_a_search_that_goes_on_draws_no_number_again(root: Path, tmp_path: Path) -> None:
    launchers = [Computing() for _ in range(3)]
    for trials, launcher in zip((5, 10, 15), launchers, strict=True):
        with searching(root, tmp_path / "search", launcher, *SPACE, trials=trials, sampler="random") as search:
            search.run()
    drawn = [tuple(job) for launcher in launchers for job in launcher.jobs.values()]
    assert len(drawn) == len(set(drawn)) == 15


def test_a_torn_line_of_a_killed_process_is_dropped(root: Path, tmp_path: Path) -> None:
    for trials in (3, 6):
        with searching(root, tmp_path / "search", Computing(), *SPACE, trials=trials) as search:
            search.run()
        with (tmp_path / "search" / STUDY).open("ab") as file:
            file.write(b'{"op_code":4,"wor')
    drop_torn_line(tmp_path / "search" / STUDY)
    assert len(study_of(tmp_path / "search").trials) == 6


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=storage_of(folder))


class Costly(Computing):
    """Launcher whose jobs cost as many CPU milliseconds as ten times their dropout."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _run(self, number: int, overrides: list[str]) -> JobReturn:
        cost = {"cpu_ms": self.cost(overrides), "memory_mib": 1.0}
        (self.folder / str(number)).mkdir(parents=True)
        (self.folder / str(number) / "metrics.json").write_text(json.dumps({"validation": {"cost": cost}}))
        return super()._run(number, overrides)

    @staticmethod
    def cost(overrides: list[str]) -> float:
        return 10 * float(dict(one.split("=") for one in overrides)["retrieval.dropout"])

    @staticmethod
    def figure(overrides: list[str]) -> float:
        return Costly.cost(overrides)  # the best are the most expensive


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_trials_come_to_lie_within_the_budget(sampler: str, root: Path, tmp_path: Path) -> None:
    found = {}
    for limit in (4, 1_000):
        folder = tmp_path / str(limit)
        budget, options = f"budget.cpu_ms={limit}", {"trials": 40, "sampler": sampler, "population": 8}
        with searching(root, folder, Costly(folder), *SPACE, budget, **options) as search:
            search.run()
        trials = study_of(folder).get_trials(states=(TrialState.COMPLETE,))
        dropouts = [trial.params["retrieval.dropout"] for trial in trials]
        constraints = [trial.constraints["cpu_ms"] for trial in trials]
        assert constraints == pytest.approx([10 * dropout / limit - 1 for dropout in dropouts], rel=0.01, abs=0.001)
        found[limit] = dropouts[-20:]
    assert sum(found[4]) / 20 < sum(found[1_000]) / 20 - 0.1
    assert max(dropout for dropout in found[4] if dropout <= 0.4) > 0.3


def test_several_goals_cannot_be_pruned(root: Path, tmp_path: Path) -> None:
    goals = "optimised_metric=[ndcg@10,cpu_ms]"
    with (
        pytest.raises(
            ConfigError, match=r"Optuna cannot prune by several goals, ndcg@10, cpu_ms; leave the pruner null"
        ),
        searching(root, tmp_path, Computing(), goals, *SPACE, sampler="nsga2", pruner="asha"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"pruner is 'best'; choose null or one of median, asha, hyperband"),
        searching(root, tmp_path, Computing(), *SPACE, pruner="best"),
    ):
        pass


class Curved(Computing):
    """Launcher whose jobs report a flat curve of their figure to their trial, as if each was a process of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.folder, self.name = folder, name
        self.epochs: dict[int, int] = {}

    def _run(self, number: int, overrides: list[str]) -> JobReturn:
        curve = TrialCurve(search=self.folder, number=number, model="ranking", pruner=pruner(self.name, 1))
        done = super()._run(number, overrides)
        if math.isnan(done.return_value):
            return done
        with attempt(self.folder / str(number), ""):
            for epoch in range(9):
                self.epochs[number] = epoch + 1
                assert not curve("retrieval/ndcg@10", epoch, 0.0), "another model's"
                if curve("ranking/ndcg@10", epoch, done.return_value):
                    raise PrunedError("ranking/ndcg@10", epoch + 1, done.return_value)
                assert not curve("ranking/ndcg@10", epoch, -9.0), "another seed's"
            return done
        done.return_value = math.nan
        return done

    @staticmethod
    def figure(overrides: list[str]) -> float:
        return float(dict(one.split("=") for one in overrides)["retrieval.dropout"])


@pytest.mark.parametrize("name", PRUNERS)
def test_the_worse_trials_are_pruned_with_their_last_value(name: str, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    launcher = Curved(folder, name)
    with searching(root, folder, launcher, SPACE[0], trials=24, sampler="random", pruner=name) as search:
        search.run()
    trials = study_of(folder).trials
    by_state = {
        state: [trial for trial in trials if trial.state == state]
        for state in (TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL)
    }
    pruned, complete = by_state[TrialState.PRUNED], by_state[TrialState.COMPLETE]
    assert len(pruned) >= 5
    assert len(pruned) + len(complete) + len(by_state[TrialState.FAIL]) == 24
    assert all(launcher.epochs[trial.number] < 9 for trial in pruned)
    assert all(launcher.epochs[trial.number] == 9 for trial in complete)
    assert all(trial.value == pytest.approx(trial.params["retrieval.dropout"], rel=1e-3) for trial in pruned)
    assert max(trial.value for trial in trials if trial.value is not None) in [trial.value for trial in complete]


def test_several_goals_are_searched_at_once(root: Path, tmp_path: Path) -> None:
    class Both(Computing):
        def _run(self, number: int, overrides: list[str]) -> JobReturn:
            done = super()._run(number, overrides)
            done.return_value = (done.return_value, -done.return_value)
            return done

    launcher = Both()
    goals = "optimised_metric=[ndcg@10,towers/recall@100]"
    with searching(root, tmp_path, launcher, goals, *SPACE, trials=6, at_once=3, sampler="nsga2") as search:
        search.run()
    assert list(launcher.jobs) == list(range(6))


def trained(root: Path, *arguments: str) -> str:
    """Output of train.py."""
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=root,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


@pytest.mark.slow
def test_hydra_finds_the_sweeper_and_the_printed_command_trains_the_best(
    root: Path, tmp_path: Path, tiny: tuple[str, ...]
) -> None:
    small = [one for one in tiny if not one.startswith("ranking.")]
    search = ("hydra/sweeper=optuna", "hydra.sweeper.trials=2", "hydra.sweeper.pruner=median")
    folder = f"hydra.sweep.dir={tmp_path / 'search'}"
    space = "retrieval.dropout=interval(0.1,0.3)"
    printed = trained(root, "-m", *small, "~ranking", "logger=csv", folder, *search, space)
    assert printed.count("retrieval.dropout=0.") >= 3, "two rows, and the command for the best"
    assert sorted(one.name for one in (tmp_path / "search").iterdir() if one.is_dir()) == ["0", "1"]
    trials = study_of(tmp_path / "search").trials
    assert all([*trial.intermediate_values] == [0] for trial in trials), "an epoch, reported from the job"
    line = next(line for line in printed.splitlines() if line.startswith("best"))
    program, *command = shlex.split(line.removeprefix("best"))[1:]
    assert program == "train.py"
    trained(root, *command, f"run_dir={tmp_path / 'again'}", "evaluate=validation")
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["validation"]
    assert again["value"] == max(trial.value for trial in trials)
