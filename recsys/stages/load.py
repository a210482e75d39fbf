"""A bundle -> its stages, as it was trained or following what changed since."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import polars as pl

from recsys.bundle import Bundle
from recsys.candidates.popularity import ItemList
from recsys.candidates.score_layout import ScoreLayout
from recsys.candidates.sources import MergedSources
from recsys.contracts import DEVIATIONS
from recsys.errors import BundleError, ConfigError
from recsys.features.batches import ItemBatch, RequestBatch
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.features.state import event_labels
from recsys.index import AS_TRAINED, FaissIndex, IndexChoice, PatchedIndex
from recsys.items.catalogue_overlay import CatalogueOverlay
from recsys.items.content import ITEM_TOWER, ItemContent
from recsys.items.live_state import LiveState
from recsys.items.rule_items import RuleItems, rule_columns
from recsys.items.schema import ItemSchema
from recsys.items.searchable_items import SearchableItems
from recsys.items.store import ItemStore
from recsys.items.text_encoders import read_text_encoder
from recsys.policy.cold_share import ColdShare
from recsys.policy.compose import Policy
from recsys.policy.excluded_items import HiddenItems
from recsys.policy.exposure.exposure_file import LiveShares, ShareFile
from recsys.policy.repeat import CompiledRepeat, SeenFilter
from recsys.policy.rules import RuleSet
from recsys.policy.rules.hot_reload import HotReloader, NoRuleStore
from recsys.policy.rules.last_good import LastGoodRules
from recsys.policy.rules.store import RuleStore
from recsys.stages.explain import Explain, KnownItems, RowsNow
from recsys.stages.live import LiveRetrieve, LiveRules
from recsys.stages.onnx import OnnxModel
from recsys.stages.stage import Rank, Retrieve, Rules, ranker_inputs
from recsys.tensors import Arrays

RANKER = "ranker.onnx"
POPULARITY = "popularity.safetensors"

Stages = tuple[Retrieve | LiveRetrieve, Rank, Rules | LiveRules] | tuple[Retrieve | LiveRetrieve, Rules | LiveRules]


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


def read_schema(bundle: Bundle) -> ItemSchema:
    """Read the schema of item changes."""
    return ItemSchema.of(bundle, read_spec(bundle))


def item_names(catalogue: pl.DataFrame, title: str | None) -> dict[str, str]:
    """Return item id -> display name."""
    shown = catalogue[title].to_list() if title in catalogue.columns else [None] * catalogue.height
    return {item: name or item for item, name in zip(catalogue["item"], shown, strict=True)}


def read_overlay(bundle: Bundle) -> CatalogueOverlay:
    """Its items before any change."""
    return CatalogueOverlay.of(read_schema(bundle), read_catalogue(bundle))


def read_policy(bundle: Bundle) -> Policy:
    return Policy.from_document(bundle.document("policy.yaml"))


def load_retrieve(bundle: Bundle, index: IndexChoice = AS_TRAINED) -> Retrieve:
    """The first stage over the items of a bundle, searched by the chosen index."""
    spec, overlay = read_spec(bundle), read_overlay(bundle)
    items = ItemTable(ids=tuple(overlay.row_of), encoded=bundle.arrays("item_table.safetensors"))
    searched = index.of(FaissIndex.read(bundle.file("index.faiss")))
    document, arrays = bundle.document("candidates.json"), bundle.arrays("candidates.safetensors")
    return Retrieve(
        spec=spec,
        items=items,
        user_tower=OnnxModel(bundle.file("user_tower.onnx"), RequestBatch.specs(spec.sizes)),
        sources=MergedSources.from_documents(document, arrays, searched),
        ranked=bundle.has(RANKER),
        seen=seen_filter(read_repeat(bundle, spec), spec),
        hiding=HiddenItems(types=overlay.schema.rule_types, column=overlay.column),
        release=bundle.fingerprint,
    )


def load_live_retrieve(
    bundle: Bundle, items_store: Path, last_good: Path | None = None, index: IndexChoice = AS_TRAINED
) -> LiveRetrieve:
    """The first stage over the items of a bundle and the changes in an item store, which need not exist.

    last_good: folder with a copy of the changes that were served last, for a start without their store.
    """
    trained, nothing = load_retrieve(bundle, index), np.empty(0, dtype=np.int64)
    below = trained.sources.index
    assert not isinstance(below, PatchedIndex)
    items = SearchableItems(
        overlay=read_overlay(bundle),
        content=_item_content(bundle, trained.spec),
        table=trained.items,
        below=below,
        rows=nothing,
        vectors=below.vectors(nothing),
    )
    return LiveRetrieve(trained, LiveState(ItemStore(items_store), items, _kept_items(last_good)))


def load_rank(bundle: Bundle) -> Rank:
    num_sources = len(bundle.document("candidates.json")["sources"])
    return rank_by_graph(bundle.file(RANKER), read_spec(bundle), num_sources, bundle.fingerprint)


def rank_by_graph(graph: Path, spec: FeatureSpec, num_sources: int, release: str) -> Rank:
    """Build the rank stage of an exported ranker."""
    possible = ranker_inputs(spec, num_sources)
    model = OnnxModel(graph, possible)
    return Rank(
        features=tuple(tensor for tensor in possible if tensor.name in model.names),
        num_objectives=spec.num_objectives,
        model=model.named,
        uncertain=DEVIATIONS in model.outputs,
        release=release,
    )


def load_rules(bundle: Bundle, *, policy: Policy | None = None, rules: RuleSet | None = None) -> Rules:
    """The last stage; another policy or rule set than the bundle's own may take its place."""
    return rules_maker(bundle, policy=policy)(rules)


