"""Composition of the user states, and limits of everything that is stored."""

import asyncio
import logging
from dataclasses import dataclass

from recsys.bundle import Bundle
from recsys.data.forgotten import ForgottenList
from recsys.errors import ConfigError
from recsys.experiments.experiment_store import ExperimentStore
from recsys.policy.rules import RuleSet
from recsys.policy.rules.hot_reload import HotReloader
from recsys.policy.rules.store import RuleStore
from recsys.stages import read_spec
from serving.endpoints import Server
from serving.events.log_factory import (
    DEFAULT_LIMITS,
    LogLimits,
)
from serving.gateway.pseudonyms import UserPseudonyms
from serving.layout import DeploymentLayout
from serving.state.arm_rules import ArmRules
from serving.state.exposure_counts import ExposureColumns, ExposureCounts, Values
from serving.state.seeding import SeedResult, seed, seed_once
from serving.state.states import StateStore
from serving.state.store_factory import open_states

logger = logging.getLogger(__name__)

HALF_LIFE_S = 7 * 86_400.0
"""of exposure counts"""
STATE_READ_TIMEOUT_S, STATE_WRITE_TIMEOUT_S = 0.05, 5.0
"""of one call of the state store"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLimits:
    """Sizes and ages of the data that is kept while serving."""

    log: LogLimits = DEFAULT_LIMITS
    """of the broker"""
    spool_bytes: int = 1 << 30
    state_ttl_s: float | None = None
    """time to live of a state after the last event of its user; None keeps all"""
    event_days: float | None = None
    """age at which days of the Parquet log are removed; None keeps all"""


def open_user_states(layout: DeploymentLayout, bundle: Bundle, server: Server, ttl_s: float | None) -> StateStore:
    """States that count the column values named by exposure rules, published or added by arms of experiments.

    Invalid published rules leave the previous ones active; an invalid one of an arm is left out.
    """
    columns, arms = ExposureColumns(bundle), ArmRules(ExperimentStore(layout.experiments))

    def exposure_values(rules: RuleSet | None) -> Values:
        own = RuleSet.parse(bundle.document("rules.yaml")) if rules is None else rules
        counted = dict(columns(own.rules))
        for rule in arms.rules:
            try:
                counted |= columns((rule,))
            except ConfigError as error:
                logger.error("experiments: an arm's rule is not counted: %s", error)
        return counted

    follower = HotReloader(RuleStore(layout.rules), exposure_values, arms)
    exposure_counts = ExposureCounts(values=lambda: follower.current().value, half_life_s=HALF_LIFE_S)
    return open_states(
        server,
        read_spec(bundle),
        exposure=exposure_counts,
        read_timeout_s=STATE_READ_TIMEOUT_S,
        write_timeout_s=STATE_WRITE_TIMEOUT_S,
        ttl_s=ttl_s,
    )


def run_seed(layout: DeploymentLayout, state: Server, *, store_raw: bool, again: bool) -> SeedResult | None:
    """Seed the state store with the users of the training data; None if that is done already and not `again`.

    With `again`, BundleError for a bundle without users; ServingError for a store that does not answer.
    """
    layout.check()
    layout.make_live()
    bundle = Bundle.open(layout.bundle)
    pseudonyms = UserPseudonyms.from_file(layout.identity, store_raw=store_raw)
    forgotten = ForgottenList(layout.forgotten, pseudonyms.key).current()

    async def run() -> SeedResult | None:
        states = open_user_states(layout, bundle, state, None)
        try:
            return await (seed if again else seed_once)(states, bundle, pseudonyms.stored, forgotten)
        finally:
            await states.close()

    return asyncio.run(run())
