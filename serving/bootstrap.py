"""First start of a stack: an API key and a sample request."""

import json
import os
import shlex

from recsys.bundle import Bundle
from recsys.stages import read_catalogue
from recsys.user_seed import USER_SEED, most_active_user
from serving.forgetting import is_forgotten
from serving.gateway.api_keys import SCOPES, create_key
from serving.layout import DeploymentLayout

KEY_NAME = "first"
RATE, BURST = 10_000.0, 10_000


def bootstrap_key(layout: DeploymentLayout) -> str:
    """Token with all scopes, created at the first start and kept in a file of mode 0600; recreated if the file is missing."""
    if layout.first_key.exists():
        return layout.first_key.read_text(encoding="ascii").strip()
    token = create_key(layout.keys, name=KEY_NAME, scopes=SCOPES, rate=RATE, burst=BURST, replace=True)
    descriptor = os.open(layout.first_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


def example_user(layout: DeploymentLayout) -> str:
    """User of the training data with many events, so that the first slate is personal; an unknown one without seed data."""
    bundle = Bundle.open(layout.bundle)
    found = most_active_user(bundle.file(USER_SEED), read_catalogue(bundle).height) if bundle.has(USER_SEED) else None
    return KEY_NAME if found is None or is_forgotten(layout, found) else found


def curl_command(layout: DeploymentLayout, url: str, user: str) -> str:
    """Shell command for a sample request; it reads the token from its file."""
    body = shlex.quote(json.dumps({"user": user, "k": 5}))
    return (
        f"curl -s {url}/v1/recommend -H \"Authorization: Bearer $(cat '{layout.first_key}')\" "
        f"-H 'Content-Type: application/json' -d {body}"
    )