def read_repeat(bundle: Bundle, spec: FeatureSpec) -> CompiledRepeat:
    """When its items may be shown again; ConfigError for bars that do not fit the spec."""
    return read_policy(bundle).repeat.compile(tuple(spec.objectives), clock=spec.clock)


def seen_filter(repeat: CompiledRepeat, spec: FeatureSpec) -> SeenFilter:
    """The items that histories bar, by the objectives of a spec."""
    return SeenFilter(repeat=repeat, labels=partial(event_labels, spec=spec))


def rules_maker(
    bundle: Bundle, *, policy: Policy | None = None, items: LiveState[RuleItems] | None = None
) -> Callable[[RuleSet | None], Rules]:
    """Reads the bundle once; makes the last stage of any rule set, of the bundle's own for None.

    items: what rules read at the moment a stage is made; None for the bundle's own.
    """
    policy = policy or read_policy(bundle)
    spec, trained = read_spec(bundle), read_rule_items(bundle) if items is None else items.state
    documents = bundle.document("candidates.json")["sources"]
    sources, cold = tuple(source["name"] for source in documents), ColdShare.of(documents)
    popularity = popularity_shares(bundle) if policy.popularity.reads_events else None

    def make(rules: RuleSet | None) -> Rules:
        now = trained if items is None else items.state
        compiled = policy.compile(
            rules=RuleSet.parse(bundle.document("rules.yaml")) if rules is None else rules,
            catalogue=now.columns,
            types=now.overlay.schema.rule_types,
            request_types=request_types(spec),
            vectors=now.vectors,
            objectives=tuple(spec.objectives),
            sources=sources,
            bundle_fingerprint=bundle.fingerprint,
            popularity=popularity,
            withdrawn=now.overlay.hidden,
            seen=seen_filter(policy.repeat.compile(tuple(spec.objectives), clock=spec.clock), spec),
            cold=cold,
        )
        return Rules(policy=compiled, num_sources=len(sources), num_objectives=spec.num_objectives)

    return make


def load_explain(bundle: Bundle, items_store: Path | None = None, last_good: Path | None = None) -> Explain:
    """The stage behind the slates; ConfigError for a bundle without a ranker."""
    if not bundle.has(RANKER):
        raise ConfigError(
            f"{bundle.path} has no ranker whose reasons could be asked for; train a bundle without ~ranking"
        )
    spec, known = read_spec(bundle), KnownItems(overlay=read_overlay(bundle))
    sources = bundle.document("candidates.json")["sources"]
    popular = [place for place, one in enumerate(sources) if one["kind"] == ItemList.kind and one["newest_of"] is None]
    return Explain(
        spec=spec,
        rank=load_rank(bundle),
        value=read_policy(bundle).value.compile(tuple(spec.objectives)),
        rows=(lambda: known.overlay.row_of)
        if items_store is None
        else RowsNow(LiveState(ItemStore(items_store), known, _kept_items(last_good))),
        popular=ScoreLayout(tuple(sources)).columns_of(popular),
    )


