"""The suite `silicon`: measured GEMM and attention kernels of many chips against their predictions.

Chips differ in how they may be read: a chip is `fitted` where its kernel constants were fitted on its own tables
(`calibration.fitted_on`), and `never fitted` where they are those of a library of kernels. Shapes fall into three
regimes by the largest of launch, bytes at the full DRAM bandwidth and FLOP at the full peak, whatever the tiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim import library
from cosim.dtypes import bytes_per_element, is_wide
from cosim.errors import SpecError, nearest
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import Array, map_leaves
from cosim.timing.attention import IO_BYTES, cache_bytes
from cosim.timing.cost import bound_of, math_dtype
from cosim.timing.traffic import OUTPUT_BYTES
from cosim.validation.calibrate import Rows
from cosim.validation.kernels import Kernel, attention_kernel, attention_op, matmul_kernel
from cosim.validation.silicon_files import count_rows, systems, tables_root
from cosim.validation.silicon_tables import LeftOut, Shapes, read_tables
from cosim.workload.graph import attention_flop

ACCELERATORS = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "rtx_pro_6000_server": "rtx-pro-6000-server",
    "b60": "arc-pro-b60",
}
"""Systems of the tables to chips of the library."""
KINDS = {"matmul": ("matmul",), "attention": ("prefill", "decode")}
REGIMES = ("launch", "memory", "compute")
FITS = ("fitted", "never fitted")
SAMPLE = 3000
"""Shapes of a chip and set of formats that are asked unless all are."""
SIXTEEN_BITS = 0.8
"""Share of the bf16 peak above which a kernel over an 8-bit cache has not computed at 16 bits."""
Words = NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Target:
    """A chip of the library, by its name and system in the tables, and how it may be read."""

    name: str
    system: str
    fit: str
    chip: ChipArrays


@dataclass(frozen=True, slots=True)
class Answered:
    """Shapes of one chip and set of formats, and their predictions; columns of shape (N,)."""

    target: Target
    shapes: Shapes
    of: int
    """Shapes in the tables; `shapes` are a sample of them."""
    predicted: Array
    bound: Words
    regime: Words

    @property
    def formats(self) -> str:
        """What was measured: kind and formats."""
        shapes = self.shapes
        return f"{shapes.kind} {shapes.dtype}" + (f"/{shapes.kv_dtype}" if shapes.kv_dtype else "")


@dataclass(frozen=True, slots=True)
class Suite:
    """All that was answered, the whole tables behind it, and what was left out."""

    answered: tuple[Answered, ...]
    tables: tuple[tuple[Target, Shapes], ...]
    left_out: tuple[LeftOut, ...]


def answer(kind: str | None = None, *, every: bool = False, root: Path | None = None) -> Suite:
    """Predictions of the tables under `root` (the installed ones), of one `kind` or all; of `every` shape or a sample.

    Raises SpecError for an unknown kind or tables that are not there.
    """
    if kind is not None and kind not in KINDS:
        raise SpecError("the suite silicon has no such kind", field="--kind", value=kind, hint=nearest(kind, KINDS))
    place = tables_root() if root is None else root
    kinds = [each for name in KINDS if kind in (None, name) for each in KINDS[name]]
    known = library.names("accelerators")
    answered: list[Answered] = []
    tables: list[tuple[Target, Shapes]] = []
    left_out: list[LeftOut] = []
    for system in sorted({system for each in kinds for system in systems(place, each)}):
        name = ACCELERATORS.get(system, "")
        if name not in known:
            reason = f"accelerator {name or system} is not in the library"
            left_out += [LeftOut(system, each, reason, count_rows(place, system, each)) for each in kinds]
            continue
        target = _target(name, system)
        for each in kinds:
            found = read_tables(place, system, each)
            left_out += found.left_out
            for whole in found.shapes:
                shapes, reasons = _answerable(whole, target.chip)
                left_out += reasons
                if len(shapes.measured):
                    tables.append((target, shapes))
                    answered.append(_answered(target, shapes if every else sampled(shapes, SAMPLE), shapes))
    return Suite(tuple(answered), tuple(tables), tuple(entry for entry in left_out if entry.rows))


def sampled(shapes: Shapes, most: int) -> Shapes:
    """`most` of the shapes at even distances in their order, or all of fewer."""
    total = len(shapes.measured)
    if total <= most:
        return shapes
    index = np.floor((np.arange(most) + 0.5) * total / most).astype(np.intp)
    return taken(shapes, index)


def taken(shapes: Shapes, index: NDArray[Any]) -> Shapes:
    """The shapes that `index` names or marks."""
    return map_leaves(shapes, lambda leaf: leaf[index] if leaf.size else leaf)


def kernel(shapes: Shapes, chip: ChipArrays) -> Kernel:
    """The kernels of the shapes, timed alone with warm operands."""
    if shapes.kind == "matmul":
        dims = {**shapes.dims, "batch": np.ones_like(shapes.measured)}
        return matmul_kernel(dims, chip, shapes.dtype, warm=True)
    narrow = not is_wide(shapes.dtype)
    return attention_kernel(shapes.dims, chip, shapes.kind, shapes.kv_dtype, causal=True, narrow=narrow)


def rows_of(shapes: Shapes) -> Rows:
    """The shapes as rows that constants can be fitted to."""
    if shapes.kind == "matmul":
        return Rows({**shapes.dims, "batch": np.ones_like(shapes.measured)}, shapes.measured, shapes.dtype)
    return Rows(shapes.dims, shapes.measured, shapes.dtype, shapes.kind, shapes.kv_dtype)


def regime_of(shapes: Shapes, chip: ChipArrays) -> Words:
    """Launch-, memory- or compute-bound: the largest of launch, bytes / full bandwidth, FLOP / full peak."""
    flop, moved = _work(shapes)
    peak = chip.matrix.peak.get(shapes.dtype, chip.matrix.peak[math_dtype(chip)])
    launch = chip.launch.gap + chip.launch.latency
    regimes: Words = np.array(REGIMES)[bound_of((launch, moved / chip.memory["dram"].bandwidth, flop / peak))]
    return regimes


def _target(name: str, system: str) -> Target:
    chip = load_chip(name)
    return Target(name, system, FITS[0] if chip.is_fitted else FITS[1], lower_chip(chip))


def _answerable(shapes: Shapes, chip: ChipArrays) -> tuple[Shapes, list[LeftOut]]:
    """The shapes that cosim has an answer for, and why it has none for the others."""

    def left(reason: str, rows: int) -> LeftOut:
        return LeftOut(shapes.system, shapes.kind, reason, rows)

    if shapes.kind == "matmul":
        if shapes.dtype in chip.matrix.peak:
            return shapes, []
        nothing = np.zeros(len(shapes.measured), dtype=bool)
        reason = f"{chip.name} has no matrix rate in {shapes.dtype}"
        return taken(shapes, nothing), [left(reason, len(nothing))]
    if (shapes.dtype, bytes_per_element(shapes.kv_dtype)) != ("bf16", 1.0) or "bf16" not in chip.matrix.peak:
        return shapes, []
    beyond = _work(shapes)[0] / shapes.measured > SIXTEEN_BITS * chip.matrix.peak["bf16"]
    reason = "faster than 16-bit arithmetic: the kernel computes in fp8"
    return taken(shapes, ~beyond), [left(reason, int(np.sum(beyond)))]


def _answered(target: Target, shapes: Shapes, whole: Shapes) -> Answered:
    found = kernel(shapes, target.chip)
    regime = regime_of(shapes, target.chip)
    return Answered(target, shapes, len(whole.measured), found.time, found.bound, regime)


def _work(shapes: Shapes) -> tuple[Array, Array]:
    """FLOP, and bytes that move at the least: every operand and result once."""
    if shapes.kind == "matmul":
        m, n, k = (shapes.dims[name] for name in ("m", "n", "k"))
        return 2.0 * m * n * k, (m * k + k * n) * bytes_per_element(shapes.dtype) + m * n * OUTPUT_BYTES
    op = attention_op(shapes.dims, shapes.kind, causal=True)
    queries = op.batch * op.query * op.heads * (op.head_dim + op.values) * IO_BYTES
    return attention_flop(op), queries + cache_bytes(op, shapes.kv_dtype)
