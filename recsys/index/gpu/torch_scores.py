"""Scores and norm bounds on a torch device, shared by the tiled search and the Triton kernels.

Shapes: P pairs of a query and an item, D dim.
"""

import torch
from torch import Tensor

UNDERFLOW = 1e-34
"""added to norms and errors: more than a device loses by taking denormal products for zero"""
MAX_QUERIES = 1_024
"""queries of one launch of the kernels"""


def norm_bounds(vectors: Tensor) -> Tensor:
    """Upper bounds [.] of the norms of vectors [., D], also where a device takes denormal numbers for zero."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).float() * (1 + 1e-6) + UNDERFLOW


def folded_products(queries: Tensor, vectors: Tensor) -> Tensor:
    """recsys.index.scores.inner_products for [P, D] and [P, D], with the same bits."""
    products = queries * vectors
    while (width := products.shape[1]) > 1:
        half = (width + 1) // 2
        products[:, : width - half] += products[:, half:]
        products = products[:, :half]
    return products[:, 0]
