"""Kinds of strategy of a measured step: its columns, and what its stack does where it says nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.mapping.plan import RECOMPUTES
from cosim.validation.cases import Case
from cosim.validation.training_strategy import ASPECTS, OPEN, labels

Step = Callable[..., Case]
DEGREES = st.sampled_from(["", 1, 2, 8])
SHARDED = "sharded weights (ZeRO 3, FSDP)"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("tensor ranks only",)),
        ({"tp": 1}, ()),
        ({"pp": 4}, ("pipeline",)),
        ({"cp": 2}, ("context ranks",)),
        ({"pp": 4, "cp": 2}, ("pipeline", "context ranks")),
        ({"tp": ""}, (OPEN,)),
        ({"pp": ""}, (OPEN,)),
        ({"tp": 1, "zero": "3"}, (SHARDED,)),
        ({"tp": 1, "zero": "3:fsdp8"}, (SHARDED,)),
        ({"tp": 1, "zero": "1"}, ()),
        ({"tp": 1, "software_stack": "llm-foundry"}, (SHARDED,)),
        ({"tp": 1, "software_stack": "llm-foundry", "zero": "2"}, ()),
        ({"tp": 1, "zero": "sideways"}, ()),
        ({"tp": 1, "software_stack": "no such stack", "zero": "3"}, ()),
        ({"experts": 8}, ("experts (MoE)",)),
        ({"experts": 1}, ("tensor ranks only",)),
        ({"task": "lora"}, ("tensor ranks only", "LoRA")),
    ],
)
def test_a_row_is_of_every_kind_that_its_columns_say(
    step: Step, values: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert labels(step(**values))["strategy"] == expected


@given(DEGREES, DEGREES, DEGREES, st.sampled_from(["", 8]))
def test_tensor_ranks_only_excludes_all_others(step: Step, tp: object, pp: object, cp: object, experts: object) -> None:
    found = labels(step(tp=tp, pp=pp, cp=cp, experts=experts))["strategy"]
    if "tensor ranks only" in found:
        assert found == ("tensor ranks only",)
    assert (OPEN in found) == ("" in (tp, pp))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"recompute": "full"}, ("full",)),
        ({"recompute": "", "software_stack": "megatron"}, ("none",)),
        ({"recompute": "", "software_stack": "maxtext"}, ("full",)),
        ({"recompute": "selective", "software_stack": "torchtitan"}, ("none",)),
        ({"recompute": "sometimes"}, ()),
        ({"recompute": "full", "software_stack": "no such stack"}, ()),
    ],
)
def test_recompute_is_the_rows_or_the_stacks_usual(
    step: Step, values: dict[str, object], expected: tuple[str, ...]
) -> None:
    found = labels(step(**values))["recompute"]
    assert found == expected
    assert set(found) <= set(RECOMPUTES)


def test_every_aspect_has_its_labels(step: Step) -> None:
    found = labels(step(precision="bf16"))
    assert tuple(found) == ASPECTS
    assert found["precision"] == ("bf16",)
    assert labels(step(precision=""))["precision"] == ()
