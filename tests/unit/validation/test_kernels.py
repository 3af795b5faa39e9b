"""Kernels timed alone: columns are what rows are, launch and quantisation are paid, and the bound is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import array
from cosim.timing.attention import attention_cost
from cosim.timing.matmul import matmul_cost
from cosim.validation.cases import Case
from cosim.validation.kernels import attention_kernel, attention_op, matmul_kernel
from cosim.validation.predict import predict

SIZES = st.sampled_from([1.0, 16.0, 100.0, 128.0, 512.0, 4096.0])


@pytest.fixture(scope="module")
def chip() -> ChipArrays:
    return lower_chip(load_chip("h100-sxm"))


def heads(**values: float) -> dict[str, np.ndarray]:
    plain = {"batch": 4, "query_len": 1, "context_len": 1024, "heads": 32, "kv_heads": 8, "head_dim": 128, "window": 0}
    return {name: array([value]) for name, value in (plain | values).items()}


def product(m: float, n: float, k: float, batch: float = 1.0) -> dict[str, np.ndarray]:
    return {name: array([value]) for name, value in zip(("m", "n", "k", "batch"), (m, n, k, batch), strict=True)}


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=5), dtype=st.sampled_from(["bf16", "fp8"]))
def test_columns_are_answered_as_cases_are(rows: list[tuple[float, float, float]], dtype: str) -> None:
    m, n, k = (array(column) for column in zip(*rows, strict=True))
    dims = {"m": m, "n": n, "k": k, "batch": np.ones_like(m)}
    names = {"accelerator": "h100-sxm", "dtype": dtype, "measured_s": "1", "warm": "0"}
    cases = [Case("c", 2, {**names, **dict(zip("mnk", map(str, row), strict=True))}) for row in rows]
    found = matmul_kernel(dims, lower_chip(load_chip("h100-sxm")), dtype, warm=False).time
    assert found.tolist() == [answer.predicted for answer in predict("matmul", cases)]


def test_a_kernel_alone_is_its_work_and_its_launch(chip: ChipArrays) -> None:
    launch = float(chip.launch.gap + chip.launch.latency)
    dims = product(64, 4096, 4096)
    work = matmul_cost(dims["m"], dims["n"], dims["k"], chip, "bf16", resident="repeated").time
    assert matmul_kernel(dims, chip, "bf16", warm=True).time == pytest.approx(work + launch)
    op = attention_op(heads(), "decode", causal=True)
    work = attention_cost(op, chip, "bf16", resident="repeated").time
    assert attention_kernel(heads(), chip, "decode", "bf16", causal=True).time == pytest.approx(work + launch)


def test_a_cache_of_keys_that_fits_stays_from_the_round_before(chip: ChipArrays) -> None:
    # 4 x 1,024 keys and values of 8 heads are 17 MB of the 21 that a partition of the cache holds.
    found = attention_kernel(heads(), chip, "decode", "bf16", causal=True).cost
    longer = attention_kernel(heads(context_len=4096), chip, "decode", "bf16", causal=True).cost
    assert float(found.dram_bytes[0]) == 4 * 2 * 32 * 128 * 2
    assert float(longer.dram_bytes[0]) == 4 * 2 * 32 * 128 * 2 + 4 * 4096 * 2 * 8 * 128 * 2


def test_below_sixteen_bits_a_second_kernel_quantises(chip: ChipArrays) -> None:
    launch = float(chip.launch.gap + chip.launch.latency)
    dims = product(1, 128, 128)
    kernel = matmul_kernel(dims, chip, "fp8", warm=True)
    # 128 numbers take no time to quantise: what is added is the launch of the second kernel.
    assert float(kernel.time[0] - kernel.cost.time[0]) == pytest.approx(2 * launch, rel=0.01)


def test_the_bound_is_the_launch_of_small_kernels_and_the_engine_of_large_ones(chip: ChipArrays) -> None:
    assert matmul_kernel(product(1, 32, 32), chip, "fp8", warm=True).bound.tolist() == ["launch"]
    assert matmul_kernel(product(8192, 8192, 8192), chip, "bf16", warm=True).bound.tolist() != ["launch"]
    decode = attention_kernel(heads(batch=64, context_len=32768), chip, "decode", "bf16", causal=True)
    assert decode.bound.tolist() == ["memory"]


def test_no_window_is_a_window_as_long_as_the_context() -> None:
    assert attention_op(heads(), "prefill", causal=True).window.tolist() == [1024.0]
    assert attention_op(heads(window=128), "prefill", causal=True).window.tolist() == [128.0]
    assert attention_op(heads(), "decode", causal=True).phase == "decode"
