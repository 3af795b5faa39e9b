"""From descriptions to arrays: primaries in, peaks and bandwidths derived, ready for the engines.

Every leaf is float64 of shape () or (P,). An override replaces its primary, and what derives from it
follows; an override of a derived value replaces that value alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from cosim.datum import Datum
from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.system import System
from cosim.hardware.tiers import TierArrays, lower_tiers
from cosim.overrides import Varied
from cosim.records import Array, array

KERNEL_CONSTANTS: dict[str, str] = {
    "step_cycles": "least cycles of one step of the K loop of a tile, 128 B deep",
    "epilogue_cycles": "cycles in which a core stores a tile of 128 x 128 after its loop, nothing else running",
    "cache_share": "share of a partition of the last cache that holds operands",
    "cache_feed": "bandwidth of the last cache that tiles reach, over its own",
    "attention_start": "fixed time of an attention kernel beyond its launch [s]",
    "block_step_cycles": "least cycles of one step of 64 keys of a block of queries",
    "block_cycles": "cycles to fill and drain one block of queries",
    "split_step_cycles": "least cycles of one step of 64 keys in decode",
    "split_item_cycles": "cycles to fill and drain one piece of a context in decode",
    "attention_split": "time of the reduction after a context was split [s]",
    "group_limit": "most heads of one key/value head that a decode kernel serves together",
    "narrow_gain": "rate of attention products in 8 bits over that in 16; 1 where it is not given",
    "dram_share": "DRAM bandwidth of matrix kernels over that of streaming ones; 1 where it is not given",
}


COSTS = tuple(name for name in KERNEL_CONSTANTS if name.endswith("_cycles") or name.startswith("attention_"))
"""Constants of which less is better."""
SHARES = ("cache_share", "cache_feed", "dram_share")
"""Constants that are a share of a whole."""
ROUNDING = 1.0 + 1e-9


@dataclass(frozen=True, slots=True)
class MatrixArrays:
    """Matrix engine. `peak` [FLOP/s] by dtype; structure fields are None where the chip has none."""

    kind: str
    peak: Mapping[str, Array]
    clock: Array | None
    arrays: Array | None = None
    rows: Array | None = None
    columns: Array | None = None
    dataflows: tuple[str, ...] = ()
    shadow_weights: bool = True
    prefetch: bool = True
    multicast: Array = field(default_factory=lambda: array(1.0))
    """Cores that one read of the last cache can serve."""


@dataclass(frozen=True, slots=True)
class MemoryArrays:
    """One level: usable capacity of the whole chip [B], bandwidth [B/s], what the runtime keeps [B]."""

    capacity: Array
    bandwidth: Array
    reserved: Array
    partitions: Array = field(default_factory=lambda: array(1.0))
    """Parts that each keep a copy of what their own cores read."""
    shown: Array = field(default_factory=lambda: array(np.nan))
    """Capacity as the driver shows it [B]."""


@dataclass(frozen=True, slots=True)
class PowerArrays:
    """Limit and idle [W], energy [J/FLOP] by dtype and [J/B] by memory role and `link`."""

    limit: Array
    idle: Array
    energy_per_flop: Mapping[str, Array]
    energy_per_byte: Mapping[str, Array]
    floor_voltage: Array = field(default_factory=lambda: array(1.0))
    """Voltage at no clock over that at the full one, on the line that clocks follow."""
    real_data: Array = field(default_factory=lambda: array(1.0))
    """Energy of the cores in a step of a model over that in a benchmark."""


@dataclass(frozen=True, slots=True)
class QualityArrays:
    """Kernel quality by class; see `cosim.hardware.chip.Quality`."""

    matmul: Array
    attention: Array
    memory: Array
    collective: Array
    matmul_formats: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class LaunchArrays:
    """Gap between kernels, latency of a lone one, host time per step [s]."""

    gap: Array
    latency: Array
    host_step: Array


@dataclass(frozen=True, slots=True)
class ChipArrays:
    """A chip as the engines see it. `cores` is None where the structure is unknown."""

    name: str
    cores: Array | None
    matrix: MatrixArrays
    vector_peak: Array
    special_peak: Array
    memory: Mapping[str, MemoryArrays]
    links: Mapping[str, Array]
    power: PowerArrays
    launch: LaunchArrays
    quality: QualityArrays
    kernel: Mapping[str, Array]
    collective_cores: Array = field(default_factory=lambda: array(0.0))
    """Share of the cores that a collective takes while it runs behind other work."""

    @property
    def near_energy(self) -> Array:
        """Energy of a byte at the last level on the chip that cores share, or the first that there is [J/B]."""
        on_chip = [role for role in self.memory if role not in ("dram", "host")]
        per_byte = self.power.energy_per_byte
        return per_byte["cache" if "cache" in per_byte else on_chip[0]] if on_chip else array(0.0)


@dataclass(frozen=True, slots=True)
class SystemArrays:
    """A system as the engines see it. Server power is per chip [W]."""

    name: str
    chip: ChipArrays
    chips: Array
    node_chips: Array
    node_tier: int
    """Index of the tier that makes a node."""
    tiers: tuple[TierArrays, ...]
    server_power: Array
    pue: Array
    host_capacity: Array = field(default_factory=lambda: array(np.nan))
    """Memory of the hosts for one chip [B]; NaN where it is not known."""
    storage: Array = field(default_factory=lambda: array(np.nan))
    """Rate at which a node reads from storage [B/s]; NaN where it is not known."""

    @property
    def sizes(self) -> tuple[Array, ...]:
        """Units that each tier joins."""
        return tuple(tier.size for tier in self.tiers)


class Values:
    """Reads numbers of a description by path, arrays first: what lowering and the area of a die are made from."""

    def __init__(self, spec: object, arrays: Mapping[str, Array]) -> None:
        self.spec, self.arrays = spec, arrays

    def si(self, path: str) -> Array:
        """SI value at `path`. Raises SpecError where the description has none."""
        value = self.maybe(path)
        if value is None:
            raise SpecError("is unknown for this chip", field=path, hint="it is known by its peaks only")
        return value

    def maybe(self, path: str) -> Array | None:
        """SI value at `path`, or None where it is not known."""
        if path in self.arrays:
            return self.arrays[path]
        node: object = self.spec
        for part in path.split("."):
            if isinstance(node, tuple):
                node = node[int(part)]
            else:
                node = node.get(part) if isinstance(node, Mapping) else getattr(node, part, None)
            if node is None:
                return None
        return array(node.si) if isinstance(node, Datum) else None

    def below(self, prefix: str) -> Values:
        """The same one level down."""
        node: object = self.spec
        for part in prefix.split("."):
            node = getattr(node, part)
        cut = f"{prefix}."
        return Values(node, {p.removeprefix(cut): a for p, a in self.arrays.items() if p.startswith(cut)})


def lower_chip(chip: Chip, arrays: Mapping[str, Array] | None = None) -> ChipArrays:
    """Arrays of a chip; `arrays` replaces numbers by path relative to the chip. Raises SpecError."""
    return _chip(chip, Values(chip, arrays or {}))


def lower_system(varied: Varied[System]) -> SystemArrays:
    """Arrays of a system with its overrides; paths are relative to the system. Raises SpecError."""
    system, values = varied.spec, Values(varied.spec, varied.arrays)
    chip = _chip(system.chip, values.below("chip"))
    tiers = lower_tiers(system, values, chip.links)
    node = math.prod((tier.size for tier in tiers[: system.node_tier + 1]), start=array(1.0))
    held, storage = values.maybe("server.memory"), values.maybe("server.storage")
    return SystemArrays(
        name=system.name,
        chip=chip,
        chips=node * values.si("nodes"),
        node_chips=node,
        node_tier=system.node_tier,
        tiers=tiers,
        server_power=values.si("server.power") / node,
        pue=values.si("facility.pue"),
        host_capacity=array(np.nan) if held is None else held / node,
        storage=array(np.nan) if storage is None else storage,
    )


def _or_zero(value: Array | None) -> Array:
    return array(0.0) if value is None else value


def _chip(chip: Chip, values: Values) -> ChipArrays:
    constants = chip.calibration.constants if chip.calibration is not None else {}
    limit, idle, floor = values.si("power.limit"), values.si("power.idle"), values.maybe("power.floor_voltage")
    real = values.maybe("power.real_data")
    if np.any(limit <= idle):
        hint = "the limit covers idle"
        raise SpecError("is not above power.idle", field="chip.power.limit", value=float(np.min(limit)), hint=hint)
    return ChipArrays(
        name=chip.name,
        cores=values.maybe("cores"),
        matrix=_matrix(chip, values),
        vector_peak=_engine_peak(values, "vector"),
        special_peak=_engine_peak(values, "special"),
        memory={role: _memory(values, role, level.shared_by) for role, level in chip.memory.items()},
        links={name: _link(values, name) for name in chip.links},
        power=PowerArrays(
            limit=limit,
            idle=idle,
            energy_per_flop={d: values.si(f"power.energy_per_flop.{d}") for d in chip.power.energy_per_flop},
            energy_per_byte={r: values.si(f"power.energy_per_byte.{r}") for r in chip.power.energy_per_byte},
            floor_voltage=array(1.0) if floor is None else floor,
            real_data=array(1.0) if real is None else real,
        ),
        launch=LaunchArrays(*(values.si(f"launch.{name}") for name in ("gap", "latency", "host_step"))),
        quality=QualityArrays(
            matmul=values.si("quality.matmul"),
            attention=values.si("quality.attention"),
            memory=values.si("quality.memory"),
            collective=values.si("quality.collective"),
            matmul_formats=_each(values, "quality.matmul_formats.", chip.quality.matmul_formats),
        ),
        kernel=_kernel(values, constants),
        collective_cores=_or_zero(values.maybe("collective_cores")),
    )


def _kernel(values: Values, constants: Iterable[str]) -> dict[str, Array]:
    """Kernel constants by name. Raises SpecError where a share is more than the whole."""
    found = _each(values, "calibration.constants.", constants)
    whole = {"cache_share": array(1.0), "cache_feed": array(1.0), "narrow_gain": array(2.0)}
    whole["dram_share"] = 1.0 / values.si("quality.memory")
    for name, most in whole.items():
        if name in found and np.any(found[name] > most * ROUNDING):
            hint = f"at most {float(np.min(most)):.3g}: kernels have no more than there is"
            field, worst = f"chip.calibration.constants.{name}", float(np.max(found[name]))
            raise SpecError("is too much", field=field, value=worst, hint=hint)
    return found


def _each(values: Values, prefix: str, written: Iterable[str]) -> dict[str, Array]:
    """Numbers below `prefix`: those that the file has, and those that arrays add to them."""
    added = (path.removeprefix(prefix) for path in values.arrays if path.startswith(prefix))
    return {name: values.si(prefix + name) for name in dict.fromkeys((*written, *added))}


def _matrix(chip: Chip, values: Values) -> MatrixArrays:
    engine = chip.matrix
    if engine.kind == "roofline":
        return MatrixArrays("roofline", {d: values.si(f"matrix.peak.{d}") for d in engine.peak}, clock=None)
    clock, cores = values.si("matrix.clock"), values.si("cores")
    units = cores
    if engine.kind == "systolic":
        arrays, rows, columns = (values.si(f"matrix.{name}") for name in ("arrays", "rows", "columns"))
        units = cores * arrays * rows * columns
    peak: dict[str, Array] = {}
    for dtype in engine.rate:
        replaced = values.maybe(f"matrix.peak.{dtype}")
        peak[dtype] = units * values.si(f"matrix.rate.{dtype}") * clock if replaced is None else replaced
    if engine.kind == "tile":
        multicast = values.maybe("matrix.multicast")
        return MatrixArrays("tile", peak, clock, multicast=array(1.0) if multicast is None else multicast)
    switches = (engine.dataflows, engine.shadow_weights, engine.prefetch)
    return MatrixArrays("systolic", peak, clock, arrays, rows, columns, *switches)


def _engine_peak(values: Values, engine: str) -> Array:
    peak = values.maybe(f"{engine}.peak")
    if peak is not None:
        return peak
    return values.si("cores") * values.si(f"{engine}.rate") * values.si(f"{engine}.clock")


def _memory(values: Values, role: str, shared_by: str) -> MemoryArrays:
    at = f"memory.{role}"
    copies = values.si("cores") if shared_by == "core" else array(1.0)
    bandwidth = values.maybe(f"{at}.bandwidth")
    if bandwidth is None and values.maybe(f"{at}.stacks") is not None:
        bandwidth = values.si(f"{at}.stacks") * values.si(f"{at}.pins") * values.si(f"{at}.pin_rate")
    elif bandwidth is None:
        bandwidth = values.si("cores") * values.si(f"{at}.bytes_per_cycle") * values.si(f"{at}.clock")
    capacity = values.maybe(f"{at}.capacity")
    if capacity is None:
        capacity = values.si(f"{at}.stacks") * values.si(f"{at}.stack_capacity")
    capacity = capacity * copies
    partitions, shown = values.maybe(f"{at}.partitions"), values.maybe(f"{at}.capacity_shown")
    if shown is None or any(f"{at}.{name}" in values.arrays for name in ("capacity", "stack_capacity", "stacks")):
        shown = capacity
    return MemoryArrays(
        capacity,
        bandwidth,
        _or_zero(values.maybe(f"{at}.reserved")),
        array(1.0) if partitions is None else partitions,
        shown,
    )


def _link(values: Values, name: str) -> Array:
    total = values.maybe(f"links.{name}.bandwidth")
    return values.si(f"links.{name}.count") * values.si(f"links.{name}.rate") if total is None else total
