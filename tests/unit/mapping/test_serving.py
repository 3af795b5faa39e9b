"""Serving stacks as data: shipped files, what is left out, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.mapping.serving import Serving, ServingArrays, load_serving, lower_serving
from cosim.records import array, leaves, points, stacked, structure, take
from cosim.schema import validated

NAMES = sorted(library.names("serving"))


def datum(value: float, unit: str = "") -> dict[str, Any]:
    return {"value": value, "unit": unit, "kind": "estimated", "source": "a test"}


LEAST: dict[str, Any] = {
    "name": "plain",
    "title": "Plain",
    "policy": "chunked",
    "token_budget": datum(512),
    "max_sequences": datum(64),
    "memory_share": datum(0.9),
}


def lowered(**changes: Any) -> ServingArrays:
    return lower_serving(validated(Serving, {**LEAST, **changes}))


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_stack_is_lowered_under_its_own_name(name: str) -> None:
    made = lower_serving(load_serving(name))
    assert made.name == name
    assert points(made) == 1
    known = [leaf for leaf in leaves(made) if np.isfinite(leaf)]
    assert all(float(leaf) >= 0.0 for leaf in known)
    assert 0.0 < float(made.memory_share) <= 1.0
    # A step that only decodes fits into the budget of one that mixes.
    assert made.policy != "chunked" or float(made.max_sequences) <= float(made.token_budget)


def test_what_a_file_leaves_out_costs_nothing_and_changes_no_rate() -> None:
    plain = lowered()
    assert np.isnan(plain.host_step)
    free = ("host_sequence", "host_kernel", "graph_tokens", "routed_start", "request_start", "request_steps")
    assert {float(getattr(plain, name)) for name in free} == {0.0}
    assert {float(getattr(plain, name)) for name in ("sum_start", "read_per_core", "stored_on_vector")} == {np.inf}
    rates = ("matmul_rate", "routed_rate", "attention_rate", "vector_rate", "collective_rate", "exchange_rate")
    assert {float(getattr(plain, name)) for name in rates} == {1.0}
    assert [plain.host_hidden, plain.reserves_whole, plain.share_of_free] == [False] * 3


@settings(max_examples=40, deadline=None)
@given(value=st.floats(0.01, 100.0))
def test_times_are_in_seconds_and_rates_are_as_written(value: float) -> None:
    made = lowered(
        host_step=datum(value, "ms"), request_start=datum(value, "us"), rates={"attention": datum(min(value, 1.0))}
    )
    assert float(made.host_step) == pytest.approx(value * 1e-3)
    assert float(made.request_start) == pytest.approx(value * 1e-6)
    assert float(made.attention_rate) == min(value, 1.0)


def test_routed_products_are_as_other_products_unless_they_have_a_rate() -> None:
    assert float(lowered(rates={"matmul": datum(0.7)}).routed_rate) == 0.7
    both = lowered(rates={"matmul": datum(0.7), "routed": datum(0.4)})
    assert (float(both.matmul_rate), float(both.routed_rate)) == (0.7, 0.4)


def test_what_a_sequence_is_promised_is_a_choice() -> None:
    assert lowered(reserve="whole").reserves_whole
    assert not lowered(reserve="grown").reserves_whole
    assert structure(lowered(reserve="whole")) != structure(lowered())
    assert structure(lowered(policy="first")) != structure(lowered())


def test_stacks_of_one_structure_are_one_batch() -> None:
    both = stacked([lowered(), lowered(token_budget=datum(2048))])
    np.testing.assert_array_equal(both.token_budget, [512.0, 2048.0])
    assert float(take(both, np.array([1])).token_budget[0]) == 2048.0
    assert both.max_sequences.shape == array([1.0, 1.0]).shape


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"policy": "nonsense"}, "policy"),
        ({"host_step": datum(1.0, "GB")}, "host_step"),
        ({"token_budget": datum(-5)}, "token_budget"),
        ({"kv_dtype": "int3"}, "kv_dtype"),
        ({"weight_only": ["int3"]}, "weight_only"),
        ({"hosts": 3}, "hosts"),
    ],
)
def test_a_field_that_is_no_part_of_a_stack_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Serving, {**LEAST, **changes})
    assert field in str(caught.value)


def test_a_stack_may_be_a_file_and_a_name_is_looked_up(tmp_path: Path) -> None:
    text = "name: mine\ntitle: Mine\npolicy: static\n"
    for name, value in (("token_budget", 100), ("max_sequences", 10), ("memory_share", 0.5)):
        text += f"{name}: {{value: {value}, unit: '', kind: estimated, source: x}}\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert (load_serving(str(path)).name, load_serving(str(path)).policy) == ("mine", "static")
    with pytest.raises(SpecError, match=re.escape("vllm")):
        load_serving("vlm")