def popularity_shares(bundle: Bundle) -> np.ndarray | None:
    """[N] float64, share of each item in the recent events that were known before the bundle's test period; None for an
    older bundle, which does not tell.
    """
    if not bundle.has(POPULARITY):
        return None
    events = bundle.arrays(POPULARITY)["events"]
    return events / max(events.sum(), 1)


def recently_popular(bundle: Bundle) -> ItemList | None:
    """The items with the most recent events, whatever the candidate sources are; None for an older bundle."""
    if (shares := popularity_shares(bundle)) is None:
        return None
    rows = np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)]
    return ItemList(rows=rows, scores=(shares[rows] / shares.max()).astype(np.float32))


def load_live_rules(
    bundle: Bundle,
    rules_store: Path | None,
    items_store: Path | None,
    shares_folder: Path | None = None,
    last_good: Path | None = None,
) -> LiveRules:
    """The last stage by the current version of a rule store, the changes in an item store and the file of shares in a folder,
    as far as they are given.

    The bundle's own rules serve where nothing was published. last_good: folder with copies of the rules and items that were
    served last, which this stage writes, for a start without their stores.
    """
    kept, trained = _kept_items(last_good), read_rule_items(bundle)
    items = None if items_store is None else LiveState(ItemStore(items_store), trained, kept, copies=True)
    published = NoRuleStore() if rules_store is None else RuleStore(rules_store)
    copy = None if last_good is None else LastGoodRules(last_good)
    return LiveRules(
        follower=HotReloader(published, rules_maker(bundle, items=items), items, copy),
        items=items,
        shares=None if shares_folder is None else LiveShares(ShareFile(shares_folder)),
    )


def _kept_items(last_good: Path | None) -> ItemStore | None:
    return None if last_good is None else ItemStore(last_good / "items")


def request_types(spec: FeatureSpec) -> dict[str, str]:
    """Return the types of profile and context columns that rules may read: {"user.age": "number", ...}."""
    return {
        f"{owner}.{column.name}": column.kind
        for owner, table in (("user", spec.profile), ("context", spec.context))
        for column in table.of_kind("category", "categories", "number")
    }


def load_stages(
    bundle: Bundle,
    *,
    rules_store: Path | None = None,
    items_store: Path | None = None,
    shares_folder: Path | None = None,
    index: IndexChoice = AS_TRAINED,
) -> Stages:
    """All stages of a verified bundle, ready for `pipeline.recommend`; it may have no ranker.

    rules_store: a folder of published rules that the last stage follows; None for the bundle's own rules.
    items_store: a folder of changed items that the first and the last stage follow; None for the bundle's own items.
    shares_folder: where the last stage follows what was shown to everybody; None where queries bring all that it reads.
    index: what the first stage searches by.
    """
    live = partial(load_live_retrieve, bundle, index=index)
    retrieve = load_retrieve(bundle, index) if items_store is None else live(items_store)
    if rules_store is None and items_store is None and shares_folder is None:
        rules: Rules | LiveRules = load_rules(bundle)
    else:
        rules = load_live_rules(bundle, rules_store, items_store, shares_folder)
    if not bundle.has(RANKER):
        return retrieve, rules
    return retrieve, load_rank(bundle), rules


def read_rule_items(bundle: Bundle) -> RuleItems:
    """Read the columns and vectors of a bundle's items for rules, before any change."""
    overlay = read_overlay(bundle)
    return RuleItems(
        overlay=overlay,
        content=_item_content(bundle, read_spec(bundle)),
        columns=rule_columns(overlay.catalogue, overlay.schema.rule_types),
        vectors=bundle.arrays("item_vectors.safetensors")["vectors"],
    )


def _item_content(bundle: Bundle, spec: FeatureSpec) -> ItemContent:
    """The tower is opened when the first item has to be embedded."""

    @cache
    def tower() -> OnnxModel:
        return OnnxModel(bundle.file(ITEM_TOWER), ItemBatch.specs(spec.sizes))

    def embed(encoded: Arrays) -> np.ndarray:
        return tower()(encoded)

    return ItemContent(spec=spec, text=read_text_encoder(bundle), tower=embed)
