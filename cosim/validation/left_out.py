"""Leave one generation out: a chip predicted by constants that were fitted on the chips of other generations alone.

A generation is a library of kernels. Its constants and the quality of its kernels are fitted anew, together, on the
odd 16-bit rows of all other fitted chips; the start-up of a lone kernel is the gap once more. So nothing of a chip's
own table is in its prediction but what its file says of the silicon: clocks, caches, bandwidths, energies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim import library
from cosim.dtypes import is_wide
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.lower import SHARES, ChipArrays, lower_chip
from cosim.records import Array, array
from cosim.validation.calibrate import CLIP, Rows, grouped, half, log_ratios, searched
from cosim.validation.cases import Case
from cosim.validation.knobs import CONSTANT, Knob, attention_knobs, matmul_knobs
from cosim.validation.statistics import summary

LATENCY = "launch.latency"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One chip as the others predict it: its generation, those that were fitted, predicted / measured of its rows."""

    accelerator: str
    generation: str
    fitted_on: tuple[str, ...]
    values: Mapping[str, float]
    ratios: Array


def left_out(tables: Mapping[str, Sequence[Rows]], progress: Progress | None = None) -> list[LeftOut]:
    """Every fitted chip of the tables as the other generations predict it; none where there are fewer than two.

    `tables` are rows of one kind by accelerator; 16-bit ones count.
    """
    wide = {name: [rows for rows in groups if _is_wide(rows)] for name, groups in tables.items()}
    chips = {name: chip for name, rows in wide.items() if rows and (chip := _fitted_chip(name)) is not None}
    found = []
    for name, chip in chips.items():
        others = {other: chips[other] for other in chips if _generation(chips[other]) != _generation(chip)}
        if others:
            values = _together(others, wide, progress)
            ratios = np.exp(log_ratios(wide[name], _with(chip, values)))
            found.append(LeftOut(name, _generation(chip), tuple(others), values, ratios))
    return found


def by_accelerator(kind: str, cases: Sequence[Case]) -> dict[str, list[Rows]]:
    """Cases of kernels as tables by accelerator."""
    names = dict.fromkeys(case.values["accelerator"] for case in cases)
    return {name: grouped(kind, [c for c in cases if c.values["accelerator"] == name]) for name in names}


def figures(found: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """The same as `cosim validate` gives errors, one entry a chip."""
    return [
        {
            "accelerator": each.accelerator,
            "generation": each.generation,
            "fitted_on": list(each.fitted_on),
            "values": dict(each.values),
            **summary(each.ratios.tolist(), [1.0] * each.ratios.size),
        }
        for each in found
    ]


def _is_wide(rows: Rows) -> bool:
    return rows.measured.size > 0 and is_wide(rows.dtype) and is_wide(rows.kv_dtype or rows.dtype)


def _fitted_chip(name: str) -> Chip | None:
    """The chip, where its kernel constants were fitted on itself and it names a library."""
    if name not in library.names("accelerators"):
        return None
    chip = load_chip(name)
    return chip if chip.is_fitted and chip.kernels is not None else None


def _generation(chip: Chip) -> str:
    return chip.kernels or chip.name


def _with(chip: Chip, values: Mapping[str, float]) -> ChipArrays:
    """The chip with constants of others, and the start-up that follows from its own gap."""
    arrays = {path: array(value) for path, value in values.items()}
    return lower_chip(chip, {**arrays, LATENCY: array(chip.launch.gap.si)})


def _together(
    chips: Mapping[str, Chip], tables: Mapping[str, Sequence[Rows]], progress: Progress | None
) -> dict[str, float]:
    """One set of constants for all of the chips, on the odd rows of each, every chip with the same weight."""
    of_products = "m" in tables[next(iter(chips))][0].dims
    knobs = [knob for knob in _knobs(chips.values(), of_products=of_products) if knob.path != LATENCY]
    odd = {name: [half(rows, 0) for rows in tables[name]] for name in chips}

    def loss(values: Array) -> float:
        named = {knob.path: float(np.exp(value)) for knob, value in zip(knobs, values, strict=True)}
        errors = [log_ratios(odd[name], _with(chip, named)) for name, chip in chips.items()]
        return float(np.mean([np.mean(np.minimum(np.abs(each), CLIP)) for each in errors]))

    best = searched(loss, knobs, progress)
    return {knob.path: float(np.exp(value)) for knob, value in zip(knobs, best, strict=True)}


def _knobs(chips: Iterable[Chip], *, of_products: bool) -> list[Knob]:
    """Knobs that start between those of the chips and reach over all of them."""
    every: list[tuple[Knob, ...]] = []
    for chip in chips:
        arrays = lower_chip(chip)
        every.append(matmul_knobs(arrays, 1.0) if of_products else attention_knobs(arrays))
    joined = []
    for same in zip(*every, strict=True):
        start = float(np.exp(np.mean([np.log(knob.start) for knob in same])))
        # No chip has more than the whole of a share.
        is_share = same[0].path.removeprefix(CONSTANT) in SHARES
        high = (min if is_share else max)(knob.high for knob in same)
        joined.append(Knob(same[0].path, min(start, high), min(knob.low for knob in same), high))
    return joined
