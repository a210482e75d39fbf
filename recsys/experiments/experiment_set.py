"""Experiments as data: one YAML document that says who is divided into which arms, and what each arm changes.

    experiments:
      - name: wider
        hypothesis: more different slates are clicked more
        layer: slate                 # experiments of one layer share no user; those of different layers are independent
        users: [0.0, 0.5]            # part of the layer's users; a number is the part from 0 to it
        when: "num_events >= 3"      # as `when` of a rule: user.*, context.*, surface, hour, weekday, num_events
        surfaces: [home]             # all where left out
        start: 2026-12-01
        end: 2026-12-15
        arms:                        # the first one is the control
          control: {share: 0.5}
          wide: {share: 0.5, policy: {diversity: {trade_off: 0.6}}}
        primary: click_per_request
        guardrails: [revenue_per_user]
        less: []                     # metrics of which less is better
        effect: 0.01                 # smallest effect on the primary metric that would change a decision
        interleave: false            # true: everybody sees the slates of both arms, interleaved
        planned_users: 40000         # of both arms together
        least_share: 0.1             # with it `allocate` may move the shares, none below this

What an arm changes is described in recsys/policy/overrides.py. A user keeps the arm as long as layer, name, users and shares
stay: both are hashes. A user who may not take part (`when`, surface, time) has no arm, and is in no figure of the experiment.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.experiments.assignment import TOLERANCE, Assignment
from recsys.expressions import Expression, compile_expression, conjuncts, suggestion
from recsys.policy.overrides import INTERLEAVE, check_overrides
from recsys.policy.rules.request_values import TYPES, request_columns, request_values
from recsys.policy.rules.rule import moment
from recsys.policy.rules.rule_set import decode

MAX_TEXT = 500
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""of experiments and arms: they are columns of figures and labels of gauges"""
PER_REQUEST = "_per_request"
INTERLEAVED = "interleaved"
"""value of a split, in figures, of requests whose slate is of both arms"""
NONE = "none"
"""value of a split, in figures, where a request has none (recsys/measurement/user_sums.py)"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Part of the users of an experiment, and what it changes for them."""

    share: float
    policy: Mapping[str, Any] = field(default_factory=dict)
    """overrides of the policy"""


