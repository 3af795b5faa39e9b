"""How routed tokens fall on ranks: busy experts, the busiest rank, bytes that leave it.

Tokens are balls, ranks are bins. With T tokens of k choices over E experts on `ep` ranks:
    busy experts of a rank    E / ep (1 - (1 - k / E)^T)
    busiest of ep ranks       mu exp(1 + W((ln ep - mu) / (e mu))), mu = T k / ep: where Chernoff's bound says that one
                              rank in ep has more (W is Lambert's function), never more than all tokens
    ranks that a token needs  ep (1 - (1 - 1 / ep)^k); nodes likewise, at most the router's limit
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.mapping.plan import PlanArrays
from cosim.records import Array
from cosim.workload.ops import Routing


@dataclass(frozen=True, slots=True)
class Load:
    """Of the busiest rank in one micro-batch: experts with work, rows of each, all rows; experts it keeps."""

    active: Array
    rows_each: Array
    rows: Array
    kept: Array


def expert_tensor(plan: PlanArrays) -> Array:
    """Ranks that share one expert's width: the tensor ranks that expert parallelism leaves."""
    return np.maximum(plan.tensor / plan.expert, 1.0)


def load(routing: Routing, rows: Array, plan: PlanArrays) -> Load:
    """Load of the busiest of `plan.expert` ranks for `rows` tokens a replica."""
    tokens = rows * np.maximum(plan.expert / plan.tensor, 1.0)
    kept = routing.experts / plan.expert
    active = kept * -np.expm1(tokens * np.log1p(-np.minimum(routing.chosen / routing.experts, 1.0 - 1e-12)))
    mean = tokens * routing.chosen / plan.expert
    most = tokens * np.minimum(routing.chosen, kept)
    busiest = np.minimum(expected_maximum(mean, plan.expert) * (1.0 + routing.imbalance), most)
    busiest = np.maximum(busiest, np.minimum(mean, most))
    return Load(active, busiest / active, busiest, kept)


def expected_maximum(mean: Array, ranks: Array) -> Array:
    """Load of the busiest of `ranks` bins whose mean is `mean` (Poisson); the mean for one bin."""
    from scipy.special import lambertw

    many = np.log(np.maximum(ranks, 1.0))
    grown = np.real(lambertw(np.maximum((many - mean) / (np.e * mean), -1.0 / np.e)))
    found: Array = np.where(ranks > 1.0, mean * np.exp(1.0 + grown), mean)
    return found


def sent(routing: Routing, rows: Array, plan: PlanArrays, node: Array) -> tuple[Array, Array]:
    """Copies of tokens that a rank sends to other ranks, and of these beyond its node.

    Only groups that span replicas send: inside a tensor group every rank has all tokens already. A router with a
    limit of nodes sends once to each node.
    """
    mine = rows / plan.tensor
    inner = np.minimum(plan.expert, node)
    outer = plan.expert / inner
    ranks = _distinct(plan.expert, routing.chosen)
    nodes = np.minimum(_distinct(outer, routing.chosen), routing.nodes)
    once = np.isfinite(routing.nodes)
    far = mine * np.where(once, nodes, ranks) * (outer - 1.0) / outer
    near = mine * ranks * (inner - 1.0) / inner
    spans = plan.expert > plan.tensor
    return np.where(spans, near, 0.0), np.where(spans, far, 0.0)


def _distinct(bins: Array, balls: Array) -> Array:
    """Bins that are not empty after `balls`."""
    found: Array = bins * (1.0 - (1.0 - 1.0 / bins) ** balls)
    return found
