"""The feed-forward of a mixture of experts: router, experts that tokens chose, experts that all pass.

Rows are those before routing; how many reach a rank and how many experts are busy there is the mapping's to say.
"""

from __future__ import annotations

import numpy as np

from cosim.records import Array, array
from cosim.workload.elementwise import activation_work
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Collective, Graph, Matmul, Routing, Vector, whole
from cosim.workload.tokens import Tokens

UNIFORM = array(0.0)
"""A router without imbalance."""


def routing_of(model: ModelArrays, imbalance: Array, phase: str) -> Routing:
    """How the model's router spreads tokens.

    Kernels for few tokens send every copy by itself; those for many send once to each node that the router allows
    (DeepEP's low-latency and normal kernels).
    """
    nodes = array(np.inf) if phase == "decode" else model.node_limit
    return Routing(model.experts, model.experts_per_token, nodes, imbalance)


def routed_block(model: ModelArrays, tokens: Tokens, imbalance: Array) -> Graph:
    """Router and choice, tokens to their experts, grouped products, tokens back, shared experts beside them."""
    routing, rows = routing_of(model, imbalance, tokens.phase), tokens.rows
    hidden, wide = whole(model.routed_width), whole(model.expert_ffn)
    parts = (wide, wide) if model.gated else (wide,)
    scores = whole(model.experts)
    router = Matmul("router", "moe", rows, (scores,), whole(model.hidden), "none", "head", bias=model.router_bias)
    into = Matmul("expert_in", "moe", rows, parts, hidden, "n", bias=model.ffn_bias, routed=routing)
    out = Matmul("expert_out", "moe", rows, (hidden,), wide, "k", bias=model.ffn_bias, routed=routing)
    reads, (flop, special) = float(len(parts)), activation_work(model)
    vectors = (
        Vector("choice", "moe", rows, (scores,), 1.0, 0.0, flop=8.0, special=1.0),
        # Rows are gathered by expert before the products, and summed by token with their weights after.
        Vector("permute", "moe", rows, (hidden,), 1.0, 1.0, routed=routing),
        Vector(
            "expert_activation",
            "moe",
            rows,
            (wide,),
            reads,
            1.0,
            flop=flop,
            special=special,
            splits=True,
            routed=routing,
        ),
        Vector("unpermute", "moe", rows, (hidden,), 1.0, 1.0, flop=2.0, routed=routing),
    )
    collectives = (
        Collective("dispatch", "moe", "dispatch", rows, model.routed_width, routed=routing),
        Collective("combine", "moe", "combine", rows, model.routed_width, routed=routing),
        # Shared experts are split over the tensor ranks and so are always summed.
        Collective(
            "moe_sum",
            "moe",
            "all_reduce" if model.has_shared_experts else "routed_sum",
            rows,
            model.hidden,
            into="router",
        ),
    )
    graph = Graph(tokens.phase, (router, *_latents(model, rows), into, out), (), vectors, collectives)
    return _with_shared(graph, model, tokens) if model.has_shared_experts else graph


def _latents(model: ModelArrays, rows: Array) -> tuple[Matmul, ...]:
    """Products into the narrower width of routed experts and out of it."""
    if not model.has_expert_latent:
        return ()
    wide, narrow = whole(model.hidden), whole(model.expert_latent)
    return (
        Matmul("latent_in", "moe", rows, (narrow,), wide, "none"),
        Matmul("latent_out", "moe", rows, (wide,), narrow, "none"),
    )


def _with_shared(graph: Graph, model: ModelArrays, tokens: Tokens) -> Graph:
    """The block with the experts that every token passes, as one feed-forward of their joint width."""
    wide, hidden = whole(model.shared_experts * model.expert_ffn), whole(model.hidden)
    parts = (wide, wide) if model.gated else (wide,)
    into = Matmul("shared_in", "moe", tokens.rows, parts, hidden, "n", bias=model.ffn_bias)
    out = Matmul("shared_out", "moe", tokens.rows, (hidden,), wide, "k", bias=model.ffn_bias)
    reads, (flop, special) = float(len(parts)), activation_work(model)
    act = Vector("shared_activation", "moe", tokens.rows, (wide,), reads, 1.0, flop=flop, special=special, splits=True)
    add = Vector("shared_sum", "moe", tokens.rows, (hidden,), 2.0, 1.0, flop=1.0)
    return Graph(graph.phase, (*graph.matmuls, into, out), (), (*graph.vectors, act, add), graph.collectives)


def repeats(model: ModelArrays, group: str) -> Array:
    """How often a group runs in the whole model."""
    counts = {
        "layer": model.layers,
        "dense": model.dense_layers,
        "moe": model.layers - model.dense_layers,
    }
    return counts.get(group, array(1.0))
