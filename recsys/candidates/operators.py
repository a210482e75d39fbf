"""Item-item matrices, counted or normalised: co-occurrences, transitions and the linear autoencoder.

Row: item of the history, column: its neighbour. No item is its own neighbour: every diagonal is empty.
Shapes: U users, N items of the catalogue, M events.
"""

import numpy as np
from scipy import linalg, sparse

from recsys.errors import ConfigError


class TooManyItemsError(ConfigError):
    """A catalogue is too large for a dense operator."""


TRANSITION_SUPPORT = 2.0
"""added to an item's sum of transitions, so that few transitions count less"""
LARGEST_DENSE = 20_000
"""items; a dense operator of more of them takes more than 3 GiB to fit"""
LAPACK_FLOPS = 2.5e10
"""float32 operations per second of one core in LAPACK, for the estimate of `dense_cost`"""
BLOCK_PAIRS = 2**25
"""pairs of items in a block of rows, some 1 GiB with all copies of them"""


def newest_events(users: np.ndarray, limit: int) -> np.ndarray:
    """[M] bool, the last `limit` events of every user; events [M] stand in order within each user.

    A user of n items has n^2 pairs, so that without a limit one crawler would dominate the counts and their cost.
    """
    order = np.argsort(users, kind="stable")
    sizes = np.bincount(users)
    kept = np.empty(len(users), dtype=bool)
    kept[order] = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(users)) <= limit
    return kept


def most_pairs(user_items: sparse.csr_array) -> np.ndarray:
    """[N] int64, an upper bound of the entries of each row of `cooccurrence`."""
    return np.minimum(user_items.T @ np.diff(user_items.indptr), user_items.shape[1]).astype(np.int64)


def row_blocks(user_items: sparse.csr_array) -> list[slice]:
    """Slices of the rows of `cooccurrence` with at most about BLOCK_PAIRS entries, or one row with more."""
    number = np.cumsum(most_pairs(user_items)) // BLOCK_PAIRS
    starts = np.flatnonzero(np.diff(number, prepend=-1)).tolist()
    starts[0] = 0
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], user_items.shape[1]], strict=True)]


def cooccurrence(user_items: sparse.csr_array, rows: slice = slice(None)) -> sparse.csr_array:
    """[rows, N] float32, users who interacted with both items, from seen [U, N] of ones."""
    return _without_diagonal(sparse.csr_array(user_items[:, rows].T @ user_items), rows.start or 0)


def cosine(
    cooccurrences: sparse.csr_array, popularity: np.ndarray, shrinkage: float, first: int = 0
) -> sparse.csr_array:
    """|A and B| / (sqrt(|A| |B|) + shrinkage) from rows `first` on of `cooccurrence` and the users of each item [N].

    Sarwar et al., Item-based collaborative filtering, WWW 2001; shrinkage as in Ferrari Dacrema et al., Are we really
    making much progress, RecSys 2019.
    """
    pairs, root = cooccurrences.tocoo(), np.sqrt(popularity)
    return _with_values(cooccurrences, pairs.data / (root[first + pairs.row] * root[pairs.col] + shrinkage))


def damped_cooccurrence(
    cooccurrences: sparse.csr_array, popularity: np.ndarray, power: float, first: int = 0
) -> sparse.csr_array:
    """|A and B| / (|A| |B|)^power of rows `first` on: counts for power 0, cosine for 1/2, lift for 1."""
    pairs, scale = cooccurrences.tocoo(), np.maximum(popularity, 1.0) ** -power
    return _with_values(cooccurrences, pairs.data * scale[first + pairs.row] * scale[pairs.col])


def transitions(users: np.ndarray, items: np.ndarray, num_items: int, window: int) -> sparse.csr_array:
    """[N, N] float32: an item j that comes k <= window events after an item i adds 1 / k to [i, j].

    Events [M] stand in order within each user.
    """
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    shape = (num_items, num_items)
    counts = sparse.csr_array(shape, dtype=np.float32)
    for step in range(1, window + 1):
        same = (users[:-step] == users[step:]) & (items[:-step] != items[step:])
        pairs = (items[:-step][same], items[step:][same])
        counts = counts + sparse.csr_array((np.full(len(pairs[0]), 1 / step, dtype=np.float32), pairs), shape=shape)
    return counts


def normalised_transitions(
    counts: sparse.csr_array, popularity: np.ndarray, support: float, power: float
) -> sparse.csr_array:
    """Divide rows by (sum + support), columns by (popularity + 1)^power: rare and popular items count less."""
    pairs, rows = counts.tocoo(), counts.sum(axis=1) + support
    return _with_values(counts, pairs.data / rows[pairs.row] * (popularity[pairs.col] + 1.0) ** -power)


