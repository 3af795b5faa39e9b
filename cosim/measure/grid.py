"""Grids of points as data: `quick` is the first part of `standard`, `standard` of `full`.

So the order is that of worth: a run that is stopped has measured the coarse grid whole. Sizes are those of the layers
of language models, n and k multiples of 128, which every format takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from cosim.measure.points import Attention, Copy, Launch, Matmul, Point

STATES = ("warm", "cold")
KINDS = ("matmul", "attention", "copy", "launch")
OWN_STATES: dict[str, tuple[str, ...]] = {
    "matmul": STATES,
    "attention": ("cold",),
    "copy": STATES,
    "launch": ("warm",),
}
"""States measured where none is asked for: the model takes the operands of attention from DRAM."""
MOST_PRODUCTS = 2**42
"""No product has more multiplications: beyond it a kernel takes long and tells nothing new."""
MOST_TOKENS = 2**16
MOST_CACHED = 2**31
"""Elements of keys and values: copies of them must fit a device's memory."""
CHAIN = 1000
LAUNCHES = (("stream_gap", CHAIN), ("graph_gap", CHAIN), ("lone_kernel", 1))


@dataclass(frozen=True, slots=True)
class Grid:
    """Values whose products are the points. `heads` are (query heads, key and value heads, their width)."""

    tokens: tuple[int, ...]
    widths: tuple[int, ...]
    heads: tuple[tuple[int, int, int], ...]
    prefill_batch: tuple[int, ...]
    prefill_len: tuple[int, ...]
    decode_batch: tuple[int, ...]
    decode_context: tuple[int, ...]
    copies: tuple[int, ...]


def _powers(first: int, last: int) -> tuple[int, ...]:
    """2^first to 2^last."""
    return tuple(2**each for each in range(first, last + 1))


_QUICK = Grid(
    tokens=(1, 16, 128, 1024, 4096),
    widths=(1024, 8192),
    heads=((32, 8, 128),),
    prefill_batch=(1,),
    prefill_len=(128, 1024, 4096),
    decode_batch=(1, 16, 64),
    decode_context=(1024, 8192),
    copies=(2**16, 2**20, 2**24, 2**28, 2**30),
)
_STANDARD = Grid(
    tokens=_powers(0, 13),
    widths=(128, 512, 1024, 2048, 4096, 8192, 16384),
    heads=((32, 8, 128), (32, 32, 128), (64, 8, 128), (8, 1, 128), (16, 16, 64)),
    prefill_batch=(1, 4, 16),
    prefill_len=_powers(6, 14),
    decode_batch=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    decode_context=(128, 1024, 2048, 4096, 8192, 16384, 65536),
    copies=_powers(12, 32),
)
_FULL = Grid(
    tokens=(*_powers(0, 14), 3, 24, 48, 96, 192, 384, 768, 1536, 3072, 6144),
    widths=(*_STANDARD.widths, 256, 1536, 3072, 5120, 7168, 14336, 28672),
    heads=(*_STANDARD.heads, (4, 1, 128), (16, 2, 128), (40, 8, 128), (96, 96, 128), (128, 8, 128), (16, 8, 256)),
    prefill_batch=(1, 2, 4, 8, 16, 32),
    prefill_len=(*_powers(4, 15), 384, 1536, 3072, 6144),
    decode_batch=(*_powers(0, 9), 3, 12, 48, 96, 192),
    decode_context=(*_powers(6, 17), 1536, 3072, 6144),
    copies=(*_powers(10, 32), *(3 * each for each in _powers(10, 30))),
)
GRIDS: dict[str, tuple[Grid, ...]] = {
    "quick": (_QUICK,),
    "standard": (_QUICK, _STANDARD),
    "full": (_QUICK, _STANDARD, _FULL),
}
"""Each with the coarser ones before it."""


def points(kind: str, grid: str, dtypes: Sequence[str], states: Sequence[str] | None = None) -> list[Point]:
    """Points of `kind` (of `KINDS`) on `grid` (of `GRIDS`), each once, coarse grids first.

    `dtypes` are the formats of products and of attention; `states` which of `STATES`, None the kind's own. A pure
    function: the same arguments give the same list.
    """
    warm = [each == "warm" for each in (OWN_STATES[kind] if states is None or kind == "launch" else states)]
    made = {"matmul": _matmuls, "attention": _attentions, "copy": _copies, "launch": _launches}[kind]
    return list(dict.fromkeys(point for part in GRIDS[grid] for point in made(part, dtypes, warm)))


def _matmuls(grid: Grid, dtypes: Sequence[str], warm: Sequence[bool]) -> Iterator[Point]:
    for dtype, k, n, m, hot in product(dtypes, grid.widths, grid.widths, grid.tokens, warm):
        if m * n * k <= MOST_PRODUCTS:
            yield Matmul(dtype, m, n, k, hot)


def _attentions(grid: Grid, dtypes: Sequence[str], warm: Sequence[bool]) -> Iterator[Point]:
    for dtype, heads, batch, length, hot in product(dtypes, grid.heads, grid.prefill_batch, grid.prefill_len, warm):
        if batch * length <= MOST_TOKENS:
            yield Attention(dtype, "prefill", batch, length, length, *heads, hot)
    for dtype, heads, batch, context, hot in product(dtypes, grid.heads, grid.decode_batch, grid.decode_context, warm):
        if 2 * batch * context * heads[1] * heads[2] <= MOST_CACHED:
            yield Attention(dtype, "decode", batch, 1, context, *heads, hot)


def _copies(grid: Grid, dtypes: Sequence[str], warm: Sequence[bool]) -> Iterator[Point]:
    """The format does not matter to a copy."""
    del dtypes
    for size, hot in product(grid.copies, warm):
        yield Copy(size, hot)


def _launches(grid: Grid, dtypes: Sequence[str], warm: Sequence[bool]) -> Iterator[Point]:
    """The same three on every grid."""
    del grid, dtypes, warm
    for what, runs in LAUNCHES:
        yield Launch(what, runs)
