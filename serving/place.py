"""Where an exported bundle is served from, and where what serves it keeps what it writes."""

from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ServingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Two folders.

    serve/bundle/ models/ rules/ items/     what export.py wrote, and what was published since
    serve/exposure/     what was shown to everybody
    live/keys.json      who may ask, hashed           live/identity.key   what users' pseudonyms are made with
    live/first.key      a token for the owner of this machine
    live/broker/ spool/                                the event log, and what waits for it
    live/states.db or valkey/                          what is known of users now
    live/events/                                       the log as Parquet, for training
    live/rebuild                                       there while states are to be made anew from live/events
    live/stack.log      what everybody said            live/running.json   who runs, and where they listen
    """

    serve: Path
    live: Path

    def check(self) -> None:
        """ServingError where nothing was exported."""
        if not (self.bundle / "manifest.json").is_file() or not self.models.is_dir():
            raise ServingError(
                f"{self.serve} holds no exported bundle; run `make demo`, or `python export.py bundle=...` with a bundle"
            )

    def make_live(self) -> None:
        """For the owner's eyes only, where there is none yet: raw user ids may lie there."""
        self.live.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def bundle(self) -> Path:
        return self.serve / "bundle"

    @property
    def models(self) -> Path:
        return self.serve / "models"

    @property
    def rules(self) -> Path:
        return self.serve / "rules"

    @property
    def items(self) -> Path:
        return self.serve / "items"

    @property
    def exposure(self) -> Path:
        return self.serve / "exposure"

    @property
    def keys(self) -> Path:
        return self.live / "keys.json"

    @property
    def first_key(self) -> Path:
        return self.live / "first.key"

    @property
    def identity(self) -> Path:
        return self.live / "identity.key"

    @property
    def broker(self) -> Path:
        return self.live / "broker"

    @property
    def spool(self) -> Path:
        return self.live / "spool"

    @property
    def states(self) -> Path:
        return self.live / "states.db"

    @property
    def sqlite(self) -> str:
        """URL of the same."""
        return f"sqlite:///{self.states}"

    @property
    def valkey(self) -> Path:
        return self.live / "valkey"

    @property
    def events(self) -> Path:
        return self.live / "events"

    @property
    def rebuild(self) -> Path:
        return self.live / "rebuild"

    @property
    def log(self) -> Path:
        return self.live / "stack.log"

    @property
    def running(self) -> Path:
        return self.live / "running.json"
