"""The suite silicon: which chips and shapes are answered, who is fitted, regimes by hand, samples, reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import array
from cosim.validation.cases import Case
from cosim.validation.predict import predict
from cosim.validation.silicon import ACCELERATORS, Suite, answer, kernel, regime_of, sampled, taken
from cosim.validation.silicon_tables import Shapes

Write = Callable[..., Path]
HEADS = ("batch", "query_len", "context_len", "heads", "kv_heads", "head_dim", "window")
pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


@pytest.fixture(scope="module")
def chip() -> ChipArrays:
    return lower_chip(load_chip("h100-sxm"))


def products(*dims: tuple[float, float, float], dtype: str = "bf16") -> Shapes:
    columns = dict(zip("mnk", np.array(dims, dtype=float).reshape(-1, 3).T, strict=True))
    one = np.ones(len(dims))
    return Shapes("h100_sxm", "matmul", dtype, "", columns, one, one, one, np.empty(0))


def attention(kind: str, *dims: tuple[float, ...], formats: tuple[str, str] = ("bf16", "bf16")) -> Shapes:
    columns = dict(zip(HEADS, np.array(dims, dtype=float).T, strict=True))
    one = np.ones(len(dims))
    return Shapes("h100_sxm", kind, *formats, columns, one, one, one, np.empty(0))


def reasons(suite: Suite) -> dict[str, int]:
    return {entry.reason: entry.rows for entry in suite.left_out}


def test_answers_are_those_of_validate_on_the_same_rows(write_kernels: Write) -> None:
    rows: list[dict[str, object]] = [{"m": m, "gemm_dtype": dtype} for dtype in ("bfloat16", "fp8") for m in (1, 4096)]
    suite = answer("matmul", root=write_kernels("h100_sxm", "a/1", "matmul", rows))
    found = [value for each in suite.answered for value in each.predicted.tolist()]
    plain = {"accelerator": "h100-sxm", "n": "4096", "k": "4096", "warm": "1", "measured_s": "1"}
    cases = [Case("c", 2, {**plain, "m": m, "dtype": dtype}) for dtype in ("bf16", "fp8") for m in ("1", "4096")]
    assert found == [each.predicted for each in predict("matmul", cases)]


def test_attention_is_answered_as_validate_does_for_each_phase(write_kernels: Write) -> None:
    write_kernels("h100_sxm", "a/1", "prefill", [{}])
    suite = answer("attention", root=write_kernels("h100_sxm", "a/1", "decode", [{"kv_cache_dtype": "fp8"}]))
    assert [each.formats for each in suite.answered] == ["prefill bf16/bf16", "decode bf16/fp8"]
    plain = {"accelerator": "h100-sxm", "dtype": "bf16", "causal": "1", "window": "0", "measured_s": "1"}
    size = {"batch": "4", "context_len": "1024", "heads": "32", "kv_heads": "8", "head_dim": "128"}
    prefill = Case("c", 2, {**plain, **size, "phase": "prefill", "query_len": "1024", "kv_dtype": "bf16"})
    decode = Case("c", 2, {**plain, **size, "phase": "decode", "query_len": "1", "kv_dtype": "fp8"})
    expected = [each.predicted for each in predict("attention", [prefill, decode])]
    assert [float(each.predicted[0]) for each in suite.answered] == expected


def test_a_kind_is_one_and_none_is_all(write_kernels: Write) -> None:
    write_kernels("h100_sxm", "a/1", "matmul", [{}])
    root = write_kernels("l40s", "a/1", "decode", [{}])
    assert [each.target.name for each in answer(root=root).answered] == ["h100-sxm", "l40s"]
    assert [each.target.name for each in answer("matmul", root=root).answered] == ["h100-sxm"]
    assert [each.target.name for each in answer("attention", root=root).answered] == ["l40s"]
    with pytest.raises(SpecError, match=r"--kind: the suite silicon has no such kind.*nearest: matmul"):
        answer("matmull", root=root)


def test_a_chip_that_is_not_in_the_library_is_left_out_with_its_rows(write_kernels: Write) -> None:
    write_kernels("abacus", "a/1", "matmul", [{}, {}])
    suite = answer(root=write_kernels("h100_sxm", "a/1", "matmul", [{}]))
    assert reasons(suite) == {"accelerator abacus is not in the library": 2}
    assert [each.target.name for each in suite.answered] == ["h100-sxm"]


def test_every_name_of_the_table_that_the_library_has_is_a_chip() -> None:
    known = {name for name in ACCELERATORS.values() if name in library.names("accelerators")}
    assert {"a100-80gb-sxm", "h100-sxm", "h200-sxm", "l40s", "b200-sxm", "gb200"} <= known


def test_a_format_without_a_rate_is_left_out(write_kernels: Write) -> None:
    root = write_kernels("h100_sxm", "a/1", "matmul", [{"gemm_dtype": "nvfp4"}, {}])
    suite = answer(root=root)
    assert reasons(suite) == {"h100-sxm has no matrix rate in nvfp4": 1}
    assert [each.formats for each in suite.answered] == ["matmul bf16"]


def test_a_kernel_beyond_sixteen_bit_arithmetic_is_left_out_where_the_cache_has_eight(write_kernels: Write) -> None:
    # 4 x 32 heads, 16,384 tokens: 2 x 4 x 32 x 16384^2 / 2 x 128 x 2 FLOP = 8.8 TFLOP; 989 TFLOP/s take 8.9 ms.
    long: dict[str, object] = {"isl": 16384, "kv_cache_dtype": "fp8"}
    rows = [{**long, "latency": 10.0}, {**long, "latency": 13.0, "num_key_value_heads": 4}]
    bf16 = {**long, "latency": 10.0, "kv_cache_dtype": "bfloat16"}
    suite = answer(root=write_kernels("h100_sxm", "a/1", "prefill", [*rows, bf16]))
    assert reasons(suite) == {"faster than 16-bit arithmetic: the kernel computes in fp8": 1}
    wide, narrow = suite.answered
    assert (wide.shapes.kv_dtype, wide.shapes.measured.tolist()) == ("bf16", [10e-3])
    assert (narrow.shapes.kv_dtype, narrow.shapes.measured.tolist()) == ("fp8", [pytest.approx(13e-3)])


@pytest.mark.parametrize(
    ("dims", "regime"),
    [
        ((1.0, 32.0, 32.0), "launch"),
        ((1.0, 16384.0, 16384.0), "memory"),  # 0.54 GB over 3.35 TB/s: 160 us
        ((8192.0, 8192.0, 8192.0), "compute"),  # 1.1 PFLOP/s x 1 ms
    ],
)
def test_the_regime_is_the_largest_of_launch_bytes_and_flop(
    chip: ChipArrays, dims: tuple[float, float, float], regime: str
) -> None:
    assert regime_of(products(dims), chip).tolist() == [regime]


def test_regimes_of_attention_by_hand(chip: ChipArrays) -> None:
    # Decode reads 64 x 32768 x 8 x 256 x 2 B = 8.6 GB for 34 GFLOP; prefill of 8,192 tokens does 1.1 TFLOP on 84 MB.
    decode = attention("decode", (64, 1, 32768, 32, 8, 128, 0), (1, 1, 16, 1, 1, 128, 0))
    assert regime_of(decode, chip).tolist() == ["memory", "launch"]
    assert regime_of(attention("prefill", (2, 8192, 8192, 32, 8, 128, 0)), chip).tolist() == ["compute"]


def test_a_narrow_format_has_its_own_bytes_and_peak(chip: ChipArrays) -> None:
    # 325 rows take 44.1 us of FLOP and 43.2 us of bytes in bf16; in fp8 22.1 and 22.4, for results stay at 16 bits.
    for dtype, rows, regime in (("bf16", 325.0, "compute"), ("fp8", 325.0, "memory"), ("fp8", 650.0, "compute")):
        assert regime_of(products((rows, 8192.0, 8192.0), dtype=dtype), chip).tolist() == [regime]


@settings(max_examples=50)
@given(total=st.integers(1, 400), most=st.integers(1, 100))
def test_a_sample_is_even_sorted_and_never_larger(total: int, most: int) -> None:
    shapes = products(*((float(m), 32.0, 32.0) for m in range(total)))
    places = sampled(shapes, most).dims["m"]
    assert len(places) == len(set(places.tolist())) == min(total, most)
    gaps = np.diff(places)
    assert np.all(gaps > 0.0)
    if total > most > 1:
        assert np.max(gaps) - np.min(gaps) <= 1.0
        assert places[0] < total / most
        assert total - places[-1] <= total / most + 1.0


def test_a_sample_has_every_depth_of_a_full_grid() -> None:
    # A whole stride would share a factor with the grid and never see half of it.
    grid = [(float(m), float(n), float(k)) for m in range(74) for n in range(22) for k in range(22)]
    places = sampled(products(*grid), 3000)
    for name in "nk":
        _, seen = np.unique(places.dims[name], return_counts=True)
        assert len(seen) == 22
        assert np.max(seen) < 1.3 * np.min(seen)


def test_taken_keeps_watts_that_are_there_and_none_that_are_not() -> None:
    shapes = products((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert taken(shapes, np.array([1])).dims["k"].tolist() == [6.0]
    assert taken(shapes, np.array([False, False])).power.size == 0
    assert taken(replace(shapes, power=array([300.0, 400.0])), np.array([1])).power.tolist() == [400.0]


def test_fitted_is_a_chip_that_its_kernel_constants_were_fitted_on() -> None:
    chip = load_chip("h100-sxm")
    held = chip.calibration
    assert held is not None

    def says(**changes: Any) -> bool:
        return chip.model_copy(update={"calibration": held.model_copy(update=changes)}).is_fitted

    assert says()
    assert says(fitted_on=("l40s", "h100-sxm"))
    # Constants of its own, measured or not, make no fit of tables.
    assert not says(fitted_on=())
    assert not says(fitted_on=("h100",))
    assert not chip.model_copy(update={"calibration": None}).is_fitted
    assert not chip.model_copy(update={"name": "h100-nvl"}).is_fitted


@pytest.mark.parametrize(
    ("name", "fitted"),
    [("h100-sxm", True), ("a100-80gb-sxm", True), ("l40s", True), ("h200-sxm", False), ("gb200", False)],
)
def test_chips_that_are_lent_their_constants_are_never_fitted(name: str, fitted: bool) -> None:
    assert load_chip(name).is_fitted is fitted


def test_shapes_are_answered_alike_alone_and_together(chip: ChipArrays) -> None:
    dims = [(1.0, 4096.0, 4096.0), (300.0, 512.0, 8192.0), (4096.0, 4096.0, 64.0)]
    together = kernel(products(*dims), chip).time
    alone = [float(kernel(products(each), chip).time[0]) for each in dims]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)
    assert array(together).shape == (3,)
