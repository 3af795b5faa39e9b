"""What a matrix kernel sees of a chip, and what bounds a kernel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.lower import ChipArrays, MatrixArrays
from cosim.records import array
from cosim.timing.cost import BOUNDS, COMPUTE, LATENCY, MEMORY, OPERANDS, bound_of, machine, math_dtype, rate

PARTS = st.lists(st.tuples(*[st.floats(0.0, 1e6)] * 3), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(PARTS)
def test_the_bound_names_a_part_that_no_other_exceeds(rows: list[tuple[float, float, float]]) -> None:
    parts = np.array(rows).T
    bound = bound_of(tuple(parts))
    largest = parts[bound, np.arange(len(rows))]
    assert (largest == parts.max(axis=0)).all()


def test_a_tie_is_won_by_the_part_named_first() -> None:
    same = np.array([2.0, 3.0])
    assert bound_of((same, same, same - 1.0)).tolist() == [COMPUTE, COMPUTE]


def test_a_scalar_part_is_compared_with_every_point() -> None:
    assert bound_of((array(2.0), np.array([1.0, 3.0]))).tolist() == [COMPUTE, MEMORY]


def test_names_of_bounds_stand_at_their_codes() -> None:
    assert [BOUNDS[code] for code in (COMPUTE, MEMORY, OPERANDS, LATENCY)] == [
        "compute",
        "memory",
        "operands",
        "latency",
    ]


def test_the_machine_of_a_gpu_has_its_primaries(h100: ChipArrays) -> None:
    seen = machine(h100, "bf16")
    # 132 cores x 4,096 FLOP/cycle x 1.83 GHz; 3.35 TB/s x 0.8
    assert seen.kind == "tile"
    assert float(seen.peak) == pytest.approx(132 * 4096 * 1.83e9)
    assert float(seen.dram) == pytest.approx(2.68e12)
    assert float(seen.cores) == 132.0


def test_the_machine_of_an_array_chip_has_its_geometry(tpu: ChipArrays) -> None:
    seen = machine(tpu, "int8")
    # 2 cores x 4 arrays x 128 x 128 x 4 FLOP/cycle x 1.75 GHz
    assert seen.kind == "systolic"
    assert (float(seen.arrays), float(seen.rows), float(seen.columns)) == (4.0, 128.0, 128.0)
    assert float(seen.peak) == pytest.approx(2 * 4 * 128 * 128 * 4 * 1.75e9)
    assert seen.dataflows == ("ws",)


def test_the_last_shared_level_is_the_cache(h100: ChipArrays, asic: ChipArrays) -> None:
    assert float(machine(h100, "bf16").cache) == pytest.approx(50e6)
    assert float(machine(asic, "bf16").cache) == pytest.approx(96 * 2**20)


def test_the_scratch_of_all_cores_stands_in_for_a_missing_cache(tpu: ChipArrays) -> None:
    assert float(machine(tpu, "bf16").cache) == pytest.approx(2 * 64 * 2**20)


def test_a_chip_without_on_chip_memory_has_no_cache(h100: ChipArrays) -> None:
    bare = dataclasses.replace(h100, memory={"dram": h100.memory["dram"]})
    assert float(machine(bare, "bf16").cache) == 0.0


def test_operands_are_fed_from_the_level_nearest_to_the_engine(h100: ChipArrays, tpu: ChipArrays) -> None:
    levels = {role: h100.memory[role] for role in ("dram", "cache")}
    assert float(machine(h100, "bf16").feed) == pytest.approx(132 * 240e9)
    assert float(machine(tpu, "bf16").feed) == pytest.approx(60e12)
    assert float(machine(dataclasses.replace(h100, memory=levels), "bf16").feed) == pytest.approx(7e12)
    bare = dataclasses.replace(h100, memory={"dram": h100.memory["dram"]})
    assert np.isinf(machine(bare, "bf16").feed)


def test_a_format_with_a_quality_of_its_own_has_it(h100: ChipArrays) -> None:
    assert float(machine(h100, "fp8").quality) == 0.7
    assert float(machine(h100, "int8").quality) == 0.75


@pytest.mark.parametrize(
    ("formats", "expected"),
    [(["fp8", "bf16"], "bf16"), (["fp8", "fp16"], "fp16"), (["fp4", "tf32"], "tf32"), (["int4", "fp8"], "fp8")],
)
def test_attention_is_calculated_in_the_widest_format(h100: ChipArrays, formats: list[str], expected: str) -> None:
    peaks = MatrixArrays("roofline", {dtype: array(1e15) for dtype in formats}, clock=None)
    assert math_dtype(dataclasses.replace(h100, matrix=peaks)) == expected


def test_a_chip_known_by_its_peaks_has_neutral_structure(h100: ChipArrays) -> None:
    flat = dataclasses.replace(h100, cores=None, matrix=MatrixArrays("roofline", {"bf16": array(1e15)}, clock=None))
    seen = machine(flat, "bf16")
    assert (float(seen.cores), float(seen.clock), float(seen.rows)) == (1.0, 1.0, 1.0)
    assert float(seen.peak) == 1e15


def test_an_unknown_format_is_refused_with_the_nearest_ones(h100: ChipArrays) -> None:
    with pytest.raises(SpecError, match=r"plan\.dtype: h100-sxm has no matrix rate for this format") as caught:
        rate(h100, "mxfp8")
    assert caught.value.value == "mxfp8"
    assert "fp8" in str(caught.value.hint)


def test_the_machine_of_an_unknown_format_is_refused_alike(tpu: ChipArrays) -> None:
    with pytest.raises(SpecError, match="tpu-v5p has no matrix rate"):
        machine(tpu, "nvfp4")
