"""Which plans are legal, and what is said of those that are not.

The first broken limit in the order of LIMITS wins. A code is its index; 0 is feasible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.routing import expert_group, expert_replicas, expert_sharers, expert_tensor
from cosim.mapping.schedules import shortfalls
from cosim.mapping.stages import ENDS
from cosim.records import Array
from cosim.workload.model import ModelArrays
from cosim.workload.sides import Side


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: its name in results, the unit of the shortfall, how that is said, what the user should do."""

    name: str
    unit: str
    says: str
    hint: str


LIMITS: tuple[Limit, ...] = (
    Limit("", "", "", ""),
    Limit("chips", "chips", "needs {} chips more than there are", "use no more chips than the system has"),
    Limit(
        "network",
        "ranks",
        "splits it over {} ranks more than one",
        "a network of layers is whole on every chip: use plan.data_parallel alone",
    ),
    Limit(
        "tensor_parallel",
        "remainder",
        "leaves a remainder of {}",
        "the tensor degree must divide heads and the feed-forward width",
    ),
    Limit(
        "kv_heads",
        "heads",
        "leaves a remainder of {} key/value heads",
        "kv_heads must divide heads, and the tensor degree divide kv_heads or be a multiple of it",
    ),
    Limit(
        "expert_parallel",
        "remainder",
        "leaves a remainder of {}",
        "the expert degree must divide experts and tensor x data, and divide the tensor degree or be a multiple of it; "
        "with plan.expert_tensor_parallel that times the expert degree must divide tensor x data, and it the width",
    ),
    Limit(
        "pipeline_parallel",
        "stages",
        "has {} stages too many",
        "use no more stages than layers; in training two more at most, for embedding and head",
    ),
    Limit(
        "shard",
        "replicas",
        "leaves {} replicas over",
        "the ranks that share out states must divide the replicas, and the copies of an expert",
    ),
    Limit(
        "virtual_pipeline",
        "remainder",
        "leaves {} micro-batches over or pieces empty",
        "where stages hold several pieces, stages must divide the micro-batches and stages x pieces be at most layers "
        "+ 2, for embedding and head",
    ),
    Limit(
        "schedule_pieces",
        "pieces",
        "asks for {} pieces a stage more or fewer",
        "plan.virtual_pipeline is 1 under gpipe and zb-h1, 2 under zb-v and dualpipe",
    ),
    Limit(
        "schedule_stages",
        "stages",
        "leaves {} stage without a partner",
        "zb-v and dualpipe need an even number of stages",
    ),
    Limit(
        "schedule_layers",
        "layers",
        "leaves a remainder of {} layers",
        "under zb-v twice the stages must divide layers, under dualpipe the stages",
    ),
    Limit(
        "schedule_micro_batches",
        "micro-batches",
        "has {} micro-batches too few",
        "zb-v needs as many micro-batches as stages, dualpipe an even number and twice as many",
    ),
    Limit(
        "context_parallel",
        "tokens",
        "leaves {} tokens over",
        "the context degree must divide the length of the sequences",
    ),
    Limit(
        "batch",
        "sequences",
        "leaves {} sequences over",
        "data_parallel x micro_batches must divide the batch; in training data_parallel x micro_batch the global batch",
    ),
    Limit(
        "positions",
        "tokens",
        "goes {} tokens too far",
        "the model was made for max_positions; raise workload.max_positions if it holds more",
    ),
    Limit("memory", "B", "lacks {} B", "use more chips, a smaller batch or context, or a narrower format"),
    Limit("host_memory", "B", "lacks {} B of the host's memory", "offload a smaller share, or use more nodes"),
    Limit("ttft_limit", "s", "is {} s too slow", "use more tensor parallelism or a smaller batch"),
    Limit("tpot_limit", "s", "is {} s too slow", "use more tensor parallelism or a smaller batch"),
)
CODES = {limit.name: code for code, limit in enumerate(LIMITS)}
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`code` [P] of the first broken limit (0: none) and the `shortfall` [P] in that limit's unit."""

    code: Codes
    shortfall: Array


