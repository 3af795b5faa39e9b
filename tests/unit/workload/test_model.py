"""The description of a transformer: what it refuses, and its lowering to arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cosim.errors import SpecError
from cosim.overrides import Varied, vary
from cosim.records import leaves, points
from cosim.workload.model import Model, ModelArrays, lower_model

Describe = Callable[..., Model]
NUMBERS = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab", "max_positions")


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 16),
    per_group=st.integers(1, 16),
    sizes=st.lists(st.integers(1, 10_000), min_size=6, max_size=6),
)
def test_lowering_keeps_every_dimension_of_any_valid_model(
    describe: Describe, groups: int, per_group: int, sizes: list[int]
) -> None:
    given_numbers = dict(
        zip(("layers", "hidden", "ffn", "head_dim", "vocab", "max_positions"), sizes, strict=True),
        heads=groups * per_group,
        kv_heads=groups,
    )
    arrays = lower_model(Varied(describe(**given_numbers)))
    assert {name: float(getattr(arrays, name)) for name in NUMBERS} == {k: float(v) for k, v in given_numbers.items()}


def test_lowered_leaves_are_float64_scalars(describe: Describe) -> None:
    found = list(leaves(lower_model(Varied(describe()))))
    assert len(found) == len(NUMBERS) + 17  # and the window with its layers, experts, latents and index that it has not
    assert all(leaf.shape == () and leaf.dtype == np.float64 for leaf in found)


@pytest.mark.parametrize("choice", ["gated", "tied_embeddings", "qkv_bias", "output_bias", "ffn_bias", "qk_norm"])
@pytest.mark.parametrize("value", [True, False])
def test_choices_pass_through_lowering(describe: Describe, choice: str, value: bool) -> None:
    assert getattr(lower_model(Varied(describe(**{choice: value}))), choice) is value


def test_text_choices_pass_through_lowering(describe: Describe) -> None:
    arrays = lower_model(Varied(describe(norm="layer", position="learned")))
    assert (arrays.name, arrays.norm, arrays.position) == ("small", "layer", "learned")


@pytest.mark.parametrize(
    ("choice", "value"),
    [("activation", "relu"), ("position", "alibi"), ("post_norms", True), ("parallel_norms", 2)],
)
def test_choices_of_a_family_pass_through_lowering(describe: Describe, choice: str, value: object) -> None:
    assert getattr(lower_model(Varied(describe(**{choice: value}))), choice) == value
    assert getattr(lower_model(Varied(describe())), choice) in ("smooth", "rotary", False, 0)


def test_dense_layers_between_routed_ones_are_a_choice(describe: Describe, routed_choices: dict[str, Any]) -> None:
    model = describe(**routed_choices, dense_layers=3, dense_between=True)
    assert lower_model(Varied(model)).dense_between
    assert not lower_model(Varied(describe(**routed_choices, dense_layers=3))).dense_between


def test_an_array_override_replaces_its_dimension_only(describe: Describe) -> None:
    arrays = lower_model(vary(Varied(describe()), {"layers": np.array([4, 8, 12]), "ffn": 160}))
    assert arrays.layers.tolist() == [4.0, 8.0, 12.0]
    assert arrays.ffn.shape == ()
    assert float(arrays.ffn) == 160.0
    assert float(arrays.hidden) == 64.0
    assert points(arrays) == 3


@pytest.mark.parametrize(
    ("changes", "window", "windowed_layers", "has_window"),
    [
        ({}, 0.0, 0.0, False),
        ({"window": 32}, 32.0, 0.0, False),  # a window that no layer uses changes nothing
        ({"window": 32, "windowed_layers": 3}, 32.0, 3.0, True),
    ],
)
def test_window_lowers_to_numbers_and_one_flag(
    describe: Describe, changes: dict[str, int], window: float, windowed_layers: float, has_window: bool
) -> None:
    arrays = lower_model(Varied(describe(**changes)))
    assert (float(arrays.window), float(arrays.windowed_layers)) == (window, windowed_layers)
    assert arrays.has_window is has_window


def test_sweeping_windowed_layers_turns_the_window_on(describe: Describe) -> None:
    arrays = lower_model(vary(Varied(describe(window=32)), {"windowed_layers": [0, 3, 6]}))
    assert arrays.has_window
    assert arrays.windowed_layers.tolist() == [0.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"heads": 9}, "heads", r"must be a multiple of kv_heads \(got 9\)"),
        ({"heads": 8, "kv_heads": 16}, "heads", "must be a multiple of kv_heads"),
        ({"window": 32, "windowed_layers": 7}, "windowed_layers", r"is more than layers \(got 7\)"),
        ({"windowed_layers": 2}, "window", "is missing although windowed_layers is set"),
        ({"layers": 0}, "layers", r"greater than 0 \(got 0\)"),
        ({"hidden": -64}, "hidden", "greater than 0"),
        ({"vocab": 10_000_001}, "vocab", "less than or equal to 10000000"),
        ({"head_dim": 1.5}, "head_dim", r"\(got 1.5\)"),
        ({"windowed_layers": -1}, "windowed_layers", "greater than or equal to 0"),
        ({"norm": "batch"}, "norm", "'rms' or 'layer'"),
        ({"position": "sinus"}, "position", "'rotary', 'learned', 'alibi' or 'none'"),
        ({"activation": "tanh"}, "activation", "'smooth', 'relu' or 'squared_relu'"),
        ({"parallel_norms": 3}, "parallel_norms", r"\(got 3\)"),
        ({"parallel_norms": 1, "post_norms": True}, "parallel_norms", "modelled without post_norms"),
        ({"dense_between": True}, "dense_between", "is set although experts is not"),
        ({"published_parameters": 0.5}, "published_parameters", "out of range"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(
    describe: Describe, changes: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        describe(**changes)
    assert caught.value.field == field


def test_an_unknown_field_names_the_nearest(describe: Describe) -> None:
    with pytest.raises(SpecError, match="unknown field") as caught:
        describe(kv_head=2)
    assert caught.value.field == "kv_head"
    assert "kv_heads" in str(caught.value.hint)


def test_a_missing_dimension_is_named(describe: Describe) -> None:
    complete = describe().model_dump(exclude={"hidden"}, exclude_none=True)
    with pytest.raises(ValidationError, match="hidden"):
        Model.model_validate(complete)


def test_a_model_cannot_be_changed_in_place(describe: Describe) -> None:
    model = describe()
    with pytest.raises(ValidationError, match="frozen"):
        model.layers = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("layers", [0, 4], "greater than 0"),
        ("heads", [8, 9], "multiple of kv_heads"),
        ("layers", [4, float("nan")], "holds NaN or infinity"),
        ("layers", [[4, 8]], "one dimension"),
        ("layer", [4, 8], "unknown path.*nearest: workload.layers"),
    ],
)
def test_a_wrong_array_override_is_refused(describe: Describe, path: str, values: list[float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        vary(Varied(describe()), {path: values}, root="workload.")


def test_lowered_records_are_frozen(describe: Describe) -> None:
    arrays: ModelArrays = lower_model(Varied(describe()))
    with pytest.raises(AttributeError):
        arrays.layers = np.array(7.0)  # type: ignore[misc]


Choices = dict[str, Any]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"expert_ffn": None}, "expert_ffn", "is missing although experts is set"),
        ({"experts_per_token": 9}, "experts_per_token", r"is more than experts \(got 9\)"),
        ({"dense_layers": 6}, "dense_layers", r"leaves no routed layer \(got 6\)"),
        ({"dense_layers": 7}, "dense_layers", r"leaves no routed layer \(got 7\)"),
        ({"dense_between": True}, "dense_between", "is set although dense_layers is not"),
        ({"parallel_norms": 2}, "parallel_norms", "modelled without experts"),
        ({"expert_groups": 4, "groups_per_token": 5}, "groups_per_token", r"is more than expert_groups \(got 5\)"),
        ({"groups_per_token": 2}, "groups_per_token", r"is more than expert_groups \(got 2\)"),
        ({"experts": 0}, "experts", "greater than 0"),
        ({"experts_per_token": 0}, "experts_per_token", "greater than 0"),
        ({"expert_ffn": 0}, "expert_ffn", "greater than 0"),
        ({"shared_experts": -1}, "shared_experts", "greater than or equal to 0"),
        ({"dense_layers": -1}, "dense_layers", "greater than or equal to 0"),
        ({"expert_groups": 0}, "expert_groups", "greater than 0"),
        ({"published_active_parameters": 0.5}, "published_active_parameters", "out of range"),
    ],
)
def test_routing_that_cannot_be_is_refused(
    describe: Describe, routed_choices: Choices, changes: Choices, field: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        describe(**{**routed_choices, **changes})
    assert caught.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {"experts_per_token": 8},  # every expert
        {"dense_layers": 5},  # one routed layer is left
        {"expert_groups": 4, "groups_per_token": 4},
        {"expert_groups": 4},
        {"groups_per_token": 1},
        {"shared_experts": 8},
    ],
)
def test_routing_at_its_limits_is_accepted(describe: Describe, routed_choices: Choices, changes: Choices) -> None:
    assert describe(**{**routed_choices, **changes}).experts == 8


@pytest.mark.parametrize("missing", ["kv_latent", "rope_dim", "value_dim"])
def test_latent_attention_needs_all_its_widths(describe: Describe, latent_choices: Choices, missing: str) -> None:
    with pytest.raises(SpecError, match=r"is incomplete.*needs kv_latent, rope_dim and value_dim") as caught:
        describe(**{**latent_choices, missing: None})
    assert caught.value.field == "kv_latent"


@pytest.mark.parametrize("field", ["query_latent", "kv_latent", "rope_dim", "value_dim"])
@pytest.mark.parametrize("value", [0, -4, 1.5])
def test_a_width_of_latent_attention_is_a_positive_whole_number(
    describe: Describe, latent_choices: Choices, field: str, value: float
) -> None:
    with pytest.raises(SpecError) as caught:
        describe(**{**latent_choices, field: value})
    assert (caught.value.field, caught.value.value) == (field, value)


def test_a_dense_model_lowers_to_no_experts_and_no_latent(describe: Describe) -> None:
    arrays = lower_model(Varied(describe()))
    flags = (arrays.is_moe, arrays.has_dense_layers, arrays.has_shared_experts, arrays.is_latent)
    assert not any((*flags, arrays.compresses_query, arrays.router_bias, arrays.sinks))
    assert (float(arrays.experts), float(arrays.experts_per_token), float(arrays.node_limit)) == (0.0, 1.0, np.inf)


def test_experts_lower_to_numbers_and_flags(describe: Describe, routed_choices: Choices) -> None:
    more = {"shared_experts": 2, "dense_layers": 3, "expert_groups": 4, "groups_per_token": 3, "router_bias": True}
    arrays = lower_model(Varied(describe(**routed_choices, **more)))
    numbers = (arrays.experts, arrays.experts_per_token, arrays.expert_ffn, arrays.shared_experts, arrays.dense_layers)
    assert tuple(float(number) for number in numbers) == (8.0, 2.0, 32.0, 2.0, 3.0)
    assert float(arrays.node_limit) == 3.0
    assert all((arrays.is_moe, arrays.has_dense_layers, arrays.has_shared_experts, arrays.router_bias))
    assert not arrays.is_latent


def test_latent_attention_lowers_to_numbers_and_flags(describe: Describe, latent_choices: Choices) -> None:
    arrays = lower_model(Varied(describe(**latent_choices)))
    numbers = (arrays.query_latent, arrays.kv_latent, arrays.rope_dim, arrays.value_dim)
    assert tuple(float(number) for number in numbers) == (24.0, 40.0, 4.0, 12.0)
    assert (arrays.is_latent, arrays.compresses_query, arrays.is_moe) == (True, True, False)
    direct = lower_model(Varied(describe(**{**latent_choices, "query_latent": None})))
    assert (direct.is_latent, direct.compresses_query) == (True, False)


def test_the_cache_keeps_keys_and_values_of_every_head_or_one_latent(
    describe: Describe, latent_choices: Choices
) -> None:
    ordinary, latent = (lower_model(Varied(describe(**changes))) for changes in ({}, latent_choices))
    assert (float(ordinary.kept_per_token), float(ordinary.cache_heads)) == (32.0, 2.0)  # 2 x 16 of two heads
    assert (float(latent.kept_per_token), float(latent.cache_heads)) == (44.0, 1.0)  # 40 + 4, once


@pytest.mark.parametrize(
    ("path", "flag"), [("dense_layers", "has_dense_layers"), ("shared_experts", "has_shared_experts")]
)
def test_a_sweep_that_starts_at_none_has_the_structure_of_all(
    describe: Describe, routed_choices: Choices, path: str, flag: str
) -> None:
    spec = describe(**routed_choices)
    assert not getattr(lower_model(Varied(spec)), flag)
    swept = lower_model(vary(Varied(spec), {path: [0, 1, 2]}))
    assert getattr(swept, flag)
    assert getattr(swept, path).tolist() == [0.0, 1.0, 2.0]


def test_a_sweep_of_groups_is_a_sweep_of_the_limit_of_nodes(describe: Describe, routed_choices: Choices) -> None:
    spec = describe(**routed_choices, expert_groups=8, groups_per_token=8)
    assert lower_model(vary(Varied(spec), {"groups_per_token": [1, 4, 8]})).node_limit.tolist() == [1.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("experts_per_token", [2, 9], "is more than experts"),
        ("experts", [8, 1], "is more than experts"),
        ("dense_layers", [0, 6], "leaves no routed layer"),
    ],
)
def test_a_sweep_out_of_what_routing_can_be_is_refused(
    describe: Describe, routed_choices: Choices, path: str, values: list[int], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        vary(Varied(describe(**routed_choices)), {path: values}, root="workload.")
