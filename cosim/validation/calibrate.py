"""Fits the few constants of a chip's kernels to measured kernels, odd rows; the even rows are held out.

The loss is the mean of |log(predicted / measured)|, clipped at 1 so that a few odd kernels do not pull. A search over
the whole box of bounds (differential evolution, seeded), then a simplex from its best. What the data do not carry is
not fitted: ten rows a constant are needed, and a constant whose change by a quarter moves the loss by less than a
thousandth keeps its value and is said to be undetermined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import differential_evolution, minimize

from cosim.dtypes import DTYPES, is_wide
from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import Array, array
from cosim.validation.cases import Case
from cosim.validation.faults import ATTENTION, PRODUCT, kernel_fault
from cosim.validation.kernels import attention_kernel, matmul_kernel
from cosim.validation.knobs import Knob, attention_knobs, format_knob, matmul_knobs

ROWS_PER_CONSTANT = 10
CLIP = 1.0
LEAST_EFFECT = 1e-3
STEP = 1.25
NEAR_PEAK = 0.3
"""Share of the peak from which a measured rate says how good kernels can be."""
SEED = 0
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Measured kernels that are costed in one call: columns by name, seconds, and what they share."""

    dims: Mapping[str, Array]
    measured: Array
    dtype: str
    phase: str = ""
    kv_dtype: str = ""
    causal: bool = True
    warm: bool = True


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted values by path, constants that the rows do not determine, and |errors| of both halves."""

    values: Mapping[str, float]
    undetermined: tuple[str, ...]
    fitted_rows: int
    fitted: Array
    held_out: Array


def calibrate(chip: Chip, kind: str, cases: Sequence[Case], progress: Progress | None = None) -> Fit:
    """Fits `chip` to `cases` of its own accelerator. Raises SpecError where the rows cannot carry the constants."""
    groups = grouped(kind, cases)
    odd = [half(rows, 0) for rows in groups]
    found: dict[str, float] = {}
    loose: list[str] = []
    arrays = lower_chip(chip)
    wide = [rows for rows in odd if is_wide(rows.dtype)]
    if wide:
        knobs = matmul_knobs(arrays, _best_rate(wide, arrays)) if kind == "matmul" else attention_knobs(arrays)
        values, undetermined = _fitted(chip, knobs, wide, found, progress)
        found, loose = {**found, **values}, [*loose, *undetermined]
    for dtype in dict.fromkeys(rows.dtype for rows in odd if not is_wide(rows.dtype)):
        own = [rows for rows in odd if rows.dtype == dtype]
        knob = format_knob(lower_chip(chip, _arrays(found)), kind, dtype)
        if knob is not None:
            values, undetermined = _fitted(chip, (knob,), own, found, progress)
            found, loose = {**found, **values}, [*loose, *undetermined]
    final = lower_chip(chip, _arrays(found))
    rest = [half(rows, 1) for rows in groups]
    halves = [np.abs(np.expm1(log_ratios(part, final))) for part in (odd, rest)]
    return Fit(found, tuple(loose), int(halves[0].size), halves[0], halves[1])


def grouped(kind: str, cases: Sequence[Case]) -> list[Rows]:
    """Cases of one accelerator by what they share, in the order of the file. Raises SpecError for a bad number."""
    columns = {"matmul": PRODUCT, "attention": ATTENTION}[kind]
    together: dict[tuple[str, str, str, bool, bool], list[Case]] = {}
    for case in cases:
        fault = kernel_fault(kind, case)
        if not fault and case.values["dtype"] not in DTYPES:
            fault = f"unknown dtype {case.values['dtype']}"
        if fault:
            raise SpecError(f"cannot be fitted: {fault}", line=case.line, value=case.id)
        key = (
            case.values["dtype"],
            case.values.get("phase", ""),
            case.values.get("kv_dtype", "").strip() or "bf16",
            case.number("causal") != 0.0,
            case.number("warm") != 0.0,
        )
        together.setdefault(key, []).append(case)
    found = []
    for (dtype, phase, kv_dtype, causal, warm), rows in together.items():
        dims = {name: array([case.number(name) or 0.0 for case in rows]) for name in columns}
        extra = {"matmul": ("batch", 1.0), "attention": ("window", 0.0)}[kind]
        dims[extra[0]] = array([case.number(extra[0]) or extra[1] for case in rows])
        measured = array([case.number("measured_s") or 0.0 for case in rows])
        found.append(Rows(dims, measured, dtype, phase, kv_dtype, causal, warm))
    return found


def half(rows: Rows, start: int) -> Rows:
    """Every second shape in the order of the file, from `start` on; rows of one shape stay on one side."""
    shapes = np.stack(list(rows.dims.values()))
    _, first, inverse = np.unique(shapes, axis=1, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse.reshape(-1)]
    mine = rank % 2 == start
    dims = {name: column[mine] for name, column in rows.dims.items()}
    return replace(rows, dims=dims, measured=rows.measured[mine])


def _best_rate(groups: Sequence[Rows], chip: ChipArrays) -> float:
    """Best measured rate of products over the peak of their format; 1 where no product comes near it."""
    best = 0.0
    for rows in groups:
        if "m" not in rows.dims:
            return 1.0
        if rows.dtype not in chip.matrix.peak:
            raise SpecError("has no matrix rate for a format of the rows", field=chip.name, value=rows.dtype)
        flop = 2.0 * rows.dims["m"] * rows.dims["n"] * rows.dims["k"] * rows.dims["batch"]
        best = max(best, float(np.max(flop / rows.measured / chip.matrix.peak[rows.dtype], initial=0.0)))
    return best if best >= NEAR_PEAK else 1.0


def _arrays(values: Mapping[str, float]) -> dict[str, Array]:
    return {path: array(value) for path, value in values.items()}


def _times(rows: Rows, chip: ChipArrays) -> Array:
    if "m" in rows.dims:
        return matmul_kernel(rows.dims, chip, rows.dtype, warm=rows.warm).time
    narrow = not is_wide(rows.dtype)
    ways = {"causal": rows.causal, "narrow": narrow, "warm": rows.warm}
    kernel = attention_kernel(rows.dims, chip, rows.phase, rows.kv_dtype, **ways)
    return kernel.time


def log_ratios(groups: Sequence[Rows], chip: ChipArrays) -> Array:
    """log(predicted / measured) of every row."""
    parts = [np.log(_times(rows, chip) / rows.measured) for rows in groups if rows.measured.size]
    return np.concatenate(parts) if parts else np.zeros(0)


def _fitted(
    chip: Chip, knobs: Sequence[Knob], groups: Sequence[Rows], known: Mapping[str, float], progress: Progress | None
) -> tuple[dict[str, float], list[str]]:
    """Values of the knobs that the rows determine, and the paths of those that they do not."""
    total = sum(_different(rows) for rows in groups)
    most = total // ROWS_PER_CONSTANT
    if most < len(knobs):
        raise SpecError(
            f"{total} different rows to fit carry {most} constants, not {len(knobs)}",
            field=", ".join(knob.path for knob in knobs),
            hint=f"half of the rows are held out; {2 * ROWS_PER_CONSTANT * len(knobs)} rows are enough",
        )

    loss = _loss(chip, knobs, groups, known)
    best = searched(loss, knobs, progress)
    loose = [knob.path for place, knob in enumerate(knobs) if not _is_felt(loss, best, knobs, place)]
    found = {knob.path: float(np.exp(value)) for knob, value in zip(knobs, best, strict=True) if knob.path not in loose}
    if loose and found:
        # The others were found beside values that are now given up.
        rest = [replace(knob, start=found[knob.path]) for knob in knobs if knob.path in found]
        again = searched(_loss(chip, rest, groups, known), rest, progress)
        found = {knob.path: float(np.exp(value)) for knob, value in zip(rest, again, strict=True)}
    return found, loose


def _different(rows: Rows) -> int:
    """Rows that are no repetition of another's shape."""
    return int(np.unique(np.stack(list(rows.dims.values())), axis=1).shape[1]) if rows.measured.size else 0


