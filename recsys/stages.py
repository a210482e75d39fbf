"""A bundle -> its stages: what the Triton models and the in-process pipeline both run.

Each stage declares the tensors it reads and adds; `export` generates every Triton configuration from these lists.

Shapes: B queries, L history, C candidates, S sources, T objectives, E excluded items.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl

from recsys.bundle import Bundle
from recsys.candidates.merge import num_score_features, score_features
from recsys.candidates.sources import Sources
from recsys.contracts import PAD, Candidates, Query, Slate
from recsys.errors import BundleError
from recsys.features.encode import Arrays, ItemTable, column_array, encode_queries, missing_columns
from recsys.features.spec import FeatureSpec, Tensor
from recsys.index import FaissIndex
from recsys.policy.compose import CompiledPolicy, Policy
from recsys.policy.live import Follower
from recsys.policy.rules import RuleSet
from recsys.policy.store import RuleStore

QUERY = Tensor(name="QUERY", dtype="bytes", shape=(1,))
SLATE = Tensor(name="SLATE", dtype="bytes", shape=(1,))
ITEMS = Tensor(name="ITEMS", dtype="bytes", shape=(-1,))
UTILITIES = Tensor(name="UTILITIES", dtype="float32", shape=(-1,))

RANKER = "ranker.onnx"
PROBABILITIES, DEVIATIONS = "probabilities", "deviations"
STALE_RULES = "rules:stale"
"""the version that was published last cannot serve, an older one stands in"""

Tensors = Mapping[str, Any]
Offered = tuple[Sequence[Query], Candidates, np.ndarray | None, np.ndarray | None]
UserTower = Callable[[Arrays], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Retrieve:
    """Encode the query, search every source, merge, join the features of the candidates."""

    spec: FeatureSpec
    items: ItemTable
    user_tower: UserTower
    """request tensors -> [B, D]"""
    sources: Sources
    ranked: bool
    """whether a ranker follows, which reads the request and the features of its candidates"""
    name: str = "retrieve"
    optional_inputs: tuple[Tensor, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (QUERY,)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        num_sources = len(self.sources.names)
        return (*(ranker_inputs(self.spec, num_sources) if self.ranked else ()), *candidate_outputs(num_sources))

    def __call__(self, tensors: Tensors) -> Arrays:
        queries: Sequence[Query] = tensors["QUERY"]
        request, history = encode_queries(self.spec, self.items, queries)
        excluded = self._excluded(queries)
        merged = self.sources.search(self.user_tower(request), history, excluded)
        candidates = {
            "candidate_rows": merged.rows,
            "merged_scores": merged.scores,
            "source_scores": merged.source_scores,
            "degraded": self._degraded(queries, request, history),
        }
        if not self.ranked:
            return candidates
        features = self.items.join("candidate", merged.rows)
        return {**request, **features, "candidate_scores": score_features(merged), **candidates}

    def only(self, source: str) -> "Retrieve":
        """The same stage with one of its sources alone, for no ranker."""
        return replace(self, sources=self.sources.only(source), ranked=False)

    def _excluded(self, queries: Sequence[Query]) -> np.ndarray:
        """[B, E] rows of all a user has met or asks not to see, PAD at the end."""
        known = self.items.rows
        listed = [
            sorted(
                {known[item] for item in (*(event.item for event in query.history), *query.exclude) if item in known}
            )
            for query in queries
        ]
        excluded = np.full((len(queries), max(map(len, listed), default=0)), PAD, dtype=np.int64)
        for place, rows in enumerate(listed):
            excluded[place, : len(rows)] = rows
        return excluded

    def _degraded(self, queries: Sequence[Query], request: Arrays, history: np.ndarray) -> np.ndarray:
        """[B, 1] JSON lists: what of each query was missing, unknown or of the wrong kind."""
        flags = [self._history_flags(query, rows) for query, rows in zip(queries, history, strict=True)]
        for name, table in (("profile", self.spec.profile), ("context", self.spec.context)):
            encoded = {part: request[f"{name}_{part}"] for part in table.widths}
            for row, columns in enumerate(missing_columns(table, encoded, len(queries))):
                flags[row] += [f"{name}:{column}" for column in columns]
        return np.array([[json.dumps(one).encode()] for one in flags], dtype=object)

    def _history_flags(self, query: Query, rows: np.ndarray) -> list[str]:
        if (rows != PAD).any():
            return []
        if not query.history:
            return ["history:empty"]
        known = any(event.item in self.items.rows for event in query.history)
        return ["history:no-objective" if known else "history:unknown"]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One calibrated probability an objective for each candidate, and how sure the ranker is of it."""

    inputs: tuple[Tensor, ...]
    num_objectives: int
    model: Callable[[Arrays], Arrays]
    uncertain: bool
    """whether the model gives deviations, as it does where the policy of its bundle wants them: they take a sixth of its
    time. Without them, also in an older bundle, Thompson sampling does not explore and says so.
    """
    name: str = "rank"
    optional_inputs: tuple[Tensor, ...] = ()

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return rank_outputs(self.num_objectives)[: 1 + self.uncertain]

    def __call__(self, tensors: Tensors) -> Arrays:
        return self.model({tensor.name: tensors[tensor.name] for tensor in self.inputs})


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Value, filters, diversity and explanations: candidates -> slates. Works without probabilities."""

    policy: CompiledPolicy
    num_sources: int
    num_objectives: int
    name: str = "rules"

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (QUERY, *candidate_outputs(self.num_sources))

    @property
    def optional_inputs(self) -> tuple[Tensor, ...]:
        """Absent when the ranker is left out."""
        return rank_outputs(self.num_objectives)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return SLATE, ITEMS, UTILITIES

    def __call__(self, tensors: Tensors) -> dict[str, list[Slate]]:
        return {"SLATE": self.policy.compose(*self.offered(tensors))}

    def rows(self, tensors: Tensors) -> np.ndarray:
        """The items of the same slates without their explanations, [B, K] catalogue rows, PAD behind the last."""
        return self.policy.rows(*self.offered(tensors))

    def offered(self, tensors: Tensors) -> Offered:
        """Queries, their candidates, the probabilities of these and their deviations, as the policy wants them."""
        candidates = Candidates(
            items=tensors["candidate_rows"],
            scores=tensors["merged_scores"],
            source_scores=tensors["source_scores"],
            degraded=tuple(tuple(json.loads(flags)) for flags in np.ravel(tensors["degraded"])),
        )
        return tensors["QUERY"], candidates, tensors.get(PROBABILITIES), tensors.get(DEVIATIONS)


@dataclass(frozen=True, kw_only=True)
class LiveRules:
    """The same by the rules that were published last, while they change. A batch is answered by one version."""

    follower: Follower[Rules]
    name: str = "rules"

    @property
    def policy(self) -> CompiledPolicy:
        return self.follower.now().value.policy

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.follower.now().value.inputs

    @property
    def optional_inputs(self) -> tuple[Tensor, ...]:
        return self.follower.now().value.optional_inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.follower.now().value.outputs

    def __call__(self, tensors: Tensors) -> dict[str, list[Slate]]:
        served = self.follower.now()
        slates = served.value(tensors)["SLATE"]
        if served.stale:
            slates = [replace(slate, degraded=(*slate.degraded, STALE_RULES)) for slate in slates]
        return {"SLATE": slates}

    def rows(self, tensors: Tensors) -> np.ndarray:
        return self.follower.now().value.rows(tensors)

    def offered(self, tensors: Tensors) -> Offered:
        return self.follower.now().value.offered(tensors)


Stages = tuple[Retrieve, Rank, Rules | LiveRules] | tuple[Retrieve, Rules | LiveRules]


def ranker_inputs(spec: FeatureSpec, num_sources: int) -> tuple[Tensor, ...]:
    """All that the ranker reads, in the order of its graph."""
    scores = Tensor(name="candidate_scores", dtype="float32", shape=(-1, num_score_features(num_sources)))
    return (*spec.request_tensors(), *spec.candidate_tensors(), scores)


def rank_outputs(num_objectives: int) -> tuple[Tensor, ...]:
    """Calibrated probabilities, and the standard deviations of their logits."""
    shape = (-1, num_objectives)
    return tuple(Tensor(name=name, dtype="float32", shape=shape) for name in (PROBABILITIES, DEVIATIONS))


def candidate_outputs(num_sources: int) -> tuple[Tensor, ...]:
    """What the rules read of retrieval."""
    return (
        Tensor(name="candidate_rows", dtype="int64", shape=(-1,)),
        Tensor(name="merged_scores", dtype="float32", shape=(-1,)),
        Tensor(name="source_scores", dtype="float32", shape=(-1, num_sources)),
        Tensor(name="degraded", dtype="bytes", shape=(1,)),
    )


class OnnxModel:
    """An ONNX file as a function of named arrays; one thread, because the server runs many."""

    def __init__(self, path: Path, inputs: Sequence[Tensor]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        wanted = {one.name for one in self.session.get_inputs()}
        if missing := sorted(wanted - {tensor.name for tensor in inputs}):
            raise BundleError(
                f"{path} reads the tensor {missing[0]!r}, which the feature spec does not give; retrain it"
            )
        _check_widths(path, {one.name: one.shape for one in self.session.get_inputs()}, inputs)
        self.names = frozenset(wanted)
        self.outputs = tuple(one.name for one in self.session.get_outputs())

    def __call__(self, arrays: Arrays) -> np.ndarray:
        """The first output."""
        return self.named(arrays)[self.outputs[0]]

    def named(self, arrays: Arrays) -> Arrays:
        """All outputs."""
        found = self.session.run(self.outputs, {name: arrays[name] for name in self.names})
        return dict(zip(self.outputs, found, strict=True))


def _check_widths(path: Path, shapes: Mapping[str, Sequence[Any]], inputs: Sequence[Tensor]) -> None:
    """BundleError for a graph that reads more or fewer features than its stage gives; names stand for any size."""
    for tensor in inputs:
        width, given = shapes.get(tensor.name, tensor.shape)[-1], tensor.shape[-1]
        if isinstance(width, int) and given != -1 and width != given:
            raise BundleError(
                f"{path} reads {width} features of {tensor.name!r}, this version gives {given}; train the bundle again"
            )


def read_spec(bundle: Bundle) -> FeatureSpec:
    """The feature spec, checked against the fingerprint in the manifest."""
    spec = FeatureSpec.from_documents(bundle.document("spec.json"), bundle.document("vocabularies.json"))
    if spec.fingerprint != bundle.spec_fingerprint:
        raise BundleError(
            f"{bundle.path}: spec.json and vocabularies.json have the fingerprint {spec.fingerprint}, the manifest says "
            f"{bundle.spec_fingerprint}; train the bundle again"
        )
    return spec


def read_catalogue(bundle: Bundle) -> pl.DataFrame:
    """The items as people see them: `item`, then the columns of the items table."""
    return pl.read_ipc(bundle.file("items.arrow"))


def load_retrieve(bundle: Bundle) -> Retrieve:
    spec = read_spec(bundle)
    items = ItemTable(ids=tuple(read_catalogue(bundle)["item"]), encoded=bundle.arrays("item_table.safetensors"))
    index = FaissIndex.read(bundle.file("index.faiss"))
    document, arrays = bundle.document("candidates.json"), bundle.arrays("candidates.safetensors")
    return Retrieve(
        spec=spec,
        items=items,
        user_tower=OnnxModel(bundle.file("user_tower.onnx"), spec.request_tensors()),
        sources=Sources.from_documents(document, arrays, index),
        ranked=bundle.has(RANKER),
    )


def load_rank(bundle: Bundle) -> Rank:
    spec = read_spec(bundle)
    possible = ranker_inputs(spec, len(bundle.document("candidates.json")["sources"]))
    model = OnnxModel(bundle.file(RANKER), possible)
    inputs = tuple(tensor for tensor in possible if tensor.name in model.names)
    return Rank(
        inputs=inputs,
        num_objectives=spec.num_objectives,
        model=model.named,
        uncertain=DEVIATIONS in model.outputs,
    )


def load_rules(bundle: Bundle, *, policy: Policy | None = None, rules: RuleSet | None = None) -> Rules:
    """The last stage; another policy or rule set than the bundle's own may take its place."""
    return rules_maker(bundle, policy=policy)(rules)


