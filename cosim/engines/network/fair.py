"""Max-min fair rates of flows that share links.

Every flow f puts weight w on each of its links for a byte of its own, and may have a most. Rates grow at the pace
`fair` of each flow until a link is full; flows on it stay, the others go on. A pass stops the flows of all links that
are the narrowest for each of their flows, so that few passes are enough.
"""

from __future__ import annotations

import numpy as np

from cosim.engines.network.graph import Index
from cosim.engines.network.routes import Loads
from cosim.records import Array

CLOSE = 1.0 - 1e-9


def fair_rates(capacity: Array, loads: Loads, most: Array, fair: Array) -> Array:
    """Rate of every flow [B/s, F]: `capacity` of links [B/s, L], `most` of flows [B/s, F], `fair` pace [F].

    A flow without links has its most.
    """
    rate = np.where(loads.counts > 0, 0.0, most)
    open_flow = loads.counts > 0
    left = capacity.astype(float)
    flow, link, weight = loads.flow, loads.link, loads.weight
    while np.any(open_flow):
        level = _levels(left, link, weight * fair[flow])
        at_entry = level[link]
        stops_at = _least(flow, at_entry, loads.flows)
        own = most / fair
        capped = open_flow & (own <= stops_at)
        stops_at = np.minimum(stops_at, own)
        loose = np.bincount(link[stops_at[flow] < at_entry * CLOSE], minlength=len(capacity)) > 0
        held = np.zeros(loads.flows, dtype=bool)
        held[flow[~loose[link]]] = True
        stopped = open_flow & (held | capped)
        rate[stopped] = (stops_at * fair)[stopped]
        mine = stopped[flow]
        left = np.maximum(left - np.bincount(link[mine], weight[mine] * rate[flow[mine]], minlength=len(capacity)), 0.0)
        open_flow &= ~stopped
        flow, link, weight = flow[~mine], link[~mine], weight[~mine]
    return rate


def _levels(left: Array, link: Index, pull: Array) -> Array:
    """Pace at which each link would be full [L]."""
    asked = np.bincount(link, pull, minlength=len(left))
    level = np.full(len(left), np.inf)
    np.divide(left, asked, out=level, where=asked > 0.0)
    return level


def _least(flow: Index, value: Array, flows: int) -> Array:
    """Least value of each flow [F]; entries lie flow by flow."""
    found = np.full(flows, np.inf)
    starts = np.flatnonzero(np.diff(flow, prepend=-1))
    found[flow[starts]] = np.minimum.reduceat(value, starts)
    return found
