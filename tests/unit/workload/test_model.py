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
    assert len(found) == len(NUMBERS) + 12  # and the window with its layers, experts and latents that it has not
    assert all(leaf.shape == () and leaf.dtype == np.float64 for leaf in found)


@pytest.mark.parametrize("choice", ["gated", "tied_embeddings", "qkv_bias", "output_bias", "ffn_bias", "qk_norm"])
@pytest.mark.parametrize("value", [True, False])
def test_choices_pass_through_lowering(describe: Describe, choice: str, value: bool) -> None:
    assert getattr(lower_model(Varied(describe(**{choice: value}))), choice) is value


def test_text_choices_pass_through_lowering(describe: Describe) -> None:
    arrays = lower_model(Varied(describe(norm="layer", position="learned")))
    assert (arrays.name, arrays.norm, arrays.position) == ("small", "layer", "learned")


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
        ({"position": "alibi"}, "position", "'rotary' or 'learned'"),
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