@dataclass(frozen=True, kw_only=True)
class OnlineExperiment:
    """One online controlled experiment; raises ConfigError for a value out of range."""

    name: str
    hypothesis: str
    arms: Mapping[str, Arm]
    """the first one is the control"""
    primary: str
    start: str
    end: str
    """ISO 8601, UTC; it runs from `start` until before `end`"""
    layer: str = ""
    """"" is a layer of its own"""
    users: tuple[float, float] = (0.0, 1.0)
    when: str | None = None
    surfaces: tuple[str, ...] = ()
    guardrails: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    effect: float | None = None
    planned_users: int = 10_000
    least_share: float | None = None
    """of an arm, below which `allocate` does not go; None keeps the shares as they are"""
    interleave: bool = False
    """whether the slates of its two arms are interleaved for all of its users"""

    def __post_init__(self) -> None:
        where = f"the experiment {self.name!r}"
        if len(self.arms) < 2:
            raise ConfigError(f"{where} has {len(self.arms)} arm; give two or more, the control first")
        if none := [name for name, arm in self.arms.items() if not arm.share > 0]:
            raise ConfigError(
                f"{where}: arms.{none[0]}.share is {self.arms[none[0]].share:g}; give it more, or no such arm"
            )
        if abs((total := sum(arm.share for arm in self.arms.values())) - 1) > TOLERANCE:
            raise ConfigError(
                f"{where}: the shares of its arms add up to {total:g}; make it 1, `users` says who takes part"
            )
        if not 0 <= self.users[0] < self.users[1] <= 1:
            raise ConfigError(f"{where}: users is {list(self.users)}; write a part of 0 to 1, such as [0, 0.5]")
        if self.start >= self.end:
            raise ConfigError(f"{where} ends at {self.end}, not after its start {self.start}; give a later end")
        if self.primary in self.guardrails:
            raise ConfigError(f"{where}: {self.primary!r} is the primary metric and a guardrail; name it once")
        judged = (self.primary, *self.guardrails)
        if len(set(judged)) < len(judged):
            raise ConfigError(f"{where} names a guardrail twice; name each once")
        if strange := [name for name in self.less if name not in judged]:
            raise ConfigError(f"{where}: less names {strange[0]!r}; {suggestion(strange[0], judged)}")
        if self.planned_users < 2:
            raise ConfigError(f"{where}: planned_users is {self.planned_users}; plan for two at least")
        if self.interleave:
            self._check_interleaving(where)
        least = self.least_share
        if least is not None and not (least > 0 and least * len(self.arms) <= 1):
            raise ConfigError(
                f"{where}: least_share is {least:g} of {len(self.arms)} arms; give more than 0, at most {1 / len(self.arms):g}"
            )

    def _check_interleaving(self, where: str) -> None:
        if len(self.arms) != 2 or self.least_share is not None or self.guardrails:
            raise ConfigError(
                f"{where}: interleave takes two arms, no guardrails and no least_share: every user sees both arms"
            )
        if not self.primary.endswith(PER_REQUEST):
            raise ConfigError(
                f"{where}: primary is {self.primary!r}; interleaved arms compete for click{PER_REQUEST} and the like"
            )
        check_overrides(f"{where}: arms", {INTERLEAVE: {name: arm.policy for name, arm in self.arms.items()}})

    @property
    def control(self) -> str:
        return next(iter(self.arms))

    @property
    def assignment(self) -> Assignment:
        """Return the division of its users into arms."""
        return Assignment(salt=f"arm:{self.name}", shares={name: arm.share for name, arm in self.arms.items()})

    @property
    def admission(self) -> Assignment:
        """Return the hash by which users of the layer take part."""
        return Assignment(salt=f"layer:{self.layer}" if self.layer else f"own:{self.name}", shares={"": 1.0})

    @property
    def overrides(self) -> dict[str, Any]:
        """Return the overrides that interleave its arms."""
        return {INTERLEAVE: {name: dict(arm.policy) for name, arm in self.arms.items()}}

    def overlaps(self, other: "OnlineExperiment") -> bool:
        """Return whether a request could be of both, conditions aside."""
        surfaces = not self.surfaces or not other.surfaces or bool({*self.surfaces} & {*other.surfaces})
        return surfaces and self.start < other.end and other.start < self.end

    @property
    def changed(self) -> set[str]:
        """Return the keys of the policy that its arms change."""
        return {key for arm in self.arms.values() for key in arm.policy} | ({INTERLEAVE} if self.interleave else set())


