"""Which chips a group takes, by number."""

from __future__ import annotations

from collections.abc import Sequence

from cosim.errors import SpecError


def spread(ranks: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """`ranks` chips that fill a unit before they leave it, then lie evenly over units, as in the closed form."""
    held = 1
    for size in sizes[:-1]:
        held *= size
    if len(sizes) == 1:
        return tuple(range(ranks))
    units = -(-ranks // held)
    each, more = divmod(ranks, units)
    found: list[int] = []
    for unit in range(units):
        found += [unit * held + chip for chip in spread(each + (unit < more), sizes[:-1])]
    return tuple(found)


def beside(
    ranks: int, stride: int, sizes: Sequence[int], groups: int = 1, chips: int | None = None
) -> list[tuple[int, ...]]:
    """Groups of `ranks` chips that lie `stride` apart, one beside the other. Raises SpecError for less than one.

    `chips` of the system where its last units are not full: all of them are those that are there.
    """
    for field, value in (("ranks", ranks), ("stride", stride), ("repeat", groups)):
        if value < 1:
            raise SpecError("is less than 1", field=field, value=value)
    if groups == 1 and stride == 1 and ranks == chips:
        return [tuple(range(ranks))]
    if groups == 1 and stride == 1:
        return [spread(ranks, sizes)]
    starts = [number // stride * stride * ranks + number % stride for number in range(groups)]
    return [tuple(start + stride * rank for rank in range(ranks)) for start in starts]
