"""The four rungs of the ladder: two models of the server, the user's last good slate, the popular list. Above them, for who
asks for it, the model that also explains.
"""

from collections.abc import Callable
from typing import Any

import orjson

from recsys.errors import ServingError
from serving.gateway.breaker import Breaker
from serving.gateway.fallbacks import Fallbacks, SlateDocument
from serving.gateway.ladder import Question, Rung
from serving.gateway.last_good import LastGood
from serving.gateway.settings import Settings
from serving.gateway.slots import Slots
from serving.gateway.triton import Models

FULL, LIGHT, LAST_GOOD, POPULAR = NAMES = ("recommend", "recommend_light", "last_good", "popular")
EXPLAINED = "recommend_explained"
LEAST_MODEL_S = 0.005
LEAST_FALLBACK_S = 0.0


class Rungs:
    """Ways to answer a question. clock: seconds, rising."""

    def __init__(self, models: Models, fallbacks: Fallbacks, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._models, self._fallbacks, self._settings, self._clock = models, fallbacks, settings, clock
        self._last_good = LastGood(most=settings.last_good_most, ttl_s=settings.last_good_s, clock=clock)

    def all(self) -> tuple[Rung, ...]:
        """Best first."""
        light_s, fallback_s = self._settings.light_ms / 1_000, self._settings.fallback_ms / 1_000
        return (
            self._rung(FULL, self.full, light_s + fallback_s, LEAST_MODEL_S),
            self._rung(LIGHT, self.light, fallback_s, LEAST_MODEL_S),
            self._rung(LAST_GOOD, self.last_good, 0.0, LEAST_FALLBACK_S),
            self._rung(POPULAR, self.popular, 0.0, LEAST_FALLBACK_S),
        )

    def explained(self) -> Rung:
        """What stands above them for a question that asks for reasons. The others keep their budget, and a breaker of their
        own.
        """
        return self._rung(EXPLAINED, self.explain, self._settings.budget_ms / 1_000, LEAST_MODEL_S)

    async def explain(self, question: Question, time_s: float) -> SlateDocument:
        text = await self._models.infer(EXPLAINED, question.text, time_s=time_s, metadata=question.metadata)
        return _read(text, EXPLAINED)

    async def full(self, question: Question, time_s: float) -> SlateDocument:
        """Remembered for the time when no model answers."""
        text = await self._models.infer(FULL, question.text, time_s=time_s, metadata=question.metadata)
        slate = _read(text, FULL)
        kept = orjson.dumps({**slate, "exposure": {}}) if "exposure" in slate else text
        self._last_good.put((question.query.user, question.query.surface), slate["rules"], kept)
        return slate

    async def light(self, question: Question, time_s: float) -> SlateDocument:
        text = await self._models.infer(LIGHT, question.text, time_s=time_s, metadata=question.metadata)
        return _read(text, LIGHT)

    async def last_good(self, question: Question, time_s: float) -> SlateDocument | None:
        """By rules that are still the same, which are applied again all the same: the moment is another one."""
        whose = question.query.user, question.query.surface
        shown = self._last_good.get(whose, self._fallbacks.rules_hash)
        return None if shown is None else self._fallbacks.again(question.query, shown)

    async def popular(self, question: Question, time_s: float) -> SlateDocument:
        return self._fallbacks.popular(question.query)

    def breaker(self) -> Breaker:
        return Breaker(
            window=self._settings.breaker_window,
            failures=self._settings.breaker_failures,
            pause_s=self._settings.breaker_pause_s,
            longest_s=self._settings.breaker_longest_s,
            clock=self._clock,
        )

    def _rung(self, name: str, answer: Any, reserve_s: float, least_s: float) -> Rung:
        slots = Slots(working=self._settings.models_at_once, waiting=self._settings.models_waiting)
        return Rung(name=name, answer=answer, breaker=self.breaker(), slots=slots, reserve_s=reserve_s, least_s=least_s)


def _read(text: bytes, model: str) -> SlateDocument:
    try:
        slate: SlateDocument = orjson.loads(text)
    except ValueError:
        raise ServingError(
            f"the model {model!r} answered with something that is no slate; check that it is of the same version"
        ) from None
    return slate
