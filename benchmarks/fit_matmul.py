"""Fits the kernel constants of a tile machine on the odd rows of its bf16 table; prints them and both errors.

Usage: python benchmarks/fit_matmul.py CASES.csv CHIP. Eight constants: the six of the tile model, the
quality of the matrix units and of DRAM, and the start-up of a lone kernel. The even rows are never seen by
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

NAMES = ("k_step_time", "core_bandwidth", "cache_share", "split_time", "operand_bandwidth", "tile_prologue")
ROUNDS = 3


def rows_of(path: Path, chip: str) -> Array:
    """(4, rows): m, n, k and measured seconds of the chip's bf16 rows."""
    cases = [c for c in read_cases("matmul", path) if (c.values["accelerator"], c.values["dtype"]) == (chip, "bf16")]
    return array([[case.number(name) for case in cases] for name in ("m", "n", "k", "measured_s")])


def with_constants(chip: ChipArrays, values: Array) -> tuple[ChipArrays, float]:
    """The chip with (constants, matmul quality, memory quality) replaced, and the start-up time [s]."""
    kernel = dict(zip(NAMES, (array(v) for v in values), strict=False))
    quality = replace(chip.quality, matmul=array(values[6]), memory=array(values[7]))
    return replace(chip, kernel=kernel, quality=quality), float(values[8])


def log_errors(logs: Array, chip: ChipArrays, rows: Array) -> Array:
    """|log(predicted / measured)| of every row."""
    fitted, start = with_constants(chip, np.exp(logs))
    m, n, k, measured = rows
    predicted = matmul_cost(m, n, k, fitted, "bf16", resident="all").time + start
    errors: Array = np.abs(np.log(predicted / measured))
    return errors


def main() -> None:
    path, name = Path(sys.argv[1]), sys.argv[2]
    chip, rows = lower_chip(load_chip(name)), rows_of(path, name)
    fitted, held = rows[:, ::2], rows[:, 1::2]
    present = [chip.kernel[constant] for constant in NAMES]
    present += [chip.quality.matmul, chip.quality.memory, chip.launch.gap + chip.launch.latency]
    start = np.log(array([float(v) for v in present]))

    def loss(logs: Array) -> float:
        over = np.maximum(logs[[2, 6, 7]], 0.0).sum()
        return float(np.mean(np.minimum(log_errors(logs, chip, fitted), 1.0)) + over)

    best = start
    for _ in range(ROUNDS):
        best = minimize(loss, best, method="Nelder-Mead", options={"maxiter": 1500, "adaptive": True}).x
    for label, value in zip((*NAMES, "quality.matmul", "quality.memory", "start-up"), np.exp(best), strict=True):
        print(f"{label:<20}{value:.4g}")
    for label, part in (("fitted half", fitted), ("held-out half", held)):
        error = np.expm1(log_errors(best, chip, part))
        print(f"{label:<20}median {np.median(error):.1%}, 90th percentile {np.quantile(error, 0.9):.1%}")


if __name__ == "__main__":
    main()
