"""Sequences that a replica can hold: what memory leaves beside weights and activations, over the cache of one.

room      = share x capacity - weights - activations of a full step - what the runtime keeps
sequences = floor(room / cache of a sequence), on the fullest stage
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case, device_graph, stage_classes
from cosim.mapping.memory import Memory, serving_memory
from cosim.records import Array, array
from cosim.workload.work import Work, decode_work


@dataclass(frozen=True, slots=True)
class Room:
    """Of the fullest chip of a replica [B], (P,): what all may take, weights, activations, the cache of a sequence."""

    most: Array
    share: Array
    """Of what is left that the cache may take."""
    weights: Array
    activations: Array
    other: Array
    per_sequence: Array

    @property
    def left(self) -> Array:
        """What is left for the cache [B], negative where not even the weights fit."""
        return self.share * (self.most - self.weights - self.activations - self.other)

    @property
    def sequences(self) -> Array:
        """Whole sequences that fit; 0 where the weights do not."""
        found: Array = np.floor(np.maximum(self.left, 0.0) / self.per_sequence)
        return found


def room(case: Case, tokens: Array) -> Room:
    """Room of a replica whose sequences hold `tokens` of the cache each. Networks keep no cache."""
    plan, stack = case.plan, case.stack
    share, budget = (array(1.0), array(1.0)) if stack is None else (stack.memory_share, stack.token_budget)
    each = replace(case.scenario, batch=plan.data + 0.0 * tokens, capacity=tokens)
    zero = array(0.0)
    few = replace(case, work=decode_work(plan.data, tokens))
    held = _memory(replace(few, scenario=each))
    full = replace(case, work=Work(plan.data, budget, zero, zero, zero, plan.data))
    step = _memory(replace(full, scenario=each))
    shown, all_of_it = case.system.chip.memory["dram"].shown, np.ones_like(share)
    whole, cache = (all_of_it, share) if stack is not None and stack.share_of_free else (share, all_of_it)
    return Room(whole * shown, cache, held.weights, step.activations, held.other, held.kv)


def room_beside(case: Case, tokens: Array) -> Room:
    """Room of the feed-forward side of a split replica over steps of `tokens` in all; it keeps no cache."""
    # A share of what is free holds caches, of which there are none here.
    share = array(1.0) if case.stack is None or case.stack.share_of_free else case.stack.memory_share
    none = array(0.0)
    held = _memory(replace(case, work=Work(none, none, none, tokens, array(1.0), none)))
    shown, whole = case.system.chip.memory["dram"].shown, array(1.0)
    return Room(share * shown, whole, held.weights, held.activations, held.other, none)


def room_of(case: Case, tokens: Array, draft: Case | None = None) -> Room:
    """Room of a replica that may hold a model that drafts too: weights and cache add, one works at a time."""
    own = room(case, tokens)
    if draft is None:
        return own
    other = room(draft, tokens)
    return replace(
        own,
        weights=own.weights + other.weights,
        activations=np.maximum(own.activations, other.activations),
        per_sequence=own.per_sequence + other.per_sequence,
    )


def _memory(case: Case) -> Memory:
    reserved = case.system.chip.memory["dram"].reserved
    return serving_memory(device_graph(case), stage_classes(case), case.model, case.plan, case.scenario, reserved)