@dataclass(frozen=True, kw_only=True)
class ExperimentSet:
    """Experiments in the order of their document; raises ConfigError for two that get in each other's way."""

    experiments: tuple[OnlineExperiment, ...]

    def __post_init__(self) -> None:
        for one, other in combinations(self.experiments, 2):
            _check_pair(one, other)

    @staticmethod
    def parse(document: Mapping[str, Any] | str) -> "ExperimentSet":
        """Parse YAML text or its decoded document; ConfigError names the experiment and the key."""
        decoded = decode(document, "the set of experiments") if isinstance(document, str) else document
        if not isinstance(decoded, Mapping) or decoded.keys() != {"experiments"}:
            raise ConfigError("a set of experiments is one document with the key experiments, a list; [] for none")
        if not isinstance(decoded["experiments"], list):
            raise ConfigError(f"experiments is {decoded['experiments']!r}; write a list, [] for none")
        return ExperimentSet(experiments=tuple(map(_experiment, range(10**6), decoded["experiments"])))

    @staticmethod
    def read(path: Path) -> "ExperimentSet":
        """Read a YAML file."""
        try:
            return ExperimentSet.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the file of experiments {path} cannot be read: {error}") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @property
    def hash(self) -> str:
        """Content address: the first 12 hexadecimal digits of the sha256 of the canonical JSON."""
        text = json.dumps([_plain(one) for one in self.experiments], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def named(self, name: str) -> OnlineExperiment:
        """Return an experiment; ConfigError names those that there are."""
        found = next((one for one in self.experiments if one.name == name), None)
        if found is None:
            names = [one.name for one in self.experiments]
            raise ConfigError(f"there is no experiment {name!r}; {suggestion(name, names) if names else 'none is'}")
        return found

    def compile(self, request_types: Mapping[str, str]) -> "CompiledExperiments":
        """Bind the conditions to the columns of requests; ConfigError for one that reads another column.

        request_types: of `user.column` and `context.column`
        """
        types = {**{name: kind for name, kind in TYPES.items() if not name.startswith("exposure")}, **request_types}
        return CompiledExperiments(parts=tuple(_Compiled.of(one, types) for one in self.experiments), types=types)


@dataclass(frozen=True, kw_only=True)
class _Compiled:
    """An experiment with its hashes and its condition."""

    experiment: OnlineExperiment
    admission: Assignment
    assignment: Assignment
    condition: Expression | None
    start: float
    end: float
    """unix seconds"""

    @staticmethod
    def of(experiment: OnlineExperiment, types: Mapping[str, str]) -> "_Compiled":
        where = f"the experiment {experiment.name!r}: when"
        text = experiment.when
        return _Compiled(
            experiment=experiment,
            admission=experiment.admission,
            assignment=experiment.assignment,
            condition=None if text is None else compile_expression(text, types, where=where, result_type="boolean"),
            start=datetime.fromisoformat(experiment.start).timestamp(),
            end=datetime.fromisoformat(experiment.end).timestamp(),
        )

    def arm(self, query: Query, types: Mapping[str, str]) -> str | None:
        """Return the arm of a request, None where it takes no part."""
        one = self.experiment
        if not self.start <= query.now < self.end or (one.surfaces and query.surface not in one.surfaces):
            return None
        low, high = one.users
        if not low <= self.admission.hash_point(query.user) < high or not self._holds(query, types):
            return None
        return self.assignment.arm(query.user)

    def _holds(self, query: Query, types: Mapping[str, str]) -> bool:
        if self.condition is None:
            return True
        read = {name: types[name] for name in self.condition.names}
        return bool(self.condition(request_columns([request_values(query, read)], read))[0, 0])


@dataclass(frozen=True, kw_only=True)
class CompiledExperiments:
    """Experiments bound to the columns of requests."""

    parts: tuple[_Compiled, ...]
    types: Mapping[str, str]

    def assign(self, query: Query) -> tuple[dict[str, str], dict[str, Any]]:
        """Return experiment -> arm of a request, and the overrides of its policy by them."""
        arms: dict[str, str] = {}
        overrides: dict[str, Any] = {}
        for part in self.parts:
            if (arm := part.arm(query, self.types)) is None:
                continue
            one = part.experiment
            arms[one.name] = INTERLEAVED if one.interleave else arm
            overrides |= one.overrides if one.interleave else one.arms[arm].policy
        return arms, overrides


def _check_pair(one: OnlineExperiment, other: OnlineExperiment) -> None:
    if one.name == other.name:
        raise ConfigError(f"two experiments are called {one.name!r}; give each its own name")
    if not one.overlaps(other):
        return
    together = one.layer and one.layer == other.layer
    disjoint = one.users[1] <= other.users[0] or other.users[1] <= one.users[0]
    if together and not disjoint:
        raise ConfigError(
            f"the experiments {one.name!r} and {other.name!r} of the layer {one.layer!r} have users in common at the same "
            f"time: {list(one.users)} and {list(other.users)}; give them parts that do not overlap, or other layers"
        )
    if not together and (both := sorted(one.changed & other.changed)):
        raise ConfigError(
            f"the experiments {one.name!r} and {other.name!r} both change policy.{both[0]} of the same requests; "
            "put them into one layer, with parts of its users that do not overlap"
        )


TEXTS, LISTS = ("hypothesis", "primary", "layer", "when"), ("surfaces", "guardrails", "less")
NEEDED = ("name", "hypothesis", "arms", "primary", "start", "end")
NUMBERS = ("effect", "planned_users", "least_share")
KEYS = (*NEEDED, "layer", "users", "when", "surfaces", "guardrails", "less", *NUMBERS, "interleave")


def _experiment(index: int, document: Any) -> OnlineExperiment:
    where = f"experiments[{index}]"
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where} is {document!r}; write a mapping with {', '.join(NEEDED)}")
    if unknown := [str(key) for key in document if key not in KEYS]:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], KEYS)}")
    if absent := [key for key in NEEDED if key not in document]:
        raise ConfigError(f"{where} lacks the key {absent[0]!r}; give {', '.join(NEEDED)}")
    where = f"the experiment {_name(f'{where}.name', document['name'])!r}"
    given: dict[str, Any] = {key: _text(f"{where}: {key}", document[key]) for key in TEXTS if key in document}
    if "when" in given:
        _check_syntax(f"{where}: when", given["when"])
    given |= {key: _texts(f"{where}: {key}", document[key]) for key in LISTS if key in document}
    given |= {key: moment(f"{where}: {key}", document[key]) for key in ("start", "end")}
    given |= {key: _number(f"{where}: {key}", document[key]) for key in ("effect", "least_share") if key in document}
    if "users" in document:
        given["users"] = _part(f"{where}: users", document["users"])
    if "interleave" in document:
        given["interleave"] = _yes_or_no(f"{where}: interleave", document["interleave"])
    if "planned_users" in document:
        given["planned_users"] = _whole(f"{where}: planned_users", document["planned_users"])
    return OnlineExperiment(name=document["name"], arms=_arms(where, document["arms"]), **given)


