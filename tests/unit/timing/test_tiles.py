"""Tile machines: quantisation, splits, super-tiles and the choice of a tile."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import Array, array
from cosim.timing import tiles
from cosim.timing.cost import COMPUTE, LATENCY, MEMORY, OPERANDS, KernelCost, Machine, machine
from cosim.timing.tiles import TILE_M, TILE_N, tile_cost
from cosim.timing.traffic import Sizes

DIM = st.integers(1, 16_384)
RESIDENTS = ["none", "activations", "repeated"]


def cost_of(engine: Machine, m: float, n: float, k: float, batch: float = 1.0, resident: str = "none") -> KernelCost:
    one = np.ones(1)
    return tile_cost(m * one, n * one, k * one, batch * one, engine, Sizes(2.0), resident=resident)


def tiling(cost: KernelCost) -> list[float]:
    return [float(part[0]) for part in cost.tiling]


def traffic_of_all_tiles(engine: Machine, m: float, n: float, k: float, resident: str = "none") -> Array:
    one = np.ones(1)
    shape = tiles._Shape(m * one, n * one, k * one, one)
    return tiles._dram_bytes(shape, np.ceil(m / TILE_M), np.ceil(n / TILE_N), engine, Sizes(2.0), resident)


def with_constants(engine: Machine, **constants: float) -> Machine:
    return dataclasses.replace(engine, kernel={**engine.kernel, **{k: array(v) for k, v in constants.items()}})


@pytest.fixture
def plain(h100: ChipArrays) -> Machine:
    """Four cores at 1 Hz that take a cycle for a step of any tile, and 100 s for a second kernel; all else is free."""
    engine = dataclasses.replace(
        machine(h100, "bf16"),
        cores=array(4.0),
        clock=array(1.0),
        peak=array(1e30),
        dram=array(1e30),
        feed=array(1e30),
        cache_bandwidth=array(1e30),
        start=array(100.0),
    )
    return with_constants(engine, step_cycles=1.0, epilogue_cycles=0.0, cache_feed=1.0)


@settings(max_examples=40, deadline=None)
@given(DIM, DIM, DIM, st.floats(1e3, 1e8), st.floats(1.0, 32.0), st.sampled_from(RESIDENTS))
def test_no_tile_moves_more_with_a_larger_cache(
    h100: ChipArrays, m: int, n: int, k: int, cache: float, factor: float, resident: str
) -> None:
    small = dataclasses.replace(machine(h100, "bf16"), cache=array(cache))
    large = dataclasses.replace(small, cache=array(cache * factor))
    before = traffic_of_all_tiles(small, m, n, k, resident)
    assert (traffic_of_all_tiles(large, m, n, k, resident) <= before * (1.0 + 1e-12)).all()


@settings(max_examples=40, deadline=None)
@given(DIM, DIM, DIM)
def test_cold_operands_cross_once_at_least_whatever_the_tile(h100: ChipArrays, m: int, n: int, k: int) -> None:
    moved = traffic_of_all_tiles(machine(h100, "bf16"), m, n, k)
    assert (moved >= 2.0 * (m * k + k * n + m * n) * (1.0 - 1e-12)).all()


@settings(max_examples=40, deadline=None)
@given(DIM, DIM, DIM, st.integers(1, 64), st.sampled_from(["step_cycles", "epilogue_cycles"]), st.floats(1.0, 100.0))
def test_dearer_steps_epilogues_and_splits_are_never_faster(
    h100: ChipArrays, m: int, n: int, k: int, batch: int, name: str, factor: float
) -> None:
    cheap = machine(h100, "bf16")
    dear = with_constants(cheap, **{name: float(cheap.kernel[name]) * factor})
    late = dataclasses.replace(cheap, start=cheap.start * factor)
    base = cost_of(cheap, m, n, k, batch).time[0] * (1.0 - 1e-12)
    assert cost_of(dear, m, n, k, batch).time[0] >= base
    assert cost_of(late, m, n, k, batch).time[0] >= base


@settings(max_examples=40, deadline=None)
@given(
    DIM,
    DIM,
    DIM,
    st.integers(1, 64),
    st.floats(1.0, 8.0),
    st.sampled_from(["cache_bandwidth", "multicast", "feed", "dram", "peak", "clock", "partitions"]),
)
def test_a_better_machine_is_never_slower(
    h100: ChipArrays, m: int, n: int, k: int, batch: int, factor: float, name: str
) -> None:
    base = dataclasses.replace(machine(h100, "bf16"), partitions=array(8.0))
    gain = 1.0 / factor if name == "partitions" else factor
    better = dataclasses.replace(base, **{name: getattr(base, name) * gain})
    assert cost_of(better, m, n, k, batch).time[0] <= cost_of(base, m, n, k, batch).time[0] * (1.0 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(DIM, DIM, DIM, st.integers(1, 64), st.sampled_from(RESIDENTS))
def test_a_tiling_is_one_of_those_offered_and_no_other_is_faster(
    h100: ChipArrays, m: int, n: int, k: int, batch: int, resident: str
) -> None:
    cost = cost_of(machine(h100, "bf16"), m, n, k, batch, resident)
    rows, columns, splits = tiling(cost)
    assert (rows, columns) in tiles._SHAPES
    assert rows * columns <= 128 * 256
    assert splits in tiles.SPLITS.ravel().tolist()
    assert cost.time[0] >= max(cost.compute[0], cost.memory[0])


@settings(max_examples=40, deadline=None)
@given(DIM, DIM, DIM, st.integers(1, 32), st.integers(1, 300), st.integers(0, 3))
def test_a_larger_product_is_never_faster(
    h100: ChipArrays, m: int, n: int, k: int, batch: int, more: int, axis: int
) -> None:
    sizes = [m, n, k, batch]
    grown = [size + more * (place == axis) for place, size in enumerate(sizes)]
    engine = machine(h100, "bf16")
    assert cost_of(engine, *grown).time[0] >= cost_of(engine, *sizes).time[0] * (1.0 - 1e-12)


def test_one_more_row_than_the_cores_can_tile_starts_a_second_wave(plain: Machine) -> None:
    # 4 tiles of 256 x 128 on 4 cores; 1,025 rows need a fifth
    assert float(cost_of(plain, 1024, 128, 64).time[0]) == 1.0
    assert float(cost_of(plain, 1025, 128, 64).time[0]) == 2.0


def test_time_stays_while_a_tile_fills(plain: Machine) -> None:
    times = [float(cost_of(plain, m, 128, 64).time[0]) for m in (769, 900, 1024)]
    assert times == [1.0, 1.0, 1.0]


def test_the_loop_over_k_takes_whole_steps(plain: Machine) -> None:
    # 640 / 64 = 10 steps; 641 starts the eleventh
    assert float(cost_of(plain, 1024, 128, 640).time[0]) == 10.0
    assert float(cost_of(plain, 1024, 128, 641).time[0]) == 11.0


def test_a_step_is_128_bytes_of_k_whatever_the_format(plain: Machine) -> None:
    one = np.ones(1)
    # 640 elements: 10 steps of 64 in 16 bits, 5 of 128 in 8
    steps = [float(tile_cost(1024 * one, 128 * one, 640 * one, one, plain, Sizes(size)).time[0]) for size in (2.0, 1.0)]
    assert steps == [10.0, 5.0]


def test_a_split_of_k_is_taken_when_it_saves_more_than_its_reduction(plain: Machine) -> None:
    # One 128 x 128 product of 512 steps on 4 cores: 4 tiles of 128 steps, and 100 s for the kernel that adds them up
    cost = cost_of(plain, 128, 128, 512 * 64)
    assert float(cost.time[0]) == 128 + 100
    assert tiling(cost)[2] == 4.0
    assert tiling(cost_of(dataclasses.replace(plain, start=array(1e6)), 128, 128, 512 * 64))[2] == 1.0


def test_partial_sums_of_a_split_cross_the_cache(plain: Machine) -> None:
    # Four partial sums written and read and one result: 5 x 4 B x 128 x 128 = 327,680 B; operands in 51 s of the 128
    thin = dataclasses.replace(plain, cache_bandwidth=array(327_680.0))
    assert float(cost_of(thin, 128, 128, 512 * 64).time[0]) == pytest.approx(128 + 100 + 1)
    half = with_constants(thin, cache_feed=0.5)
    assert float(cost_of(half, 128, 128, 512 * 64).time[0]) == pytest.approx(128 + 100 + 2)


def test_ties_go_to_the_first_tile_of_the_list(plain: Machine) -> None:
    # 16 x 32 covers a 16 x 32 product in one step, and so does every larger tile
    assert tiling(cost_of(plain, 16, 32, 64)) == [16.0, 32.0, 1.0]


def test_every_wave_pays_the_epilogue_of_its_tile(plain: Machine) -> None:
    # 0.25 s for 128 x 128 is 0.5 s for 256 x 128
    slow = with_constants(plain, epilogue_cycles=0.25)
    assert float(cost_of(slow, 1024, 128, 64).time[0]) == 1.5
    assert float(cost_of(slow, 2048, 128, 64).time[0]) == 3.0
    # 16 x 32 is a 32nd of 128 x 128
    assert float(cost_of(slow, 16, 32, 64).time[0]) == 1.0 + 0.25 / 32


def test_steps_and_epilogues_are_cycles_of_the_clock(plain: Machine) -> None:
    fast = dataclasses.replace(with_constants(plain, epilogue_cycles=0.25), clock=array(4.0))
    assert float(cost_of(fast, 1024, 128, 64).time[0]) == 1.5 / 4.0


def test_products_of_a_batch_share_the_waves(plain: Machine) -> None:
    assert float(cost_of(plain, 256, 128, 64, batch=4).time[0]) == 1.0
    assert float(cost_of(plain, 256, 128, 64, batch=5).time[0]) == 2.0


def test_tiles_take_their_operands_through_the_cache(plain: Machine) -> None:
    # One tile: 16 x 32 outputs, 64 deep: (16 + 32) x 64 x 2 B = 6,144 B in, and 1,024 B of C twice: 8,192 B
    narrow = dataclasses.replace(plain, cache_bandwidth=array(1024.0))
    cost = cost_of(narrow, 16, 32, 64)
    assert float(cost.time[0]) == float(cost.compute[0]) == 8.0
    assert cost.bound[0] == OPERANDS
    # 4 tiles of 256 x 128: 4 x 384 x 64 x 2 B and twice 1,024 x 128 x 2 B are 720,896 B
    assert float(cost_of(narrow, 1024, 128, 64).time[0]) == 704.0


def test_tiles_reach_a_share_of_the_cache(plain: Machine) -> None:
    narrow = with_constants(dataclasses.replace(plain, cache_bandwidth=array(1024.0)), cache_feed=0.5)
    assert float(cost_of(narrow, 16, 32, 64).time[0]) == 16.0


def test_neighbours_share_one_operand_where_there_are_neighbours(plain: Machine) -> None:
    # A tile alone: 16 rows and 32 columns, 64 deep: 6,144 B, and C twice: 8,192 B over 1,024 B/s, shared with nobody
    pairs = dataclasses.replace(plain, cache_bandwidth=array(1024.0), multicast=array(2.0))
    for engine in (pairs, dataclasses.replace(pairs, multicast=array(1.0))):
        cost = cost_of(engine, 16, 32, 64)
        assert (float(cost.time[0]), float(cost.cache_bytes[0])) == (8.0, 8192.0)
    # One row of two tiles of 16 x 256: they share the rows, not the columns: 2 (8 + 256) x 64 x 2 B and C twice
    wide = dataclasses.replace(pairs, cores=array(2.0), cache_bandwidth=array(1e30))
    cost = cost_of(wide, 16, 512, 64)
    assert tiling(cost)[:2] == [16.0, 256.0]
    assert float(cost.cache_bytes[0]) == 2 * (8 + 256) * 64 * 2 + 2 * 16 * 512 * 2


def test_memory_takes_what_crosses_it_over_its_bandwidth(plain: Machine) -> None:
    # A 2,048 + B 4,096 + C 1,024 = 7,168 B over 512 B/s
    cost = cost_of(dataclasses.replace(plain, dram=array(512.0)), 16, 32, 64)
    assert float(cost.time[0]) == float(cost.memory[0]) == 14.0
    assert cost.bound[0] == MEMORY


def test_a_large_tile_bounds_by_flop_and_a_starved_one_by_operands(plain: Machine) -> None:
    # 128 x 256 x 64 at 2^20 FLOP/s x 0.75: 4.2 MFLOP in 5.3 s against a step of 1 s
    busy = dataclasses.replace(plain, peak=array(4.0 * 2**20))
    assert cost_of(busy, 4096, 4096, 4096).bound[0] == COMPUTE
    assert cost_of(dataclasses.replace(plain, feed=array(10.0)), 4096, 4096, 4096).bound[0] == OPERANDS
    assert cost_of(plain, 16, 32, 64).bound[0] == LATENCY


def test_compute_time_is_the_tile_over_the_rate_of_a_core(plain: Machine) -> None:
    busy = dataclasses.replace(plain, peak=array(4.0 * 2**20), quality=array(0.5))
    # 2 x 256 x 128 x 64 FLOP per step = 2^22 over 2^20 x 0.5: 8 s; smaller tiles take more waves for the same
    assert float(cost_of(busy, 1024, 128, 128).time[0]) == pytest.approx(16.0)


def test_operand_time_is_the_edge_of_a_tile_over_the_scratch_of_a_core(plain: Machine) -> None:
    # A step of 256 x 128 takes (256 + 128) x 64 x 2 B = 49,152 B, in and out; each of 4 cores has 16,384 B/s: 6 s
    starved = dataclasses.replace(plain, feed=array(65536.0))
    assert float(cost_of(starved, 1024, 128, 64).time[0]) == 6.0


def test_a_wave_shares_its_operands_as_a_super_tile(h100: ChipArrays) -> None:
    # 4,096^3 in tiles of 128 x 256: 32 x 16 tiles, a wave of 132 is at best 16 x 9 of them:
    # A crosses ceil(16/9) = 2 times, B ceil(32/16) = 2 times, C once, 32 MiB each
    bare = dataclasses.replace(machine(h100, "bf16"), cache=array(1.0))
    moved = traffic_of_all_tiles(bare, 4096, 4096, 4096)
    index = tiles._SHAPES.index((128, 256))
    assert float(moved[index].ravel()[0]) == (2 + 2 + 1) * 32 * 2**20


def test_operands_that_fit_the_cache_cross_once(h100: ChipArrays) -> None:
    # Half of 50 MB holds the 8 MiB of each operand.
    cost = cost_of(machine(h100, "bf16"), 2048, 2048, 2048)
    assert float(cost.dram_bytes[0]) == 3 * 8 * 2**20


def test_one_operand_that_fits_crosses_once_and_the_other_by_super_tiles(h100: ChipArrays) -> None:
    # 4 cores make super-tiles of 2 x 2 tiles of 128 x 256. Half of 50 MB keeps A of 256 x 16,384 over the
    # 32 columns of super-tiles, or B of 16,384 x 512 over the 64 rows; the other operand crosses once besides.
    engine = dataclasses.replace(machine(h100, "bf16"), cores=array(4.0))
    index = tiles._SHAPES.index((128, 256))
    wide = float(traffic_of_all_tiles(engine, 256, 16384, 16384)[index].ravel()[0])
    assert wide == 2 * (256 * 16384 + 16384 * 16384 + 256 * 16384)
    tall = float(traffic_of_all_tiles(engine, 16384, 512, 16384)[index].ravel()[0])
    assert tall == 2 * (16384 * 16384 + 16384 * 512 + 16384 * 512)


def test_operands_stay_in_their_share_of_the_cache_alone(h100: ChipArrays) -> None:
    # 64^3: A, B and C of 8,192 B; with five of B they need 57,344 B of the half that is theirs, with one 24,576 B
    moved = {}
    for room in (57344.0, 57342.0, 24576.0, 24574.0):
        engine = dataclasses.replace(machine(h100, "bf16"), cache=array(2.0 * room))
        moved[room] = float(cost_of(engine, 64, 64, 64, resident="repeated").dram_bytes[0])
    assert moved == {57344.0: 0.0, 57342.0: 8192.0, 24576.0: 8192.0, 24574.0: 3 * 8192.0}


def test_a_cache_in_two_parts_that_keep_copies_holds_half(h100: ChipArrays) -> None:
    whole = dataclasses.replace(machine(h100, "bf16"), cache=array(2.0 * 57344.0))
    halves = dataclasses.replace(whole, partitions=array(2.0))
    twice = dataclasses.replace(halves, cache=array(4.0 * 57344.0))
    found = [cost_of(engine, 64, 64, 64, resident="repeated").dram_bytes[0] for engine in (whole, halves, twice)]
    assert found == [0.0, 8192.0, 0.0]
    tight = with_constants(whole, cache_share=0.25)
    assert cost_of(tight, 64, 64, 64, resident="repeated").dram_bytes[0] == 8192.0


def test_tiles_read_their_operands_from_the_cache(plain: Machine) -> None:
    cost = cost_of(plain, 1024, 128, 64, batch=2)
    rows, columns, _ = tiling(cost)
    grid = 2 * np.ceil(1024 / rows) * np.ceil(128 / columns)
    # C of both products enters the cache and leaves it.
    assert float(cost.cache_bytes[0]) == grid * (rows + columns) * 64 * 2 + 2 * 2 * 1024 * 128 * 2
    assert float(cost.flop[0]) == 2 * 2 * 1024 * 128 * 64


def test_points_beyond_one_chunk_cost_what_they_cost_alone(h100: ChipArrays) -> None:
    engine = machine(h100, "bf16")
    m = np.arange(1.0, 2.0 * tiles.CHUNK + 3.0)
    ones = np.ones_like(m)
    batch = tile_cost(m, 777 * ones, 1024 * ones, ones, engine, Sizes(2.0))
    for point in (0, tiles.CHUNK - 1, tiles.CHUNK, 2 * tiles.CHUNK + 1):
        alone = cost_of(engine, m[point], 777, 1024)
        assert float(batch.time[point]) == pytest.approx(float(alone.time[0]), rel=1e-12)
        assert [float(part[point]) for part in batch.tiling] == tiling(alone)


@pytest.mark.parametrize("name", tiles.NEEDED)
def test_a_chip_whose_calibration_lacks_a_constant_is_refused(h100: ChipArrays, name: str) -> None:
    engine = machine(h100, "bf16")
    short = dataclasses.replace(engine, kernel={k: v for k, v in engine.kernel.items() if k != name})
    with pytest.raises(SpecError, match=rf"calibration\.constants\.{name}: a tile machine needs this kernel constant"):
        cost_of(short, 64, 64, 64)


@settings(max_examples=30, deadline=None)
@given(st.integers(64, 60_000), st.integers(64, 60_000), st.integers(64, 20_000), st.sampled_from([5e6, 2e7, 5e7]))
def test_more_cores_are_never_slower_however_small_the_cache(m: int, n: int, k: int, capacity: float) -> None:
    changes = {"memory.cache.capacity": array(capacity), "cores": array(np.arange(100.0, 180.0))}
    chip = lower_chip(load_chip("h100-sxm"), changes)
    ones = np.ones(80)
    time = tile_cost(m * ones, n * ones, k * ones, ones, machine(chip, "bf16"), Sizes(2.0)).time
    assert np.all(np.diff(time) <= time[:-1] * 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(16, 100_000),
    n=st.integers(16, 4096),
    k=st.integers(64, 8192),
    shares=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)),
)
def test_what_a_core_keeps_of_patches_spares_the_cache_alone(
    h100: ChipArrays, m: int, n: int, k: int, shares: tuple[float, float]
) -> None:
    one, engine = np.ones(1), machine(h100, "int8")
    least, most = sorted(shares)
    few, many, all_of_it = (
        tile_cost(m * one, n * one, k * one, one, engine, Sizes(1.0), fetched=share) for share in (least, most, 1.0)
    )
    assert float(few.time[0]) <= float(many.time[0]) * (1.0 + 1e-12)
    assert float(many.time[0]) <= float(all_of_it.time[0]) * (1.0 + 1e-12)
    assert float(few.flop[0]) == float(all_of_it.flop[0])
    plain = tile_cost(m * one, n * one, k * one, one, engine, Sizes(1.0))
    assert float(all_of_it.time[0]) == float(plain.time[0])


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 4096), n=st.integers(16, 30_000), k=st.integers(64, 8192))
def test_narrow_weights_pass_the_cache_narrow(h100: ChipArrays, m: int, n: int, k: int) -> None:
    one, engine = np.ones(1), machine(h100, "bf16")
    wide, narrow, wider = (
        tile_cost(m * one, n * one, k * one, one, engine, Sizes(2.0, stored=stored)) for stored in (None, 0.5, 4.0)
    )
    assert float(narrow.time[0]) <= float(wide.time[0]) * (1.0 + 1e-12)
    # What is kept wider is narrowed before it comes to the cores: only DRAM has more of it.
    assert float(wider.time[0]) >= float(wide.time[0]) * (1.0 - 1e-12)