def merged(first: Verdict, name: str, shortfall: Array) -> Verdict:
    """`first`, and where nothing was broken yet, limit `name` wherever `shortfall` > 0."""
    code, old = first.code, first.shortfall
    shape = np.broadcast_shapes(code.shape, shortfall.shape)
    broken = (np.broadcast_to(code, shape) == 0) & (np.broadcast_to(shortfall, shape) > 0.0)
    return Verdict(np.where(broken, CODES[name], code), np.where(broken, shortfall, old))


def fine() -> Verdict:
    """A verdict with nothing broken."""
    return Verdict(np.zeros((), dtype=np.int64), np.zeros(()))


def divisibility(
    plan: PlanArrays, scenario: ScenarioArrays, model: ModelArrays, chips: Array, phase: str, side: Side = "whole"
) -> Verdict:
    """Limits that need no cost: chips, heads, stages, batch, positions. Shortfalls are the remainders.

    Chips of one `side` hold no layers of the other, and are not asked for its heads, widths and experts.
    """
    verdict = merged(fine(), "chips", plan.chips - chips)
    if model.network:
        verdict = merged(verdict, "network", plan.tensor * plan.pipeline * plan.expert * plan.context - 1.0)
    heads, widths = side != "feed_forward", side != "attention"
    remainder = np.maximum(_heads_over(plan, model) if heads else 0.0, _widths_over(plan, model) if widths else 0.0)
    verdict = merged(verdict, "tensor_parallel", remainder)
    if heads:
        verdict = merged(verdict, "kv_heads", _keys_over(plan, model))
    if widths:
        verdict = merged(verdict, "expert_parallel", _expert_remainder(plan, model))
    ends = ENDS if phase == "train" and plan.schedule == "1f1b" else 0.0
    verdict = merged(verdict, "pipeline_parallel", plan.pipeline - model.layers - ends)
    if phase == "train":
        verdict = merged(verdict, "shard", _unshared(plan, model))
        uneven = np.maximum(
            plan.pipeline * plan.virtual - model.layers - ENDS, np.mod(plan.micro_batches, plan.pipeline)
        )
        alone = np.where(plan.pipeline > 1.0, uneven, 1.0)
        if plan.schedule == "1f1b":
            verdict = merged(verdict, "virtual_pipeline", np.where(plan.virtual > 1.0, alone, 0.0))
        for name, lack in shortfalls(plan, model.layers).items():
            verdict = merged(verdict, name, lack)
        verdict = merged(verdict, "context_parallel", np.mod(scenario.context, plan.context))
        verdict = merged(verdict, "batch", np.mod(scenario.global_batch, plan.data * plan.micro_batch))
    else:
        verdict = merged(verdict, "batch", np.mod(scenario.batch, plan.data * plan.micro_batches))
    longest = np.maximum(scenario.context, scenario.capacity) if phase == "decode" else scenario.context
    return merged(verdict, "positions", longest - model.max_positions)


def _heads_over(plan: PlanArrays, model: ModelArrays) -> Array:
    """Heads of attention and of mixers that the tensor ranks leave over."""
    over: Array = np.mod(model.heads, plan.tensor)
    if model.mamba is not None:
        over = np.maximum(over, np.mod(model.mamba.heads, plan.tensor))
    if model.delta is not None:
        over = np.maximum(over, np.mod(model.delta.value_heads, plan.tensor))
    return over


def _widths_over(plan: PlanArrays, model: ModelArrays) -> Array:
    """Of the width of a feed-forward, or of an expert that tensor ranks share."""
    over: Array = np.mod(model.ffn, plan.tensor)
    if model.is_moe:
        follows = (plan.expert_tensor == 0.0) & (np.mod(plan.tensor, plan.expert) == 0.0)
        over = np.maximum(over, np.mod(model.expert_ffn, np.where(follows, expert_tensor(plan), 1.0)))
    return over


