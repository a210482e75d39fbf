"""One run from the log to the bundle: prepare, train, evaluate, save."""

import hashlib
import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recsys.bundle import Bundle, write_bundle
from recsys.data.splits import Splitter
from recsys.errors import ConfigError
from recsys.evaluation.protocol import Evaluation
from recsys.evaluation.report import Report
from recsys.evaluation.scoreboard import Scoreboard
from recsys.features.spec import Features
from recsys.pipeline import light
from recsys.policy.compose import Policy
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.rules import RuleSet
from recsys.stages import Rules, load_rules, load_stages
from recsys.training.cascade import Knobs, TrainedCascade, train_cascade
from recsys.training.prepare import Prepared, prepare
from recsys.training.save import save_cascade
from recsys.training.tracking import Tracking


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The configured parts of one run."""

    data: Any
    """a source: load() -> Dataset"""
    protocol: Splitter
    content: Any
    """fit_transform(texts) -> vectors"""
    features: Features
    knobs: Knobs
    policy: Policy
    rules: RuleSet
    evaluation: Evaluation
    tracking: Tracking
    seed: int

    def run(self, folder: Path, config: dict[str, Any], say: Callable[[str], None]) -> tuple[Report, Bundle]:
        """Everything; leaves data/, bundle/, metrics.json and metrics.png in `folder`."""
        dataset = self.data.load()
        say(f"{dataset.name}: {dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_events:,} events")
        prepared = prepare(dataset, self.protocol.splits(dataset)[-1], self.features, self.content)
        with TemporaryDirectory(dir=folder) as beside:
            dataset.save(beside)
            claim(
                folder / "checkpoints", {**config, "data": {**config.get("data", {}), "sha256": _digest(Path(beside))}}
            )
        dataset.save(folder / "data")
        loggers = self.tracking.start(folder, config)
        try:
            cascade = train_cascade(
                prepared, self.knobs, folder=folder / "checkpoints", seed=self.seed, loggers=loggers, say=say
            )
            say("graphs, evaluation and bundle")
            report = self._save(cascade, prepared, folder, config)
            self.tracking.finish(report.rows, folder / "metrics.png", folder / "bundle")
        finally:
            self.tracking.close()
        return report, Bundle.open(folder / "bundle")

    def _save(self, cascade: TrainedCascade, prepared: Prepared, folder: Path, config: dict[str, Any]) -> Report:
        """The bundle is measured as it will be served: from its own files."""
        with write_bundle(folder / "bundle", cascade.spec.fingerprint) as draft:
            save_cascade(draft, cascade, prepared, policy=self.policy, rules=self.rules, config=config, seed=self.seed)
            report = self._evaluate(draft, prepared)
            report.save(folder)
            draft.write_document("metrics.json", json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
        return report

    def _evaluate(self, draft: Bundle, prepared: Prepared) -> Report:
        started, board = time.perf_counter(), Scoreboard(prepared.dataset)
        questions = self.evaluation.ask(board, prepared.split, prepared.replay)
        retrieve, rank, rules = load_stages(draft)
        plain = (retrieve, rank, self._plain_rules(draft))
        for name, stages in {"retrieval": light(plain), "ranker": plain, "pipeline": (retrieve, rank, rules)}.items():
            board.record(name, questions.answers(stages), seed=self.seed)
        return board.report(seconds=time.perf_counter() - started, peak_memory_mib=_peak_memory_mib())

    def _plain_rules(self, draft: Bundle) -> Rules:
        """The last stage with the value formula alone: no rules, no diversity."""
        unruled = Policy(value=self.policy.value, diversity=MaximalMarginalRelevance(trade_off=1.0, window=0))
        return load_rules(draft, policy=unruled, rules=RuleSet.parse({"rules": []}))


def claim(checkpoints: Path, config: dict[str, Any]) -> None:
    """Let only the configuration (and the data) that began these checkpoints go on from them; ConfigError else."""
    wanted = _settings({key: value for key, value in config.items() if key not in ("run_dir", "logger")})
    wanted.pop("trainer.progress", None)
    file = checkpoints / "config.json"
    if not any(checkpoints.glob("*/*.*")):
        checkpoints.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        draft.rename(file)
        return
    begun = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for key in sorted(begun.keys() | wanted.keys()):
        if (before := begun.get(key)) != (now := wanted.get(key)):
            raise ConfigError(
                f"{checkpoints.parent} was begun with {key}={before!r}, this run has {now!r}; choose another run_dir"
            )


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _digest(folder: Path) -> str:
    """sha256 over all files of a saved data set: events, items, users and their description."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _settings(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested configuration as {dotted key: value}."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        settings |= _settings(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return settings
