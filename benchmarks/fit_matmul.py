"""Fits the kernel constants of a tile machine on the odd rows of its bf16 table; prints them and both errors.

Usage: python benchmarks/fit_matmul.py CASES.csv CHIP [DRAM_QUALITY]. Nine constants: the six of the tile model, the
quality of the matrix units and of DRAM (held where it is given: streaming kernels measure it better), and the
start-up of a lone kernel. The even rows are never seen by
the fit. The least mean of |log ratio|, clipped at 1 so that a few odd kernels do not pull; Nelder-Mead from
the chip's present constants.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import Array, array
from cosim.timing.matmul import matmul_cost
from cosim.validation.cases import read_cases

NAMES = ("k_step_time", "core_bandwidth", "cache_share", "split_time", "operand_share", "tile_prologue")
ROUNDS = 3


def rows_of(path: Path, chip: str) -> Array:
    """(4, rows): m, n, k and measured seconds of the chip's bf16 rows."""
    cases = [c for c in read_cases("matmul", path) if (c.values["accelerator"], c.values["dtype"]) == (chip, "bf16")]
    return array([[case.number(name) for case in cases] for name in ("m", "n", "k", "measured_s")])


def with_constants(chip: ChipArrays, values: Array) -> tuple[ChipArrays, float]:
    """The chip with (constants, matmul quality, memory quality) replaced, and the start-up time [s]."""
    kernel = dict(zip(NAMES, (array(v) for v in values), strict=False))
    quality = replace(chip.quality, matmul=array(values[6]), memory=array(values[7]), matmul_formats={})
    return replace(chip, kernel=kernel, quality=quality), float(values[8])


def ratios(logs: Array, chip: ChipArrays, rows: Array) -> Array:
    """predicted / measured of every row."""
    fitted, start = with_constants(chip, np.exp(logs))
    m, n, k, measured = rows
    found: Array = (matmul_cost(m, n, k, fitted, "bf16", resident="all").time + start) / measured
    return found


def log_errors(logs: Array, chip: ChipArrays, rows: Array) -> Array:
    """|log(predicted / measured)| of every row."""
    errors: Array = np.abs(np.log(ratios(logs, chip, rows)))
    return errors


def relative_errors(logs: Array, chip: ChipArrays, rows: Array) -> Array:
    """|predicted / measured - 1| of every row."""
    errors: Array = np.abs(ratios(logs, chip, rows) - 1.0)
    return errors


def main() -> None:
    path, name = Path(sys.argv[1]), sys.argv[2]
    held_memory = float(sys.argv[3]) if len(sys.argv) > 3 else None
    chip, rows = lower_chip(load_chip(name)), rows_of(path, name)
    fitted, held = rows[:, ::2], rows[:, 1::2]
    present = [chip.kernel[constant] for constant in NAMES]
    if held_memory is not None:
        chip = replace(chip, quality=replace(chip.quality, memory=array(held_memory)))
    present += [chip.quality.matmul, chip.quality.memory, chip.launch.gap + chip.launch.latency]
    start = np.log(array([float(v) for v in present]))

    # What physics and the table itself bound: shares below 1, no rate above the best that was measured, no
    # start-up below the gap between kernels of a replayed graph. Two thirds of the cores saturate DRAM at the
    # most: left free, the fit spreads DRAM over all cores exactly, and bandwidth would no longer be a knob.
    m, n, k, measured = fitted
    best_rate = float(np.max(2.0 * m * n * k / measured / chip.matrix.peak["bf16"]))
    high = np.log(array([1.0, best_rate, 1.0]))
    least_start = np.log(float(chip.launch.gap))
    dram, cores = float(chip.memory["dram"].bandwidth), float(np.max(chip.cores if chip.cores is not None else 1.0))

    least_draw = np.log(1.5 * dram / cores)

    def tried(logs: Array) -> Array:
        return logs if held_memory is None else np.concatenate([logs[:7], [np.log(held_memory)], logs[8:]])

    def loss(given: Array) -> float:
        logs = tried(given)
        outside = (
            np.maximum(logs[[2, 6, 7]] - high, 0.0).sum()
            + max(least_start - logs[8], 0.0)
            + max(least_draw - logs[1], 0.0)
        )
        return float(np.mean(np.minimum(log_errors(logs, chip, fitted), 1.0)) + outside)

    best = start
    for _ in range(ROUNDS):
        best = minimize(loss, best, method="Nelder-Mead", options={"maxiter": 1500, "adaptive": True}).x
    best = tried(best)
    for label, value in zip((*NAMES, "quality.matmul", "quality.memory", "start-up"), np.exp(best), strict=True):
        print(f"{label:<20}{value:.4g}")
    for label, part in (("fitted half", fitted), ("held-out half", held)):
        error = relative_errors(best, chip, part)
        print(f"{label:<20}median {np.median(error):.1%}, 90th percentile {np.quantile(error, 0.9):.1%}")


if __name__ == "__main__":
    main()