def _keys_over(plan: PlanArrays, model: ModelArrays) -> Array:
    """Heads of keys and values that the tensor ranks, or the heads of queries, leave over."""
    few, many = np.minimum(model.kv_heads, plan.tensor), np.maximum(model.kv_heads, plan.tensor)
    uneven: Array = np.maximum(np.mod(many, few), np.mod(model.heads, model.kv_heads))
    if model.delta is not None:
        # Beyond their number, heads of keys are held by several ranks, as key/value heads are.
        few, many = np.minimum(model.delta.key_heads, plan.tensor), np.maximum(model.delta.key_heads, plan.tensor)
        uneven = np.maximum(uneven, np.mod(many, few))
    return uneven


def _unshared(plan: PlanArrays, model: ModelArrays) -> Array:
    """Replicas, or copies of an expert, that groups of ranks which share out states leave over."""
    over = np.mod(plan.replicas, plan.sharers)
    if model.is_moe:
        over = np.maximum(over, np.mod(expert_replicas(plan), expert_sharers(plan)))
    return np.where(plan.zero >= 1.0, over, 0.0)


def _expert_remainder(plan: PlanArrays, model: ModelArrays) -> Array:
    """What the expert degree leaves over of experts, of ranks, of the tensor degree; a dense model has degree 1.

    Where the ranks of an expert are asked: of experts, of ranks, of the width.
    """
    if not model.is_moe:
        return np.maximum(plan.expert, plan.expert_tensor) - 1.0
    ranks = plan.tensor * plan.replicas
    few, many = np.minimum(plan.expert, plan.tensor), np.maximum(plan.expert, plan.tensor)
    follows = np.maximum(np.mod(ranks, plan.expert), np.mod(many, few))
    asked = np.maximum(np.mod(ranks, expert_group(plan)), np.mod(model.expert_ffn, np.maximum(plan.expert_tensor, 1.0)))
    return np.maximum(np.mod(model.experts, plan.expert), np.where(plan.expert_tensor > 0.0, asked, follows))


def expert_degrees(model: ModelArrays, tensor: int, data: int, asked: int = 0) -> list[int]:
    """Every legal expert degree of a (tensor, data) plan, rising; 1 for a dense model. Scalars of one model.

    `asked` are the ranks of one expert, 0 where they follow from the degrees.
    """
    if not model.is_moe:
        return [1]
    experts, width = int(model.experts), int(model.expert_ffn)
    if asked:
        wide = tensor * data % asked == 0 and width % asked == 0
        return [degree for degree in divisors(tensor * data // asked) if experts % degree == 0] if wide else []
    return [
        degree
        for degree in divisors(tensor * data)
        if experts % degree == 0
        and max(degree, tensor) % min(degree, tensor) == 0
        and width % max(tensor // degree, 1) == 0
    ]


def legal_plans(model: ModelArrays, chips: int) -> list[tuple[int, int, int]]:
    """Every (tensor, pipeline, data) that divides and uses all of `chips`, in rising order.

    Scalars of one model. Stages need not divide the layers: the split is as even as it goes. A network is not split.
    """
    if model.network:
        return [(1, 1, chips)]
    layers = int(model.layers)
    whole, shared = [int(model.heads), int(model.ffn)], [int(model.kv_heads)]
    if model.mamba is not None:
        whole.append(int(model.mamba.heads))
    if model.delta is not None:
        whole.append(int(model.delta.value_heads))
        shared.append(int(model.delta.key_heads))
    found: list[tuple[int, int, int]] = []
    for tensor in divisors(chips):
        if any(size % tensor for size in whole) or any(max(kv, tensor) % min(kv, tensor) for kv in shared):
            continue
        for pipeline in divisors(chips // tensor):
            if pipeline <= layers:
                found += [(tensor, pipeline, chips // (tensor * pipeline))]
    return found


def divisors(number: int) -> list[int]:
    """Divisors of a positive whole number, rising."""
    return [d for d in range(1, number + 1) if number % d == 0]
