"""The way of a cache from the pool that prefills to the pool that decodes, over the modelled network.

Every chip sends what it holds of a token, all chips of a replica at once; the pool whose chips hold more of it says how
much, the slower network how fast. Pools of one system that fit into a node together meet there, all others outside of
it. As many caches move at once as the smaller pool has replicas.
"""

from __future__ import annotations

import numpy as np

from cosim.engines.serving.settings import Transfer
from cosim.errors import SpecError
from cosim.explore.serving.case import Replicas
from cosim.explore.serving.serve_file import TransferSettings
from cosim.hardware.lower import SystemArrays
from cosim.records import array
from cosim.timing.collective import send

PIECE = 2.0**30
"""Bytes from which the bandwidth of a link is told."""


def transfer_of(prefill: Replicas, decode: Replicas, asked: TransferSettings, *, together: bool) -> Transfer:
    """Latency, bandwidth and bytes of a token; `together`: both pools are chips of one system. Raises SpecError."""
    systems = [prefill.case.system, decode.case.system]
    used = prefill.count * prefill.chips + decode.count * decode.chips
    inside = together and used <= float(decode.case.system.node_chips)
    latency, bandwidth = asked.latency, asked.bandwidth
    if latency is None or bandwidth is None:
        found = [_link(system, inside=inside) for system in (systems[:1] if together else systems)]
        latency = max(start for start, _ in found) if latency is None else latency
        bandwidth = min(rate for _, rate in found) if bandwidth is None else bandwidth
    return Transfer(
        latency_s=latency,
        bandwidth=bandwidth,
        token_bytes=max(prefill.token_bytes, decode.token_bytes),
        concurrent=asked.concurrent or min(prefill.count, decode.count),
    )


def _link(system: SystemArrays, *, inside: bool) -> tuple[float, float]:
    """Latency [s] and bandwidth [B/s] between chips of two replicas. Raises SpecError where nodes are not joined."""
    tier = system.node_tier + (0 if inside else 1)
    if tier >= len(system.tiers):
        hint = f"{system.name} has no network between its nodes: give transfer.latency and transfer.bandwidth"
        raise SpecError("has no way from prefill to decode", field="transfer", hint=hint)
    start, whole = (float(np.max(send(array(size), tier, system))) for size in (0.0, PIECE))
    return start, PIECE / (whole - start)
