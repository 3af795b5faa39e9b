"""Descriptions of transformers that contradict themselves are refused, with the field that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.workload.model import Model
from cosim.workload.model_checks import ROUTED, check_model

Describe = Callable[..., Model]
DELTA = {"layers": 3, "key_heads": 2, "value_heads": 4, "key_dim": 8, "value_dim": 8}
ENCODER = {"layers": 2, "tokens": 9}


@settings(max_examples=40, deadline=None)
@given(shared=st.integers(1, 8), per=st.integers(1, 8), more=st.integers(0, 8))
def test_heads_are_whole_groups_of_key_heads(describe: Describe, shared: int, per: int, more: int) -> None:
    heads = shared * per + more
    if heads % shared:
        with pytest.raises(SpecError, match="multiple of kv_heads"):
            describe(heads=heads, kv_heads=shared)
    else:
        check_model(describe(heads=heads, kv_heads=shared))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"windowed_layers": 7, "window": 4}, "windowed_layers"),
        ({"windowed_layers": 2}, "window"),
        ({"predicted_share": 0.5}, "predicted_share"),
        ({"kv_latent": 8}, "kv_latent"),
        ({"experts": 4}, "expert_ffn"),
        ({"experts": 4, "expert_ffn": 8, "experts_per_token": 5}, "experts_per_token"),
        ({"experts": 4, "expert_ffn": 8, "dense_layers": 6}, "dense_layers"),
        ({"experts": 4, "expert_ffn": 8, "dense_between": True}, "dense_between"),
        ({"experts": 4, "expert_ffn": 8, "groups_per_token": 2}, "groups_per_token"),
        ({"experts_per_token": 2}, "experts_per_token"),
        ({"parallel_norms": 1, "post_norms": True}, "parallel_norms"),
        ({"delta": DELTA, "post_norms": True}, "post_norms"),
        ({"delta": DELTA, "encoder": ENCODER}, "delta"),
        ({"encoder": ENCODER, "post_norms": True}, "post_norms"),
        ({"output_gate": True, "kv_latent": 8, "rope_dim": 2, "value_dim": 4}, "output_gate"),
        ({"quantised": {"fp8": {"parts": ["shared_experts"], "source": "a test"}}}, "quantised.fp8.parts"),
    ],
)
def test_what_cannot_be_names_its_field(describe: Describe, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        describe(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ROUTED)
def test_what_belongs_to_experts_needs_them(describe: Describe, name: str) -> None:
    value = True if name in ("dense_between", "router_bias") else 2
    with pytest.raises(SpecError, match="experts is not"):
        describe(**{name: value})


def test_what_is_whole_passes(describe: Describe) -> None:
    for changes in (
        {},
        {"delta": DELTA, "output_gate": True, "experts": 4, "expert_ffn": 8},
        {"encoder": ENCODER},
        {"windowed_layers": 6, "window": 4},
    ):
        check_model(describe(**changes))
