"""A step whose attention and feed-forward layers run on chips of their own, tokens going to and fro in every layer.

    layer   most of: m x attention, m x feed-forward, attention + feed-forward + 2 x transfer
    step    layers x that + embedding and head on the side of attention

for m micro-batches that take turns, times of one micro-batch. Requests are shared out over the attention side; the
feed-forward side sees the tokens of all of them. With two micro-batches both sides always work where they take equally
long and the network keeps up (Step-3, arXiv:2507.19427; MegaScale-Infer, arXiv:2504.02263).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case, device_graph
from cosim.engines.step import group_costs, op_costs
from cosim.mapping.device import ACTIVATION_BYTES
from cosim.records import Array, array, map_leaves, points, take
from cosim.timing.collective import send
from cosim.workload.ops import Graph
from cosim.workload.step import step_graph
from cosim.workload.work import Work, shared

FEED_FORWARD = ("ffn_", "activation", "expert_", "shared_", "latent_", "router", "choice", "permute", "unpermute")
SENT = ("ffn_", "moe_", "dispatch", "combine")
"""How names of operators and collectives begin that belong to the feed-forward side."""


@dataclass(frozen=True, slots=True)
class Split:
    """One deployment of phase serve on two kinds of chips, and the micro-batches that take turns between them."""

    attention: Case
    feed_forward: Case
    micro_batches: Array

    @property
    def chips(self) -> Array:
        """Chips of both sides."""
        return self.attention.plan.chips + self.feed_forward.plan.chips


@dataclass(frozen=True, slots=True)
class SplitStep:
    """Seconds of a step (P,), and of one layer and micro-batch: either side, one way of the tokens."""

    time: Array
    attention: Array
    feed_forward: Array
    transfer: Array


def split_step(split: Split, work: Work) -> SplitStep:
    """One step over `work`, which the attention side's replicas share out."""
    model, layers = split.attention.model, split.attention.model.layers
    m = split.micro_batches
    near = _side(split.attention, shared(work, split.attention.plan.data * m), feed_forward=False)
    far = _side(split.feed_forward, shared(work, split.feed_forward.plan.data * m), feed_forward=True)
    tokens = work.tokens / (split.attention.plan.data * split.attention.plan.tensor * m)
    system = split.attention.system
    moved = send(tokens * model.hidden * ACTIVATION_BYTES, len(system.tiers) - 1, system)
    attention, forward = near["layer"], _mean(far, model.dense_layers / layers)
    each = np.maximum(np.maximum(m * attention, m * forward), attention + forward + 2.0 * moved)
    ends = m * (near.get("embed", array(0.0)) + near.get("head", array(0.0)))
    return SplitStep(layers * each + ends, attention, forward, moved)


def _mean(groups: dict[str, Array], dense: Array) -> Array:
    """Feed-forward of a layer: of every layer, or dense ones and routed ones by their share."""
    every, first, rest = (groups.get(name, array(0.0)) for name in ("layer", "dense", "moe"))
    return every + dense * first + (1.0 - dense) * rest


def _side(case: Case, work: Work, *, feed_forward: bool) -> dict[str, Array]:
    """Seconds of one run of each group of the operators of one side, of one micro-batch."""
    count = max(points(case), points(work))
    wide = map_leaves(work, lambda leaf: np.broadcast_to(leaf, (count,)))
    own = replace(take(case, np.zeros(count, dtype=np.intp)) if points(case) < count else case, work=wide)
    graph = step_graph(own.model, wide, imbalance=own.scenario.expert_imbalance, latent=own.plan.latent)
    device = device_graph(own, _part(graph, feed_forward=feed_forward))
    costs = group_costs(own, device, op_costs(own, device))
    return {group: cost.time for group, cost in costs.items()}


def _part(graph: Graph, *, feed_forward: bool) -> Graph:
    """The operators of one side."""

    def mine(name: str, starts: tuple[str, ...]) -> bool:
        return name.startswith(starts) is feed_forward

    return Graph(
        graph.phase,
        tuple(op for op in graph.matmuls if mine(op.name, FEED_FORWARD)),
        () if feed_forward else graph.attentions,
        tuple(op for op in graph.vectors if mine(op.name, FEED_FORWARD)),
        tuple(op for op in graph.collectives if mine(op.name, SENT)),
    )