def _loss(
    chip: Chip, knobs: Sequence[Knob], groups: Sequence[Rows], known: Mapping[str, float]
) -> Callable[[Array], float]:
    """Mean clipped |log error| of the groups, of the logarithms of the knobs' values."""

    def loss(logs: Array) -> float:
        values = {knob.path: float(np.exp(each)) for knob, each in zip(knobs, logs, strict=True)}
        arrays = lower_chip(chip, _arrays({**known, **values}))
        return float(np.mean(np.minimum(np.abs(log_ratios(groups, arrays)), CLIP)))

    return loss


def _is_felt(loss: Callable[[Array], float], best: Array, knobs: Sequence[Knob], place: int) -> bool:
    """Whether the loss feels a quarter more or less of one value, as far as it may go."""
    moved = []
    for factor in (STEP, 1.0 / STEP):
        other = best.copy()
        ends = np.log(knobs[place].low), np.log(knobs[place].high)
        other[place] = np.clip(other[place] + np.log(factor), *ends)
        moved.append(loss(other))
    return max(moved) - loss(best) >= LEAST_EFFECT


def searched(loss: Callable[[Array], float], knobs: Sequence[Knob], progress: Progress | None) -> Array:
    """Logarithms of the best values found between the bounds."""
    bounds = [(np.log(knob.low), np.log(knob.high)) for knob in knobs]
    start = array([np.log(knob.start) for knob in knobs])
    rounds = 10 + 6 * len(knobs)
    done = 0

    def report(*_: object, **__: object) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done, rounds), rounds)

    wide = differential_evolution(
        loss, bounds, x0=start, seed=SEED, maxiter=rounds, popsize=6, tol=1e-6, polish=False, callback=report
    ).x
    lows, highs = (array([each[side] for each in bounds]) for side in (0, 1))

    def inside(logs: Array) -> float:
        held = np.clip(logs, lows, highs)
        return loss(held) + float(np.sum(np.abs(logs - held)))

    simplex = minimize(inside, wide, method="Nelder-Mead", options={"maxiter": 150 * len(knobs), "adaptive": True})
    if progress is not None:
        progress(rounds, rounds)
    best: Array = np.clip(simplex.x, lows, highs)
    return best
