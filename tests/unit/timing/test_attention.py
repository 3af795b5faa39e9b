"""Fused attention of chips without constants of its kernels: matrix work, exponentials and the bytes of the cache.

Kernels of tile machines that have them: test_attention_tiles.py.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, MatrixArrays, lower_chip
from cosim.records import array
from cosim.timing.attention import attention_cost, cache_bytes
from cosim.timing.attention_tiles import NEEDED
from cosim.timing.cost import COMPUTE, MEMORY
from cosim.workload.ops import Attention

HEADS = st.tuples(st.integers(1, 16), st.integers(1, 16))
H100_DRAM = 3.35e12 * 0.8


@pytest.fixture(scope="module")
def h100(h100: ChipArrays) -> ChipArrays:
    """The tile machine as one of which nobody measured attention kernels."""
    return dataclasses.replace(h100, kernel={name: value for name, value in h100.kernel.items() if name not in NEEDED})


def attention(
    phase: Literal["prefill", "decode"],
    batch: object,
    query: object,
    context: object,
    *,
    heads: object = 32.0,
    kv_heads: object = 8.0,
    head_dim: object = 128.0,
    window: float | None = None,
) -> Attention:
    numbers = [array(value) for value in (batch, query, context, heads, kv_heads, head_dim)]
    reach = array(1.0 if window is None else window)
    return Attention("attention", "layer", phase, *numbers, reach, window is not None)


@settings(max_examples=60, deadline=None)
@given(HEADS, st.integers(1, 256), st.integers(1, 100_000), st.sampled_from([64, 96, 128, 256]))
def test_decode_beats_neither_the_peak_nor_the_memory(
    h100: ChipArrays, heads: tuple[int, int], batch: int, context: int, head_dim: int
) -> None:
    kv_heads, group = heads
    op = attention("decode", batch, 1, context, heads=kv_heads * group, kv_heads=kv_heads, head_dim=head_dim)
    cost = attention_cost(op, h100, "bf16")
    # 4 FLOP per query head, key and dimension; keys and values at 2 B per key head, key and dimension
    assert cost.time >= 4.0 * batch * kv_heads * group * context * head_dim / (132 * 4096 * 1.83e9)
    assert cost.time >= 4.0 * batch * kv_heads * context * head_dim / H100_DRAM * (1.0 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 8192), st.integers(0, 8192), st.integers(1, 8192), st.integers(1, 512))
def test_a_wider_window_and_a_larger_batch_are_never_faster(
    tpu: ChipArrays, batch: int, query: int, past: int, window: int, more: int
) -> None:
    def time(sequences: int, reach: int) -> float:
        op = attention("prefill", sequences, query, query + past, window=float(reach))
        return float(attention_cost(op, tpu, "bf16").time)

    base = time(batch, window) * (1.0 - 1e-12)
    assert time(batch, window + more) >= base
    assert time(batch + more, window) >= base


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 8192), st.integers(1, 20_000))
def test_a_window_is_never_slower_than_none(h100: ChipArrays, batch: int, query: int, window: int) -> None:
    narrow = attention_cost(attention("prefill", batch, query, query, window=float(window)), h100, "bf16")
    whole = attention_cost(attention("prefill", batch, query, query), h100, "bf16")
    assert narrow.time <= whole.time * (1.0 + 1e-12)
    assert narrow.flop <= whole.flop


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("h100-sxm", "matrix.clock"),
        ("h100-sxm", "special.clock"),
        ("h100-sxm", "cores"),
        ("asic-template", "memory.dram.bandwidth"),
        ("asic-template", "vector.clock"),
    ],
)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_faster_part_never_slows_attention(name: str, path: str, phase: Literal["prefill", "decode"]) -> None:
    scale = 2.0 ** np.arange(14)
    base = {"cores": 1.0, "memory.dram.bandwidth": 1e9}.get(path, 1e6)
    chip = lower_chip(load_chip(name), {path: base * scale})
    for batch, context in ((1, 300), (7, 5000), (128, 4096)):
        op = attention(phase, batch, 1 if phase == "decode" else context, context)
        time = attention_cost(op, chip, "bf16").time
        assert (np.diff(time) <= 1e-12 * time[:-1]).all()
        assert time[-1] < time[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 9000)), min_size=1, max_size=10))
def test_a_batch_of_points_equals_each_alone(asic: ChipArrays, rows: list[tuple[int, int]]) -> None:
    batch, context = np.array(rows, dtype=float).T
    together = attention_cost(attention("decode", batch, 1.0, context), asic, "bf16")
    alone = [attention_cost(attention("decode", float(b), 1.0, float(c)), asic, "bf16") for b, c in rows]
    assert together.time == pytest.approx([float(cost.time) for cost in alone], rel=1e-12)
    assert together.dram_bytes == pytest.approx([float(cost.dram_bytes) for cost in alone], rel=1e-12)


def test_decode_of_a_large_batch_streams_the_cache(h100: ChipArrays) -> None:
    # 2 x 64 x 4,096 x 8 heads x 128 x 2 B = 1,073.7 MB, queries and outputs 1.05 MB, over 2.68 TB/s: 401.0 us
    cost = attention_cost(attention("decode", 64, 1, 4096), h100, "bf16")
    assert float(cost.dram_bytes) == 2**30 + 2**20
    assert float(cost.time) == pytest.approx(401.0e-6, rel=1e-3)
    assert cost.bound == MEMORY


@pytest.mark.parametrize("factor", [2.0, 4.0, 16.0])
def test_memory_bound_decode_scales_with_the_bytes_of_the_cache(h100: ChipArrays, factor: float) -> None:
    base = attention_cost(attention("decode", 64, 1, 4096), h100, "bf16")
    longer = attention_cost(attention("decode", 64, 1, 4096 * factor), h100, "bf16")
    more = attention_cost(attention("decode", 64 * factor, 1, 4096), h100, "bf16")
    assert base.bound == longer.bound == MEMORY
    # Queries and outputs are one part in a thousand.
    assert float(longer.time / base.time) == pytest.approx(factor, rel=2e-3)
    assert float(more.time / base.time) == pytest.approx(factor, rel=1e-12)


def test_a_cache_of_eight_bits_halves_memory_bound_decode(h100: ChipArrays) -> None:
    op = attention("decode", 64, 1, 4096)
    ratio = attention_cost(op, h100, "fp8").time / attention_cost(op, h100, "bf16").time
    assert float(ratio) == pytest.approx(0.5, rel=2e-3)


def test_grouped_heads_share_the_reading_of_keys() -> None:
    shared = cache_bytes(attention("decode", 1, 1, 1000, heads=32, kv_heads=8), "bf16")
    own = cache_bytes(attention("decode", 1, 1, 1000, heads=32, kv_heads=32), "bf16")
    # 2 x 1,000 x 8 x 128 x 2 B
    assert (float(shared), float(own)) == (4_096_000, 4 * 4_096_000)


def test_a_window_limits_what_decode_reads() -> None:
    # One query sees 128 of 10,000 keys; 64 queries see 128 + 63 together.
    one = cache_bytes(attention("decode", 1, 1, 10_000, window=128), "bf16")
    chunk = cache_bytes(attention("prefill", 1, 64, 10_000, window=128), "bf16")
    assert float(one) == 2 * 128 * 8 * 128 * 2
    assert float(chunk) == 2 * 191 * 8 * 128 * 2


def test_prefill_of_a_long_prompt_is_bound_by_matrix_work(h100: ChipArrays) -> None:
    # Causal pairs 4,096 x 4,097 / 2; 4 x 32 x 128 x pairs = 137.5 GFLOP. 8 key heads x 128 query blocks
    # are more than 132 cores: 137.5e9 / (989.4e12 x 0.5) = 277.9 us
    cost = attention_cost(attention("prefill", 1, 4096, 4096), h100, "bf16")
    assert float(cost.flop) == 4 * 32 * 128 * 4096 * 4097 / 2
    assert float(cost.time) == pytest.approx(277.9e-6, rel=1e-3)
    assert cost.bound == COMPUTE


def test_exponentials_bound_short_heads_on_fast_matrix_units(h100: ChipArrays) -> None:
    # 32 x 4,096 x 4,097 / 2 scores over 132 x 16 x 1.83 GHz = 69.47 us
    peaks = dataclasses.replace(h100.matrix, peak={"bf16": array(1e18)})
    cost = attention_cost(attention("prefill", 1, 4096, 4096), dataclasses.replace(h100, matrix=peaks), "bf16")
    assert float(cost.time) == pytest.approx(69.47e-6, rel=1e-3)


def test_a_few_blocks_leave_most_cores_idle(h100: ChipArrays) -> None:
    # 1 sequence x 8 key heads x 128 keys in splits of 64: 16 pieces on 16 of 132 cores, 4 rows of 16 in each
    cost = attention_cost(attention("decode", 1, 1, 128), h100, "bf16")
    whole = 4 * 32 * 128 * 128 / (132 * 4096 * 1.83e9 * 0.5)
    assert float(cost.compute) == pytest.approx(whole * (132 / 16) * (16 / 4))
    assert float(cost.memory) == pytest.approx((2 * 128 * 8 * 128 * 2 + 2 * 32 * 128 * 2) / H100_DRAM)


@pytest.mark.parametrize("keys", [63, 64, 65, 255, 256, 257, 4096])
def test_a_longer_context_is_never_faster(h100: ChipArrays, tpu: ChipArrays, keys: int) -> None:
    for chip in (h100, tpu):
        now, later = (attention_cost(attention("decode", 1, 1, k), chip, "bf16") for k in (keys, keys + 1))
        assert float(later.time) >= float(now.time)


def test_a_chunk_of_a_prompt_splits_its_context_as_decode_does(h100: ChipArrays) -> None:
    chunk, token = (attention_cost(attention(phase, 1, 1, 30_000), h100, "bf16") for phase in ("prefill", "decode"))
    assert float(chunk.time) == float(token.time)


def test_single_queries_leave_an_array_waiting_for_keys(tpu: ChipArrays) -> None:
    # A group of 8 query heads streams through a tile of 128 keys: 8 of 128 cycles do work.
    # 64 x 32 x 128 x 4 x 4,096 = 4.295 GFLOP / (458.75e12 x 0.5 x 1/16) = 299.6 us at 8 heads per key head
    op = attention("decode", 64, 1, 4096, heads=32, kv_heads=4)
    cost = attention_cost(op, tpu, "bf16")
    assert float(cost.compute) == pytest.approx(299.6e-6, rel=1e-3)


def test_heads_that_do_not_fill_the_depth_of_an_array_waste_it(tpu: ChipArrays) -> None:
    full = attention_cost(attention("prefill", 8, 2048, 2048, head_dim=128), tpu, "bf16")
    half = attention_cost(attention("prefill", 8, 2048, 2048, head_dim=64), tpu, "bf16")
    assert float(half.compute) == pytest.approx(float(full.compute))


def test_a_chip_known_by_its_peaks_wastes_nothing(h100: ChipArrays) -> None:
    flat = dataclasses.replace(h100, cores=None, matrix=MatrixArrays("roofline", {"bf16": array(1e15)}, clock=None))
    op = attention("decode", 1, 1, 300)
    cost = attention_cost(op, flat, "bf16")
    # 4 x 32 x 128 x 300 FLOP over 1e15 x 0.5 is 9.8 ns; bytes at the whole bandwidth
    assert float(cost.memory) == pytest.approx(float(cost.dram_bytes) / H100_DRAM)
    assert float(cost.compute) == pytest.approx(4 * 32 * 128 * 300 / 0.5e15)


def test_a_chip_without_sixteen_bits_calculates_attention_in_what_it_has(h100: ChipArrays) -> None:
    flat = dataclasses.replace(h100, cores=None, matrix=MatrixArrays("roofline", {"fp8": array(1e15)}, clock=None))
    cost = attention_cost(attention("decode", 1, 1, 300), flat, "fp8")
    assert float(cost.compute) == pytest.approx(4 * 32 * 128 * 300 / 0.5e15)


def test_four_queries_fill_a_quarter_of_the_smallest_instruction(h100: ChipArrays) -> None:
    # 4 x 64 x 32 x 128 x 4,096 = 4.295 GFLOP over 989.4e12 x 0.5 x 4/16, more pieces than cores: 34.73 us
    cost = attention_cost(attention("decode", 64, 1, 4096, heads=32, kv_heads=8), h100, "bf16")
    assert float(cost.compute) == pytest.approx(34.73e-6, rel=1e-3)


def training(batch: object, length: object, **changes: object) -> Attention:
    return dataclasses.replace(attention("prefill", batch, length, length, **changes), phase="train")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(HEADS, st.integers(1, 32), st.integers(1, 16_384), st.sampled_from([64, 96, 128, 256]))
def test_the_gradient_of_attention_takes_five_products_for_two(
    h100: ChipArrays, tpu: ChipArrays, heads: tuple[int, int], batch: int, length: int, head_dim: int
) -> None:
    kv_heads, share = heads
    op = training(batch, length, heads=kv_heads * share, kv_heads=kv_heads, head_dim=head_dim)
    for chip in (h100, tpu):
        forward, back = (attention_cost(op, chip, "bf16", backward=way) for way in (False, True))
        assert float(back.flop) == 2.5 * float(forward.flop)
        assert float(back.dram_bytes) == 2.0 * float(forward.dram_bytes)
        assert float(back.memory) == pytest.approx(2.0 * float(forward.memory), rel=1e-12)
        assert float(forward.time) <= float(back.time) <= 2.5 * float(forward.time) * (1.0 + 1e-12)


def test_the_gradient_of_a_long_sequence_by_hand(h100: ChipArrays) -> None:
    # 10 x 32 x 128 x 4,096 x 4,097 / 2 = 343.7 GFLOP over 989.4e12 x 0.5 = 694.7 us
    cost = attention_cost(training(1, 4096), h100, "bf16", backward=True)
    assert float(cost.flop) == 10 * 32 * 128 * 4096 * 4097 / 2
    assert float(cost.time) == pytest.approx(694.7e-6, rel=1e-3)
    # Queries, outputs and their gradients 4 x 33.6 MB, keys, values and theirs 4 x 8.4 MB
    assert float(cost.dram_bytes) == 4 * 4096 * 128 * 2 * (32 + 8)


def test_the_gradient_exponentiates_once_and_works_half_more_on_every_score(h100: ChipArrays) -> None:
    peaks = dataclasses.replace(h100.matrix, peak={"bf16": array(1e18)})
    slow = {"special": {"special_peak": array(1e12)}, "vector": {"vector_peak": array(1e12)}}
    scores = 32 * 4096 * 4097 / 2
    for name, once, back in (("special", 1.0, 1.0), ("vector", 6.0, 9.0)):
        chip = dataclasses.replace(h100, matrix=peaks, **slow[name])
        times = [float(attention_cost(training(1, 4096), chip, "bf16", backward=way).time) for way in (False, True)]
        assert times == pytest.approx([once * scores / 1e12, back * scores / 1e12], rel=1e-12)