def _check_syntax(key: str, text: str) -> None:
    """Raise ConfigError for what is no expression; its columns are checked with a bundle."""
    try:
        conjuncts(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{key} is {text!r}, which is no expression: {error.args[0]}") from None


def _arms(where: str, document: Any) -> dict[str, Arm]:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: arms is {document!r}; write a mapping of names to share and policy")
    found = {}
    for name, written in document.items():
        own = f"{where}: arms.{_name(f'{where}: a name of an arm', name)}"
        if not isinstance(written, Mapping) or not {"share"} <= written.keys() <= {"share", "policy"}:
            raise ConfigError(f"{own} is {written!r}; write share, and policy where the arm changes something")
        share = _number(f"{own}.share", written["share"])
        if isinstance(written.get("policy"), Mapping) and INTERLEAVE in written["policy"]:
            raise ConfigError(f"{own}.policy has {INTERLEAVE}; write interleave: true beside the arms")
        found[str(name)] = Arm(share=share, policy=check_overrides(f"{own}.policy", written.get("policy", {})))
    return found


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise ConfigError(f"{key} is {str(value)[:40]!r}; write text of 1 to {MAX_TEXT} characters, in quotes")
    return value


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ConfigError(f"{key} is {str(value)[:40]!r}; write up to 64 letters, digits, _ and -")
    if value == NONE:
        raise ConfigError(f"{key} is {NONE!r}, by which figures name those who take no part; choose another name")
    return value


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{key} is {value!r}; write a list, for instance [{value}]")
    return tuple(_text(f"{key}[{index}]", one) for index, one in enumerate(value))


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ConfigError(f"{key} is {repr(value)[:40]}; write a number")
    return float(value)


def _yes_or_no(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {str(value)[:40]!r}; write true or false")
    return value


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise ConfigError(f"{key} is {str(value)[:40]}; write a whole number")
    return value


def _part(key: str, value: Any) -> tuple[float, float]:
    ends: Sequence[Any] = value if isinstance(value, list) else [0.0, value]
    if len(ends) != 2:
        raise ConfigError(f"{key} is {value!r}; write a part of 0 to 1, such as [0, 0.5]")
    return _number(key, ends[0]), _number(key, ends[1])


def _plain(one: OnlineExperiment) -> dict[str, Any]:
    arms = [[name, arm.share, arm.policy] for name, arm in one.arms.items()]
    plain = {key: getattr(one, key) for key in KEYS if key != "arms"}
    for key, usual in (("least_share", None), ("interleave", False)):
        if plain[key] == usual:
            del plain[key]  # versions of sets without it stay what they are
    return {**plain, "arms": arms}
