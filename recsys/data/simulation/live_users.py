"""Simulated users before a running gateway: they ask for slates over HTTP, and their clicks come back as events.

The catalogue is that of the gateway; its items take the properties of the shop's items in turn. All is sent now: delays are
counted in requests, after which the events of a slate are sent.
"""

import http.client
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import numpy as np

from recsys.data.simulation.shop import SURFACES, SimulatedShop
from recsys.errors import ServingError, check_ranges

TIMEOUT_S = 60.0


class Door(Protocol):
    """Entrance of a recommender."""

    def recommend(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the slate of a request; ServingError without one."""
        ...

    def send(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Hand in events; ServingError where they are not taken."""
        ...


class HttpDoor:
    """A gateway by its address; requests go over one connection, opened again where it broke, closed at the end of `with`."""

    def __init__(self, address: str, token: str | None = None) -> None:
        """
        address: http://host:port; token: of an API key for slates and events
        """
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.netloc:
            raise ServingError(f"{address!r} is no address of a gateway; write http://host:port")
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def recommend(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the slate of a request; ServingError without one."""
        slate: Mapping[str, Any] = self._post("/v1/recommend", request)
        return slate

    def send(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Hand in events; ServingError where they are not taken."""
        self._post("/v1/events", {"events": list(events)})

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            self._connection.request("POST", path, json.dumps(body).encode(), self._headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServingError(f"{path} of {self._connection.host} cannot be reached ({error!r}); start it") from None
        if answer.status != 200:
            raise ServingError(f"{path} answered {answer.status}: {text[:200].decode(errors='replace')}")
        return json.loads(text)


@dataclass(frozen=True, kw_only=True)
class LiveTruth:
    """Totals of a visit, and their expectations given the slates."""

    requests: int
    failed: int
    """requests without a slate, and events that were not taken"""
    clicks: int
    surfaces: Sequence[str]
    """of each answered request"""
    probabilities: Sequence[np.ndarray]
    """of a click on each shown item, of each answered request"""

    @property
    def shown(self) -> int:
        return sum(map(len, self.probabilities))

    @property
    def expected_clicks(self) -> float:
        return float(sum(one.sum() for one in self.probabilities))


@dataclass(frozen=True, kw_only=True)
class LiveUsers:
    """Users of a shop who visit a gateway."""

    shop: SimulatedShop
    catalogue: Sequence[str]
    """ids of the gateway's items"""
    click: Mapping[str, float | str]
    """actions of a click, as the gateway's data set describes them"""
    delay: int = 3
    """requests of others until the events of a slate are sent"""
    named: float = 1.0
    """share of events that name their request"""
    prefix: str = "simulated-"
    """of user ids, so that they are no users of the training data"""
    rows: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_ranges("users", delay=(self.delay, 0, 1_000_000), named=(self.named, 0.0, 1.0))
        rows = {item: row % self.shop.items for row, item in enumerate(self.catalogue)}
        object.__setattr__(self, "rows", rows)

    def visit(self, door: Door, requests: int) -> LiveTruth:
        """Send requests one after the other, and the clicks on their slates; a door that fails is tried again next time."""
        rng = self.shop.random(8)
        waiting: deque[list[dict[str, Any]]] = deque([[] for _ in range(self.delay)])
        failed = clicks = 0
        surfaces, shown = list[str](), list[np.ndarray]()
        for _ in range(requests):
            user, surface = int(rng.integers(self.shop.users)), int(rng.integers(len(SURFACES)))
            try:
                slate = door.recommend(self._request(user, surface))
            except ServingError:
                failed += 1
                continue
            probabilities = self._probabilities(user, surface, slate)
            surfaces.append([*SURFACES][surface])
            shown.append(probabilities)
            clicked = rng.random(len(probabilities)) < probabilities
            clicks += int(clicked.sum())
            waiting.append(self._events(user, slate, clicked, rng))
            failed += not _sent(door, waiting.popleft())
        failed += sum(not _sent(door, events) for events in waiting)
        return LiveTruth(requests=requests, failed=failed, clicks=clicks, surfaces=surfaces, probabilities=shown)

    def _request(self, user: int, surface: int) -> dict[str, Any]:
        return {"user": f"{self.prefix}{user}", "k": self.shop.slate, "surface": [*SURFACES][surface]}

    def _probabilities(self, user: int, surface: int, slate: Mapping[str, Any]) -> np.ndarray:
        """[S] probability of a click on each item."""
        rows = np.array([[self.rows[item["item"]] for item in slate["items"]]], dtype=np.int64)
        (one,) = self.shop.click(np.array([user]), rows, np.array([surface]), np.zeros(1))
        found: np.ndarray = one
        return found

    def _events(
        self, user: int, slate: Mapping[str, Any], clicked: np.ndarray, rng: np.random.Generator
    ) -> list[dict[str, Any]]:
        """Click events of a slate, stamped now."""
        now = time.time()
        events = []
        for position in np.flatnonzero(clicked).tolist():
            event = {"user": f"{self.prefix}{user}", "item": slate["items"][position]["item"], "timestamp": now}
            named = {"request_id": slate["request_id"], "position": position} if rng.random() < self.named else {}
            events.append({**event, "actions": dict(self.click), **named})
        return events


def _sent(door: Door, events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a door took the events."""
    try:
        if events:
            door.send(events)
    except ServingError:
        return False
    return True
