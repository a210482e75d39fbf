"""First start of a stack: an API key and a sample request."""

import json
import shlex

from recsys.bundle import Bundle
from recsys.commands import command_of
from recsys.stages import RELEASE, read_catalogue
from recsys.user_seed import USER_SEED, most_active_user
from serving.gateway.api_keys import Scope, hash_token, read_keys
from serving.gateway.key_file import create_key
from serving.layout import DeploymentLayout
from serving.ops.forgetting import is_forgotten

KEY_NAME = "first"
KEY_SCOPES: tuple[Scope, ...] = ("recommend", "events")
"""admin, which changes the catalogue, is for keys that are made for it"""
RATE, BURST = 10_000.0, 10_000


def bootstrap_key(layout: DeploymentLayout) -> str | None:
    """Token of the machine's owner, made at the first start, which finds no keys, and kept in a file of mode 0600.

    None once the key was revoked, by `keys revoke first` or by removing the file, which is the same: it is not made again.
    """
    if not layout.keys.exists():
        return create_key(
            layout.keys, name=KEY_NAME, scopes=KEY_SCOPES, rate=RATE, burst=BURST, token_file=layout.first_key.name
        )
    known = {one for key in read_keys(layout.keys) for one in key.hashes}
    if not layout.first_key.exists():
        return None
    token = layout.first_key.read_text(encoding="ascii").strip()
    return token if hash_token(token) in known else None


def unlimited_key_warning(layout: DeploymentLayout) -> str | None:
    """Sentence about a key of the owner from an earlier version, which may do everything; None without one."""
    if not any(
        key.name == KEY_NAME and "admin" in key.scopes and key.token_file is None for key in read_keys(layout.keys)
    ):
        return None
    return (
        f"{layout.first_key} is of an earlier version and may do everything; make keys for what is needed with `python -m "
        f"serving keys create`, then `python -m serving keys revoke {KEY_NAME} --keys={layout.keys}`"
    )


def old_export_warning(layout: DeploymentLayout) -> str | None:
    """Sentence about an export of an earlier version; None for one whose stages compare their releases."""
    if f'"{RELEASE.name}"' in (layout.models / "rules" / "config.pbtxt").read_text(encoding="utf-8"):
        return None
    return (
        f"{layout.serve} was exported by an earlier version: its stages do not notice another bundle, and a later version will "
        f"not serve it; export again with `{command_of('export')} bundle=...`"
    )


def example_user(layout: DeploymentLayout) -> str:
    """User of the training data with many events, so that the first slate is personal; an unknown one without seed data."""
    bundle = Bundle.open(layout.bundle)
    found = most_active_user(bundle.file(USER_SEED), read_catalogue(bundle).height) if bundle.has(USER_SEED) else None
    return KEY_NAME if found is None or is_forgotten(layout, found) else found


def next_command(layout: DeploymentLayout, url: str, user: str) -> str:
    """Shell command for a sample request, which reads the token from its file; that of all keys where the file is gone."""
    if bootstrap_key(layout) is None:
        return f"next     python -m serving keys list --keys={shlex.quote(str(layout.keys))}"
    body = shlex.quote(json.dumps({"user": user, "k": 5}))
    return (
        f"curl -s {url}/v1/recommend -H \"Authorization: Bearer $(cat '{layout.first_key}')\" "
        f"-H 'Content-Type: application/json' -d {body}"
    )
