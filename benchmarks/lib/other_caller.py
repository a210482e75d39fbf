"""A caller with a key of its own, which asks for slates and posts events while a stack is attacked."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from benchmarks.lib.attacked_stack import AttackedStack

PAUSE_S = 0.25
LOST, REFUSED = "no answer", "refused"


@dataclass(frozen=True, kw_only=True)
class Witnessed:
    """Answers to one caller within a time. forbidden: items in slates that a `must` forbids."""

    answers: int
    failures: int
    """answers that were none, or not 200"""
    forbidden: int


class OtherCaller:
    """Ids of acknowledged events, and counts of answers, since the beginning."""

    def __init__(self, stack: AttackedStack, token: str, items: Sequence[str]) -> None:
        self._stack, self._token, self._items = stack, token, items
        self._counts: Counter[str] = Counter()
        self._number = 0
        self.acknowledged: list[str] = []
        self.shown: set[str] = set()
        """forbidden items that were shown"""

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Call all the time during the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._call, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def witnessed(self, before: "Witnessed | None" = None) -> Witnessed:
        """Counts until now, less those before."""
        base = before or Witnessed(answers=0, failures=0, forbidden=0)
        failures = self._counts[LOST] + self._counts[REFUSED]
        return Witnessed(
            answers=self._counts["200"] + failures - base.answers,
            failures=failures - base.failures,
            forbidden=self._counts["forbidden"] - base.forbidden,
        )

    def _call(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._number += 1
            self._slate(f"caller {self._number}")
            self._event(f"caller {self._number}", f"kept-{self._number}")
            time.sleep(PAUSE_S)

    def _slate(self, user: str) -> None:
        answer = self._answer("/v1/recommend", {"user": user, "k": 20})
        if answer is not None and answer.status_code == 200:
            found = self._stack.forbidden(answer.json())
            self._counts["forbidden"] += len(found)
            self.shown.update(found)

    def _event(self, user: str, id: str) -> None:
        event = {
            "id": id,
            "user": user,
            "item": self._items[self._number % len(self._items)],
            "actions": {"click": 1.0},
        }
        answer = self._answer("/v1/events", {"events": [event]})
        if answer is not None and answer.status_code == 200:
            self.acknowledged += answer.json()["ids"]

    def _answer(self, path: str, body: object) -> httpx.Response | None:
        try:
            answer = self._stack.request("POST", path, self._token, body)
        except httpx.HTTPError:
            self._counts[LOST] += 1
            return None
        self._counts["200" if answer.status_code == 200 else REFUSED] += 1
        return answer
