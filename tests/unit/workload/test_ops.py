"""The op vocabulary: how axes split over ranks, and what an op says when nothing is said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.records import array
from cosim.workload.ops import Axis, Matmul, Vector, whole

groups = st.integers(1, 4096)
widths = st.integers(1, 512)
degrees = st.integers(1, 1024)


def axis(pieces: int, width: int) -> Axis:
    return Axis(array(pieces), array(width))


@settings(max_examples=60, deadline=None)
@given(pieces=groups, width=widths, degree=degrees)
def test_the_fullest_rank_holds_its_share_and_less_than_one_piece_more(pieces: int, width: int, degree: int) -> None:
    part = float(axis(pieces, width).shard(array(degree)))
    fair = pieces * width / degree
    assert fair <= part < fair + width
    assert part % width == 0.0  # pieces stay whole


@settings(max_examples=60, deadline=None)
@given(pieces=groups, width=widths, degree=degrees)
def test_more_ranks_never_hold_more_each(pieces: int, width: int, degree: int) -> None:
    one = axis(pieces, width)
    assert float(one.shard(array(degree + 1))) <= float(one.shard(array(degree)))


@pytest.mark.parametrize(
    ("degree", "elements"),
    [(1, 1024), (2, 512), (3, 384), (4, 256), (8, 128), (16, 128), (64, 128)],
)
def test_eight_heads_of_128_replicate_beyond_eight_ranks(degree: int, elements: int) -> None:
    # degree 3: the fullest rank has ceil(8 / 3) = 3 heads
    assert float(axis(8, 128).shard(array(degree))) == elements


def test_size_is_pieces_times_width() -> None:
    assert float(axis(64, 128).size) == 8192.0
    assert float(whole(array(28672.0)).size) == 28672.0


def test_a_whole_axis_splits_at_any_element() -> None:
    # 50257 = 8 x 6282 + 1: one rank has 6283
    assert float(whole(array(50257.0)).shard(array(8.0))) == 6283.0


def test_shards_follow_the_points_axis() -> None:
    split = axis(8, 128).shard(array([1, 2, 8, 16]))
    np.testing.assert_array_equal(split, [1024.0, 512.0, 128.0, 128.0])


def test_ops_run_once_unless_told() -> None:
    rows = array(4.0)
    matmul = Matmul("a", "layer", rows, (whole(rows),), whole(rows), "n")
    vector = Vector("b", "layer", rows, whole(rows), 1.0, 1.0)
    assert (float(matmul.count), float(vector.count)) == (1.0, 1.0)
    assert (matmul.bias, matmul.owns_weights, matmul.precision) == (False, True, "linear")
    assert (vector.splits, float(vector.parameters), vector.special) == (False, 0.0, 0.0)


def test_ops_are_frozen() -> None:
    matmul = Matmul("a", "layer", array(1.0), (whole(array(1.0)),), whole(array(1.0)), "n")
    with pytest.raises(dataclasses.FrozenInstanceError):
        matmul.m = array(2.0)  # type: ignore[misc]
