"""Batches of tensors. A batch declares each of its tensors once, in the metadata of a field: name, element type and shape.

What Triton models read and write, and the dictionaries of named tensors that stages and graphs exchange, follow from that.

Shapes: B rows of a batch, the first axis of every tensor, which declarations leave out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, Self

import numpy as np

DType = Literal["int64", "float32", "bytes"]
Arrays = dict[str, np.ndarray]
VARIABLE = -1
"""size of an axis that differs from batch to batch"""
PARTS: Mapping[str, DType] = {"ids": "int64", "numbers": "float32", "vectors": "float32"}
"""tensors of the rows of an encoded table; a table without columns of a kind lacks its part"""
DECLARATION = "tensors"
"""key in the metadata of a field"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, element type and shape (without the batch; -1 is variable) of a tensor between stages."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """A field with one tensor."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    encode: Callable[[Any], np.ndarray] | None
    decode: Callable[[np.ndarray], Any] | None

    def specs(self, sizes: Mapping[str, int]) -> tuple[TensorSpec, ...]:
        return (TensorSpec(name=self.name, dtype=self.dtype, shape=_sized(self.shape, sizes)),)

    def write(self, value: Any, tensors: Arrays) -> None:
        if value is not None:
            tensors[self.name] = value if self.encode is None else self.encode(value)

    def read(self, tensors: Mapping[str, Any]) -> Any:
        found = tensors.get(self.name)
        return found if found is None or self.decode is None else self.decode(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A field with the rows of an encoded table, a tensor for each part."""

    name: str
    source: str
    shape: tuple[int | str, ...]

    def specs(self, sizes: Mapping[str, int]) -> tuple[TensorSpec, ...]:
        shape = _sized(self.shape, sizes)
        widths = {part: sizes[name] for part in PARTS if (name := part_name(self.source, part)) in sizes}
        return tuple(
            TensorSpec(name=part_name(self.name, part), dtype=PARTS[part], shape=(*shape, width))
            for part, width in widths.items()
        )

    def write(self, value: Arrays, tensors: Arrays) -> None:
        for part, array in value.items():
            tensors[part_name(self.name, part)] = array

    def read(self, tensors: Mapping[str, Any]) -> Arrays:
        return {part: tensors[name] for part in PARTS if (name := part_name(self.name, part)) in tensors}


def tensor(
    name: str,
    dtype: DType,
    *shape: int | str,
    encode: Callable[[Any], np.ndarray] | None = None,
    decode: Callable[[np.ndarray], Any] | None = None,
) -> Mapping[str, Any]:
    """Declare a field as a tensor [B, *shape]; a word in the shape is an axis whose length differs between bundles.

    encode, decode: for a field whose value is no array.
    """
    return {DECLARATION: _Tensor(name=name, dtype=dtype, shape=shape, encode=encode, decode=decode)}


def table(name: str, source: str, *shape: int | str) -> Mapping[str, Any]:
    """Declare a field as the encoded rows of the table `source`, {part: [B, *shape, width of the part]}."""
    return {DECLARATION: _Table(name=name, source=source, shape=shape)}


def part_name(name: str, part: str) -> str:
    """Return the name of one tensor of encoded rows, such as history_ids."""
    return f"{name}_{part}"


class TensorBatch:
    """Base of the dataclasses whose fields are declared by `tensor` and `table`."""

    __slots__ = ()

    @classmethod
    def specs(cls, sizes: Mapping[str, int], names: Sequence[str] | None = None) -> tuple[TensorSpec, ...]:
        """Return the declared tensors in order; names: of the fields, None for all.

        sizes: lengths of the axes that differ between bundles, and widths of the parts of tables.
        """
        declared = cls._declared()
        return tuple(spec for name in (declared if names is None else names) for spec in declared[name].specs(sizes))

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Self:
        """Read the batch from named tensors, others aside; TypeError where one is absent that has no default."""
        declared = cls._declared().items()
        return cls(**{field: value for field, one in declared if (value := one.read(tensors)) is not None})

    def tensors(self) -> Arrays:
        """Return the tensors by name."""
        named: Arrays = {}
        for field, one in self._declared().items():
            one.write(getattr(self, field), named)
        return named

    @classmethod
    @cache
    def _declared(cls) -> dict[str, _Tensor | _Table]:
        return {one.name: one.metadata[DECLARATION] for one in fields(cls)}  # type: ignore[arg-type]


def _sized(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in shape)
