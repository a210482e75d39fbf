"""The baseline for items that nobody has met: content k-nearest neighbours, its knobs chosen on validation.

Shapes: B questions, N items of the catalogue, F features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from recsys.data.dataset import Dataset
from recsys.replay.evaluation_queries import EvaluationQueries


@dataclass(frozen=True, kw_only=True)
class ContentNeighbours:
    """An item's score is the sum, over the user's history, of decay^age x similarity^power.

    The similarity is a weighted mean of two cosines of idf-weighted content (Salton & Buckley 1988), of the categories
    and of the words of the title. With power 1 that is the cosine to the user's profile, the sum of what was met.
    """

    decay: float
    power: float
    idf: float
    """power of the idf of the categories"""
    words: float
    """weight of the title"""

    @staticmethod
    def grid() -> "Iterator[ContentNeighbours]":
        knobs = ((1.0, 0.95, 0.9), (0.5, 1.0, 2.0), (0.0, 1.0, 2.0), (0.0, 0.5, 0.8, 0.9, 0.95))
        for decay, power, idf, words in product(*knobs):
            yield ContentNeighbours(decay=decay, power=power, idf=idf, words=words)

    def scores(self, dataset: Dataset, questions: EvaluationQueries) -> np.ndarray:
        """[B, N] float32."""
        categories = _categories(dataset, self.idf)
        similar = (1 - self.words) * (categories @ categories.T).toarray()
        if self.words:
            titles = TfidfVectorizer().fit_transform(dataset.items["title"].to_list())
            similar += self.words * (titles @ titles.T).toarray()
        return questions.histories.matrix(questions.num_items, self.decay) @ similar ** np.float32(self.power)


def _categories(dataset: Dataset, idf: float) -> sparse.csr_array:
    """[N, F] rows of length 1."""
    listed = [[f"year {year}", *(genres or ())] for year, genres in dataset.items.select("year", "genres").iter_rows()]
    names = {name: place for place, name in enumerate(sorted({name for row in listed for name in row}))}
    rows = np.repeat(np.arange(len(listed)), [len(row) for row in listed])
    columns = np.array([names[name] for row in listed for name in row])
    rarity = np.log(len(listed) / np.bincount(columns)) ** idf
    return normalize(sparse.csr_array((rarity[columns].astype(np.float32), (rows, columns))))
