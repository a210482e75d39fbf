"""Release check: every batch of tensors between stages carries the fingerprint of the bundle that made it.

Rows and widths mean something within one bundle only, so a stage refuses the tensors of another one. The 16 hexadecimal
digits of a fingerprint are one int64: it costs a request microseconds, and the ranker's graph on a GPU can compare it.

Shapes: B queries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.contracts import Slate
from recsys.errors import ReleaseError
from recsys.tensors import TensorSpec

RELEASE = TensorSpec(name="RELEASE", dtype="int64", shape=(1,))
RANKED_RELEASE = TensorSpec(name="RANKED_RELEASE", dtype="int64", shape=(1,))
"""of the probabilities; a graph cannot read and give one name"""
NO_RELEASE = 0
"""given by a graph that cannot raise an error, after tensors of another release"""
DRAFT = "draft"
"""fingerprint of a bundle that is being written: its stages run in the process that trains"""


def release_number(fingerprint: str) -> int:
    """Return the bits of a fingerprint as a signed 64-bit integer."""
    if fingerprint == DRAFT:
        return -1
    return int.from_bytes(bytes.fromhex(fingerprint), "big", signed=True)


def release_tensor(fingerprint: str, num_queries: int) -> np.ndarray:
    """Return [B, 1] int64."""
    return np.full((num_queries, *RELEASE.shape), release_number(fingerprint), dtype=np.int64)


def check_release(stage: str, fingerprint: str, tensors: Mapping[str, Any]) -> None:
    """Raise ReleaseError for tensors of another release than that of the stage."""
    expected = release_number(fingerprint)
    for found in (tensors[RELEASE.name], tensors.get(RANKED_RELEASE.name)):
        if found is not None and not (found == expected).all():
            raise _refusal(stage, fingerprint, int(found[found != expected][0]))


def check_slates(stage: str, fingerprint: str, slates: Sequence[Slate]) -> None:
    """Raise ReleaseError for slates of another release, which they name themselves."""
    if others := [slate.bundle for slate in slates if slate.bundle != fingerprint]:
        raise _refusal(stage, fingerprint, release_number(others[0]))


def _refusal(stage: str, fingerprint: str, other: int) -> ReleaseError:
    name = "another release" if other == NO_RELEASE else f"the release {_fingerprint(other)}"
    return ReleaseError(
        f"the stage {stage} serves the release {fingerprint} and got tensors of {name}; restart the model server, so that "
        "all stages are of one release"
    )


def _fingerprint(number: int) -> str:
    return number.to_bytes(8, "big", signed=True).hex()
