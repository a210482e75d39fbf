"""What the gateway is made of: parts from outside, and all that is built of them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TextIO

from recsys.bundle import Bundle
from recsys.policy.exposure_file import ShareFile
from recsys.stages import read_spec, recently_popular
from serving.events.record import Writer
from serving.gateway.breaker import Breaker
from serving.gateway.documents import Documents
from serving.gateway.door import Door
from serving.gateway.fallbacks import Fallbacks, RetrieveStage, RulesStage
from serving.gateway.identities import Identities
from serving.gateway.impressions import Impressions
from serving.gateway.keys import Keyring
from serving.gateway.ladder import Ladder
from serving.gateway.lifetime import Lifetime
from serving.gateway.logs import RequestLog
from serving.gateway.metrics import Metrics
from serving.gateway.pending import Pending
from serving.gateway.personal import Personal
from serving.gateway.readiness import Readiness
from serving.gateway.recommending import Recommending
from serving.gateway.rungs import EXPLAINED, FULL, LIGHT, Rungs
from serving.gateway.settings import Settings
from serving.gateway.shares import SharePublisher
from serving.gateway.slots import AdmissionQueue
from serving.gateway.tending import Items, Tending
from serving.gateway.triton import Models
from serving.gateway.user_states import StateReader
from serving.state.contract import Exposures, UserStates
from serving.state.onboarding import Onboarding
from serving.state.seeding import seeded_states

ITEMS_PER_VALUE = 3
"""popular items that stand for a liked value; they are not shown to that user"""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All that the gateway speaks to. What stands behind a protocol may be away; the gateway answers all the same."""

    bundle: Bundle
    retrieve: RetrieveStage
    rules: RulesStage
    """both of this bundle, for what is answered without the models"""
    models: Models
    states: UserStates
    exposures: Exposures
    share_file: ShareFile
    """where the last stage reads what `exposures` tells"""
    writer: Writer
    items: Items
    identities: Identities
    keys: Keyring | None
    """None lets everybody do everything, for this machine alone"""
    settings: Settings
    log: TextIO
    """one JSON line a request"""
    clock: Callable[[], float]
    """seconds, rising"""
    now: Callable[[], float]
    """unix seconds"""
    beside: AbstractAsyncContextManager[None] = field(default_factory=nullcontext)
    """what lives as long as the application"""


class Assembly:
    """Each thing is made once, when it is first asked for."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.settings = parts, parts.settings

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(self.parts.rules.policy.sources)

    @cached_property
    def log(self) -> RequestLog:
        return RequestLog(self.parts.log, context=self.settings.logged_context)

    @cached_property
    def documents(self) -> Documents:
        return Documents.of(self.parts.bundle, limits=self.settings.limits, now=self.parts.now)

    @cached_property
    def fallbacks(self) -> Fallbacks:
        return Fallbacks(self.parts.retrieve, self.parts.rules, recently_popular(self.parts.bundle))

    @cached_property
    def publisher(self) -> SharePublisher:
        return SharePublisher(self.parts.exposures, self.parts.share_file, every_s=self.settings.exposure_every_s)

    @cached_property
    def readiness(self) -> Readiness:
        settings = self.settings
        return Readiness(self.parts.models, (FULL, LIGHT), every_s=settings.probe_every_s, within_s=settings.probe_s)

    @cached_property
    def impressions(self) -> Impressions:
        impressions = Impressions(
            self.parts.writer,
            most=self.settings.impressions_most,
            batch=self.settings.impressions_batch,
            pause_s=self.settings.impressions_pause_s,
            count=self.metrics.impressions,
        )
        told = "Impressions that are not in the log yet"
        self.metrics.gauge("recsys_impressions_waiting", told, lambda: len(impressions))
        return impressions

    @cached_property
    def lifetime(self) -> Lifetime:
        return Lifetime(
            models=self.parts.models,
            fallbacks=self.fallbacks,
            impressions=self.impressions,
            readiness=self.readiness,
            publisher=self.publisher,
            settings=self.settings,
            warmed=(EXPLAINED,) if self.documents.ranked else (),
        )

    @cached_property
    def door(self) -> Door:
        return Door(
            keys=self.parts.keys,
            log=self.log,
            metrics=self.metrics,
            body_bytes=self.settings.limits.body_bytes,
            admission=self.admission,
        )

    @cached_property
    def admission(self) -> AdmissionQueue:
        settings = self.settings
        return AdmissionQueue(
            working=settings.requests_at_once,
            waiting=settings.requests_waiting,
            wait_s=settings.wait_ms / 1_000,
            overload_s=settings.overload_ms / 1_000,
            calm_s=settings.calm_s,
            clock=self.parts.clock,
        )

    @cached_property
    def pending(self) -> Pending:
        pending = Pending(
            read_spec(self.parts.bundle),
            most=self.settings.pending_most,
            keep_s=self.settings.pending_s,
            clock=self.parts.clock,
        )
        told = "Users of whom this gateway knows more than their states"
        self.metrics.gauge("recsys_pending_users", told, lambda: len(pending))
        return pending

    @cached_property
    def state_breaker(self) -> Breaker:
        return self.rungs.breaker()

    @cached_property
    def states(self) -> StateReader:
        slice_s = self.settings.state_ms / 1_000
        return StateReader(
            self.parts.states,
            seeded=seeded_states(self.parts.bundle, self.parts.identities.stored),
            breaker=self.state_breaker,
            slice_s=slice_s,
            pending=self.pending,
        )

    @cached_property
    def rungs(self) -> Rungs:
        return Rungs(self.parts.models, self.fallbacks, self.settings, clock=self.parts.clock)

    @cached_property
    def recommending(self) -> Recommending:
        steps, explained = self.rungs.all(), self.rungs.explained()
        self.metrics.watch({"state": self.state_breaker, **{rung.name: rung.breaker for rung in (explained, *steps)}})
        return Recommending(
            door=self.door,
            documents=self.documents,
            identities=self.parts.identities,
            states=self.states,
            personal=Personal(self.parts.rules),
            publisher=self.publisher,
            ladder=Ladder(steps, clock=self.parts.clock, watched=self.metrics),
            explaining=Ladder((explained, *steps), clock=self.parts.clock, watched=self.metrics),
            impressions=self.impressions,
            metrics=self.metrics,
            log=self.log,
            budget_ms=self.settings.budget_ms,
            explain_ms=self.settings.explain_ms,
            clock=self.parts.clock,
            now=self.parts.now,
        )

    @cached_property
    def tending(self) -> Tending:
        return Tending(
            door=self.door,
            documents=self.documents,
            fallbacks=self.fallbacks,
            items=self.parts.items,
            identities=self.parts.identities,
            writer=self.parts.writer,
            states=self.states,
            pending=self.pending,
            onboarding=Onboarding(self.parts.bundle, objectives=self.settings.liked, items_per_value=ITEMS_PER_VALUE),
            metrics=self.metrics,
            events_s=self.settings.events_s,
            now=self.parts.now,
        )