def rules_maker(bundle: Bundle, *, policy: Policy | None = None) -> Callable[[RuleSet | None], Rules]:
    """Reads the bundle once; makes the last stage of any rule set, of the bundle's own for None."""
    policy = policy or Policy.from_document(bundle.document("policy.yaml"))
    spec, types = read_spec(bundle), bundle.document("catalogue.json")
    catalogue = catalogue_columns(read_catalogue(bundle), types)
    vectors = bundle.arrays("item_vectors.safetensors")["vectors"]
    sources = tuple(source["name"] for source in bundle.document("candidates.json")["sources"])

    def make(rules: RuleSet | None) -> Rules:
        compiled = policy.compile(
            rules=RuleSet.parse(bundle.document("rules.yaml")) if rules is None else rules,
            catalogue=catalogue,
            types=types,
            request_types=request_types(spec),
            vectors=vectors,
            objectives=tuple(spec.objectives),
            sources=sources,
            bundle_fingerprint=bundle.fingerprint,
        )
        return Rules(policy=compiled, num_sources=len(sources), num_objectives=spec.num_objectives)

    return make


def load_live_rules(bundle: Bundle, rules_store: Path) -> LiveRules:
    """The last stage by the current version of a rule store; by the bundle's own rules where nothing was published."""
    return LiveRules(follower=Follower(RuleStore(rules_store), rules_maker(bundle)))


def request_types(spec: FeatureSpec) -> dict[str, str]:
    """What rules may read of a request's profile and context: {"user.age": "number", ...}."""
    return {
        f"{owner}.{column.name}": column.kind
        for owner, table in (("user", spec.profile), ("context", spec.context))
        for column in table.of_kind("category", "categories", "number")
    }


def load_stages(bundle: Bundle, *, rules_store: Path | None = None) -> Stages:
    """All stages of a verified bundle, ready for `pipeline.recommend`; it may have no ranker.

    rules_store: a folder of published rules that the last stage follows; None for the bundle's own rules.
    """
    rules = load_rules(bundle) if rules_store is None else load_live_rules(bundle, rules_store)
    if not bundle.has(RANKER):
        return load_retrieve(bundle), rules
    return load_retrieve(bundle), load_rank(bundle), rules


def catalogue_columns(catalogue: pl.DataFrame, types: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The catalogue as rules read it: {column: [N]} with the item ids under "item"."""
    columns = {name: column_array(kind, catalogue[name].to_list()) for name, kind in types.items()}
    return {**columns, "item": np.array(catalogue["item"].to_list(), dtype=object)}
