"""Sums over decoding sequences against each of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.engines.serving.decoding import Decoding
from cosim.engines.serving.request import Request


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("join"), st.integers(1, 99), st.integers(1, 20)),
            st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("steps"), st.integers(1, 20), st.just(0)),
        ),
        max_size=40,
    ),
    st.sampled_from([1, 2]),
)
def test_sums_are_those_of_each_sequence(moves: list[Any], faster: int) -> None:
    decoding = Decoding()
    inside: list[Request] = []
    for move, first, second in moves:
        if move == "join":
            made = Request(len(inside), 0.0, first, 1 + second, generated=1)
            decoding.join(made, first, -(-second // faster))
            inside.append(made)
        elif move == "leave" and inside:
            gone = inside.pop(first % len(inside))
            decoding.leave(gone)
            assert gone.generated < gone.output
        elif move == "steps" and inside:
            most = min(each.ends for each in inside) - decoding.step
            assert decoding.steps_left() == most
            for each in decoding.advance(min(first, most)):
                assert first >= most
                decoding.leave(each)
                assert each.generated == each.output
                assert each.length == each.prompt + each.output - 1
                inside.remove(each)
        assert decoding.count == len(inside)
        lengths = [each.length + each.rate * (decoding.step - each.joined) for each in inside]
        assert decoding.context == pytest.approx(sum(lengths))
        assert decoding.rise == pytest.approx(sum(each.rate for each in inside))


def test_who_comes_back_ends_once() -> None:
    decoding = Decoding()
    made = Request(0, 0.0, 5, 6, generated=1)
    decoding.join(made, 5, 5)
    decoding.leave(made)
    decoding.join(made, 5, 5)
    assert decoding.steps_left() == 5
    assert decoding.advance(5) == [made]
    decoding.leave(made)
    assert (decoding.steps_left(), decoding.count, decoding.context) == (0, 0, 0)
