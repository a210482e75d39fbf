"""Item vectors and queries for the index benchmark. Queries come from the items' distribution and are none of them.

Shapes: N items, B queries, D dim, U users.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from recsys.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
TOYS = Path("amazon-toys") / "Toys_and_Games.txt"
NUM_CLUSTERS = 200
SPREAD = 0.5
"""length of the noise around a centre of length one"""
NOISE = 0.1
"""length of the noise on a resampled vector, relative to the vector's own"""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """One catalogue and the queries that are put to it."""

    name: str
    origin: str
    items: np.ndarray
    """[N, D] float32"""
    queries: np.ndarray
    """[B, D] float32"""


def clusters(num_items: int, num_queries: int, dim: int, seed: int = 0) -> Vectors:
    """Gaussian clusters around random directions."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(NUM_CLUSTERS, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    chosen = centres[generator.integers(0, NUM_CLUSTERS, num_items + num_queries)]
    drawn = chosen + SPREAD / np.sqrt(dim) * generator.normal(size=chosen.shape)
    return _split("clusters", f"{NUM_CLUSTERS} Gaussian clusters, spread {SPREAD}", drawn, num_items)


def isotropic(num_items: int, num_queries: int, dim: int, seed: int = 0) -> Vectors:
    """No structure at all: the hardest case for a bound or a cell."""
    drawn = np.random.default_rng(seed).normal(size=(num_items + num_queries, dim))
    return _split("isotropic", "one Gaussian", drawn, num_items)


def _split(name: str, origin: str, drawn: np.ndarray, num_items: int) -> Vectors:
    drawn = drawn.astype(np.float32)
    return Vectors(name=name, origin=origin, items=drawn[:num_items].copy(), queries=drawn[num_items:].copy())


def toys_file() -> Path:
    """Amazon Toys under $RECSYS_DATA, or in shared/data beside or in the repository."""
    folders = [Path(os.environ["RECSYS_DATA"])] if "RECSYS_DATA" in os.environ else []
    folders += [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    found = [folder / TOYS for folder in folders if (folder / TOYS).exists()]
    if not found:
        raise DataError(
            f"benchmark: {TOYS} is in none of {[str(one) for one in folders]}; set RECSYS_DATA to its folder"
        )
    return found[0]


def read_interactions(file: Path) -> csr_matrix:
    """`user item item ...` lines -> a matrix [U, N] of ones."""
    lines = [line.split()[1:] for line in file.read_text(encoding="utf-8").splitlines()]
    users = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    items = np.unique([item for line in lines for item in line], return_inverse=True)[1]
    return csr_matrix((np.ones(len(items)), (users, items)))


def factors(interactions: csr_matrix, dim: int, num_queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truncated SVD of a matrix without some users -> item vectors [N, D] and those users' vectors [B, D] by folding in.

    With X = U S V': items are V S^1/2 and a user with history x is x V S^-1/2, so that their inner product is x V V'.
    """
    generator = np.random.default_rng(seed)
    held = generator.choice(interactions.shape[0], num_queries, replace=False)
    kept = np.setdiff1d(np.arange(interactions.shape[0]), held)
    start = generator.normal(size=min(len(kept), interactions.shape[1]))
    _, values, right = svds(interactions[kept], dim, v0=start)
    return right.T * np.sqrt(values), interactions[held] @ (right.T / np.sqrt(values))


def toys(interactions: csr_matrix, num_items: int, num_queries: int, dim: int, seed: int = 0) -> Vectors:
    """Real vectors; where more are asked for than there are, real ones resampled with a little noise."""
    items, queries = factors(interactions, dim, num_queries, seed)
    generator = np.random.default_rng(seed + 1)
    if num_items <= len(items):
        origin, drawn = "Amazon Toys, truncated SVD", items[generator.permutation(len(items))[:num_items]]
    else:
        origin = f"Amazon Toys, truncated SVD, {len(items)} real vectors resampled with {NOISE:.0%} noise"
        drawn = items[generator.integers(0, len(items), num_items)]
        lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
        drawn = drawn + NOISE / np.sqrt(dim) * lengths * generator.normal(size=drawn.shape)
    return Vectors(name="toys", origin=origin, items=drawn.astype(np.float32), queries=queries.astype(np.float32))
