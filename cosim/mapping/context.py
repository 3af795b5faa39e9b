"""What ranks that share out the tokens of a sequence send each other, so that attention sees all keys and values.

    ring         keys and values are handed round (k - 1 steps) while attention works on those that are there; on the
                 way back they go round again, and their gradients with them
    all_gather   keys and values are joined before attention; gradients are scattered after it
    all_to_all   heads for tokens before attention and back after it, both ways

A rank holds 1 / k of the tokens, dealt out so that all have the same work under a causal mask. Keys beyond a window are
not sent.
"""

from __future__ import annotations

import numpy as np

from cosim.errors import SpecError
from cosim.mapping.device import ACTIVATION_BYTES, DeviceAttention, DeviceCollective
from cosim.mapping.plan import PlanArrays
from cosim.records import Array

KINDS = ("context_gather", "context_scatter", "context_exchange")
"""Kinds of collectives over context ranks: `size_bytes` are those of the whole result, or of a rank's own exchange."""


def context_collectives(
    attentions: tuple[DeviceAttention, ...], plan: PlanArrays, *, backward: bool
) -> tuple[DeviceCollective, ...]:
    """Collectives of every attention op on its way forward or back, count 0 where nothing is shared out.

    Raises SpecError for software whose attention is no kernel of its own: it has nothing to hand keys to.
    """
    if not np.any(plan.context > 1.0):
        return ()
    if not attentions:
        hint = "plan.software with fused attention, or plan.context_parallel=1"
        raise SpecError("needs fused attention", field="plan.context_parallel", hint=hint)
    return tuple(each for op in attentions for each in _of(op, plan, backward=backward))


def _of(op: DeviceAttention, plan: PlanArrays, *, backward: bool) -> tuple[DeviceCollective, ...]:
    count = op.count * np.where(plan.context > 1.0, 1.0, 0.0)
    name = f"{op.name}.context"
    if plan.context_exchange == "all_to_all":
        return (DeviceCollective(name, op.group, "context_exchange", count, _projected(op)),)
    joined = _keys_and_values(op) * plan.context
    if plan.context_exchange == "ring":
        # Keys and values; on the way back their gradients too.
        rounds = 2.0 if backward else 1.0
        return (DeviceCollective(name, op.group, "context_gather", count, rounds * joined, op.name, hides=True),)
    gathered = DeviceCollective(name, op.group, "context_gather", count, joined)
    if not backward:
        return (gathered,)
    return gathered, DeviceCollective(f"{name}.scatter", op.group, "context_scatter", count, joined)


def _keys_and_values(op: DeviceAttention) -> Array:
    """Bytes of the keys and values of a rank's own tokens that others attend to."""
    local = op.op
    wide = local.head_dim + local.values
    seen = np.minimum(local.window, local.context) / local.context if local.windowed else np.ones_like(local.context)
    return local.batch * local.context * local.kv_heads * wide * seen * ACTIVATION_BYTES


def _projected(op: DeviceAttention) -> Array:
    """Bytes of the queries, keys, values and output of a rank's own tokens."""
    local = op.op
    wide = local.head_dim + local.values
    return local.batch * local.query * (local.heads + local.kv_heads) * wide * ACTIVATION_BYTES
