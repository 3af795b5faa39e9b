"""Array records: frozen dataclasses whose numeric leaves have shape () or (P,).

A batch of points is such a record; points is the last axis of every leaf. These few functions are
all that the engines need to slice, gather and join batches without knowing what is inside.
Leaves that are not float arrays (names, flags, None) are structure: they must agree in a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Record = TypeVar("Record")
UNEQUAL = "points of different structure cannot be one batch"


def array(value: object) -> Array:
    """`value` as float64, shape () or (P,). Integers would overflow on FLOP totals, so there are none."""
    return np.asarray(value, dtype=np.float64)


def map_leaves(record: Record, change: Callable[[Array], Array]) -> Record:
    """The record with every array replaced by `change(array)`, in the order of `leaves`; structure is kept."""
    return _mapped(record, change)  # type: ignore[no-any-return]  # same type by construction


def leaves(record: object) -> Iterator[Array]:
    """Every array of the record, depth first, in field order."""
    found: list[Array] = []
    _collect(record, found)
    return iter(found)


def _collect(record: object, found: list[Array]) -> None:
    kind = type(record)
    if kind is np.ndarray or isinstance(record, np.floating):
        found.append(np.asarray(record))
    elif (names := _field_names(kind)) is not None:  # type: ignore[arg-type]  # a type is hashable
        for name in names:
            _collect(getattr(record, name), found)
    elif isinstance(record, Mapping):
        for value in record.values():
            _collect(value, found)
    elif kind is tuple:
        for value in cast("tuple[object, ...]", record):
            _collect(value, found)


@lru_cache(maxsize=512)
def _field_names(kind: type) -> tuple[str, ...] | None:
    """Fields of a record's type, None for what is no record: asked millions of times, so remembered."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


def points(record: object) -> int:
    """Number of points P: the common length of the leaves, 1 if all are scalars. Raises ValueError."""
    lengths = {leaf.shape[-1] for leaf in leaves(record) if leaf.ndim}
    lengths.discard(1)
    if len(lengths) > 1:
        raise ValueError(f"arrays of different lengths along the points axis: {sorted(lengths)}")
    return lengths.pop() if lengths else 1


def take(record: Record, index: NDArray[np.intp]) -> Record:
    """The points named by `index` [N]: leaves of shape (P,) become (N,), scalars stay."""
    return map_leaves(record, lambda leaf: leaf.take(index, axis=-1) if leaf.ndim and leaf.shape[-1] > 1 else leaf)


def at(record: Record, index: int) -> Record:
    """One point with 0-d leaves: what the event engine is given."""
    return map_leaves(record, lambda leaf: leaf[..., index if leaf.shape[-1] > 1 else 0] if leaf.ndim else leaf)


def joined(parts: Sequence[Record]) -> Record:
    """The batches one after the other along the points axis; structure is the first one's.

    Leaves of whole numbers (codes) stay whole. Every part must hold arrays, none scalars, in the same places.
    """
    if len(parts) == 1:
        return parts[0]
    streams = [leaves(part) for part in parts]
    return map_leaves(parts[0], lambda _: np.concatenate([next(stream) for stream in streams], axis=-1))


def _mapped(record: Any, change: Callable[[Array], Array]) -> Any:  # noqa: ANN401  # records are generic
    kind = type(record)
    if kind is np.ndarray or isinstance(record, np.floating):
        return change(np.asarray(record))
    if (names := _field_names(kind)) is not None:  # type: ignore[arg-type]  # a type is hashable
        return kind(**{name: _mapped(getattr(record, name), change) for name in names})
    if isinstance(record, Mapping):
        return {key: _mapped(value, change) for key, value in record.items()}
    if kind is tuple:
        return tuple(_mapped(value, change) for value in record)
    return record


def structure(record: object) -> tuple[Any, ...]:
    """Everything in a record that is not a float array, hashable: points of equal structure can be one batch."""
    if isinstance(record, np.ndarray | np.floating):
        return ("array",)
    names = _field_names(type(record))  # type: ignore[arg-type]  # a type is hashable
    if names is not None:
        return (type(record).__name__, *[structure(getattr(record, name)) for name in names])
    if isinstance(record, Mapping):
        return tuple((key, structure(value)) for key, value in record.items())
    if isinstance(record, tuple):
        return tuple(structure(value) for value in record)
    return (record,)


def stacked(records: Sequence[Record]) -> Record:
    """Single points (0-d leaves) of equal structure as one batch, in order. Raises ValueError for unequal ones."""
    if not records:
        raise ValueError(UNEQUAL)
    return _stacked(records)  # type: ignore[no-any-return]  # same type by construction


def _stacked(records: Sequence[Any]) -> Any:  # noqa: ANN401  # records are generic
    """Part by part; a part that all points share is one object, which is walked once."""
    first, count = records[0], len(records)
    if all(record is first for record in records):
        return map_leaves(first, lambda leaf: np.repeat(leaf.reshape(1), count))
    sort, what = _outline(first)
    if any(_outline(record) != (sort, what) for record in records):
        raise ValueError(UNEQUAL)
    if sort == "array":
        return np.array([np.asarray(record).reshape(()) for record in records])
    if sort == "record":
        names = _field_names(type(first)) or ()  # type: ignore[arg-type]  # a type is hashable
        return type(first)(**{name: _stacked([getattr(record, name) for record in records]) for name in names})
    if sort == "mapping":
        return {key: _stacked([record[key] for record in records]) for key in first}
    return tuple(_stacked(parts) for parts in zip(*records, strict=True)) if sort == "tuple" else first


def _outline(record: object) -> tuple[str, object]:
    """The sort of a part, and what of it must be alike in all points before its own parts are looked at."""
    if isinstance(record, np.ndarray | np.floating):
        return "array", None
    if _field_names(type(record)) is not None:  # type: ignore[arg-type]  # a type is hashable
        return "record", type(record)
    if isinstance(record, Mapping):
        return "mapping", tuple(record)
    return ("tuple", len(record)) if isinstance(record, tuple) else ("value", record)
