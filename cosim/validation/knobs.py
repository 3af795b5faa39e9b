"""What `cosim calibrate` may fit of a chip: paths of its description, with the bounds that physics gives.

A knob is fitted in logarithms between its bounds, from what the chip says now. Those of the wide formats are shared;
every narrower format has a quality of its own, fitted after them.
"""

from __future__ import annotations

from dataclasses import dataclass

from cosim.hardware.lower import ChipArrays
from cosim.records import array

CONSTANT = "calibration.constants."
REACH = 6.0
"""A fit looks this factor up and down from where it starts."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A number of a chip by path: where the fit starts, and between what it may lie; SI units."""

    path: str
    start: float
    low: float
    high: float


def matmul_knobs(chip: ChipArrays, best_rate: float) -> tuple[Knob, ...]:
    """Knobs of wide products. `best_rate` is the best measured rate over the peak: no kernel is better than that."""
    knobs = [
        _ratio("quality.matmul", float(chip.quality.matmul), min(best_rate, 1.0)),
        _time("launch.latency", float(chip.launch.latency)),
    ]
    if chip.matrix.kind != "tile":
        return (*knobs, _ratio("quality.memory", float(chip.quality.memory), 1.0))
    share = float(chip.kernel["dram_share"]) if "dram_share" in chip.kernel else 1.0
    return (
        *knobs,
        *(_cycles(chip, name) for name in ("step_cycles", "epilogue_cycles")),
        _ratio(f"{CONSTANT}cache_share", float(chip.kernel["cache_share"]), 1.0),
        _ratio(f"{CONSTANT}cache_feed", float(chip.kernel["cache_feed"]), 1.0),
        _ratio(f"{CONSTANT}dram_share", share, 1.0 / float(chip.quality.memory)),
    )


def attention_knobs(chip: ChipArrays) -> tuple[Knob, ...]:
    """Knobs of attention kernels at 16 bits."""
    quality = _ratio("quality.attention", float(chip.quality.attention), 1.0)
    if "attention_start" not in chip.kernel:
        latency = _time("launch.latency", float(chip.launch.latency))
        return quality, latency, _ratio("quality.memory", float(chip.quality.memory), 1.0)
    names = ("block_step_cycles", "block_cycles", "split_step_cycles", "split_item_cycles")
    times = ("attention_start", "attention_split")
    return (
        quality,
        *(_cycles(chip, name) for name in names),
        *(_time(CONSTANT + name, float(chip.kernel[name])) for name in times),
    )


def format_knob(chip: ChipArrays, kind: str, dtype: str) -> Knob | None:
    """The quality of a narrow format; None where the chip's model has none for it.

    Its rows hold a kernel that quantises, so that the best measured rate is no bound.
    """
    if kind == "matmul":
        start = chip.quality.matmul_formats.get(dtype, chip.quality.matmul)
        return _ratio(f"quality.matmul_formats.{dtype}", float(start), 1.0)
    if "attention_start" not in chip.kernel:
        return None
    start = chip.kernel.get("narrow_gain", array(1.0))
    return Knob(f"{CONSTANT}narrow_gain", float(start), 1.0, 2.0)


def _ratio(path: str, start: float, most: float) -> Knob:
    return Knob(path, min(start, most), min(start, most) / REACH, most)


def _time(path: str, start: float) -> Knob:
    # A start of nothing has no logarithm: a hundredth of a microsecond is as good as none.
    least = max(start, 1e-8)
    return Knob(path, least, least / REACH, max(least * REACH, 5e-6))


def _cycles(chip: ChipArrays, name: str) -> Knob:
    start = max(float(chip.kernel[name]), 1.0)
    return Knob(CONSTANT + name, start, start / REACH, start * REACH)
