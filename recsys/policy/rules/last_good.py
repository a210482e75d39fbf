"""Copy of the rules that served last, kept apart from their store.

It survives a restart of the process, so that a store that is missing or damaged by then does not bring older rules back. One
file, written when a published version was compiled and serves.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.policy.rules.audit import Head, SignedHead, sha256
from recsys.signatures import configured_key
from recsys.stores.atomic_files import locked, write_atomically

FILE = "rules.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRules:
    """Rules that served last."""

    published: bool
    """whether there was a rule store; without one the bundle's own rules served"""
    text: str | None = None
    """as it was published; None where none was compiled yet"""
    signed: SignedHead | None = None
    """version of the text, where it was signed"""

    @property
    def address(self) -> str | None:
        """sha256 of the text, its name in the store."""
        return None if self.text is None else sha256(self.text.encode())

    def check(self) -> None:
        """ConfigError where a public key is configured and the text has no signature by it."""
        if self.text is None or configured_key() is None:
            return
        if self.signed is None or self.signed.head.text != self.address:
            raise ConfigError("the copy of the rules that served last is not signed; publish rules with --key")
        self.signed.check()


class LastGoodRules:
    """The copy in a folder, safe for concurrent processes. ConfigError for a damaged file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: KeptRules | None = None

    def read(self) -> KeptRules | None:
        """Return the copy, None where none was made."""
        try:
            data = (self.folder / FILE).read_bytes()
        except FileNotFoundError:
            return None
        try:
            document = json.loads(data)
            kept = KeptRules(published=document["published"], text=document["text"], signed=_signed(document))
            if document == _document(kept):
                return kept
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise ConfigError(f"{self.folder / FILE} was altered; publish the rules that shall serve, which writes it anew")

    def write(self, kept: KeptRules) -> None:
        """Replace the copy, unless it is the same."""
        if kept == self._written and (self.folder / FILE).exists():
            return
        with locked(self.folder):
            write_atomically(self.folder / FILE, json.dumps(_document(kept)).encode())
        self._written = kept


def _document(kept: KeptRules) -> Mapping[str, Any]:
    content: dict[str, Any] = {"published": kept.published, "text": kept.text}
    if kept.signed is not None:
        signature = kept.signed.signature
        content |= {"head": asdict(kept.signed.head), "signature": signature and signature.decode("ascii")}
    return {**content, "sha256": sha256(json.dumps(content, sort_keys=True).encode())}


def _signed(document: Mapping[str, Any]) -> SignedHead | None:
    if "head" not in document:
        return None
    signature = document["signature"]
    return SignedHead(head=Head(**document["head"]), signature=signature and signature.encode("ascii"))
