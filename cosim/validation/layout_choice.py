"""How well a model chooses among layouts: sweeps of one run over layouts, regret and rank correlation in each.

regret   measured time of the layout that is predicted best, over the best measured, less one; 0 is the right choice
tau      (pairs in the right order - pairs in the wrong one) / pairs, of pairs whose measured times are apart
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cosim.records import Array, array
from cosim.validation.cases import Case as Row
from cosim.validation.training_known import source_of

RUN = (
    "workload",
    "layers",
    "hidden",
    "ffn",
    "seq_len",
    "global_batch",
    "accelerator",
    "system",
    "num_accelerators",
    "precision",
    "task",
    "software_stack",
)
"""Columns that are the same in a sweep."""
LAYOUT = ("tp", "sp", "pp", "virtual_pp", "cp", "ep", "dp", "zero", "recompute", "micro_batch")
"""Columns that a layout is made of."""
APART = 0.05
"""Measured times nearer than this are as good as equal: runs of one layout differ by about as much."""
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Layouts of one run; `predicted` and `measured` in seconds, shape (L,). Repeats of a layout are their median."""

    source: str
    run: Key
    layouts: tuple[Key, ...]
    predicted: Array
    measured: Array


def sweeps(rows: Sequence[Row], predicted: Sequence[float], measured: Sequence[float]) -> list[Sweep]:
    """Sweeps of at least two layouts, in the order of the rows; times in seconds."""
    found: dict[tuple[str, Key], dict[Key, list[tuple[float, float]]]] = {}
    for row, guess, seconds in zip(rows, predicted, measured, strict=True):
        run = tuple(row.values.get(name, "").strip() for name in RUN)
        layout = tuple(row.values.get(name, "").strip() for name in LAYOUT)
        found.setdefault((source_of(row), run), {}).setdefault(layout, []).append((guess, seconds))
    return [_sweep(source, run, layouts) for (source, run), layouts in found.items() if len(layouts) > 1]


def _sweep(source: str, run: Key, layouts: Mapping[Key, Sequence[tuple[float, float]]]) -> Sweep:
    medians = array([np.median(array(times), axis=0) for times in layouts.values()])
    return Sweep(source, run, tuple(layouts), medians[:, 0], medians[:, 1])


def regret(predicted: Array, measured: Array) -> float:
    """What the choice costs: measured[argmin predicted] / min measured - 1, at least 0. Of equal ones the first."""
    return float(measured[np.argmin(predicted)] / np.min(measured) - 1.0)


def tau(predicted: Array, measured: Array, apart: float = APART) -> float | None:
    """Kendall's tau over pairs whose measured times differ by more than `apart` of the lesser; None without any.

    A pair of equal predictions counts as neither right nor wrong.
    """
    first, second = np.triu_indices(measured.size, k=1)
    low, high = np.minimum(measured[first], measured[second]), np.maximum(measured[first], measured[second])
    counted = high > low * (1.0 + apart)
    if not np.any(counted):
        return None
    agrees = np.sign(predicted[first] - predicted[second]) * np.sign(measured[first] - measured[second])
    return float(np.mean(agrees[counted]))
