"""Unique keys of rows: representatives and the way back."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.timing.unique import unique_rows

# Few values, so that rows repeat; the zeros differ in their bits only.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.1, 1e300, 5e-324, 4096.0, float("inf")])
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=40),
)


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_representatives_gathered_by_the_inverse_are_the_rows(rows: list[tuple[float, ...]]) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    first, inverse = unique_rows(columns)
    for column in columns:
        assert np.array_equal(column[first][inverse], column)


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_there_is_one_representative_for_every_distinct_row(rows: list[tuple[float, ...]]) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    first, inverse = unique_rows(columns)
    assert len(first) == len(set(rows))
    assert sorted(set(inverse.tolist())) == list(range(len(first)))


@settings(max_examples=40, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_change_which_rows_are_equal(rows: list[tuple[float, ...]], random: Random) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    _, inverse = unique_rows([np.array(column) for column in zip(*rows, strict=True)])
    shuffled = [rows[i] for i in order]
    _, other = unique_rows([np.array(column) for column in zip(*shuffled, strict=True)])
    same = inverse[order][:, None] == inverse[order][None, :]
    assert np.array_equal(same, other[:, None] == other[None, :])


def test_rows_that_differ_in_the_last_bit_are_kept_apart() -> None:
    column = np.array([1.0, np.nextafter(1.0, 2.0), 1.0])
    first, inverse = unique_rows([column])
    assert len(first) == 2
    assert inverse[0] == inverse[2] != inverse[1]


def test_exchanged_columns_are_another_key() -> None:
    first, _ = unique_rows([np.array([2.0, 3.0]), np.array([3.0, 2.0])])
    assert len(first) == 2


def test_two_rows_with_the_same_mix_are_still_kept_apart() -> None:
    # (1, 1) and (3, this value) meet in the 64-bit mix of the keys.
    met = float.fromhex("0x1.80002f0c00000p+543")
    columns = [np.array([1.0, 3.0, 1.0, 3.0]), np.array([1.0, met, 1.0, met])]
    first, inverse = unique_rows(columns)
    assert len(first) == 2
    assert inverse[0] == inverse[2]
    assert inverse[1] == inverse[3] != inverse[0]


def test_columns_are_left_as_they_were() -> None:
    column = np.array([-0.0, 0.0])
    unique_rows([column])
    assert np.signbit(column).tolist() == [True, False]


@pytest.mark.parametrize("count", [1, 1000])
def test_a_column_of_one_value_has_one_representative(count: int) -> None:
    first, inverse = unique_rows([np.full(count, 7.0)])
    assert first.tolist() == [0]
    assert not inverse.any()
