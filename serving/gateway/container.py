"""Composition of the gateway: external dependencies and the objects built from them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TextIO

from recsys.bundle import Bundle
from recsys.data.forgotten import ForgottenList
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.stages import read_spec, recently_popular
from serving.events.forgetting import ForgettingWriter
from serving.events.record import Record, RecordWriter
from serving.gateway.adaptive_limit import AdaptiveLimit
from serving.gateway.anonymous_budget import AnonymousBudget
from serving.gateway.api_keys import Authorizer
from serving.gateway.breaker import Breaker
from serving.gateway.bulkhead import AdmissionQueue
from serving.gateway.fair_worker import FairWorker
from serving.gateway.fallback_chain import FallbackChain
from serving.gateway.fallback_slates import FallbackSlates, RetrieveStage, RulesStage
from serving.gateway.fallback_tiers import EXPLAINED, FULL, LIGHT, FallbackTiers
from serving.gateway.forgetting import EraseSpool, Forgetting
from serving.gateway.handlers import Handlers, ItemWriter
from serving.gateway.impression_queue import ImpressionQueue
from serving.gateway.lifespan import Lifespan
from serving.gateway.live_experiments import Experiments, NoExperiments
from serving.gateway.metrics import Metrics
from serving.gateway.pending_records import PendingRecords
from serving.gateway.personal_data import GuardedParser, PersonalDataGuard
from serving.gateway.pseudonyms import Pseudonyms
from serving.gateway.readiness import Readiness
from serving.gateway.recommend_handler import RecommendHandler
from serving.gateway.repeat_filter import RepeatFilter
from serving.gateway.request_log import RequestLog
from serving.gateway.request_middleware import RequestMiddleware
from serving.gateway.request_parser import RequestParser
from serving.gateway.settings import Settings
from serving.gateway.share_publisher import SharePublisher
from serving.gateway.state_reader import StateReader
from serving.gateway.user_handlers import UserHandlers
from serving.state.onboarding import Onboarding
from serving.state.protocols import Exposures, UserStates
from serving.state.seeding import seeded_states
from serving.triton.async_models import Models

ITEMS_PER_VALUE = 3
"""popular items that represent a liked value; they are not recommended to that user"""


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """External dependencies of the gateway. It answers also while those behind a protocol are down."""

    bundle: Bundle
    retrieve: RetrieveStage
    rules: RulesStage
    """both of this bundle, for slates without the models"""
    models: Models
    states: UserStates
    exposures: Exposures
    share_file: ShareFile
    """file from which the last stage reads the exposure shares"""
    writer: RecordWriter
    items: ItemWriter
    pseudonyms: Pseudonyms
    forgotten: ForgottenList
    """users whose earlier data is neither used nor accepted"""
    erase_spool: EraseSpool
    """erases the records that a function accepts"""
    keys: Authorizer | None
    """None disables authorization, for local use only"""
    settings: Settings
    log: TextIO
    """one JSON line a request"""
    clock: Callable[[], float]
    """monotonic, in seconds"""
    now: Callable[[], float]
    """unix seconds"""
    checks: Mapping[str, Callable[[], str | None]] = field(default_factory=dict)
    """component -> why it makes the gateway not ready, None while it does not: the disks"""
    recovered: Sequence[Record] = ()
    """records of users that an earlier process left in the spool: the user states do not know them yet"""
    experiments: Experiments = field(default_factory=NoExperiments)
    lifespan: AbstractAsyncContextManager[None] = field(default_factory=nullcontext)
    """resources kept open for the lifetime of the application"""


class Container:
    """Builds each object once, on first use."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.dependencies, self.settings = dependencies, dependencies.settings

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(self.dependencies.rules.policy.sources)

    @cached_property
    def log(self) -> RequestLog:
        return RequestLog(self.dependencies.log, context=self.settings.logged_context)

    @cached_property
    def parser(self) -> RequestParser:
        parser = RequestParser.of(self.dependencies.bundle, limits=self.settings.limits, now=self.dependencies.now)
        guard = PersonalDataGuard(mode=self.settings.personal_data, count=self.metrics.personal_data)
        return GuardedParser.over(parser, guard)

    @cached_property
    def writer(self) -> RecordWriter:
        return ForgettingWriter(self.dependencies.writer, self.dependencies.forgotten)

    @cached_property
    def fallbacks(self) -> FallbackSlates:
        return FallbackSlates(
            self.dependencies.retrieve, self.dependencies.rules, recently_popular(self.dependencies.bundle)
        )

    @cached_property
    def publisher(self) -> SharePublisher:
        return SharePublisher(
            self.dependencies.exposures, self.dependencies.share_file, interval_s=self.settings.exposure_every_s
        )

    @cached_property
    def readiness(self) -> Readiness:
        settings, rules = self.settings, self.dependencies.rules
        description = "1 where the rules are lost and no slate is served"
        self.metrics.gauge("recsys_rules_lost", description, lambda: float(rules.lost is not None))
        readiness = Readiness(
            self.dependencies.models,
            (FULL, LIGHT),
            release=self.dependencies.bundle.fingerprint,
            checks=self.dependencies.checks,
            instant={"rules": lambda: rules.lost},
            interval_s=settings.probe_every_s,
            timeout_s=settings.probe_s,
        )
        description = "1 while the model server is of another release than the gateway"
        self.metrics.gauge("recsys_models_of_another_release", description, lambda: float(readiness.mixed))
        return readiness

    @cached_property
    def impressions(self) -> ImpressionQueue:
        impressions = ImpressionQueue(
            self.writer,
            max_records=self.settings.impressions_most,
            max_bytes=self.settings.impressions_mib << 20,
            batch=self.settings.impressions_batch,
            pause_s=self.settings.impressions_pause_s,
            count=self.metrics.impressions,
        )
        description = "Impressions queued for the log"
        self.metrics.gauge("recsys_impressions_waiting", description, lambda: len(impressions))
        description = "Size of the queued impressions as JSON"
        self.metrics.gauge("recsys_impressions_waiting_bytes", description, lambda: impressions.num_bytes)
        return impressions

    @cached_property
    def lifespan(self) -> Lifespan:
        return Lifespan(
            models=self.dependencies.models,
            fallbacks=self.fallbacks,
            impressions=self.impressions,
            readiness=self.readiness,
            publisher=self.publisher,
            forgetting=self.forgetting,
            settings=self.settings,
            optional_models=(EXPLAINED,) if self.parser.ranked else (),
        )

    @cached_property
    def middleware(self) -> RequestMiddleware:
        return RequestMiddleware(
            keys=self.dependencies.keys,
            anonymous=self.anonymous,
            log=self.log,
            metrics=self.metrics,
            max_body_bytes=self.settings.limits.body_bytes,
        )

    @cached_property
    def worker(self) -> FairWorker:
        return FairWorker(waiting=self.settings.requests_at_once + self.settings.requests_waiting)

    @cached_property
    def anonymous(self) -> AnonymousBudget:
        return AnonymousBudget(self.settings.anonymous, clock=self.dependencies.clock)

    @cached_property
    def slates(self) -> AdmissionQueue:
        """Queue of slate requests, whose limit follows what is answered in time."""
        return self._admission()

    @cached_property
    def limit(self) -> AdaptiveLimit:
        settings = self.settings
        limit = AdaptiveLimit(
            self.slates,
            first=min(settings.slates_at_once, settings.requests_at_once),
            least=max(1, min(settings.slates_at_once, settings.requests_at_once) // 4),
            most=settings.requests_at_once,
            budget_s=settings.budget_ms / 1_000,
            clock=self.dependencies.clock,
        )
        self.metrics.gauge("recsys_slates_at_once", "Limit of concurrent slate requests", lambda: limit.value)
        return limit

    @cached_property
    def admission(self) -> AdmissionQueue:
        """Queue of all other requests."""
        return self._admission()

    def _admission(self) -> AdmissionQueue:
        settings = self.settings
        return AdmissionQueue(
            max_running=settings.requests_at_once,
            waiting=settings.requests_waiting,
            wait_s=settings.wait_ms / 1_000,
            overload_s=settings.overload_ms / 1_000,
            calm_s=settings.calm_s,
            clock=self.dependencies.clock,
        )

    @cached_property
    def pending(self) -> PendingRecords:
        pending = PendingRecords(
            read_spec(self.dependencies.bundle),
            max_users=self.settings.pending_most,
            max_bytes=self.settings.pending_mib << 20,
            keep_s=self.settings.pending_s,
            clock=self.dependencies.clock,
            forgotten=self.dependencies.forgotten.current,
        )
        pending.add(self.dependencies.recovered)
        description = "Users with pending records"
        self.metrics.gauge("recsys_pending_users", description, lambda: len(pending))
        description = "Size of the pending records as JSON"
        self.metrics.gauge("recsys_pending_bytes", description, lambda: pending.num_bytes)
        return pending

    @cached_property
    def state_breaker(self) -> Breaker:
        return self.tiers.breaker()

    @cached_property
    def states(self) -> StateReader:
        timeout_s = self.settings.state_ms / 1_000
        return StateReader(
            self.dependencies.states,
            seed_state=seeded_states(
                self.dependencies.bundle, self.dependencies.pseudonyms.stored, self.dependencies.forgotten.current
            ),
            breaker=self.state_breaker,
            timeout_s=timeout_s,
            pending=self.pending,
            forgotten=self.dependencies.forgotten.current,
        )

    @cached_property
    def forgetting(self) -> Forgetting:
        forgetting = Forgetting(
            self.dependencies.forgotten,
            pending=self.pending,
            stale_cache=self.tiers.stale_cache,
            erase_spool=self.dependencies.erase_spool,
            now=self.dependencies.now,
            poll_s=self.settings.forgotten_every_s,
        )
        description = "Ids of users who are forgotten but not removed from every file yet"
        self.metrics.gauge("recsys_forgotten_open", description, lambda: forgetting.num_open)
        return forgetting

    @cached_property
    def user_handlers(self) -> UserHandlers:
        return UserHandlers(
            parser=self.parser,
            pseudonyms=self.dependencies.pseudonyms,
            states=self.states,
            forgetting=self.forgetting,
        )

    @cached_property
    def tiers(self) -> FallbackTiers:
        return FallbackTiers(
            self.dependencies.models,
            self.fallbacks,
            self.settings,
            worker=self.worker,
            release=self.dependencies.bundle.fingerprint,
            clock=self.dependencies.clock,
            forgotten=self.dependencies.forgotten.current,
        )

    @cached_property
    def recommend(self) -> RecommendHandler:
        tiers, explained = self.tiers.all(), self.tiers.explained()
        self.metrics.add_breakers(
            {"state": self.state_breaker, **{tier.name: tier.breaker for tier in (explained, *tiers)}}
        )
        return RecommendHandler(
            middleware=self.middleware,
            parser=self.parser,
            worker=self.worker,
            pseudonyms=self.dependencies.pseudonyms,
            states=self.states,
            experiments=self.dependencies.experiments,
            repeat_filter=RepeatFilter(self.dependencies.rules),
            publisher=self.publisher,
            chain=FallbackChain(tiers, clock=self.dependencies.clock, metrics=self.metrics),
            explain_chain=FallbackChain((explained, *tiers), clock=self.dependencies.clock, metrics=self.metrics),
            impressions=self.impressions,
            metrics=self.metrics,
            log=self.log,
            limit=self.limit,
            budget_ms=self.settings.budget_ms,
            explain_ms=self.settings.explain_ms,
            clock=self.dependencies.clock,
            now=self.dependencies.now,
        )

    @cached_property
    def handlers(self) -> Handlers:
        return Handlers(
            middleware=self.middleware,
            parser=self.parser,
            worker=self.worker,
            fallbacks=self.fallbacks,
            items=self.dependencies.items,
            pseudonyms=self.dependencies.pseudonyms,
            writer=self.writer,
            states=self.states,
            pending=self.pending,
            onboarding=Onboarding(
                self.dependencies.bundle, objectives=self.settings.liked, items_per_value=ITEMS_PER_VALUE
            ),
            metrics=self.metrics,
            events_s=self.settings.events_s,
            now=self.dependencies.now,
        )
