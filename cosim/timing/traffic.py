"""DRAM traffic of a matrix product from blocking and capacity.

A smaller memory never gives less traffic: the candidates that fit a small one also fit a larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cosim.records import Array, array

ACCUMULATOR_BYTES = 4.0
OUTPUT_BYTES = 2.0
Resident = Literal["none", "activations", "repeated"]
"""What is on chip before a kernel starts: nothing, the activations A (left there by the kernel before), or what is left
of earlier rounds of a benchmark that repeats the product with the same A and C and `WEIGHT_COPIES` of B in turn."""
WEIGHT_COPIES = 5.0
"""As the published tables of GEMM times were made: the weights of a layer are not those of the next."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of an element of A, of C as it is moved, of B as DRAM holds it (None: as A)."""

    element: float
    output: float = OUTPUT_BYTES
    stored: float | None = None

    @property
    def weight(self) -> float:
        """Bytes of an element of B in DRAM."""
        return self.element if self.stored is None else self.stored


_BLOCKS = 2.0 ** np.arange(5, 17)


def blocked_traffic(
    m: Array,
    n: Array,
    k: Array,
    capacity: Array,
    sizes: Sizes,
    resident: Resident,
    distinct: Array | float = 1.0,
    batch: Array | float = 1.0,
) -> Array:
    """Bytes from and to DRAM for C[m,n] = A[m,k] B[k,n] with `capacity` bytes on chip; shape (N,).

    Output blocks of gm x gn stay on chip in fp32 (half the capacity) while k streams by:
        A ceil(n/gn) + B ceil(m/gm) + C,   gm gn 4 B <= capacity / 2.
    An operand that fits a half of the memory is read once. `resident` says what is on chip already.
    `distinct` is the share of A's elements that DRAM holds; residents are those of all `batch` products.
    """
    a, b, c = m * k * sizes.element * distinct, k * n * sizes.weight, m * n * sizes.output
    half = capacity / 2.0
    least = np.full(np.broadcast_shapes(a.shape, b.shape, half.shape), np.inf)
    for rows in _BLOCKS:
        # The block is as wide as the other half allows; a block of one element always fits.
        columns = np.maximum(np.floor(half / (ACCUMULATOR_BYTES * np.minimum(rows, m))), 1.0)
        over_a = np.where(a <= half, 1.0, np.ceil(n / columns))
        over_b = np.where(b <= half, 1.0, np.ceil(m / rows))
        least = np.minimum(least, a * over_a + b * over_b)
    room = half / batch
    return least - saved(a, b, c, room, resident) + written(a, b, c, room, resident)


def saved(a: Array, b: Array, c: Array, room: Array, resident: Resident) -> Array:
    """Bytes of the first reading that residents spare, with `room` bytes for them."""
    if resident == "none":
        return array(0.0)
    if resident == "activations":
        return np.where(a <= room, a, 0.0)
    return np.where(a + b + c <= room, a, 0.0) + np.where(a + WEIGHT_COPIES * b + c <= room, b, 0.0)


def written(a: Array, b: Array, c: Array, room: Array, resident: Resident) -> Array:
    """Output bytes that reach DRAM: all of them, unless they stay for the kernel after or the next round."""
    if resident == "none":
        return c
    return np.where((c if resident == "activations" else a + b + c) <= room, 0.0, c)
