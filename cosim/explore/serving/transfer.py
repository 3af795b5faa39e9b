"""The way of a cache from the pool that prefills to the pool that decodes, over the modelled network.

    lanes    tensor x pipeline ranks of the smaller replica, side by side
    seconds  send(cache / lanes) + all-gather among ranks of the decoding replica that hold the same part

One copy goes over the network: ranks that hold the same, a latent or a head that is shared by several of them, receive
a part each and gather the rest among themselves. Of pools that differ the larger cache says how much, the slower
network how fast. Pools of one system that fit into a node together meet there, all others outside of it. As many
caches move at once as the smaller pool has replicas.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.engines.case import Case
from cosim.engines.serving.layout import Held
from cosim.engines.serving.settings import Transfer
from cosim.engines.serving.steps import LONG, held_of
from cosim.errors import SpecError
from cosim.explore.serving.case import Replicas
from cosim.explore.serving.serve_file import TransferSettings
from cosim.hardware.lower import SystemArrays
from cosim.mapping.placement import tensor_placement
from cosim.mapping.shard import kv_heads_per_rank
from cosim.records import Array, array
from cosim.timing.collective import all_gather, send
from cosim.workload.model import ModelArrays

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
    lanes = min(float(pool.case.plan.tensor * pool.case.plan.pipeline) for pool in (prefill, decode))
    held = max((_whole(prefill.case), _whole(decode.case)), key=lambda each: each.bytes(LONG))
    whole = held.bytes(LONG) / LONG
    plan, model, system = decode.case.plan, decode.case.model, decode.case.system
    start, ended = (
        float(gathered(array(size), plan.tensor, plan.pipeline, model, system)) for size in (0.0, whole * LONG)
    )
    token_bytes = whole / lanes
    if ended > 0.0:
        # What ranks hand on among themselves takes its time beside the link's, by the byte of a lane.
        bandwidth = 1.0 / (1.0 / bandwidth + (ended - start) / (token_bytes * LONG))
    return Transfer(
        latency_s=latency + start,
        bandwidth=bandwidth,
        token_bytes=token_bytes,
        concurrent=asked.concurrent or min(prefill.count, decode.count),
        held=held.over(lanes),
    )


def gathered(size: Array, tensor: Array, pipeline: Array, model: ModelArrays, system: SystemArrays) -> Array:
    """Seconds in which ranks of a replica that hold the same part of a cache of `size` bytes hand it on, (P,).

    0 where every rank has heads of its own.
    """
    held = size / pipeline * kv_heads_per_rank(model.cache_heads, tensor) / model.cache_heads
    copies = np.maximum(np.ceil(tensor / model.cache_heads), 1.0)
    found: Array = all_gather(held, tensor_placement(copies, system.sizes), system).time
    return found


def _whole(case: Case) -> Held:
    """Bytes of one copy of the cache of a sequence."""
    one = array(1.0)
    alone = replace(case.plan, tensor=one, pipeline=one, data=one, expert=one, micro_batches=one)
    return held_of(replace(case, plan=alone))


def _link(system: SystemArrays, *, inside: bool) -> tuple[float, float]:
    """Latency [s] and bandwidth [B/s] between chips of two replicas. Raises SpecError where nodes are not joined."""
    tier = system.node_tier + (0 if inside else 1)
    if tier >= len(system.tiers):
        hint = f"{system.name} has no network between its nodes: give transfer.latency and transfer.bandwidth"
        raise SpecError("has no way from prefill to decode", field="transfer", hint=hint)
    start, whole = (float(np.max(send(array(size), tier, system))) for size in (0.0, PIECE))
    return start, PIECE / (whole - start)
