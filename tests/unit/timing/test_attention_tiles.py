"""Attention as tile kernels: blocks of queries, splits of a context, groups of heads, and what can never be."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import Array, array
from cosim.timing.attention import attention_cost
from cosim.timing.attention_tiles import NEEDED, is_tiled
from cosim.timing.cost import COMPUTE, LATENCY, MEMORY, KernelCost
from cosim.timing.energy import kernel_energy
from cosim.workload.ops import Attention

SLACK = 1.0 + 1e-9
CHIPS = ("h100-sxm", "a100-80gb-sxm", "b200-sxm", "l40s", "mi300x", "apple-m3-ultra", "h20")
NAMES = st.sampled_from(CHIPS)
PHASES = st.sampled_from(["prefill", "decode"])
BATCH = st.integers(1, 512)
CONTEXT = st.one_of(st.integers(1, 100_000), st.integers(1, 300), st.integers(1, 200).map(lambda steps: 64 * steps + 1))
KV_HEADS = st.integers(1, 32)
GROUP = st.integers(1, 16)
WIDTH = st.sampled_from([64, 96, 128, 256])
MORE = st.one_of(st.just(1), st.integers(1, 600))


@functools.cache
def chip(name: str) -> Chip:
    return load_chip(name)


@functools.cache
def lowered(name: str) -> ChipArrays:
    return lower_chip(chip(name))


def operation(
    phase: str,
    batch: object,
    query: object,
    context: object,
    *,
    kv_heads: object = 8.0,
    group: object = 4.0,
    head_dim: object = 128.0,
    window: object = None,
    **changes: object,
) -> Attention:
    """Causal attention of columns; `group` heads share a key/value head."""
    columns = (
        batch,
        query,
        context,
        np.multiply(kv_heads, group),
        kv_heads,
        head_dim,
        1.0 if window is None else window,
    )
    numbers = [np.atleast_1d(array(column)) for column in columns]
    return Attention("a", "layer", phase, *numbers, windowed=window is not None, **changes)  # type: ignore[arg-type]


def cost_of(target: ChipArrays, *shape: object, kv: str = "bf16", how: dict[str, object] | None = None) -> KernelCost:
    return attention_cost(operation(*shape[:4], **shape[4]), target, kv, **(how or {}))  # type: ignore[arg-type, misc]


def prefill(
    target: ChipArrays,
    batch: object,
    query: object,
    context: object,
    how: dict[str, object] | None = None,
    **heads: object,
) -> KernelCost:
    return cost_of(target, "prefill", batch, query, context, heads, how=how)


def decode(
    target: ChipArrays, batch: object, context: object, how: dict[str, object] | None = None, **heads: object
) -> KernelCost:
    return cost_of(target, "decode", batch, 1.0, context, heads, how=how)


@pytest.fixture
def plain() -> ChipArrays:
    """Four cores at 1 Hz; 2 s to start, blocks of 1 s a step and 10 s each, splits of 1 s and 5 s, 100 s to join them.

    Arithmetic and bytes take no time; a decode kernel serves 16 heads together.
    """
    base = lowered("h100-sxm")
    huge = array(1e30)
    values = {
        "attention_start": 2.0,
        "block_step_cycles": 1.0,
        "block_cycles": 10.0,
        "split_step_cycles": 1.0,
        "split_item_cycles": 5.0,
        "attention_split": 100.0,
        "group_limit": 16.0,
        "cache_share": 1.0,
    }
    memory = {role: dataclasses.replace(base.memory[role], bandwidth=huge) for role in ("dram", "cache")}
    return dataclasses.replace(
        base,
        cores=array(4.0),
        matrix=dataclasses.replace(base.matrix, clock=array(1.0), peak={"bf16": huge}),
        memory=memory,
        vector_peak=huge,
        special_peak=huge,
        quality=dataclasses.replace(base.quality, attention=array(1.0), memory=array(1.0)),
        kernel={name: array(value) for name, value in values.items()},
    )


def with_memory(target: ChipArrays, role: str, bandwidth: float) -> ChipArrays:
    level = dataclasses.replace(target.memory[role], bandwidth=array(bandwidth))
    return dataclasses.replace(target, memory={**target.memory, role: level})


def with_constants(target: ChipArrays, **constants: float) -> ChipArrays:
    return dataclasses.replace(target, kernel={**target.kernel, **{name: array(v) for name, v in constants.items()}})


def with_peak(target: ChipArrays, peak: float) -> ChipArrays:
    return dataclasses.replace(target, matrix=dataclasses.replace(target.matrix, peak={"bf16": array(peak)}))


# Properties


@settings(max_examples=60, deadline=None)
@given(NAMES, PHASES, BATCH, CONTEXT, KV_HEADS, GROUP, WIDTH, MORE)
def test_more_sequences_and_a_longer_context_are_never_faster(
    name: str, phase: str, batch: int, context: int, kv_heads: int, group: int, width: int, more: int
) -> None:
    query = np.minimum(1 if phase == "decode" else 300, context)
    batches, contexts = np.array([batch, batch + more, batch]), np.array([context, context, context + more])
    op = operation(phase, batches, query, contexts, kv_heads=kv_heads, group=group, head_dim=width)
    base, wider, longer = attention_cost(op, lowered(name), "bf16").time
    assert wider * SLACK >= base
    assert longer * SLACK >= base


@settings(max_examples=60, deadline=None)
@given(NAMES, BATCH, CONTEXT, KV_HEADS, GROUP, WIDTH, MORE)
def test_a_longer_prompt_and_wider_or_more_heads_are_never_faster(
    name: str, batch: int, prompt: int, kv_heads: int, group: int, width: int, more: int
) -> None:
    grown = np.array([0, more, 0, 0])
    lengths, widths, heads = prompt + grown, width + grown[[0, 2, 1, 3]], kv_heads + grown[[0, 2, 3, 1]]
    op = operation("prefill", batch, lengths, lengths, kv_heads=heads, group=group, head_dim=widths)
    time = attention_cost(op, lowered(name), "bf16").time
    assert (time[1:] * SLACK >= time[0]).all()


@settings(max_examples=60, deadline=None)
@given(NAMES, PHASES, BATCH, CONTEXT, KV_HEADS, GROUP, st.integers(1, 20_000), MORE)
def test_a_wider_window_is_never_faster_and_none_is_the_slowest(
    name: str, phase: str, batch: int, context: int, kv_heads: int, group: int, window: int, more: int
) -> None:
    query = 1 if phase == "decode" else context
    heads: dict[str, object] = {"kv_heads": kv_heads, "group": group}
    op = operation(phase, batch, query, context, window=np.array([window, window + more]), **heads)
    narrow, wide = attention_cost(op, lowered(name), "bf16").time
    whole = cost_of(lowered(name), phase, batch, query, context, heads).time[0]
    assert narrow <= wide * SLACK
    assert wide <= whole * SLACK


@settings(max_examples=60, deadline=None)
@given(NAMES, BATCH, CONTEXT, KV_HEADS, st.integers(1, 64), st.integers(1, 64), WIDTH)
def test_more_heads_of_a_group_are_never_faster_on_either_side_of_its_limit(
    name: str, batch: int, context: int, kv_heads: int, one: int, other: int, width: int
) -> None:
    # Where a group crosses the limit the kernel changes, and on few cores a larger group may be quicker.
    target = lowered(name)
    few, many = sorted([one, other])
    if (few <= target.kernel["group_limit"]) == (many <= target.kernel["group_limit"]):
        groups = np.array([few, many])
        slow, fast = decode(target, batch, context, kv_heads=kv_heads, group=groups, head_dim=width).time[::-1]
        assert fast <= slow * SLACK


@settings(max_examples=80, deadline=None)
@given(NAMES, PHASES, BATCH, CONTEXT, KV_HEADS, st.integers(1, 64), WIDTH, st.sampled_from([None, 128]), st.booleans())
def test_no_kernel_beats_the_roofline(
    name: str,
    phase: str,
    batch: int,
    context: int,
    kv_heads: int,
    group: int,
    width: int,
    window: int | None,
    backward: bool,
) -> None:
    target, decodes = lowered(name), phase == "decode"
    heads = {"kv_heads": kv_heads, "group": group, "head_dim": width, "window": window}
    query = 1 if decodes else context
    back = backward and not decodes
    cost = cost_of(target, phase, batch, query, context, heads, how={"backward": back})
    reach = min(context, window or context)
    pairs = reach if decodes else reach * (reach + 1) / 2 + (context - reach) * reach
    scores = batch * kv_heads * group * float(pairs)
    moved = (
        4.0 * batch * kv_heads * width * (reach if decodes else context)
        + 4.0 * batch * query * kv_heads * group * width
    )
    assert cost.flop[0] == pytest.approx((10.0 if back else 4.0) * width * scores)
    assert cost.dram_bytes[0] == pytest.approx((2.0 if back else 1.0) * moved)
    assert cost.time[0] * SLACK >= cost.flop[0] / target.matrix.peak["bf16" if "bf16" in target.matrix.peak else "fp16"]
    assert cost.time[0] * SLACK >= cost.dram_bytes[0] / target.memory["dram"].bandwidth
    assert cost.time[0] * SLACK >= scores / target.special_peak
    assert cost.time[0] * SLACK >= (9.0 if back else 6.0) * scores / target.vector_peak
    assert cost.time[0] >= cost.compute[0] + cost.memory[0] + float(target.kernel["attention_start"])


BETTER = {
    "cores": (1.0, 400.0),
    "matrix.clock": (1e8, 4e9),
    "memory.dram.bandwidth": (1e11, 2e13),
    "memory.cache.bandwidth": (1e11, 2e13),
    "memory.cache.capacity": (1e5, 1e9),
    "special.clock": (1e7, 4e9),
    "vector.clock": (1e7, 4e9),
    "quality.attention": (0.05, 1.0),
    "quality.memory": (0.05, 1.0),
}


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["h100-sxm", "mi300x", "l40s"]),
    st.sampled_from(sorted(BETTER)),
    PHASES,
    BATCH,
    CONTEXT,
    KV_HEADS,
    st.integers(1, 64),
    st.data(),
)
def test_a_better_chip_is_never_slower(
    name: str, path: str, phase: str, batch: int, context: int, kv_heads: int, group: int, data: st.DataObject
) -> None:
    low, high = BETTER[path]
    values: Array = np.sort(array(data.draw(st.tuples(*[st.floats(low, high)] * 2))))
    both = lower_chip(chip(name), {path: np.rint(values) if path == "cores" else values})
    heads = {"kv_heads": np.full(2, kv_heads), "group": group}
    query = 1 if phase == "decode" else context
    slow, fast = cost_of(both, phase, batch, query, context, heads, how={"resident": "repeated"}).time
    assert fast <= slow * SLACK


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(BATCH, CONTEXT, KV_HEADS, GROUP), min_size=1, max_size=12), PHASES, NAMES)
def test_a_batch_of_kernels_equals_each_alone(rows: list[tuple[int, ...]], phase: str, name: str) -> None:
    batch, context, kv_heads, group = np.array(rows, dtype=float).T
    query = np.minimum(context, 1.0 if phase == "decode" else 77.0)
    both = np.concatenate([np.arange(len(rows)), np.arange(len(rows))])
    op = operation(phase, batch[both], query[both], context[both], kv_heads=kv_heads[both], group=group[both])
    together = attention_cost(op, lowered(name), "bf16")
    for place, row in enumerate(both):
        heads = {"kv_heads": kv_heads[row], "group": group[row]}
        alone = cost_of(lowered(name), phase, batch[row], query[row], context[row], heads)
        for field in ("time", "compute", "memory", "flop", "dram_bytes", "cache_bytes", "bound"):
            assert getattr(together, field)[place] == getattr(alone, field)[0]
        assert [part[place] for part in together.tiling] == [part[0] for part in alone.tiling]


@settings(max_examples=40, deadline=None)
@given(NAMES, PHASES, CONTEXT, KV_HEADS, GROUP, st.integers(2, 64))
def test_energy_of_a_batch_is_that_of_its_sequences(
    name: str, phase: str, context: int, kv_heads: int, group: int, batch: int
) -> None:
    target = lowered(name)
    query = 1 if phase == "decode" else context
    op = operation(phase, np.array([1.0, batch]), query, context, kv_heads=kv_heads, group=group)
    dtype = "bf16" if "bf16" in target.power.energy_per_flop else "fp16"
    one, many = kernel_energy(attention_cost(op, target, "bf16"), target, dtype)
    assert many == pytest.approx(batch * one, rel=1e-12)


# Blocks of queries, by hand


def test_one_block_walks_the_keys_of_its_last_query(plain: ChipArrays) -> None:
    # 4 queries of 4 heads are 16 rows; 640 keys are 10 steps of 1 s, 10 s to fill and drain, 2 s to start
    cost = prefill(plain, 1, 4, 640, kv_heads=1)
    assert float(cost.time[0]) == 10 + 10 + 2
    assert [float(part[0]) for part in cost.tiling] == [16.0, 64.0, 1.0]
    assert cost.bound[0] == LATENCY


def test_blocks_are_dealt_out_evenly_over_the_cores(plain: ChipArrays) -> None:
    # 128 sequences of 4 x 4 rows: 32 items for each of 4 cores. Keys of the last query: 640, a half step more and 10 s
    cost = prefill(plain, 128, 4, 640, kv_heads=1)
    assert float(cost.time[0]) == pytest.approx(32 * (10 + 0.5 + 10) + 2)


def test_the_mean_block_of_a_causal_prompt_walks_half_of_it(plain: ChipArrays) -> None:
    # 64 sequences of 1,024 queries of one head: 8 blocks of 128 rows, 128 on each of 4 cores. A query sees 512.5 keys
    # in the mean, the last of its block 63.5 more: 576 keys are 9 steps; larger blocks are fewer, and so the fastest
    cost = prefill(plain, 64, 1024, 1024, kv_heads=1, group=1)
    assert float(cost.time[0]) == pytest.approx(64 * 8 / 4 * (9 + 0.5 + 10) + 2)
    assert float(cost.tiling[0][0]) == 128.0


def test_a_window_shortens_what_a_block_walks(plain: ChipArrays) -> None:
    # 16 queries of one head, each sees 49 keys: the last sees 49 and the block 64 of 6,400: one step
    cost = prefill(plain, 1, 16, 6400, kv_heads=1, group=1, window=49)
    assert float(cost.time[0]) == 1 + 10 + 2
    assert float(prefill(plain, 1, 16, 6400, kv_heads=1, group=1).time[0]) == 100 + 10 + 2


def test_a_step_takes_the_slowest_of_its_works(plain: ChipArrays) -> None:
    # A block of 16 x 64 scores: 4 x 128 FLOP in products, 6 in the vector unit, one exponential
    scores = 16 * 64
    one = {"kv_heads": 1, "group": 1}
    chips = {
        "matrix": with_peak(plain, 4.0 * scores * 512 / 3.0),
        "special": dataclasses.replace(plain, special_peak=array(4.0 * scores / 4.0)),
        "vector": dataclasses.replace(plain, vector_peak=array(4.0 * scores * 6 / 5.0)),
    }
    found = {name: prefill(target, 1, 16, 640, **one) for name, target in chips.items()}
    # 10 steps of 3, 4 and 5 s
    assert {name: float(cost.time[0]) for name, cost in found.items()} == pytest.approx(
        {"matrix": 30 + 12, "special": 40 + 12, "vector": 50 + 12}
    )
    assert {int(cost.bound[0]) for cost in found.values()} == {COMPUTE}


def test_the_quality_of_attention_slows_its_products_alone(plain: ChipArrays) -> None:
    busy = with_peak(plain, 4.0 * 16 * 64 * 512 / 3.0)
    half = dataclasses.replace(busy, quality=dataclasses.replace(busy.quality, attention=array(0.5)))
    heads = {"kv_heads": 1, "group": 1}
    assert float(prefill(half, 1, 16, 640, **heads).time[0]) == pytest.approx(60 + 12)
    assert float(decode(half, 1, 64, **heads).compute[0]) == pytest.approx(6 + 5)


def test_products_in_eight_bits_gain_what_the_kernels_gain(plain: ChipArrays) -> None:
    busy = with_constants(with_peak(plain, 4.0 * 16 * 64 * 512 / 3.0), narrow_gain=1.5)
    heads = {"kv_heads": 1, "group": 1}
    assert float(prefill(busy, 1, 16, 640, {"narrow": True}, **heads).time[0]) == pytest.approx(20 + 12)
    without = dataclasses.replace(busy, kernel={k: v for k, v in busy.kernel.items() if k != "narrow_gain"})
    assert float(prefill(without, 1, 16, 640, {"narrow": True}, **heads).time[0]) == pytest.approx(30 + 12)


def test_the_gradient_works_two_and_a_half_times_in_a_step(plain: ChipArrays) -> None:
    busy = with_peak(plain, 4.0 * 16 * 64 * 512 / 3.0)
    heads = {"kv_heads": 1, "group": 1}
    forward, back = (prefill(busy, 1, 16, 640, {"backward": way}, **heads) for way in (False, True))
    # 2.5 x 30 s of products; a block fills and drains 2.5 times as long: 10 s once, 25 s so.
    assert float(back.time[0]) == pytest.approx(75 + 12 + 15)
    assert (back.flop[0], back.dram_bytes[0]) == (2.5 * forward.flop[0], 2.0 * forward.dram_bytes[0])


def test_bytes_of_a_prompt_add_to_its_work(plain: ChipArrays) -> None:
    # Queries and outputs 4 x 4 x 2 x 128 x 2 B, keys and values 640 x 2 x 128 x 2 B: 335,872 B
    slow = with_memory(plain, "dram", 335_872.0)
    cost = prefill(slow, 1, 4, 640, kv_heads=1)
    assert float(cost.dram_bytes[0]) == 335_872.0
    assert float(cost.time[0]) == pytest.approx(22 + 1)
    # Its cache is written by the kernel before, never left from rounds.
    assert float(prefill(slow, 1, 4, 640, {"resident": "repeated"}, kv_heads=1).time[0]) == pytest.approx(22 + 1)


# Splits of a context, by hand


def test_a_short_context_is_walked_by_one_core_for_each_group(plain: ChipArrays) -> None:
    # 640 keys: 10 steps of 1 s, 5 s for the piece, 2 s to start; a reduction of 100 s would cost more
    cost = decode(plain, 1, 640, kv_heads=1)
    assert float(cost.time[0]) == 10 + 5 + 2
    assert [float(part[0]) for part in cost.tiling] == [16.0, 64.0, 1.0]


def test_groups_take_turns_in_waves(plain: ChipArrays) -> None:
    assert float(decode(plain, 1, 640, kv_heads=4).time[0]) == 15 + 2
    assert float(decode(plain, 1, 640, kv_heads=5).time[0]) == 2 * 15 + 2
    assert float(decode(plain, 3, 640, kv_heads=4).time[0]) == 3 * 15 + 2


def test_a_long_context_is_cut_where_that_saves_more_than_the_reduction(plain: ChipArrays) -> None:
    # 64,000 keys are 1,000 steps: four cores take 250 each, and the reduction 100 s
    cost = decode(plain, 1, 64_000, kv_heads=1)
    assert float(cost.time[0]) == 250 + 5 + 100 + 2
    assert float(cost.tiling[2][0]) == 4.0
    dear = with_constants(plain, attention_split=1e6)
    assert float(decode(dear, 1, 64_000, kv_heads=1).time[0]) == 1000 + 5 + 2


def test_a_window_bounds_the_walk_of_decode(plain: ChipArrays) -> None:
    assert float(decode(plain, 1, 64_000, kv_heads=1, window=640).time[0]) == 10 + 5 + 2
    assert float(decode(plain, 1, 640, kv_heads=1, window=64_000).time[0]) == 10 + 5 + 2


def test_a_group_beyond_the_limit_is_served_head_by_head(plain: ChipArrays) -> None:
    # 16 heads are one piece; 17 heads are 17 on 4 cores: 5 waves
    assert float(decode(plain, 1, 640, kv_heads=1, group=16).time[0]) == 15 + 2
    assert float(decode(plain, 1, 640, kv_heads=1, group=17).time[0]) == 5 * 15 + 2
    wide = with_constants(plain, group_limit=17.0)
    assert float(decode(wide, 1, 640, kv_heads=1, group=17).time[0]) == 15 + 2


def test_heads_served_one_by_one_each_read_the_cache(plain: ChipArrays) -> None:
    # Keys and values 640 x 2 x 128 x 2 B; queries and outputs 17 x 2 x 128 x 2 B
    far, near = 640 * 512.0, 17 * 512.0
    thin = with_memory(plain, "cache", far)
    cost = decode(thin, 1, 640, kv_heads=1, group=17)
    assert float(cost.memory[0]) == pytest.approx((17 * far + near) / far)
    together = with_constants(thin, group_limit=17.0)
    assert float(decode(together, 1, 640, kv_heads=1, group=17).memory[0]) == pytest.approx((far + near) / far)
    # What crosses the DRAM is the same.
    assert float(cost.dram_bytes[0]) == far + near


def test_a_latent_cache_is_one_group_without_a_limit(plain: ChipArrays) -> None:
    latent = {"kv_heads": 1, "group": 128, "head_dim": 576.0, "value_dim": array([512.0]), "cached": array([576.0])}
    cost = cost_of(plain, "decode", 1, 1.0, 640, latent)
    assert float(cost.time[0]) == 15 + 2
    assert float(cost.tiling[0][0]) == 128.0
    assert float(cost.dram_bytes[0]) == 640 * 576 * 2 + 128 * (576 + 512) * 2


def test_rows_of_a_group_fill_whole_instructions_and_their_exponentials_count(plain: ChipArrays) -> None:
    # 4 heads are multiplied as 16 rows: 16 x 64 x 512 FLOP a step; they exponentiate 4 x 64 scores, 6 FLOP each
    chips = {
        "matrix": with_peak(plain, 4.0 * 16 * 64 * 512 / 3.0),
        "special": dataclasses.replace(plain, special_peak=array(4.0 * 4 * 64 / 4.0)),
        "vector": dataclasses.replace(plain, vector_peak=array(4.0 * 4 * 64 * 6 / 5.0)),
    }
    found = {name: float(decode(target, 1, 640, kv_heads=1).time[0]) for name, target in chips.items()}
    # Padding costs a head as much as the group; exponentials are dealt to the four cores, a head each.
    assert found == pytest.approx({"matrix": 30 + 7, "special": 40 / 4 + 7, "vector": 50 / 4 + 7})


def test_decode_adds_the_bytes_of_the_cache_and_says_what_bounds_it(plain: ChipArrays) -> None:
    moved = 640 * 512.0 + 4 * 512.0
    slow = with_memory(plain, "dram", moved / 100.0)
    cost = decode(slow, 1, 640, kv_heads=1)
    assert float(cost.time[0]) == pytest.approx(17 + 100)
    assert cost.bound[0] == MEMORY
    assert decode(plain, 1, 640, kv_heads=1).bound[0] == LATENCY


def test_a_cache_of_rounds_that_fits_is_read_on_chip(plain: ChipArrays) -> None:
    moved, near = 640 * 512.0 + 4 * 512.0, 4 * 512.0
    level = dataclasses.replace(plain.memory["cache"], capacity=array(2.0 * moved), partitions=array(2.0))
    slow = with_memory(plain, "dram", moved / 100.0)
    fits = dataclasses.replace(slow, memory={**slow.memory, "cache": level})
    again: dict[str, object] = {"resident": "repeated"}
    assert float(decode(fits, 1, 640, again, kv_heads=1).dram_bytes[0]) == near
    assert float(decode(fits, 1, 640, kv_heads=1).dram_bytes[0]) == moved
    small = with_constants(fits, cache_share=0.99)
    assert float(decode(small, 1, 640, again, kv_heads=1).dram_bytes[0]) == moved


def test_eight_bits_halve_the_bytes_of_the_cache(plain: ChipArrays) -> None:
    wide, narrow = (cost_of(plain, "decode", 1, 1.0, 640, {"kv_heads": 1}, kv=kv) for kv in ("bf16", "fp8"))
    assert float(wide.dram_bytes[0] - narrow.dram_bytes[0]) == 640 * 256.0


# Which chips


@pytest.mark.parametrize("name", NEEDED)
def test_a_chip_that_has_some_constants_of_attention_lacks_the_others(plain: ChipArrays, name: str) -> None:
    short = dataclasses.replace(plain, kernel={key: value for key, value in plain.kernel.items() if key != name})
    with pytest.raises(SpecError, match=rf"calibration\.constants\.{name}: attention kernels need this constant too"):
        is_tiled(short)


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_every_shipped_tile_machine_has_attention_kernels_and_no_other_chip_has(name: str) -> None:
    assert is_tiled(lowered(name)) == (chip(name).matrix.kind == "tile")
