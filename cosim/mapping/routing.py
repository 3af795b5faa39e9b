"""How routed tokens fall on ranks: busy experts, the busiest rank, bytes that leave it.

Tokens are balls, ranks are bins. With T tokens of k choices over E experts on `ep` ranks:
    busiest of ep ranks       mu + z sqrt(mu) + (z^2 - 1) / 6, mu = T k / ep, z the expected largest of ep normal
                              numbers (Blom 1958), the last term the skew of a Poisson count (Cornish and Fisher
                              1937); never more than all tokens
    busy experts of a rank    n (1 - (1 - k / E)^T) of its n = E / ep; of the busiest with B rows n (1 - (1 - 1 / n)^B)
    ranks that a token needs  ep (1 - (1 - 1 / ep)^k); nodes likewise, at most the router's limit

An expert group of ep x t ranks holds all experts once, each split over t neighbours. Where t is not said it is what ep
leaves of the tensor ranks; inside a tensor group tokens then stay where they are, since every rank has them all. Where
it is said each rank sends its slice of the tokens, wherever its group lies, and the t ranks of an expert join what came
to each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.mapping.plan import PlanArrays
from cosim.records import Array
from cosim.workload.ops import Routing

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Load:
    """Of the busiest rank in one micro-batch: experts with work, rows of each, all rows; experts it keeps."""

    active: Array
    rows_each: Array
    rows: Array
    kept: Array


def expert_tensor(plan: PlanArrays) -> Array:
    """Ranks that share one expert's width: as asked, or the tensor ranks that expert parallelism leaves."""
    return np.where(_asked(plan), plan.expert_tensor, np.maximum(plan.tensor / plan.expert, 1.0))


def expert_group(plan: PlanArrays) -> Array:
    """Ranks that hold all experts once, next to each other; copies of an expert lie so far apart."""
    group: Array = plan.expert * expert_tensor(plan)
    return group


def travels(plan: PlanArrays) -> Flags:
    """Whether a rank hands its slice of the tokens to an expert group; if not, the group is its tensor group."""
    apart = (plan.expert > 1.0) | (plan.expert_tensor != plan.tensor)
    found: Flags = np.where(_asked(plan), apart, plan.expert > plan.tensor)
    return found


def spans_replicas(plan: PlanArrays) -> Flags:
    """Whether an expert group has ranks of several tensor groups, so that replicas meet in every layer."""
    found: Flags = np.mod(plan.tensor, expert_group(plan)) != 0.0
    return found


def _asked(plan: PlanArrays) -> Flags:
    found: Flags = plan.expert_tensor > 0.0
    return found


def expert_replicas(plan: PlanArrays) -> Array:
    """Copies of an expert among the ranks of a stage."""
    return plan.tensor * plan.replicas / expert_group(plan)


def expert_sharers(plan: PlanArrays) -> Array:
    """Copies of an expert that share out what ZeRO shares out."""
    return np.minimum(plan.shard, expert_replicas(plan))


def load(routing: Routing, rows: Array, plan: PlanArrays) -> Load:
    """Load of the busiest of `plan.expert` ranks for `rows` tokens a replica.

    The tokens of an expert group are the slices of all its ranks.
    """
    tokens = rows * np.where(_asked(plan), expert_group(plan) / plan.tensor, np.maximum(plan.expert / plan.tensor, 1.0))
    kept = routing.experts / plan.expert
    mean = tokens * routing.chosen / plan.expert
    most = tokens * np.minimum(routing.chosen, kept)
    busiest = np.minimum(expected_maximum(mean, plan.expert) * (1.0 + routing.imbalance), most)
    busiest = np.maximum(busiest, np.minimum(mean, most))
    average = kept * _filled(routing.chosen / routing.experts, tokens)
    active = np.maximum(average, kept * _filled(1.0 / kept, busiest))
    # No expert has more rows than there are tokens.
    active = np.minimum(np.maximum(active, busiest / tokens), kept)
    return Load(active, busiest / active, busiest, kept)


def expected_maximum(mean: Array, ranks: Array) -> Array:
    """Load of the busiest of `ranks` bins whose mean is `mean` (Poisson); the mean for one bin."""
    from scipy.special import ndtri

    z = ndtri(np.maximum(ranks - 0.375, 0.625) / (ranks + 0.25))
    found: Array = np.maximum(mean + z * np.sqrt(mean) + (z * z - 1.0) / 6.0, mean)
    return np.where(ranks > 1.0, found, mean)


def _filled(chance: Array, draws: Array) -> Array:
    """Share of bins that are hit at least once in `draws`, each by `chance`: 1 - (1 - chance)^draws."""
    share: Array = -np.expm1(draws * np.log1p(-np.minimum(chance, 1.0 - 1e-12)))
    return share


def sent(routing: Routing, rows: Array, plan: PlanArrays, node: Array) -> tuple[Array, Array]:
    """Copies of tokens that a rank sends to other ranks, and of these beyond its node.

    Of groups whose width is not said only those that span replicas send: inside a tensor group every rank has all
    tokens already. A router with a limit of nodes sends once to each node.
    """
    mine = rows / plan.tensor
    # The ranks of an expert are neighbours: a node holds so many experts' ranks fewer.
    inner = np.minimum(plan.expert, np.maximum(node / expert_tensor(plan), 1.0))
    outer = plan.expert / inner
    ranks = _distinct(plan.expert, routing.chosen)
    nodes = np.minimum(_distinct(outer, routing.chosen), routing.nodes)
    once = np.isfinite(routing.nodes)
    far = mine * np.where(once, nodes, ranks) * (outer - 1.0) / outer
    # What comes to a node once is handed on inside it; without that only copies for the own node stay inside.
    near = mine * ranks * (inner - 1.0) / np.where(once, inner, plan.expert)
    spans = travels(plan)
    return np.where(spans, near, 0.0), np.where(spans, far, 0.0)


def _distinct(bins: Array, balls: Array) -> Array:
    """Bins that are not empty after `balls`."""
    found: Array = bins * (1.0 - (1.0 - 1.0 / bins) ** balls)
    return found
