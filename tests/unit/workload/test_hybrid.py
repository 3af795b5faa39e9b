"""The training graph of hybrids: parameters, FLOP and kept tensors by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.graph import active_parameters, model_flop, parameters
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.ops import Graph
from cosim.workload.training import training_graph

Describe = Callable[..., Model]
H, P, N, G, Q, KERNEL = 4, 8, 16, 2, 32, 4
INNER, SHARED = H * P, G * N
HIDDEN, FFN, VOCAB = 64, 96, 100
SIZES: dict[str, Any] = {"heads": H, "head_dim": P, "state": N, "groups": G, "kernel": KERNEL, "chunk": Q}


def lowered(describe: Describe, pattern: str, **changes: Any) -> ModelArrays:
    fields = {"gated": False, "position": "none", "layers": len(pattern), "mamba": {"pattern": pattern, **SIZES}}
    return lower_model(Varied(describe(**{**fields, **changes})))


def graph(model: ModelArrays, sequences: float = 3.0, length: float = 64.0) -> Graph:
    return training_graph(model, array(sequences), array(length), fused=True)


def mixer_parameters() -> int:
    into = HIDDEN * (2 * INNER + 2 * SHARED + H)
    # A, D and the bias of dt; the convolution with its bias; the norm of the layer and the gated one.
    small = 3 * H + (INNER + 2 * SHARED) * (KERNEL + 1) + INNER + HIDDEN
    return into + INNER * HIDDEN + small


@settings(max_examples=30, deadline=None)
@given(pattern=st.text("M*-", min_size=1, max_size=12).filter(lambda letters: "M" in letters))
def test_parameters_are_those_of_the_blocks(describe: Describe, pattern: str) -> None:
    attention = HIDDEN * (8 + 2 * 2) * 16 + 8 * 16 * HIDDEN + HIDDEN
    each = {"M": mixer_parameters(), "*": attention, "-": 2 * HIDDEN * FFN + HIDDEN}
    total = sum(each[letter] for letter in pattern) + 2 * VOCAB * HIDDEN + HIDDEN
    assert float(parameters(lowered(describe, pattern))) == pytest.approx(total, rel=1e-12)


def test_flop_of_a_mixer_by_hand(describe: Describe) -> None:
    one, two = (model_flop(m, graph(m)) for m in (lowered(describe, "M-"), lowered(describe, "MM-")))
    tokens = 3 * 64
    products = 2 * tokens * HIDDEN * (2 * INNER + 2 * SHARED + H) + 2 * tokens * INNER * HIDDEN
    scan = tokens * (2 * Q * SHARED + 2 * INNER * (Q + 2 * N))
    assert float(two - one) == pytest.approx(products + scan, rel=1e-9)


def test_a_mixer_keeps_what_the_product_in_and_the_scan_made(describe: Describe) -> None:
    made = graph(lowered(describe, "M"))
    tokens = 3 * 64
    kept = {op.name: float(op.m * sum(axis.size for axis in op.width)) * op.element_bytes for op in made.saved}
    assert kept["mamba_input"] == kept["layer_input"] == 2 * tokens * HIDDEN
    assert kept["mamba_projected"] == 2 * tokens * (2 * INNER + 2 * SHARED + H)
    assert kept["scan_output"] == kept["mamba_output"] == 2 * tokens * INNER
    counts = {op.name: float(op.count) for op in made.saved}
    assert counts["qkv"] == counts["ffn_input"] == 0.0


def test_convolution_and_scan_run_again_by_their_nature(describe: Describe) -> None:
    made = graph(lowered(describe, "M*-"))
    again = {op.name for op in (*made.matmuls, *made.vectors) if op.again}
    assert again == {"scan.scores", "scan.states", "scan.output", "scan.decay", "scan.passing", "convolution"}


def test_tensor_ranks_share_heads_and_groups(describe: Describe) -> None:
    batches = {op.name: op.batch for op in graph(lowered(describe, "M")).matmuls if op.batch is not None}
    assert {name: float(batch.groups) for name, batch in batches.items()} == {
        "scan.scores": G,
        "scan.states": H,
        "scan.output": H,
    }


def test_experts_read_a_narrower_token(describe: Describe) -> None:
    routed = {"experts": 8, "experts_per_token": 2, "expert_ffn": 32, "shared_experts": 1}
    wide = lowered(describe, "ME", **routed)
    narrow = lowered(describe, "ME", **routed, expert_latent=16)
    saved = 8 * 2 * (HIDDEN - 16) * 32 - 2 * HIDDEN * 16
    assert float(parameters(wide) - parameters(narrow)) == pytest.approx(saved)
    assert float(active_parameters(wide) - active_parameters(narrow)) == pytest.approx(
        2 * 2 * (HIDDEN - 16) * 32 - 2 * HIDDEN * 16
    )
    sent = {op.name: float(op.width) for op in graph(narrow).collectives if op.kind in ("dispatch", "combine")}
    assert sent == {"dispatch": 16.0, "combine": 16.0}


def test_the_order_of_a_pattern_changes_nothing(describe: Describe) -> None:
    first, second = (graph(lowered(describe, pattern)) for pattern in ("MM*-", "-*MM"))
    assert [replace(op) for op in first.vectors] == [replace(op) for op in second.vectors]
