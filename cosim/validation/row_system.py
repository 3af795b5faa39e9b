"""The system that a measured row names, or the usual one of its chip, with as many nodes as the row's chips need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cosim import library
from cosim.hardware.load import usual_systems
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.records import array

Systems = Callable[[str], System]
"""How a system is read by its name: as its file says, or with some constants of others."""


class CannotAnswerError(Exception):
    """A row that the model cannot answer; the text says why."""


def row_system(
    name: str, chip: str, chips: int, systems: Systems, completed: list[str], *, roomy: bool = True
) -> tuple[str, SystemArrays]:
    """The row's system and its name, or the usual one of its chip; what was filled in is added to `completed`.

    `roomy`: its memory is without a limit. Raises CannotAnswerError.
    """
    if not name:
        usual = _usual().get(chip)
        if usual is None:
            raise CannotAnswerError(f"system (blank) is not in the library, nor a usual one of {chip or '(blank)'}")
        name = usual
        completed.append(f"system {name}")
    known = names_of("systems")
    if name not in known:
        raise CannotAnswerError(f"system {name} is not in the library")
    system = sized(name, systems, chips, roomy=roomy)
    if not chip or system.chip.name == chip:
        return name, system
    for variant in known:
        # A system that was sold with several chips has a file for each.
        if variant.startswith(f"{name}-") and systems(variant).chip.name == chip:
            completed.append(f"system {variant}")
            return variant, sized(variant, systems, chips, roomy=roomy)
    raise CannotAnswerError(f"system {name} has {system.chip.name}, not {chip}")


def names_of(kind: str) -> Mapping[str, Path]:
    """`library.names`, looked up once for each set of folders: thousands of rows ask."""
    return _names(kind, tuple(library.roots()))


@lru_cache(maxsize=64)
def _names(kind: str, _roots: tuple[Path, ...]) -> Mapping[str, Path]:
    return library.names(kind)


@lru_cache(maxsize=1)
def _usual() -> dict[str, str]:
    return usual_systems()


@lru_cache(maxsize=512)
def sized(name: str, systems: Systems, chips: int, *, roomy: bool = True) -> SystemArrays:
    """The system with nodes, or a slice of a torus, for `chips`; where `roomy` with memory without a limit."""
    spec = systems(name)
    per_node = spec.chips / spec.nodes.si
    changes: dict[str, Any] = {"nodes": max(int(np.ceil(chips / per_node)), 1)}
    first = spec.tiers[0] if spec.tiers else None
    if first is not None and first.shape and chips < np.prod(first.shape):
        sides = _slice(first.shape, chips)
        changes |= {f"tiers.{first.name}.shape": sides, f"tiers.{first.name}.size": int(np.prod(sides))}
    lowered = lower_system(vary_system(Varied(spec), changes))
    if not roomy:
        return lowered
    memory = dict(lowered.chip.memory)
    memory["dram"] = replace(memory["dram"], capacity=array(np.inf))
    return replace(lowered, chip=replace(lowered.chip, memory=memory))


def _slice(shape: Sequence[int], chips: int) -> list[int]:
    """Sides of the smallest slice of a torus that holds `chips`: the longest side halved as often as that goes."""
    sides = sorted(shape)
    while sides[-1] % 2 == 0 and np.prod(sides) // 2 >= chips:
        sides = sorted([*sides[:-1], sides[-1] // 2])
    return sides
