"""Shapes from tables: medians over stacks by hand, formats, windows and quantisation that are left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.validation.silicon_tables import Shapes, _medians, read_tables

Write = Callable[..., Path]
TIMES = st.floats(min_value=1e-3, max_value=1e3)


def only(root: Path, kind: str, **options: Any) -> Shapes:
    """The one set of formats of the system `chip`."""
    (shapes,) = read_tables(root, "chip", kind, **options).shapes
    return shapes


def reasons(root: Path, kind: str) -> dict[str, int]:
    return {entry.reason: entry.rows for entry in read_tables(root, "chip", kind).left_out}


@given(st.lists(st.tuples(st.integers(0, 4), TIMES), min_size=1, max_size=30))
def test_medians_by_group_are_those_of_each_group_alone(rows: list[tuple[int, float]]) -> None:
    names, group = np.unique([name for name, _ in rows], return_inverse=True)
    found, count, spread = _medians(group, np.array([value for _, value in rows]))
    for place, name in enumerate(names):
        own = [value for each, value in rows if each == name]
        assert found[place] == pytest.approx(median(own))
        assert (count[place], spread[place]) == (len(own), max(own) / min(own))


def test_a_measurement_is_the_median_over_stacks_in_seconds(write_kernels: Write) -> None:
    for stack, time in (("a/1", 1.0), ("b/1", 4.0), ("b/2", 2.0)):
        root = write_kernels("chip", stack, "matmul", [{"latency": time}])
    shapes = only(root, "matmul")
    assert (shapes.system, shapes.kind, shapes.dtype, shapes.kv_dtype) == ("chip", "matmul", "bf16", "")
    assert (shapes.measured.tolist(), shapes.stacks.tolist(), shapes.spread.tolist()) == ([2e-3], [3.0], [4.0])
    assert shapes.power.size == 0


def test_repeats_of_one_kernel_count_once_and_two_kernels_of_a_stack_twice(write_kernels: Write) -> None:
    write_kernels("chip", "a/1", "decode", [{"latency": 1.0}, {"latency": 3.0}])
    root = write_kernels("chip", "b/1", "decode", [{"latency": 5.0}, {"latency": 6.0, "kernel_source": "other"}])
    # Stack a by its median, 2; then 2, 5 and 6.
    shapes = only(root, "decode")
    assert (shapes.measured.tolist(), shapes.stacks.tolist()) == ([5e-3], [3.0])
    assert shapes.spread.tolist() == [3.0]


def test_shapes_are_sorted_by_their_dimensions_and_apart_by_their_formats(write_kernels: Write) -> None:
    rows = [{"m": m, "n": n, "gemm_dtype": dtype} for dtype in ("nvfp4", "bfloat16") for m in (9, 1) for n in (64, 32)]
    root = write_kernels("chip", "a/1", "matmul", rows)
    found = read_tables(root, "chip", "matmul").shapes
    assert [shapes.dtype for shapes in found] == ["bf16", "nvfp4"]
    for shapes in found:
        assert shapes.dims["m"].tolist() == [1.0, 1.0, 9.0, 9.0]
        assert shapes.dims["n"].tolist() == [32.0, 64.0, 32.0, 64.0]


def test_formats_that_cosim_does_not_have_and_rows_without_a_time_are_left_out(write_kernels: Write) -> None:
    rows: list[dict[str, object]] = [{"gemm_dtype": "fp8_block"}, {"gemm_dtype": "sq"}, {"gemm_dtype": "sq"}, {}]
    root = write_kernels("chip", "a/1", "matmul", [*rows, {"latency": 0.0}, {"latency": float("nan")}])
    assert reasons(root, "matmul") == {
        "fp8_block is no format of cosim": 1,
        "sq is no format of cosim": 2,
        "without a time": 2,
    }
    assert only(root, "matmul").measured.tolist() == [1e-3]


def test_a_table_of_nothing_known_has_no_shapes(write_kernels: Write) -> None:
    root = write_kernels("chip", "a/1", "matmul", [{"gemm_dtype": "sq"}])
    assert read_tables(root, "chip", "matmul").shapes == ()
    assert read_tables(root, "other", "matmul").shapes == read_tables(root, "chip", "decode").shapes == ()


def test_a_stack_that_quantises_in_several_kernels_is_left_out_below_sixteen_bits(write_kernels: Write) -> None:
    rows = [{"gemm_dtype": dtype, "m": m} for dtype in ("fp8", "bfloat16") for m in (1, 64)]
    for stack, scale in (("a/1", 1.0), ("b/1", 2.0), ("c/1", 2.1)):
        timed = [{**row, "latency": scale * (1.0 if row["m"] == 1 else 5.0)} for row in rows]
        root = write_kernels("chip", stack, "matmul", timed)
    wide, narrow = read_tables(root, "chip", "matmul").shapes
    assert (wide.dtype, wide.stacks.tolist()) == ("bf16", [3.0, 3.0])
    # The least of c is 2.1 times the least of all: more than twice.
    assert (narrow.dtype, narrow.stacks.tolist(), narrow.spread.tolist()) == ("fp8", [2.0, 2.0], [2.0, 2.0])
    assert reasons(root, "matmul") == {"fp8 of a stack that quantises in several kernels": 2}


def test_decode_counts_the_query_and_no_key_value_heads_are_as_many_as_heads(write_kernels: Write) -> None:
    write_kernels("chip", "a/1", "prefill", [{"isl": 512, "num_key_value_heads": 0}])
    root = write_kernels("chip", "a/1", "decode", [{"step": 1023}])
    prefill, decode = only(root, "prefill"), only(root, "decode")
    named = {name: float(values[0]) for name, values in decode.dims.items()}
    assert named == {
        "batch": 4.0,
        "query_len": 1.0,
        "context_len": 1024.0,
        "heads": 32.0,
        "kv_heads": 8.0,
        "head_dim": 128.0,
        "window": 0.0,
    }
    assert [float(prefill.dims[name][0]) for name in ("query_len", "context_len", "kv_heads")] == [512.0, 512.0, 32.0]
    assert (prefill.dtype, prefill.kv_dtype) == ("bf16", "bf16")


def windowed(whole: float, share: float, **values: object) -> list[dict[str, object]]:
    """A long context without a window of 128, and with it in `share` of the time."""
    long = {"isl": 4096, **values}
    return [{**long, "latency": whole, "window_size": 0}, {**long, "latency": share * whole, "window_size": 128}]


def test_a_window_counts_where_its_kernel_uses_it(write_kernels: Write) -> None:
    write_kernels("chip", "uses/1", "prefill", windowed(4.0, 0.5))
    root = write_kernels("chip", "does-not/1", "prefill", windowed(8.0, 0.95))
    shapes = only(root, "prefill")
    assert shapes.dims["window"].tolist() == [0.0, 128.0]
    assert (shapes.measured.tolist(), shapes.stacks.tolist()) == ([6e-3, 2e-3], [2.0, 1.0])
    assert reasons(root, "prefill") == {"a stack's kernel that the window makes no faster": 1}


def test_a_kernel_is_judged_whole_by_its_long_contexts(write_kernels: Write) -> None:
    # Faster at 4,096 and 2,048, slower at 1,024 of heads of 64: half of them decide for all of the kernel's rows.
    rows = [*windowed(4.0, 0.5), *windowed(2.0, 0.6, isl=2048), *windowed(1.0, 1.2, isl=1024, head_dim=64)]
    root = write_kernels("chip", "a/1", "prefill", rows)
    assert sum(only(root, "prefill").dims["window"] > 0.0) == 3
    assert reasons(root, "prefill") == {}


def test_contexts_short_of_two_windows_do_not_judge_a_kernel(write_kernels: Write) -> None:
    # Two contexts of 192 have little to gain and do not; the long one does.
    short = [row for head_dim in (64, 128) for row in windowed(1.0, 1.1, isl=192, head_dim=head_dim)]
    root = write_kernels("chip", "a/1", "prefill", [*short, *windowed(4.0, 0.5)])
    assert reasons(root, "prefill") == {}


def test_a_window_without_a_row_to_compare_shows_nothing(write_kernels: Write) -> None:
    root = write_kernels("chip", "a/1", "decode", [{"step": 4095, "window_size": 128}, {"step": 4095, "batch_size": 1}])
    assert only(root, "decode").dims["window"].tolist() == [0.0]


def test_a_window_that_holds_the_whole_context_is_none(write_kernels: Write) -> None:
    root = write_kernels("chip", "a/1", "decode", [{"step": 127, "window_size": 128}, {"window_size": 0}])
    assert reasons(root, "decode") == {"the window holds the whole context": 1}
    assert only(root, "decode").dims["context_len"].tolist() == [1024.0]


def test_powered_reads_the_stacks_with_watts_alone(write_kernels: Write) -> None:
    write_kernels("chip", "a/1", "decode", [{"latency": 9.0}])
    root = write_kernels("chip", "b/1", "decode", [{"latency": 1.0, "power": 300.0}, {"latency": 1.0, "power": 400.0}])
    shapes = only(root, "decode", powered=True)
    assert (shapes.measured.tolist(), shapes.power.tolist()) == ([1e-3], [350.0])
    assert read_tables(root, "chip", "prefill", powered=True).shapes == ()
