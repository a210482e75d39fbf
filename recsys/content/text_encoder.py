"""The interfaces of text encoders: a vectorizer fits an encoder to the texts of a catalogue, the encoder makes their vectors.

Shapes: N texts, D dim.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recsys.progress import Progress, silent
from recsys.tensors import Arrays

TEXT_COLUMN = "text"
"""name of the vector column that replaces all text columns of the items"""
TextColumns = Mapping[str, Sequence[str | None]]
"""text column of the items -> N values, None where missing"""
Document = dict[str, Any]


class TextEncoder(Protocol):
    """A fitted encoder; a text has the same vector in training and for an item that comes later."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Text columns of the items, joined by spaces in this order."""

    @property
    def files(self) -> Mapping[str, Path]:
        """Files that a bundle carries beside the document and the arrays, by their name there."""

    def __call__(self, columns: TextColumns) -> np.ndarray:
        """Return [N, D] float32 unit rows; an empty text gives zeros."""

    def to_documents(self) -> tuple[Document, Arrays]:
        """Return the document and the arrays that a bundle stores."""


class TextVectorizer(Protocol):
    """Configuration of a text encoder, which fits it."""

    @property
    def parameters(self) -> Document:
        """All that `fit_transform` depends on beside the texts, pretrained weights by their sha256."""

    def estimated_s(self, columns: TextColumns) -> float:
        """Return the seconds that `fit_transform` will take, 0 where that is not worth a thought."""

    def fit_transform(self, columns: TextColumns, progress: Progress = silent) -> tuple[TextEncoder, np.ndarray]:
        """Fit the encoder on N values a text column; return it with their vectors [N, D]."""

    def fitted(self, document: Mapping[str, Any], arrays: Arrays) -> TextEncoder:
        """Return the encoder that `to_documents` described."""


def join_columns(columns: Sequence[Sequence[str | None]]) -> list[str]:
    """Join the text columns of each item by spaces, without missing ones."""
    return [" ".join(one for one in values if one is not None) for values in zip(*columns, strict=True)]
