"""Folder layout of a deployment: the exported bundle and the files written while serving."""

import json
from dataclasses import dataclass
from pathlib import Path

from recsys.commands import command_of
from recsys.encryption import EncryptionKey, configured_encryption_key
from recsys.errors import ConfigError, ServingError
from recsys.export.release_manifest import check_release
from recsys.export.releases import served_release, state_folder
from recsys.measurement.outcomes import FOLDER
from recsys.stores.atomic_files import atomic_file, create
from serving.private_folder import FILE_MODE, close_to_others, make_private


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentLayout:
    """Two folders.

    serve/releases/<fingerprint>/           written by export.py: bundle/ and models/
    serve/current                           link to the release that the next start serves
    serve/rules/ items/                     later publications
    serve/experiments/                      published experiments
    serve/exposure/                         exposure shares
    serve/last_good/                        rules and items that served last, for when their stores are lost
    live/keys.json                          API keys, hashed; keys.lock is of the commands that change them
    live/identity.key                       key of the user pseudonyms
    live/encryption.json                    id of the key by which broker, spool, states and events are encrypted, if any
    live/first.key                          API token of the machine's owner; removing it revokes its key
    live/forgotten/                         keyed hashes of the users who are forgotten
    live/broker/ spool/                     event log, and records spooled for it
    live/states.db or valkey/               user states; states.db.damaged-<time> was moved aside
    live/state.backend                      which of the two a stack kept last
    live/events/                            event log as Parquet, for training
    live/measurement/                       outcomes and figures of the event log, by `python -m recsys measure`
    live/rebuild                            marker: rebuild the states from live/events
    live/stack.log                          log of all processes; stack.log.1 to .3 are older
    live/running.json                       process ids and addresses
    live/endpoints.json                     addresses of broker, states and Triton with their secrets, while it runs
    """

    serve: Path
    live: Path
    pinned: Path | None = None
    """release that serves whatever `current` names"""

    @staticmethod
    def of(folder: Path, live: Path | None = None) -> "DeploymentLayout":
        """Return the layout of a serve folder, or of one of its releases, pinned to the release that it names now.

        live: None for `live` beside the serve folder.
        """
        release = served_release(folder.resolve())
        serve = state_folder(release)
        live = serve.parent / "live" if live is None else live.resolve()
        return DeploymentLayout(serve=serve, live=live, pinned=release)

    def check(self) -> None:
        """ServingError without an exported bundle, BundleError for models without the signature that is configured."""
        if not (self.bundle / "manifest.json").is_file() or not self.models.is_dir():
            raise ServingError(
                f"{self.serve} holds no exported bundle; run `make demo`, or `{command_of('export')} bundle=...`"
            )
        check_release(self.release)

    def make_live(self) -> None:
        """Create the live folder, or close an existing one to other accounts: it holds raw user ids and secrets."""
        close_to_others(make_private(self.live))
        self.check_encryption()

    def check_encryption(self) -> None:
        """Take the configured encryption key for a live folder without data; ConfigError for another key than its data has."""
        key = configured_encryption_key()
        found, configured = self.encryption_key_id(), None if key is None else key.id
        if found == configured:
            return
        if key is None:
            raise ConfigError(f"{self.live} is encrypted by the key {found}; name its file by --encryption-key")
        if found is not None or self.has_data:
            kept = "is not encrypted" if found is None else f"is encrypted by the key {found}"
            raise ConfigError(
                f"{self.live} {kept}, {key.file} holds {configured}; change it by `python -m serving reencrypt`"
            )
        self.note_encryption(key)

    def encryption_key_id(self) -> str | None:
        """Return the id of the key that the live folder is encrypted by, None for none; ConfigError for a damaged file."""
        try:
            return str(json.loads(self.encryption.read_bytes())["key"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{self.encryption} was altered; restore it from a copy") from None

    def note_encryption(self, key: EncryptionKey) -> None:
        """Note the key of the live folder."""
        with atomic_file(self.encryption) as draft:
            create(draft, json.dumps({"schema": 1, "key": key.id}).encode(), FILE_MODE)

    @property
    def has_data(self) -> bool:
        """Whether anything of users is stored in the live folder."""
        kept = (self.broker, self.valkey, self.events)
        return self.states.exists() or any(self.spool.glob("*.spool")) or any(any(one.glob("*/*")) for one in kept)

    @property
    def release(self) -> Path:
        """Folder of the release, without links."""
        return self.pinned or served_release(self.serve)

    @property
    def bundle(self) -> Path:
        return self.release / "bundle"

    @property
    def models(self) -> Path:
        return self.release / "models"

    @property
    def rules(self) -> Path:
        return self.serve / "rules"

    @property
    def experiments(self) -> Path:
        return self.serve / "experiments"

    @property
    def items(self) -> Path:
        return self.serve / "items"

    @property
    def exposure(self) -> Path:
        return self.serve / "exposure"

    @property
    def last_good(self) -> Path:
        return self.serve / "last_good"

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
    def encryption(self) -> Path:
        return self.live / "encryption.json"

    @property
    def forgotten(self) -> Path:
        return self.live / "forgotten"

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
        """URL of the SQLite states."""
        return f"sqlite:///{self.states}"

    @property
    def valkey(self) -> Path:
        return self.live / "valkey"

    @property
    def state_backend(self) -> Path:
        return self.live / "state.backend"

    @property
    def events(self) -> Path:
        return self.live / "events"

    @property
    def measurement(self) -> Path:
        return self.live / FOLDER

    @property
    def has_events(self) -> bool:
        """Whether there is Parquet to rebuild states from."""
        return any(self.events.glob("*/**/*.parquet"))

    @property
    def rebuild(self) -> Path:
        return self.live / "rebuild"

    @property
    def log(self) -> Path:
        return self.live / "stack.log"

    @property
    def endpoints(self) -> Path:
        return self.live / "endpoints.json"

    @property
    def running(self) -> Path:
        return self.live / "running.json"
