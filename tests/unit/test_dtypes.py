"""Number formats: element sizes by hand, and a key/value cache that is never below 8 bits."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from cosim.dtypes import (
    DTYPES,
    FP8_RECIPES,
    SERVING_PRECISIONS,
    Dtype,
    bytes_per_element,
    is_wide,
    kv_dtype_for,
    scale_bytes,
)


@pytest.mark.parametrize(
    ("dtype", "bits_of_block", "elements"),
    [
        ("fp64", 64, 1),
        ("fp32", 32, 1),
        ("tf32", 32, 1),  # stored as fp32, only the multiplier is narrower
        ("fp16", 16, 1),
        ("bf16", 16, 1),
        ("fp8", 8, 1),
        ("int8", 8, 1),
        ("fp6", 6, 1),
        ("fp4", 4, 1),
        ("int4", 4, 1),
        ("mxfp8", 32 * 8 + 8, 32),  # OCP: 32 elements share one 8-bit scale
        ("mxfp4", 32 * 4 + 8, 32),
        ("nvfp4", 16 * 4 + 8, 16),  # 16 elements share one 8-bit scale
    ],
)
def test_size_of_an_element_is_the_bits_of_its_block_shared_out(dtype: str, bits_of_block: int, elements: int) -> None:
    assert bytes_per_element(dtype) == bits_of_block / elements / 8


def test_every_format_has_a_size_and_is_listed_once() -> None:
    assert len(set(DTYPES)) == len(DTYPES)
    assert all(0.5 <= bytes_per_element(dtype) <= 8.0 for dtype in DTYPES)


def test_the_type_and_the_list_of_formats_agree() -> None:
    adapter: TypeAdapter[str] = TypeAdapter(Dtype)
    assert [adapter.validate_python(dtype) for dtype in DTYPES] == list(DTYPES)
    with pytest.raises(ValidationError):
        adapter.validate_python("fp3")


@pytest.mark.parametrize("unknown", ["", "FP8", "bfloat16", "fp8 "])
def test_unknown_format_has_no_size(unknown: str) -> None:
    with pytest.raises(KeyError):
        bytes_per_element(unknown)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cache_format_is_one_or_two_bytes_and_never_wider_than_the_weights_need(dtype: str) -> None:
    cache = bytes_per_element(kv_dtype_for(dtype))
    assert 1.0 <= cache <= 2.0
    assert cache <= max(bytes_per_element(dtype), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cache_format_of_a_cache_format_is_itself(dtype: str) -> None:
    assert kv_dtype_for(kv_dtype_for(dtype)) == kv_dtype_for(dtype)


@pytest.mark.parametrize(
    ("weights", "cache"),
    [
        ("bf16", "bf16"),
        ("fp16", "fp16"),
        ("fp32", "bf16"),
        ("tf32", "bf16"),
        ("fp8", "fp8"),
        ("mxfp8", "fp8"),
        ("nvfp4", "fp8"),
        ("mxfp4", "fp8"),
        ("int8", "int8"),
        ("int4", "int8"),
    ],
)
def test_cache_format_keeps_the_family_of_the_weights(weights: str, cache: str) -> None:
    assert kv_dtype_for(weights) == cache


def test_formats_chosen_for_serving_are_known_and_carry_scales_below_eight_bits() -> None:
    assert set(SERVING_PRECISIONS) <= set(DTYPES)
    assert len(set(SERVING_PRECISIONS)) == len(SERVING_PRECISIONS)
    narrow = [dtype for dtype in SERVING_PRECISIONS if bytes_per_element(dtype) < 1.0]
    assert narrow
    assert all(bytes_per_element(dtype) > 0.5 for dtype in narrow)


def test_the_most_faithful_serving_format_comes_first() -> None:
    assert SERVING_PRECISIONS[0] == "bf16"
    assert bytes_per_element(SERVING_PRECISIONS[0]) == max(bytes_per_element(dtype) for dtype in SERVING_PRECISIONS)


def test_formats_of_two_bytes_and_more_are_wide() -> None:
    assert [is_wide(dtype) for dtype in ("tf32", "bf16", "fp16", "fp8", "int8", "fp4")] == [True] * 3 + [False] * 3


def test_the_block_recipe_of_fp8_has_fp32_scales_of_lines_and_squares() -> None:
    assert scale_bytes("fp8", "block") == (4 / 128, 4 / (128 * 128))
    assert scale_bytes("fp8", "tensor") == (0.0, 0.0)
    # A format that has scales of its own has no others, whatever is asked.
    assert {scale_bytes(dtype, "block") for dtype in DTYPES if dtype != "fp8"} == {(0.0, 0.0)}
    assert FP8_RECIPES == ("tensor", "block")
