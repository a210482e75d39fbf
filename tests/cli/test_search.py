"""Search by Optuna: its proposals, what it checks before, and that a killed search goes on. The launcher computes a figure."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from recsys.cli.search import Search, corners, distribution
from recsys.errors import ConfigError

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
        goals = [one for one in arguments if one.startswith("optimised_metric")]
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
    space = {"a": FloatDistribution(0.0, 1.0), "b": CategoricalDistribution(["x", "y", "z"])}
    found = list(corners(space))
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


@pytest.mark.slow
def test_hydra_finds_the_sweeper_and_ends_with_the_table(root: Path, tmp_path: Path, tiny: tuple[str, ...]) -> None:
    small = [one for one in tiny if not one.startswith("ranking.")]
    done = subprocess.run(
        [
            *(sys.executable, "train.py", "-m", *small, "~ranking", "logger=csv", f"hydra.sweep.dir={tmp_path}"),
            *("hydra/sweeper=optuna", "hydra.sweeper.trials=2", "retrieval.dropout=interval(0.1,0.3)"),
        ],
        cwd=root,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.count("retrieval.dropout=0.") >= 3, "two rows, and the command for the best"
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_dir()) == ["0", "1"]
