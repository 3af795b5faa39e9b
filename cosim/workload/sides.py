"""The two sides of a model whose attention and feed-forward layers lie on chips of their own.

attention     embedding, norms, products around attention, attention, mixers, head
feed_forward  dense and routed feed-forward with the collectives of the router
"""

from __future__ import annotations

from typing import Literal

from cosim.workload.ops import Graph

Side = Literal["whole", "attention", "feed_forward"]
FEED_FORWARD = ("ffn_", "activation", "expert_", "shared_", "latent_", "router", "choice", "permute", "unpermute")
SENT = ("ffn_", "moe_", "dispatch", "combine")
"""How names of operators and collectives begin that belong to the feed-forward side."""


def side_of(graph: Graph, side: Side) -> Graph:
    """The operators of one side; attention kernels are all of theirs."""
    if side == "whole":
        return graph
    far = side == "feed_forward"

    def mine(name: str, starts: tuple[str, ...]) -> bool:
        return name.startswith(starts) is far

    return Graph(
        graph.phase,
        tuple(op for op in graph.matmuls if mine(op.name, FEED_FORWARD)),
        () if far else graph.attentions,
        tuple(op for op in graph.vectors if mine(op.name, FEED_FORWARD)),
        tuple(op for op in graph.collectives if mine(op.name, SENT)),
    )
