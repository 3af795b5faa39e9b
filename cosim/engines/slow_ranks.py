"""Chips that take longer than others in a step: which stages of which replicas wait for them.

    chip       (stage x replicas + replica) x ranks of a replica's stage + rank; as the plan's order has them
    stage      as slow as the slowest of its ranks: they meet in every layer
    replicas   meet when gradients are reduced; in every layer under ZeRO 2 and 3, and where they share experts

A replica that is nowhere slower than another ends no later: only those that no other one covers are simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cosim.engines.case import Case
from cosim.errors import SpecError
from cosim.mapping.routing import spans_replicas
from cosim.records import Array


@dataclass(frozen=True, slots=True)
class SlowRanks:
    """How much longer chips take: 1 + spread |z|, z normal and drawn from `seed`, or as `named` by number."""

    spread: float = 0.0
    named: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0

    def __bool__(self) -> bool:
        """Whether any chip is slow."""
        return self.spread != 0.0 or bool(self.named)


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that sets the pace: its number, and the factor of each stage in pipeline order."""

    number: int
    factors: tuple[float, ...]


def slow_replicas(case: Case, slow: SlowRanks) -> list[Replica]:
    """The replicas of a one-point case that no other one covers, by number.

    Raises SpecError for a chip that the plan does not have, or a factor below 1.
    """
    plan = case.plan
    degrees = {"tp": plan.tensor, "cp": plan.context, "dp": plan.data, "pp": plan.pipeline}
    outermost = [(word, int(np.max(degrees[word]))) for word in reversed(plan.order.split("-"))]
    chips = _factors(slow, math.prod(count for _, count in outermost))
    places = {word: place for place, (word, _) in enumerate(outermost)}
    there = chips.reshape([count for _, count in outermost])
    by_stage = there.transpose([places[word] for word in ("dp", "pp", "cp", "tp")]).max(axis=(2, 3))
    if _meet_in_layers(case):
        by_stage = by_stage.max(axis=0, keepdims=True)
    rows, first = np.unique(by_stage, axis=0, return_index=True)
    return sorted(
        (
            Replica(int(number), tuple(map(float, row)))
            for row, number in zip(rows, first, strict=True)
            if _leads(row, rows)
        ),
        key=lambda replica: replica.number,
    )


def _factors(slow: SlowRanks, chips: int) -> Array:
    """Factor of every chip."""
    if not 0.0 <= slow.spread <= 1.0:
        raise SpecError("is out of range", field="slow-spread", value=slow.spread, hint="0 to 1")
    if slow.seed < 0:
        raise SpecError("is negative", field="seed", value=slow.seed, hint="0 or more")
    draws = np.random.default_rng(slow.seed).standard_normal(chips)
    found: Array = 1.0 + slow.spread * np.abs(draws)
    for chip, factor in slow.named.items():
        if not isinstance(chip, int) or not 0 <= chip < chips:
            raise SpecError("is no chip of the plan", field="straggler", value=chip, hint=f"it has {chips}, from 0")
        if not 1.0 <= factor <= 1e6:
            raise SpecError(
                "is no factor", field="straggler", value=factor, hint="1 and more: 1.2 takes a fifth longer"
            )
        found[chip] = factor
    return found


def _meet_in_layers(case: Case) -> bool:
    """Whether replicas wait for each other inside a pass."""
    plan = case.plan
    return bool(np.max(plan.zero) >= 2.0 or np.any(spans_replicas(plan)))


def _leads(row: Array, rows: Array) -> bool:
    """Whether no other row is at least as slow in every stage."""
    covers = np.all(rows >= row, axis=1) & np.any(rows > row, axis=1)
    return not bool(np.any(covers))
