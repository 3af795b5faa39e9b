"""Points: one name each, the columns that validation reads, and bytes counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.dtypes import DTYPES
from cosim.measure.points import Attention, Copy, Launch, Matmul, Point, id_of, is_quantised
from cosim.validation.cases import KINDS

sizes = st.integers(1, 2**20)
matmuls = st.builds(Matmul, st.sampled_from(DTYPES), sizes, sizes, sizes, st.booleans())
attentions = st.builds(
    Attention,
    st.sampled_from(("bf16", "fp16")),
    st.sampled_from(("prefill", "decode")),
    *[sizes] * 6,
    st.booleans(),
)
copies = st.builds(Copy, sizes, st.booleans())
launches = st.builds(Launch, st.sampled_from(("stream_gap", "graph_gap", "lone_kernel")), st.just(1000))
points = st.one_of(matmuls, attentions, copies, launches)


@given(first=points, second=points)
def test_two_points_share_their_name_only_where_they_are_one(first: Point, second: Point) -> None:
    assert (id_of(first, "chip") == id_of(second, "chip")) == (first == second)


@given(point=points)
def test_a_point_has_the_columns_that_validation_needs(point: Point) -> None:
    given = {"id", "accelerator", "measured_s", *point.columns}
    assert set(KINDS.get(point.kind, ())) <= given
    assert all(isinstance(value, str | int) for value in point.columns.values())


@given(point=points)
def test_a_name_is_one_word_of_a_csv_line_and_says_where_it_was_measured(point: Point) -> None:
    name = id_of(point, "h100-sxm")
    assert not set(name) & set(', "\n:#')
    assert "-h100-sxm-" in name


@given(point=st.one_of(matmuls, attentions), factor=st.integers(2, 5))
def test_operands_grow_in_proportion_to_the_batch_or_the_depth(point: Matmul | Attention, factor: int) -> None:
    if isinstance(point, Attention):
        larger: Point = Attention(point.dtype, point.phase, point.batch * factor, *_rest(point))
        assert larger.operand_bytes == pytest.approx(factor * point.operand_bytes, rel=1e-12)
    else:
        larger = Matmul(point.dtype, point.m, point.n, point.k * factor)
        assert point.operand_bytes < larger.operand_bytes < factor * point.operand_bytes


def _rest(point: Attention) -> tuple[int, int, int, int, int]:
    return point.query_len, point.context_len, point.heads, point.kv_heads, point.head_dim


def test_operand_bytes_by_hand() -> None:
    # (2 x 3 + 3 x 4 + 2 x 4) elements of 2 and of 4 bytes
    assert Matmul("bf16", 2, 4, 3).operand_bytes == 52
    assert Matmul("tf32", 2, 4, 3).operand_bytes == 104
    # A in 16 and in 8 bits 6 x 3, B 12 x 1, C 8 x 2
    assert Matmul("fp8", 2, 4, 3).operand_bytes == 46
    # 5 sequences: queries and results 2 x 1 x 8 heads x 64, keys and values 2 x 100 x 2 x 64, 2 bytes each
    assert Attention("bf16", "decode", 5, 1, 100, 8, 2, 64).operand_bytes == 5 * (1024 + 25600) * 2
    assert Copy(4096).operand_bytes == 8192


def test_a_copy_counts_both_ways() -> None:
    assert Copy(4096, warm=False).columns == {"bytes": 8192, "read_bytes": 4096, "write_bytes": 4096, "warm": 0}


def test_attention_says_its_mask_and_its_cache() -> None:
    columns = Attention("fp16", "prefill", 1, 64, 64, 8, 2, 128, warm=False).columns
    assert (columns["kv_dtype"], columns["window"], columns["causal"], columns["warm"]) == ("fp16", 0, 1, 0)


def test_only_formats_below_16_bits_are_quantised() -> None:
    assert {dtype for dtype in DTYPES if not is_quantised(dtype)} == {"fp64", "fp32", "tf32", "fp16", "bf16"}
