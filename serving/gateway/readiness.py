"""Readiness: warmed up, not draining, and every model answers a synthetic query in time, by the release of this gateway."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import orjson

from recsys.errors import RecsysError, ReleaseError, where
from serving.gateway.fallback_tiers import read_slate
from serving.triton.async_models import Models

PROBE_QUERY = orjson.dumps({"user": "", "now": 0.0, "k": 1, "request_id": "probe"})

logger = logging.getLogger(__name__)


class Readiness:
    """Probes each model every `interval_s` seconds with `timeout_s`, and runs the other checks as often, in a thread.

    release: fingerprint of the bundle. checks: component -> function that returns a reason for not being ready, or None.
    instant: the same, asked at every reading
    """

    def __init__(
        self,
        models: Models,
        names: Sequence[str],
        *,
        release: str,
        checks: Mapping[str, Callable[[], str | None]],
        instant: Mapping[str, Callable[[], str | None]],
        interval_s: float,
        timeout_s: float,
    ) -> None:
        self._models, self._names, self._interval_s, self._timeout_s = models, tuple(names), interval_s, timeout_s
        self._release, self._checks, self._instant = release, checks, instant
        self._mixed: set[str] = set()
        self._reasons: dict[str, str] = {"gateway": "it is still warming up"}
        self._task: asyncio.Task[None] | None = None

    @property
    def reasons(self) -> Mapping[str, str]:
        """Unready component -> reason; empty when ready."""
        found = {name: reason for name, look in self._instant.items() if (reason := look()) is not None}
        return {**self._reasons, **found}

    @property
    def mixed(self) -> bool:
        """Whether a model is of another release than this gateway, or its stages are of several."""
        return not self._mixed.isdisjoint(self._names)

    async def warm(self, timeout_s: float, optional: Sequence[str] = ()) -> None:
        """Wait for the first answers of all models, which may take long; failures of `optional` models are ignored."""
        await asyncio.gather(self._check_all(timeout_s), *(self._check(name, timeout_s) for name in optional))
        self._reasons.pop("gateway", None)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Report not ready and stop probing, before the shutdown."""
        self._reasons["gateway"] = "it is shutting down"
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._check_all(self._timeout_s)

    async def _check_all(self, timeout_s: float) -> None:
        reasons = await asyncio.gather(
            *(self._check(name, timeout_s) for name in self._names),
            *(self._run_check(name, check) for name, check in self._checks.items()),
        )
        for name, reason in zip((*self._names, *self._checks), reasons, strict=True):
            if reason is None:
                self._reasons.pop(name, None)
            else:
                self._reasons[name] = reason

    async def _run_check(self, name: str, check: Callable[[], str | None]) -> str | None:
        try:
            return await asyncio.to_thread(check)
        except Exception as error:  # must not end the probing
            logger.error("the check of %s failed with %s", name, where(error))
            return "it cannot be checked"

    async def _check(self, name: str, timeout_s: float) -> str | None:
        try:
            async with asyncio.timeout(timeout_s):
                text = await self._models.infer(name, PROBE_QUERY, time_s=timeout_s, metadata=())
            read_slate(text, name, self._release)
        except TimeoutError:
            return f"the model did not answer within {timeout_s:g} s"
        except ReleaseError as error:
            self._mixed.add(name)
            return str(error)
        except RecsysError:
            return "the model refused a synthetic query or cannot be reached"
        except Exception as error:  # an answer that no release gives must not end the probing
            logger.error("the probe of %s failed with %s", name, where(error))
            return "the model answers with something that is no slate"
        self._mixed.discard(name)
        return None
