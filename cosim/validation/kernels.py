"""Kernels timed alone, as measurements time them: columns of dimensions in, times and costs out.

matmul      launch gap and latency plus the best tiling; eight-bit and four-bit formats add the kernel that
            quantises the activations
attention   launch gap and latency plus one fused kernel; arithmetic at 16 bits, see `cosim.timing.attention`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosim.dtypes import is_wide
from cosim.hardware.lower import ChipArrays
from cosim.mapping.shard import quantise
from cosim.records import Array, array
from cosim.timing.attention import attention_cost
from cosim.timing.clock import Load, sustained
from cosim.timing.cost import BOUNDS, KernelCost, math_dtype
from cosim.timing.energy import core_energy, kernel_energy
from cosim.timing.matmul import matmul_cost
from cosim.timing.vector import vector_cost
from cosim.workload.ops import Attention

Dims = Mapping[str, Array]
"""Columns by name, one shape (N,)."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Kernels timed alone, shape (N,): the cost of each, and its time with launch and quantisation [s]."""

    cost: KernelCost
    time: Array

    @property
    def bound(self) -> NDArray[np.str_]:
        """What bounds the prediction: `launch` where more is timed beside the kernel than in it."""
        return np.where(self.time > 2.0 * self.cost.time, "launch", np.array(BOUNDS)[self.cost.bound])


def matmul_kernel(dims: Dims, chip: ChipArrays, dtype: str, *, warm: bool) -> Kernel:
    """Products of `m`, `n`, `k`, `batch` in one format; `warm` operands may lie in the last cache.

    Raises SpecError when the chip has no rate for `dtype`.
    """
    m, n, k, batch = (dims[name] for name in ("m", "n", "k", "batch"))
    cost = matmul_cost(m, n, k, chip, dtype, batch=batch, resident="repeated" if warm else "none")
    time = _launched(_repeated(cost, chip, dtype), chip)
    return Kernel(cost, time if is_wide(dtype) else time + _quantised(m * k * batch, dtype, chip))


def attention_kernel(
    dims: Dims, chip: ChipArrays, phase: str, kv_dtype: str, *, causal: bool, narrow: bool = False, warm: bool = True
) -> Kernel:
    """Attention of the columns that `attention_op` names, over a cache in `kv_dtype`; `narrow`: products in 8 bits.

    A `warm` cache of keys and values may lie on chip from the round before.
    """
    op = attention_op(dims, phase, causal=causal)
    cost = attention_cost(op, chip, kv_dtype, narrow=narrow, resident="repeated" if warm else "none")
    return Kernel(cost, _launched(_repeated(cost, chip, math_dtype(chip)), chip))


def _repeated(cost: KernelCost, chip: ChipArrays, dtype: str) -> Array:
    """Time of a kernel that a benchmark repeats: at the clock that it sustains alone [s]."""
    core = core_energy(cost, chip, dtype)
    compute = np.minimum(cost.compute, cost.time)
    least = cost.memory if cost.overlaps else np.zeros_like(cost.memory)
    rest = cost.time - np.maximum(compute, least)
    load = Load(rest, compute, least, kernel_energy(cost, chip, dtype) - core, core)
    return sustained(load, chip.power).time


def attention_op(dims: Dims, phase: str, *, causal: bool) -> Attention:
    """The op of columns batch, query_len, context_len, heads, kv_heads, head_dim and window (0 is none)."""
    window, context = dims["window"], dims["context_len"]
    named: Literal["prefill", "decode"] = "prefill" if phase == "prefill" else "decode"
    return Attention(
        name="attention",
        group="layer",
        phase=named,
        batch=dims["batch"],
        query=dims["query_len"],
        context=context,
        heads=dims["heads"],
        kv_heads=dims["kv_heads"],
        head_dim=dims["head_dim"],
        window=np.where(window > 0.0, window, context),
        windowed=True,
        causal=causal,
    )


def _launched(time: Array, chip: ChipArrays) -> Array:
    return time + chip.launch.gap + chip.launch.latency


def _quantised(elements: Array, dtype: str, chip: ChipArrays) -> Array:
    """Time of the kernel that turns 16-bit activations into `dtype`, in a chain with the matmul."""
    return _launched(vector_cost(quantise(elements, dtype, array(1.0)), chip).time, chip)
