"""Fits the constants of a system's collectives to measured ones, every second row; the others are held out.

Fitted are, of each library that the tiers of a node name: start and hop of every protocol, the share of every protocol
but the last one (the reference), the local copy, further sends and in-switch reduction where the library has them; and
of each tier the share of the wire that it reaches, or the bandwidth of a bus. The loss is the soft-L1 of
log(predicted / measured) with a scale of a tenth, from a few seeded starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System, Tier
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.timing.way import reached
from cosim.validation.cases import Case
from cosim.validation.collective import Rows, checked_rows, predicted

ROWS_PER_CONSTANT = 9
STARTS = 6
SPREAD = 0.35
CLIP = 2.0
SCALE = 0.1
SEED = 0
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Shared:
    """A number that several paths of a system share: its name, the paths, where the fit starts and its most."""

    name: str
    paths: tuple[str, ...]
    start: float
    most: float = np.inf


@dataclass(frozen=True, slots=True)
class CollectiveFit:
    """Fitted values by name and by path of the system, and |errors| of both halves."""

    values: Mapping[str, float]
    paths: Mapping[str, float]
    fitted: Array
    held_out: Array


def fit_collectives(system: System, cases: Sequence[Case], progress: Progress | None = None) -> CollectiveFit:
    """Fits `system` to cases of its own. Raises SpecError where the rows cannot carry the constants."""
    from scipy.optimize import least_squares

    knobs = shared_knobs(system)
    odd, even = (checked_rows(cases[start::2], system) for start in (0, 1))
    most = sum(rows.size.size for rows in odd) // ROWS_PER_CONSTANT
    if most < len(knobs):
        hint = f"half of the rows are held out; {2 * ROWS_PER_CONSTANT * len(knobs)} rows are enough"
        raise SpecError(f"the rows carry {most} constants, not {len(knobs)}", field=system.name, hint=hint)
    start = np.log(array([knob.start for knob in knobs]))
    ends = np.log(array([knob.most for knob in knobs]))

    def residuals(logs: Array) -> Array:
        values = by_path(knobs, np.minimum(logs, ends))
        # Beyond its most a value gains nothing, and is pulled back.
        return np.append(np.clip(log_ratios(odd, system, values), -CLIP, CLIP), np.maximum(logs - ends, 0.0))

    random = np.random.default_rng(SEED)
    found = []
    for turn in range(STARTS):
        moved = start + (random.normal(0.0, SPREAD, len(knobs)) if turn else 0.0)
        found.append(least_squares(residuals, moved, loss="soft_l1", f_scale=SCALE, max_nfev=100))
        if progress is not None:
            progress(turn + 1, STARTS)
    best = np.minimum(min(found, key=lambda one: one.cost).x, ends)
    paths = by_path(knobs, best)
    halves = [np.abs(np.expm1(log_ratios(rows, system, paths))) for rows in (odd, even)]
    named = {knob.name: float(np.exp(value)) for knob, value in zip(knobs, best, strict=True)}
    return CollectiveFit(named, {path: float(value) for path, value in paths.items()}, *halves)


def by_path(knobs: Sequence[Shared], logs: Array) -> dict[str, Array]:
    """Values of the knobs by path, of their logarithms."""
    return {path: np.exp(value) for knob, value in zip(knobs, logs, strict=True) for path in knob.paths}


def log_ratios(groups: Sequence[Rows], system: System, values: Mapping[str, Array]) -> Array:
    """log(predicted / measured) of every row."""
    return np.concatenate([np.log(predicted(rows, system, values) / rows.measured) for rows in groups])


def shared_knobs(system: System) -> tuple[Shared, ...]:
    """What may be fitted of the tiers inside a node: constants of their libraries, then what each tier reaches."""
    node = system.tiers[: system.node_tier + 1]
    knobs: list[Shared] = []
    for library in dict.fromkeys(tier.collectives for tier in node):
        mine = [index for index, tier in enumerate(node) if tier.collectives == library]
        knobs += _library_knobs(library or "own", node[mine[0]], [f"tiers.{index}.constants" for index in mine])
    lowered = lower_system(Varied(system))
    for index, (tier, arrays) in enumerate(zip(node, lowered.tiers, strict=False)):
        if tier.kind == "bus":
            knobs.append(Shared(f"{tier.name}.bandwidth", (f"tiers.{index}.bandwidth",), float(arrays.bandwidth)))
        else:
            share = float(reached(lowered, arrays))
            knobs.append(Shared(f"{tier.name}.efficiency", (f"tiers.{index}.efficiency",), share, 1.0))
    return tuple(knobs)


def _library_knobs(library: str, tier: Tier, places: Sequence[str]) -> list[Shared]:
    constants = tier.constants
    *others, last = constants.protocols
    wanted = [f"protocols.{name}.{part}" for name in (*others, last) for part in ("start", "hop")]
    wanted += [f"protocols.{name}.share" for name in others]
    wanted += [
        name
        for name in ("copy_share", "send_share", "in_network_start", "in_network_share")
        if getattr(constants, name) is not None
    ]
    return [
        Shared(
            f"{library}.{name}",
            tuple(f"{place}.{name}" for place in places),
            _number(tier, name),
            1.0 if name.endswith("share") and name != "copy_share" else np.inf,
        )
        for name in wanted
    ]


def _number(tier: Tier, name: str) -> float:
    """A constant of a tier in SI units, by path; a time of nothing starts at a hundredth of a microsecond."""
    node: object = tier.constants
    for part in name.split("."):
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    value: float = getattr(node, "si")  # noqa: B009  # a datum, whatever its unit
    return max(value, 1e-8)
