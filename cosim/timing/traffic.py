"""DRAM traffic of a matrix product from blocking and capacity.

A smaller memory never gives less traffic: the candidates that fit a small one also fit a larger.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cosim.records import Array, array

ACCUMULATOR_BYTES = 4.0
OUTPUT_BYTES = 2.0
Resident = Literal["none", "activations", "all"]
"""What is on chip before a kernel starts."""
_BLOCKS = 2.0 ** np.arange(5, 17)


def blocked_traffic(
    m: Array,
    n: Array,
    k: Array,
    capacity: Array,
    element_bytes: float,
    resident: Resident,
    output_bytes: float = OUTPUT_BYTES,
    distinct: Array | float = 1.0,
) -> Array:
    """Bytes from and to DRAM for C[m,n] = A[m,k] B[k,n] with `capacity` bytes on chip; shape (N,).

    Output blocks of gm x gn stay on chip in fp32 (half the capacity) while k streams by:
        A ceil(n/gn) + B ceil(m/gm) + C,   gm gn 4 B <= capacity / 2.
    An operand that fits a half of the memory is read once. `resident` says what is on chip already:
    nothing, the activations A (left there by the kernel before), or all operands (a repeated benchmark).
    `distinct` is the share of A's elements that DRAM holds.
    """
    a, b, c = m * k * element_bytes * distinct, k * n * element_bytes, m * n * output_bytes
    half = capacity / 2.0
    least = np.full(np.broadcast_shapes(a.shape, b.shape, half.shape), np.inf)
    for rows in _BLOCKS:
        # The block is as wide as the other half allows; a block of one element always fits.
        columns = np.maximum(np.floor(half / (ACCUMULATOR_BYTES * np.minimum(rows, m))), 1.0)
        over_a = np.where(a <= half, 1.0, np.ceil(n / columns))
        over_b = np.where(b <= half, 1.0, np.ceil(m / rows))
        least = np.minimum(least, a * over_a + b * over_b)
    return least - saved(a, b, c, half, resident) + written(c, half, resident)


def saved(a: Array, b: Array, c: Array, half: Array, resident: Resident) -> Array:
    """Bytes of the first reading that residents spare."""
    if resident == "none":
        return array(0.0)
    if resident == "activations":
        return np.where(a <= half, a, 0.0)
    return np.where(a + b + c <= half, a + b, 0.0)


def written(c: Array, half: Array, resident: Resident) -> Array:
    """Output bytes that reach DRAM: all of them, unless they stay for the kernel after."""
    return c if resident == "none" else np.where(c <= half, 0.0, c)
