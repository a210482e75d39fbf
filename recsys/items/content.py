"""Items that came or changed after the training, as the models see them: encoded as in training, embedded by the item tower.

Shapes: M items, D dim of the vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.content.text_encoder import TEXT_COLUMN, TextEncoder
from recsys.features.batches import ItemBatch
from recsys.features.encode import column_array, encode_table
from recsys.features.spec import IDENTITY, Column, FeatureSpec
from recsys.items.catalogue_overlay import CatalogueDelta, Record
from recsys.tensors import Arrays

ITEM_TOWER = "item_tower.onnx"
Tower = Callable[[Arrays], np.ndarray]
"""item tensors of M items -> [M, D]"""


@dataclass(frozen=True, kw_only=True)
class ItemContent:
    """Records of items -> their features and vectors."""

    spec: FeatureSpec
    text: TextEncoder | None
    tower: Tower

    @property
    def read(self) -> frozenset[str]:
        """Columns whose values the models see."""
        return frozenset(column.name for column in self._own) | set(self.text.columns if self.text else ())

    @property
    def _own(self) -> tuple[Column, ...]:
        """Columns that are encoded as they come; the id and what is made of texts stand beside."""
        made = {IDENTITY} if self.text is None else {IDENTITY, TEXT_COLUMN}
        return tuple(column for column in self.spec.items.columns if column.name not in made)

    def touched(self, delta: CatalogueDelta) -> np.ndarray:
        """[M] bool, new items and those of which a column that the models see was named."""
        read = self.read
        return delta.new | np.array([bool(named & read) for named in delta.named], dtype=bool)

    def encode(self, ids: Sequence[str], records: Sequence[Record]) -> Arrays:
        """As `encode_table`: {part: [M, ...]}. An id that the training never met is UNKNOWN, what is absent missing."""
        columns = {
            column.name: column_array(column.kind, [record.get(column.name) for record in records], column.slots)
            for column in self._own
        }
        columns[IDENTITY] = column_array("category", ids)
        if self.text is not None:
            columns[TEXT_COLUMN] = self.text(
                {name: [record.get(name) for record in records] for name in self.text.columns}
            )
        return encode_table(self.spec.items, columns, len(ids))

    def vectors(self, encoded: Arrays) -> np.ndarray:
        """[M, D] of encoded items; of one without any content what the tower makes of that."""
        return self.tower(ItemBatch(items=encoded).tensors())