def ease(cooccurrences: sparse.csr_array, popularity: np.ndarray, regularisation: float) -> np.ndarray:
    """[N, N] float32 dense: the linear autoencoder of the user-item matrix, from `cooccurrence`.

    Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019.
    """
    gram = cooccurrences.toarray()
    np.fill_diagonal(gram, popularity)
    return autoencoder(gram, regularisation)


def autoencoder(gram: np.ndarray, regularisation: float | np.ndarray) -> np.ndarray:
    """Item weights B [N, N] float32 from X'X, which is overwritten; N^3 time and 8 N^2 bytes.

    Minimises |X - XB|^2 + |regularisation^(1/2) B|^2 with diag(B) = 0, in closed form: with
    P = (X'X + diag(regularisation))^-1, B[i, j] = -P[i, j] / P[j, j].
    """
    gram[np.diag_indices(len(gram))] += regularisation
    weights = _inverse(gram)
    weights /= -weights.diagonal()
    np.fill_diagonal(weights, 0.0)
    return weights


def dense_cost(num_items: int) -> str:
    """Memory and single-core hours of `autoencoder`, as text for messages."""
    return f"{8 * num_items**2 / 2**30:,.1f} GiB and {num_items**3 / LAPACK_FLOPS / 3600:,.1f} hours a fit"


def time_weighted_gram(
    users: np.ndarray,
    items: np.ndarray,
    seconds: np.ndarray,
    num_items: int,
    *,
    activity: float,
    nearness: float,
    half_life: float,
) -> np.ndarray:
    """X'X [N, N] float32 in which pairs of a user's items that are close in time count more.

    A pair of a user's items counts 1 + nearness 2^(-distance / half_life), an item with itself 1 + nearness, a user of n
    items (n / mean)^-activity. It is positive semidefinite, since the Laplace kernel is. users, items, seconds: [M]
    events, of which the first of a user and an item counts; half_life in seconds.
    """
    order = np.lexsort((seconds, items, users))
    first = np.append(True, np.diff(users[order] * num_items + items[order]) != 0)
    users, items, seconds = (values[order][first] for values in (users, items, seconds))
    sizes = np.bincount(users)
    weights = (np.maximum(sizes, 1) / sizes[sizes > 0].mean()) ** -activity
    gram = np.zeros((num_items, num_items), dtype=np.float32)
    for weight, stop, size in zip(weights, np.cumsum(sizes), sizes, strict=True):
        own, times = items[stop - size : stop], seconds[stop - size : stop]
        near = np.exp2(-np.abs(times[:, None] - times) / half_life)
        gram[np.ix_(own, own)] += weight * (1 + nearness * near)
    return gram


def strongest_per_row(matrix: sparse.csr_array, num: int) -> sparse.csr_array:
    """Keep the `num` entries of a row that are largest in magnitude, ties by the lower column."""
    entries = matrix.tocoo()
    order = np.lexsort((entries.col, -np.abs(entries.data), entries.row))
    row = entries.row[order]
    kept = np.sort(order[np.arange(len(row)) - np.searchsorted(row, row) < num])
    cells = (entries.data[kept], (entries.row[kept], entries.col[kept]))
    return sparse.csr_array(cells, shape=matrix.shape)


def _with_values(matrix: sparse.csr_array, values: np.ndarray) -> sparse.csr_array:
    """The same sparsity pattern with other values."""
    return sparse.csr_array((values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _without_diagonal(matrix: sparse.csr_array, first: int) -> sparse.csr_array:
    pairs = matrix.tocoo()
    kept = first + pairs.row != pairs.col
    cells = (pairs.data[kept].astype(np.float32), (pairs.row[kept], pairs.col[kept]))
    return sparse.csr_array(cells, shape=matrix.shape)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Invert a symmetric positive definite matrix by Cholesky, in place."""
    factorise, invert = linalg.lapack.get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, failed = factorise(matrix.T, lower=True, overwrite_a=True, clean=False)
    if failed:
        raise linalg.LinAlgError(f"the leading minor of order {failed} is not positive definite")
    inverse, _ = invert(factor, lower=True, overwrite_c=True)
    for row in range(1, len(inverse)):
        inverse[:row, row] = inverse[row, :row]
    return inverse.T  # symmetric; the transpose is C-contiguous, which products with sparse histories need
