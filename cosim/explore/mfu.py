"""Use of the matrix engines by the definitions in use: which FLOP of a training step each of them counts.

    mfu.model_6n   6 N a token: products with weights alone
    mfu.causal     and attention under its mask, about half of all pairs (Megatron-Bridge, MaxText of late)
    mfu.full       and attention of all pairs that a window lets through (PaLM, llm-foundry, older NeMo and MaxText)
    mfu.hardware   mfu.causal with the products that recompute runs again

N are the weights that one token multiplies: of experts the chosen ones, and no embedding table that is not the head too
(llm-foundry and PaLM count that table: a few per cent more). Where weights are frozen two thirds count, as in `mfu`;
`mfu` itself counts the products of the graph, attention under its mask and no parameters that only scale or shift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from cosim.engines.analytic import TRAINING_FLOP, Estimates
from cosim.engines.case import Case
from cosim.records import Array, array
from cosim.timing.cost import rate
from cosim.workload.graph import active_parameters, attention_flop
from cosim.workload.training import training_graph


def _use(case: Case, result: Estimates, flop: Array) -> Array:
    """FLOP of a step over what all chips could do in its time."""
    used: Array = flop / (result.time * result.chips * rate(case.system.chip, case.plan.dtype))
    return used


def _products(case: Case) -> Array:
    """2 N a token, as often as products are run for gradients [FLOP of a step]."""
    tokens = case.scenario.global_batch * case.scenario.context
    flop: Array = TRAINING_FLOP[case.scenario.updates] * 2.0 * active_parameters(case.model) * tokens
    return flop


def _attention(case: Case, *, masked: bool) -> Array:
    """Attention of all sequences of a step [FLOP]."""
    graph = training_graph(case.model, case.scenario.global_batch, case.scenario.context, fused=True)
    ops = [op if masked else replace(op, causal=False) for op in graph.attentions]
    forward: Array = sum((case.model.layers * op.count * attention_flop(op) for op in ops), array(0.0))
    return TRAINING_FLOP[case.scenario.updates] * forward


def _hardware(case: Case, result: Estimates) -> Array:
    return _products(case) + _attention(case, masked=True) + result.again_flop


_COUNTED: Mapping[str, Callable[[Case, Estimates], Array]] = {
    "mfu.model_6n": lambda case, _result: _products(case),
    "mfu.causal": lambda case, _result: _products(case) + _attention(case, masked=True),
    "mfu.full": lambda case, _result: _products(case) + _attention(case, masked=False),
    "mfu.hardware": _hardware,
}
NAMES = tuple(_COUNTED)


def mfu(name: str, case: Case, result: Estimates) -> Array:
    """Column `name` of NAMES (P,); unknown where nothing is trained, and of a network, whose weights meet no tokens."""
    if case.phase != "train" or case.model.network:
        return np.full_like(result.time, np.nan)
    return _use(case, result, _COUNTED[name](case, result))
