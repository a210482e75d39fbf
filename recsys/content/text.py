"""Fit of item text vectors: TF-IDF, then truncated SVD (latent semantic analysis, Deerwester et al. 1990)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.content.text_encoder import Document, TextColumns, TextEncoder, join_columns
from recsys.content.words import WordVectors, tokenize
from recsys.errors import check_ranges
from recsys.progress import Progress, silent
from recsys.tensors import Arrays


class TextVectors:
    """Configuration of the built-in text encoder; `vector` columns of precomputed embeddings can replace or join it."""

    def __init__(self, *, dim: int, min_documents: int, seed: int) -> None:
        """
        dim: length of the vectors, 1 to 4,096; less where the vocabulary is smaller
        min_documents: words in fewer items are ignored
        """
        check_ranges(
            "content", dim=(dim, 1, 4_096), min_documents=(min_documents, 1, 1_000_000), seed=(seed, 0, 2**32 - 1)
        )
        self.dim = dim
        self.min_documents = min_documents
        self.seed = seed

    def fit(self, columns: TextColumns) -> WordVectors:
        """Fit the encoder on N values a text column; it gives zeros where too few words recur."""
        counted = TfidfVectorizer(min_df=self.min_documents, sublinear_tf=True, analyzer=tokenize)
        try:
            weights = counted.fit_transform(join_columns(list(columns.values())))
        except ValueError:  # no word is left
            return _zero_vectors(columns)
        if (dim := min(self.dim, weights.shape[1] - 1, weights.shape[0] - 1)) < 1:
            return _zero_vectors(columns)
        return WordVectors(
            columns=tuple(columns),
            words=tuple(counted.get_feature_names_out().tolist()),
            rarity=counted.idf_,
            components=self._components(weights, dim),
        )

    @property
    def parameters(self) -> Document:
        return {"dim": self.dim, "min_documents": self.min_documents, "seed": self.seed}

    def estimated_s(self, columns: TextColumns) -> float:
        return 0.0

    def fit_transform(self, columns: TextColumns, progress: Progress = silent) -> tuple[TextEncoder, np.ndarray]:
        encoder = self.fit(columns)
        return encoder, encoder(columns)

    def fitted(self, document: Mapping[str, Any], arrays: Arrays) -> TextEncoder:
        return WordVectors.from_documents(document, arrays)

    def _components(self, weights: sparse.csr_matrix, dim: int) -> np.ndarray:
        return TruncatedSVD(n_components=dim, random_state=self.seed).fit(weights).components_


def _zero_vectors(columns: TextColumns) -> WordVectors:
    return WordVectors(columns=tuple(columns), words=(), rarity=np.zeros(0), components=np.zeros((1, 0)))
