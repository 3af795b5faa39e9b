"""Rows of kernels that cannot be: the same answer for validate and calibrate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.validation.attention import answers
from cosim.validation.cases import Case
from cosim.validation.faults import ATTENTION, LARGEST, PRODUCT, kernel_fault
from cosim.validation.predict import predict

PRODUCT_ROW = {"accelerator": "h100-sxm", "dtype": "bf16", "m": "8", "n": "64", "k": "32", "measured_s": "1e-5"}
DECODE_ROW = {
    "accelerator": "h100-sxm",
    "dtype": "bf16",
    "kv_dtype": "bf16",
    "phase": "decode",
    "batch": "2",
    "query_len": "1",
    "context_len": "100",
    "heads": "30",
    "kv_heads": "7",
    "head_dim": "128",
    "measured_s": "1e-5",
}


def product(**changes: str) -> Case:
    return Case("r", 2, {**PRODUCT_ROW, **changes})


def decode(**changes: str) -> Case:
    return Case("r", 2, {**DECODE_ROW, **changes})


def test_rows_as_tables_have_them_are_possible() -> None:
    assert kernel_fault("matmul", product()) == ""
    assert kernel_fault("matmul", product(batch="", warm="0")) == ""
    assert kernel_fault("attention", decode()) == ""
    assert kernel_fault("attention", decode(window="0", kv_dtype="")) == ""
    assert kernel_fault("attention", decode(window="128", kv_dtype="fp8")) == ""


@given(st.sampled_from(PRODUCT), st.sampled_from(["", "0", "-1", "0.5", "1.5", "nan", "inf", "many", "1e13"]))
def test_a_size_is_a_positive_whole_number(column: str, text: str) -> None:
    assert "unknown or impossible" in kernel_fault("matmul", product(**{column: text}))


@given(st.sampled_from(ATTENTION), st.sampled_from(["", "0", "-2", "128.5", "x", "1e300"]))
def test_so_is_every_size_of_attention(column: str, text: str) -> None:
    assert "unknown or impossible" in kernel_fault("attention", decode(**{column: text}))


@given(st.floats(1e-9, LARGEST, allow_nan=False))
def test_any_time_that_could_be_measured_is_one(seconds: float) -> None:
    assert kernel_fault("matmul", product(measured_s=repr(seconds))) == ""


@pytest.mark.parametrize("text", ["", "0", "-1e-6", "1e-300", "nan", "fast"])
def test_a_time_that_cannot_be_is_told(text: str) -> None:
    assert kernel_fault("matmul", product(measured_s=text)) == "measured_s is unknown or impossible"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": "-1"}, "batch is unknown or impossible"),
        ({"batch": "0"}, "batch is unknown or impossible"),
    ],
)
def test_a_batch_of_products_is_a_size_too(changes: dict[str, str], reason: str) -> None:
    assert reason in kernel_fault("matmul", product(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"phase": "later"}, "unknown phase later"),
        ({"dtype": "bogus"}, "unknown dtype bogus"),
        ({"kv_dtype": "bogus"}, "unknown kv_dtype bogus"),
        ({"query_len": "101"}, "query_len is more than context_len"),
        ({"heads": "6"}, "kv_heads is more than heads"),
        ({"window": "-1"}, "window is unknown or impossible"),
        ({"window": "0.5"}, "window is unknown or impossible"),
    ],
)
def test_attention_that_cannot_be_says_why_and_is_not_answered(changes: dict[str, str], reason: str) -> None:
    assert reason in kernel_fault("attention", decode(**changes))
    ((seconds, why),) = answers([decode(**changes)])
    assert seconds is None
    assert reason in why


def test_a_product_that_cannot_be_is_not_answered() -> None:
    (bad,) = predict("matmul", [product(m="1.5")])
    assert (bad.predicted, bad.reason) == (None, "one of m, n, k, batch is unknown or impossible")
