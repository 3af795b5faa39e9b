"""Records: batches slice, gather and map the same way whatever is inside, and structure stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cosim.records import Array, array, at, joined, leaves, map_leaves, points, stacked, structure, take


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    capacity: Array
    name: str
    missing: Array | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    clock: Array
    peak: Mapping[str, Array]
    levels: tuple[Level, ...]
    per_op: Array
    flag: bool = True


def batch(values: list[float]) -> Batch:
    """A record with every kind of leaf: per point, scalar, in a mapping, in a tuple, and (ops, P)."""
    row = array(values)
    return Batch(
        clock=row,
        peak={"bf16": row * 2.0, "fp8": array(8.0)},
        levels=(Level(array(5.0), "dram"), Level(row + 1.0, "cache")),
        per_op=np.stack([row, row * 10.0, row * 100.0]),
    )


VALUES = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=8)


@settings(max_examples=60, deadline=None)
@given(values=VALUES, data=st.data())
def test_taking_points_and_looking_at_one_is_looking_at_the_point_taken(
    values: list[float], data: st.DataObject
) -> None:
    index = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=10))
    taken = take(batch(values), np.array(index))
    for place, source in enumerate(index):
        one, same = at(taken, place), at(batch(values), source)
        assert all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(same), strict=True))
        assert float(one.clock) == values[source]


@settings(max_examples=60, deadline=None)
@given(values=VALUES)
def test_one_point_has_no_points_axis_left(values: list[float]) -> None:
    one = at(batch(values), len(values) - 1)
    assert [leaf.ndim for leaf in leaves(one)] == [0, 0, 0, 0, 0, 1]  # per_op keeps its ops axis
    assert one.per_op.tolist() == [values[-1], values[-1] * 10.0, values[-1] * 100.0]
    assert points(one.clock) == 1


@settings(max_examples=60, deadline=None)
@given(values=VALUES)
def test_taking_points_in_reverse_twice_gives_the_batch_back(values: list[float]) -> None:
    back = np.arange(len(values))[::-1]
    again = take(take(batch(values), back), back)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(again), leaves(batch(values)), strict=True))


@settings(max_examples=60, deadline=None)
@given(values=VALUES)
def test_mapping_reaches_every_leaf_once_and_keeps_the_structure(values: list[float]) -> None:
    seen: list[int] = []

    def negated(leaf: Array) -> Array:
        seen.append(leaf.ndim)
        return -leaf

    before, after = batch(values), map_leaves(batch(values), negated)
    assert len(seen) == len(list(leaves(before))) == 6
    assert all(np.array_equal(-a, b) for a, b in zip(leaves(before), leaves(after), strict=True))
    assert (after.flag, after.levels[0].name, after.levels[0].missing) == (True, "dram", None)
    assert type(after) is Batch
    assert list(after.peak) == ["bf16", "fp8"]


def test_mapping_leaves_the_record_it_was_given_alone() -> None:
    before = batch([1.0, 2.0])
    map_leaves(before, lambda leaf: leaf * 0.0)
    assert before.clock.tolist() == [1.0, 2.0]


def test_points_is_the_common_length_and_one_for_scalars() -> None:
    assert points(batch([1.0, 2.0, 3.0])) == 3
    assert points(Level(array(1.0), "dram")) == 1
    assert points("no arrays at all") == 1


def test_a_leaf_of_length_one_goes_with_any_batch() -> None:
    assert points((array([1.0]), array([1.0, 2.0]))) == 2
    kept = take((array([7.0]), array([1.0, 2.0])), np.array([1, 1, 0]))
    assert [leaf.tolist() for leaf in kept] == [[7.0], [2.0, 2.0, 1.0]]
    assert [float(leaf) for leaf in at((array([7.0]), array([1.0, 2.0])), 1)] == [7.0, 2.0]


def test_arrays_of_different_lengths_are_refused_with_their_lengths() -> None:
    with pytest.raises(ValueError, match=r"different lengths along the points axis: \[2, 3\]"):
        points((array([1.0, 2.0]), array([1.0, 2.0, 3.0])))


def test_array_never_holds_integers_so_that_totals_cannot_overflow() -> None:
    big = array([2**62, 2**62])
    assert big.dtype == np.float64
    assert float(big.sum()) == 2.0**63  # int64 would have wrapped to a negative number
    assert array(3).shape == ()


def test_array_refuses_text() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        array(["1 TB/s"])


def test_leaves_come_depth_first_in_field_order() -> None:
    order = [leaf.ravel()[0] for leaf in leaves(batch([3.0, 4.0]))]
    assert order == [3.0, 6.0, 8.0, 5.0, 4.0, 3.0]


def test_numpy_scalars_are_leaves_and_python_numbers_are_structure() -> None:
    assert [float(leaf) for leaf in leaves((np.float64(2.0), 3.0, None, "x"))] == [2.0]
    doubled = map_leaves((np.float64(2.0), 3.0), lambda leaf: leaf * 2.0)
    assert (float(doubled[0]), doubled[1]) == (4.0, 3.0)


def test_a_record_class_is_structure_and_not_a_record() -> None:
    assert list(leaves((Level, array(1.0)))) == [1.0]
    assert map_leaves((Level, "x"), lambda leaf: leaf) == (Level, "x")


@dataclasses.dataclass(frozen=True)
class Coded:
    name: str
    codes: NDArray[np.int64]
    parts: dict[str, Array]


def test_batches_join_along_points_and_whole_numbers_stay_whole() -> None:
    first = Coded("x", np.array([1, 2]), {"a": np.array([0.5, 1.5])})
    second = Coded("x", np.array([3]), {"a": np.array([2.5])})
    together = joined([first, second])
    assert (together.name, together.codes.tolist(), together.parts["a"].tolist()) == ("x", [1, 2, 3], [0.5, 1.5, 2.5])
    assert together.codes.dtype == first.codes.dtype
    assert joined([first]) is first


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    clock: Array
    peak: Mapping[str, Array]
    levels: tuple[Level, ...]
    cores: Array | None = None
    kind: str = "tile"


@dataclasses.dataclass(frozen=True, slots=True)
class Other:
    clock: Array
    peak: Mapping[str, Array]
    levels: tuple[Level, ...]
    cores: Array | None = None
    kind: str = "tile"


def machine(clock: float, **changes: object) -> Machine:
    """A single point with numbers at every depth."""
    one = Machine(array(clock), {"bf16": array(clock * 2.0), "fp8": array(8.0)}, (Level(array(clock + 1.0), "dram"),))
    return dataclasses.replace(one, **changes)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(values=VALUES)
def test_numbers_are_no_part_of_the_structure(values: list[float]) -> None:
    first = structure(machine(values[0]))
    assert len({structure(machine(value)) for value in values}) == 1
    assert structure(batch(values)) == structure(batch(values[::-1])) != first
    assert structure(batch(values)) == structure(batch([*values, 0.0]))  # nor is how many points there are


@pytest.mark.parametrize(
    "other",
    [
        machine(1.0, kind="systolic"),
        machine(1.0, cores=array(108.0)),
        machine(1.0, levels=()),
        machine(1.0, levels=(Level(array(2.0), "cache"),)),
        machine(1.0, peak={"bf16": array(2.0)}),
        machine(1.0, peak={"bf16": array(2.0), "fp4": array(8.0)}),
        machine(1.0, peak={"fp8": array(8.0), "bf16": array(2.0)}),  # leaves come in another order
        Other(array(1.0), {"bf16": array(2.0), "fp8": array(8.0)}, (Level(array(2.0), "dram"),)),
    ],
)
def test_names_keys_missing_values_and_the_class_are_structure(other: object) -> None:
    assert structure(other) != structure(machine(1.0))
    with pytest.raises(ValueError, match="points of different structure cannot be one batch"):
        stacked([machine(1.0), other])


def test_python_numbers_are_structure_and_numpy_ones_are_not() -> None:
    assert structure((1.0, True, None, "x")) == ((1.0,), (True,), (None,), ("x",))
    assert structure(np.float64(1.0)) == structure(array([1.0, 2.0])) == ("array",)


@settings(max_examples=60, deadline=None)
@given(values=VALUES)
def test_points_that_are_stacked_are_found_again_in_their_order(values: list[float]) -> None:
    together = stacked([machine(value) for value in values])
    assert together.clock.tolist() == values
    assert together.peak["fp8"].tolist() == [8.0] * len(values)
    assert (type(together), together.kind, together.cores) == (Machine, "tile", None)
    for index, value in enumerate(values):
        again, before = at(together, index), machine(value)
        assert [float(leaf) for leaf in leaves(again)] == [float(leaf) for leaf in leaves(before)]


def test_one_point_stacked_is_a_batch_of_one_and_none_is_no_batch() -> None:
    assert [leaf.tolist() for leaf in leaves(stacked([machine(3.0)]))] == [[3.0], [6.0], [8.0], [4.0]]
    assert stacked([(array([7.0]), np.float64(2.0))])[0].tolist() == [7.0]
    with pytest.raises(ValueError, match="cannot be one batch"):
        stacked([])


@settings(max_examples=60, deadline=None)
@given(values=VALUES, shared=st.integers(0, 5))
def test_parts_that_points_share_are_stacked_as_parts_of_their_own(values: list[float], shared: int) -> None:
    same = machine(float(shared))
    alike = stacked([(same, machine(value)) for value in values])
    apart = stacked([(machine(float(shared)), machine(value)) for value in values])
    assert [leaf.tolist() for leaf in leaves(alike)] == [leaf.tolist() for leaf in leaves(apart)]
    assert alike[0].clock.tolist() == [float(shared)] * len(values)


@pytest.mark.parametrize("other", [(1.0,), ("a",), {"a": array(1.0)}, (array(1.0), "b"), None])
def test_sorts_of_parts_are_told_apart(other: object) -> None:
    with pytest.raises(ValueError, match="points of different structure cannot be one batch"):
        stacked([((array(1.0), "a"),), (other,)])
