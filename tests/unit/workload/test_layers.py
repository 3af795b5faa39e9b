"""Layers of networks: what a description may say, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cosim.errors import SpecError
from cosim.records import array
from cosim.schema import validated
from cosim.workload.layers import MOST, SAME_AS, TOKENS, Conv, Gather, Layer, LayerArrays, Linear, Pool, Size
from cosim.workload.network import Network

CONV: dict[str, Any] = {"name": "c", "kind": "conv", "inputs": 3, "outputs": 8, "kernel": 3, "height": 16}
SIZE: TypeAdapter[int | str] = TypeAdapter(Size)
KINDS = ["conv", "linear", "product", "attention", "norm", "activation", "softmax"]
KINDS += ["add", "copy", "pool", "upsample", "gather", "scan", "lstm"]


def fault(layer: dict[str, Any]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        validated(
            Network, {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "i", "layers": [layer]}
        )
    return caught.value


@given(st.integers(1, MOST))
def test_a_size_is_a_positive_whole_number_however_it_is_written(number: int) -> None:
    assert SIZE.validate_python(number) == number
    assert type(SIZE.validate_python(float(number))) is int


@pytest.mark.parametrize("wrong", [0, -1, 2.5, MOST + 1, math.nan, math.inf, True, None, "many", "7", [3]])
def test_anything_else_is_no_size(wrong: object) -> None:
    with pytest.raises(ValueError, match="positive whole number, or tokens"):
        SIZE.validate_python(wrong)


def test_a_size_may_be_the_number_of_tokens() -> None:
    assert SIZE.validate_python("tokens") == TOKENS
    assert SIZE.json_schema() == {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"const": "tokens"}]}


def test_every_kind_is_known_by_its_word() -> None:
    tags = TypeAdapter(Layer).json_schema()["discriminator"]["mapping"]
    assert sorted(tags) == sorted(KINDS)


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"kernel": -3}, "layers.0.kernel", "must be a positive whole number, or tokens"),
        ({"kernal": 3}, "layers.0.kernal", "unknown field"),
        # A name that is a kind elsewhere is still an unknown field here.
        ({"scan": 3}, "layers.0.scan", "unknown field"),
        ({"name": "a.b"}, "layers.0.name", "String should match pattern"),
        ({"count": 0}, "layers.0.count", "greater than or equal to 1"),
        ({"kernel": 17, "padding": "none"}, "layers.0.kernel", "is more than the input has"),
        ({"width": 2, "kernel_width": 3, "padding": "none"}, "layers.0.kernel", "is more than the input has"),
        ({"padding": "wrap"}, "layers.0.padding", "'same' or 'none'"),
    ],
)
def test_a_fault_of_a_layer_is_told_with_its_field(changes: dict[str, Any], field: str, problem: str) -> None:
    error = fault({**CONV, **changes})
    assert error.field == field
    assert problem in error.problem


def test_an_unknown_field_is_compared_with_those_of_its_own_kind() -> None:
    hint = str(fault({"name": "g", "kind": "gather", "lookups": 1, "width": 8, "tablerows": 3}).hint)
    assert "table_rows" in hint
    assert "kernel" not in str(fault({"name": "g", "kind": "gather", "kernal": 1, "lookups": 1, "width": 8}).hint)


def test_an_unknown_kind_names_those_that_there_are() -> None:
    error = fault({**CONV, "kind": "convolution"})
    assert error.field == "layers.0"
    assert all(f"'{kind}'" in error.problem for kind in KINDS)


def test_a_missing_size_is_told() -> None:
    error = fault({name: value for name, value in CONV.items() if name != "height"})
    assert (error.field, error.problem) == ("layers.0.height", "is missing")


def test_without_padding_a_kernel_may_be_as_large_as_the_input() -> None:
    pool = {"name": "p", "kind": "pool", "channels": 4, "height": 7, "kernel": 7, "padding": "none"}
    assert Pool.model_validate(pool).kernel == 7
    # What follows from the tokens is not known yet.
    assert Conv.model_validate({**CONV, "height": "tokens", "kernel": 99, "padding": "none"}).height == TOKENS


def test_what_is_left_open_has_a_size_to_equal() -> None:
    for kind in (Conv, Pool, Gather):
        for name, info in kind.model_fields.items():
            if info.default is None:
                assert SAME_AS[name] in kind.model_fields


def test_defaults_are_one_row_with_a_bias() -> None:
    layer = Linear.model_validate({"name": "l", "kind": "linear", "inputs": 2, "outputs": 3})
    assert (layer.rows, layer.bias, layer.tied, layer.count) == (1, True, False, 1)


def test_sizes_that_are_tokens_are_filled_in_by_each_case() -> None:
    layer = LayerArrays("l", "linear", array(1.0), {"inputs": array(4.0)}, ("rows", "other"), {})
    sizes = layer.at(array([5.0, 6.0]))
    assert set(sizes) == {"inputs", "rows", "other"}
    assert np.array_equal(sizes["rows"], [5.0, 6.0])
    assert float(sizes["inputs"]) == 4.0


ATTENTION: dict[str, Any] = {"name": "a", "kind": "attention", "heads": 4, "head_dim": 64, "tokens": 128}
SCAN: dict[str, Any] = {"name": "s", "kind": "scan", "tokens": 128, "heads": 8, "head_dim": 64, "state": 64}
GATHER: dict[str, Any] = {"name": "g", "kind": "gather", "lookups": 5, "width": 64, "table_rows": 1000}


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        ({**CONV, "groups": 2}, "must divide inputs"),
        ({**CONV, "inputs": 6, "outputs": 8, "groups": 3}, "must divide outputs"),
        ({**ATTENTION, "kv_heads": 3}, "must divide heads"),
        ({**ATTENTION, "kv_heads": 8}, "must divide heads"),
        ({**ATTENTION, "context": 64, "causal": True}, "is less than tokens"),
        ({**ATTENTION, "context": "tokens", "causal": True}, "is less than tokens"),
        ({**SCAN, "groups": 3}, "must divide heads"),
        ({**SCAN, "groups": 16}, "must divide heads"),
        ({**GATHER, "outputs": 6}, "is more than lookups"),
    ],
)
def test_layers_that_cannot_be_are_refused(layer: dict[str, Any], problem: str) -> None:
    assert problem in fault(layer).problem


@pytest.mark.parametrize(
    "layer",
    [
        {**CONV, "inputs": 8, "groups": 8},
        {**ATTENTION, "kv_heads": 2, "causal": True},
        {**ATTENTION, "context": 64},
        {**ATTENTION, "context": 128, "causal": True},
        {**SCAN, "groups": 8},
        {**GATHER, "outputs": 1},
    ],
)
def test_layers_at_the_edge_of_what_can_be_are_read(layer: dict[str, Any]) -> None:
    data = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "i", "layers": [layer]}
    assert validated(Network, data).layers[0].name == layer["name"]
