"""What somebody who starts a stack for the first time needs: a key, and a line to type."""

import json
import os
import shlex

from recsys.bundle import Bundle
from recsys.stages import read_catalogue
from recsys.user_seed import USER_SEED, most_active_user
from serving.gateway.keys import SCOPES, create_key
from serving.place import Place

NAME = "first"
RATE, BURST = 10_000.0, 10_000


def first_key(place: Place) -> str:
    """A token that may do everything, made with the first start and kept for the owner of this machine (mode 0600); made anew
    where its file is gone.
    """
    if place.first_key.exists():
        return place.first_key.read_text(encoding="ascii").strip()
    token = create_key(place.keys, name=NAME, scopes=SCOPES, rate=RATE, burst=BURST, anew=True)
    descriptor = os.open(place.first_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


def first_user(place: Place) -> str:
    """A user of the training data with many events, so that the first slate is personal; anybody where there is none."""
    bundle = Bundle.open(place.bundle)
    found = most_active_user(bundle.file(USER_SEED), read_catalogue(bundle).height) if bundle.has(USER_SEED) else None
    return NAME if found is None else found


def curl(place: Place, url: str, user: str) -> str:
    """A line for a shell; the token stays in its file."""
    body = shlex.quote(json.dumps({"user": user, "k": 5}))
    return (
        f"curl -s {url}/v1/recommend -H \"Authorization: Bearer $(cat '{place.first_key}')\" "
        f"-H 'Content-Type: application/json' -d {body}"
    )
