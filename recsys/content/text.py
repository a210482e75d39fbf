"""Item text as a vector: TF-IDF, then truncated SVD (latent semantic analysis, Deerwester et al. 1990)."""

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.errors import check_ranges

NAME = "text"
"""name of the vector column that stands for all text columns of the items"""


class TextVectors:
    """The embedded default for item text; a `vector` column of the user's own goes beside or in place of it."""

    def __init__(self, *, dim: int, min_documents: int, seed: int) -> None:
        """
        dim: length of the vectors, 1 to 4,096; less is used where the vocabulary is smaller
        min_documents: words in fewer items are ignored
        """
        check_ranges("content", dim=(dim, 1, 4_096), min_documents=(min_documents, 1, 1_000_000))
        self.dim = dim
        self.min_documents = min_documents
        self.seed = seed

    def fit_transform(self, texts: Sequence[str]) -> np.ndarray:
        """N texts -> [N, D] float32 unit rows; an empty text gives zeros."""
        words = TfidfVectorizer(min_df=self.min_documents, sublinear_tf=True, strip_accents="unicode")
        try:
            weights = words.fit_transform(texts)
        except ValueError:  # no word is left
            return np.zeros((len(texts), 1), dtype=np.float32)
        dim = min(self.dim, weights.shape[1] - 1, weights.shape[0] - 1)
        if dim < 1:
            return np.zeros((len(texts), 1), dtype=np.float32)
        reduced = TruncatedSVD(n_components=dim, random_state=self.seed).fit_transform(weights)
        norms = np.linalg.norm(reduced, axis=1, keepdims=True)
        return np.divide(reduced, norms, out=np.zeros_like(reduced), where=norms > 1e-9).astype(np.float32)
