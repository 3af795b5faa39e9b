"""Patterns of hybrids: shares of layers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied, vary
from cosim.workload.mamba import Mamba
from cosim.workload.model import Model, lower_model

Describe = Callable[..., Model]
SIZES: dict[str, Any] = {"heads": 4, "head_dim": 8, "state": 16, "groups": 2}


def hybrid(describe: Describe, pattern: str, **changes: Any) -> Model:
    return describe(layers=len(pattern), mamba={"pattern": pattern, **SIZES}, **changes)


@settings(max_examples=60, deadline=None)
@given(pattern=st.text("M*-", min_size=1, max_size=40).filter(lambda letters: "M" in letters))
def test_shares_are_the_letters_of_the_pattern(describe: Describe, pattern: str) -> None:
    found = lower_model(Varied(hybrid(describe, pattern))).mamba
    assert found is not None
    for share, letter in ((found.mamba, "M"), (found.attention, "*"), (found.dense, "-"), (found.routed, "E")):
        assert float(share) * len(pattern) == pytest.approx(pattern.count(letter))
    assert float(found.mamba + found.attention + found.dense + found.routed) == pytest.approx(1.0)


def test_layers_without_experts_lie_between_the_routed_ones(describe: Describe) -> None:
    model = lower_model(Varied(hybrid(describe, "MEM*ME", experts=8, experts_per_token=2, expert_ffn=32)))
    assert float(model.dense_layers) == pytest.approx(4.0)
    assert model.dense_between
    assert not model.has_dense_layers


def test_sizes_vary(describe: Describe) -> None:
    wider = lower_model(vary(Varied(hybrid(describe, "MM*")), {"mamba.state": [16, 32]}))
    assert wider.mamba is not None
    assert wider.mamba.state.tolist() == [16.0, 32.0]
    assert float(wider.mamba.inner) == 32.0


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"layers": 7}, "layers: is not the number of letters"),
        ({"experts": 8, "expert_ffn": 32}, "experts: does not agree with the letters E"),
        ({"dropout": True}, "dropout: is not modelled in a hybrid"),
        ({"post_norms": True}, "post_norms: is not modelled in a hybrid"),
        ({"causal": False}, "causal: is not modelled in a hybrid"),
    ],
)
def test_what_a_pattern_does_not_describe_is_refused(describe: Describe, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        describe(**{"layers": 3, "mamba": {"pattern": "MM*", **SIZES}, **fields})


@pytest.mark.parametrize("pattern", ["", "**-", "MxM"])
def test_a_pattern_is_of_known_letters_with_a_mixer(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Mamba(pattern=pattern, **SIZES)


def test_letters_of_experts_need_experts(describe: Describe) -> None:
    with pytest.raises(SpecError, match="does not agree"):
        hybrid(describe, "MEM")
