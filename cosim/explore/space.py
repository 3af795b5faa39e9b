"""Spaces of plans and batches as arrays: every legal plan, every batch of the grid, one point each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.dtypes import SERVING_PRECISIONS, kv_dtype_for
from cosim.engines.case import Case, Phase
from cosim.hardware.lower import ChipArrays, SystemArrays
from cosim.hardware.tiers import spans
from cosim.mapping.legal import divisors, expert_degrees, legal_plans
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.records import Array, array
from cosim.workload.model import ModelArrays

# A decode step reads the weights once a micro-batch, so that more than fill the pipeline twice over only cost.
DECODE_MICRO_BATCHES_PER_STAGE = 2


@dataclass(frozen=True, slots=True)
class Candidates:
    """Points of a search, arrays of shape (P,); `plans` counts the distinct plans among them."""

    tensor: Array
    pipeline: Array
    data: Array
    micro_batches: Array
    batch: Array
    plans: int
    expert: Array


def batch_grid(most: int) -> NDArray[np.int64]:
    """Batches per replica: every one to 8, then four per doubling, up to `most`."""
    steps = [*range(1, 9)]
    while steps[-1] < most:
        steps.append(steps[-1] + 2 ** (steps[-1].bit_length() - 3))
    return np.array([s for s in steps if s <= most], dtype=np.int64)


def candidates_at(model: ModelArrays, chips: int, batch: int, phase: Phase) -> Candidates:
    """Every legal plan on all `chips` for a batch that is given; micro-batches are divisors of it.

    A network whose batch does not divide takes as many of the chips as do.
    """
    plans = legal_plans(model, chips)
    if model.network and batch % chips:
        # Whole copies of a network alone can leave chips idle: a batch that does not divide runs on fewer.
        plans = [(1, 1, data) for data in divisors(chips)]
    rows = [
        (tensor, pipeline, data, micro, batch, expert)
        for tensor, pipeline, data in plans
        if batch % data == 0
        for micro in _micro_batches(batch // data, pipeline, phase)
        for expert in expert_degrees(model, tensor, data)
    ]
    return _as_candidates(rows)


def candidates_over(
    model: ModelArrays, chips: int | Sequence[int], batches: NDArray[np.int64], phase: Phase
) -> Candidates:
    """Every legal plan on all `chips` with every batch per replica of the grid.

    Of several numbers of chips a replica is tried on the first that holds it: more of the same replicas serve as
    much per chip.
    """
    rows: dict[tuple[int, ...], tuple[int, int, int, int, int, int]] = {}
    for count in [chips] if isinstance(chips, int) else chips:
        for tensor, pipeline, data in legal_plans(model, count):
            for each in batches:
                for micro in _filling(int(each), pipeline, phase):
                    for expert in expert_degrees(model, tensor, data):
                        point = (tensor, pipeline, data, micro, int(each) * data, expert)
                        rows.setdefault((tensor, pipeline, int(each), micro, expert), point)
    return _as_candidates(list(rows.values()))


def _micro_batches(each: int, pipeline: int, phase: Phase) -> list[int]:
    """Divisors of the batch that are worth a try."""
    if phase != "decode":
        return divisors(each)
    most = DECODE_MICRO_BATCHES_PER_STAGE * pipeline if pipeline > 1 else 1
    return [m for m in divisors(each) if m <= most]


def _filling(each: int, pipeline: int, phase: Phase) -> list[int]:
    """The same without those that leave even stages idle: where batches are tried too, these are never needed.

    A decode step of m micro-batches on p even stages takes max(m, p) stage times, and a stage is never faster with
    more sequences: up to p the largest divisor beats all smaller ones.
    """
    known = _micro_batches(each, pipeline, phase)
    return [m for m in known if phase != "decode" or m >= max(n for n in known if n <= pipeline)]


def _as_candidates(rows: list[tuple[int, int, int, int, int, int]]) -> Candidates:
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    plans = len({(*row[:4], row[5]) for row in rows})
    tensor, pipeline, data, micro, batch, expert = (table[:, column].copy() for column in range(6))
    return Candidates(tensor, pipeline, data, micro, batch, plans, expert)


def searched(
    phase: Phase, system: SystemArrays, model: ModelArrays, scenario: ScenarioArrays, dtype: str, found: Candidates
) -> Case:
    """The case of all candidates in one precision; context and limits from `scenario`."""
    plan = PlanArrays(
        found.tensor,
        found.pipeline,
        found.data,
        found.micro_batches,
        dtype,
        kv_dtype_for(dtype),
        "fastest",
        expert=found.expert,
    )
    filled = replace(scenario, batch=found.batch)
    return Case(phase, system, model, plan, filled)


def with_choices(plan: PlanArrays, asked: PlanArrays) -> PlanArrays:
    """Degrees of `plan` with what was `asked` beside them: formats, algorithm, form of latent attention."""
    return replace(
        plan,
        kv_dtype=asked.kv_dtype,
        weights_dtype=asked.weights_dtype,
        all_reduce=asked.all_reduce,
        latent=asked.latent,
    )


def on_nodes(system: SystemArrays, chips: Array) -> SystemArrays:
    """The system with as many nodes as hold `chips` at each point."""
    nodes = np.ceil(chips / system.node_chips)
    sizes = spans([tier.most for tier in system.tiers], nodes, system.node_tier)
    tiers = tuple(replace(tier, size=size) for tier, size in zip(system.tiers, sizes, strict=True))
    return replace(system, chips=system.node_chips * nodes, tiers=tiers)


def best_native(chip: ChipArrays) -> str:
    """The serving precision with the highest matrix rate; of equal ones the most faithful.

    Only formats of `SERVING_PRECISIONS` that the chip has a rate for; its first format where it has none.
    """
    known = [dtype for dtype in SERVING_PRECISIONS if dtype in chip.matrix.peak]
    if not known:
        return next(iter(chip.matrix.peak))
    return max(known, key=lambda dtype: (float(np.max(chip.matrix.peak[dtype])), -known.index(dtype)))


def unlimited(batch: float, context: float, capacity: float) -> ScenarioArrays:
    """A scenario without limits on time."""
    inf = array(np.inf)
    return ScenarioArrays(array(batch), array(context), array(capacity), inf, inf)
