"""A grid measured on a device: every point once, whatever was measured before left as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cosim import library
from cosim.dtypes import DTYPES
from cosim.errors import SpecError, nearest
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.measure import timing
from cosim.measure.grid import GRIDS, KINDS, STATES, points
from cosim.measure.points import Point, id_of
from cosim.measure.store import Table, refuse_existing, taken_up
from cosim.measure.timing import Device, Facts, UnableError, timed
from cosim.version import __version__

WITH_FORMATS = ("matmul", "attention")
CLOSE = 0.1
"""A device whose cores or memory are further from the chip's is told of: the wrong chip may have been named."""
_MEASURED = ("measured_s", "spread", "repeats", "method", "source")
_MEANING: dict[str, tuple[str, ...]] = {
    "matmul": (
        "C[m,n] = A[m,k] x B[k,n], B stored by columns, no bias; result in the format, of 16 bits for fp8",
        "fp8: e4m3, one scale a tensor (1), fast accumulation; the time includes one kernel that quantises A from bf16",
    ),
    "attention": (
        "attention core alone, flash kernel; prefill: query_len = context_len; decode: query_len 1, context with it",
        "kv_dtype is the format of the cache and of the arithmetic; window 0 is none",
    ),
    "copy": ("an elementwise kernel (negation of bf16); bytes = read_bytes + write_bytes",),
    "launch": (
        "kernels of one element. stream_gap, graph_gap: from one to the next of a chain, the kernel itself included",
        "lone_kernel: from event to event around one kernel launched on an idle device",
    ),
}
Show = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure: kinds, formats, grid, states of the operands (None: each kind's own)."""

    accelerator: str
    kinds: tuple[str, ...] = KINDS
    dtypes: tuple[str, ...] = ("bf16",)
    grid: str = "standard"
    states: tuple[str, ...] | None = None


def measure(
    request: Request,
    out: Path,
    open_device: Callable[[], Device],
    *,
    resume: bool,
    today: str,
    progress: Show,
) -> dict[str, Any]:
    """Measures the points of `request` into `out` and returns what is there.

    `open_device` is called after everything else was found right; `today` is the date in the heads of the files.
    Returns folder, accelerator, device (its facts), differs (why it may be another chip), kinds (for each: file,
    rows, measured now, skipped, median spread) and skipped (kind, id, reason). Raises SpecError on a bad name, on a
    folder that is there without `resume` or with other settings, and where the device is lost.
    """
    _check(request)
    chip = lower_chip(load_chip(request.accelerator))
    accelerator = request.accelerator if request.accelerator in library.names("accelerators") else chip.name
    refuse_existing(out, resume=resume)
    device = open_device()
    differs = differences(chip, device.facts)
    taken_up(out, _settings(request, accelerator, device.facts))
    facts = asdict(device.facts)
    found: dict[str, Any] = {"folder": str(out), "accelerator": accelerator, "device": facts, "differs": differs}
    found |= {"kinds": {}, "skipped": []}
    tables = _Tables(out, accelerator, device.facts, today, differs)
    for kind in request.kinds:
        with tables.of(kind) as table:
            before = len(table.rows)
            _fill(table, _able(table, kind, request, device), accelerator, device, _cache(chip, device.facts), progress)
            found["kinds"][kind] = {**_summary(table), "measured": len(table.rows) - before}
            found["skipped"] += [{"kind": kind, "id": name, "reason": why} for name, why in table.skipped.items()]
    return found


def _check(request: Request) -> None:
    """Raises SpecError for a name that is none."""
    asked: tuple[tuple[str, Sequence[str], Iterable[str]], ...] = (
        ("--kind", request.kinds, KINDS),
        ("--dtype", request.dtypes, DTYPES),
        ("--grid", (request.grid,), GRIDS),
        ("--cache", request.states or (), STATES),
    )
    for field, values, known in asked:
        for value in values:
            if value not in known:
                raise SpecError("is not known", field=field, value=value, hint=nearest(value, known))


def _settings(request: Request, accelerator: str, facts: Facts) -> dict[str, Any]:
    """What must agree for two runs to be one: the request, the device, the software. As JSON gives it back."""
    return {
        "accelerator": accelerator,
        "kind": list(request.kinds),
        "dtype": list(request.dtypes),
        "grid": request.grid,
        "cache": list(request.states) if request.states else "own",
        "device": facts.name,
        "torch": facts.torch,
        "cosim": __version__,
    }


def differences(chip: ChipArrays, facts: Facts) -> list[str]:
    """Where the device is not what the chip's description says."""
    told: list[str] = []
    memory = float(chip.memory["dram"].capacity) if "dram" in chip.memory else 0.0
    pairs = (
        ("cores", 0.0 if chip.cores is None else float(chip.cores), float(facts.cores), 1.0, ""),
        ("memory", memory, facts.memory_bytes, 1e9, " GB"),
    )
    for what, described, there, unit, word in pairs:
        if described and there and abs(there / described - 1.0) > CLOSE:
            told.append(f"{what}: {chip.name} has {described / unit:.3g}{word}, the device {there / unit:.3g}{word}")
    return told


def _cache(chip: ChipArrays, facts: Facts) -> float:
    """The larger of what the device and the chip say of the last cache [B]; 0 where neither says it."""
    level = chip.memory.get("cache")
    return max(facts.cache_bytes, 0.0 if level is None else float(level.capacity))


@dataclass(frozen=True, slots=True)
class _Tables:
    """The files of a folder, each with its head and its columns."""

    out: Path
    accelerator: str
    facts: Facts
    today: str
    differs: Sequence[str]

    def of(self, kind: str) -> Table:
        first = points(kind, "quick", ("bf16",))[0]
        return Table(self.out / f"{kind}.csv", self._head(kind), ("id", "accelerator", *first.columns, *_MEASURED))

    def _head(self, kind: str) -> list[str]:
        facts = self.facts
        return [
            f"{kind} on {facts.name}, measured by cosim {__version__} as {self.accelerator} on {self.today}",
            f"torch {facts.torch}, driver {facts.driver or 'unknown'}",
            f"highest clock {facts.clock or 'unknown'}, power limit {facts.power_limit or 'unknown'}",
            *(f"the device differs from the chip's description: {line}" for line in self.differs),
            *_MEANING[kind],
            f"measured_s = mean over a replay's runs, median of {timing.REPLAYS} replays, of {timing.ROUNDS} rounds",
            "spread = slowest / fastest round; repeats = runs behind a row",
            "method graph: inside a replayed graph; stream: launched one by one, short kernels wait for the host",
            "warm = 1: every run uses the same operands; 0: copies in turn, twice the last cache between two uses",
        ]


def _able(table: Table, kind: str, request: Request, device: Device) -> list[Point]:
    """Points in formats that the device has; the others are told of in the table."""
    if kind not in WITH_FORMATS:
        return points(kind, request.grid, (), request.states)
    able = []
    for dtype in request.dtypes:
        reason = device.lacks(kind, dtype)
        if not reason:
            able.append(dtype)
        elif f"{kind} {dtype}" not in table:
            table.skip(f"{kind} {dtype}", reason)
    return points(kind, request.grid, able, request.states)


def _fill(
    table: Table, asked: Iterable[Point], accelerator: str, device: Device, cache_bytes: float, progress: Show
) -> None:
    """Measures what the table lacks. Raises SpecError where the device is lost, after the point was noted."""
    names = {point: id_of(point, accelerator) for point in asked}
    left = [point for point, name in names.items() if name not in table]
    for done, point in enumerate(left):
        progress(done, len(left), names[point])
        try:
            found = timed(device, point, cache_bytes)
        except UnableError as error:
            table.skip(names[point], str(error))
            if error.lost:
                hint = "the point is noted as skipped; run the same command with --resume"
                raise SpecError(f"the device answers no more: {error}", value=names[point], hint=hint) from None
            continue
        table.append(_row(names[point], accelerator, point, found, device.facts))
    progress(len(left), len(left), table.path.name)


def _row(name: str, accelerator: str, point: Point, found: timing.Timing, facts: Facts) -> Mapping[str, object]:
    return {
        "id": name,
        "accelerator": accelerator,
        **point.columns,
        "measured_s": f"{found.seconds:.6g}",
        "spread": f"{found.spread:.4g}",
        "repeats": found.repeats,
        "method": found.method,
        "source": f"cosim measure on {facts.name}",
    }


def _summary(table: Table) -> dict[str, Any]:
    spreads = list(table.rows.values())
    return {
        "file": str(table.path),
        "rows": len(spreads),
        "skipped": len(table.skipped),
        "median_spread": median(spreads) if spreads else None,
    }
