"""Blocks that decoding needs: sums against a count of each sequence."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cosim.engines.serving.growth import EvenGrowth, Growth, UnevenGrowth
from cosim.engines.serving.layout import USUAL, Layout
from cosim.engines.serving.request import Request

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(1, 40), st.integers(1, 30)),
        st.tuples(st.just("leave"), st.integers(0, 10), st.just(0)),
        st.tuples(st.just("steps"), st.integers(1, 40), st.integers(0, 50)),
    ),
    max_size=30,
)


LAYOUTS = st.sampled_from([USUAL, Layout(3, 1, 1), Layout(0, 5, 2, 20), Layout(2, 1, 0, 33), Layout(1, 0, 0)])


@given(MOVES, st.sampled_from([1, 4, 16]), st.sampled_from([0, 1, 3]), LAYOUTS)
def test_sums_are_those_of_each_sequence(moves: list[Any], block: int, ahead: int, layout: Layout) -> None:
    def blocks_of(length: int, block: int) -> int:
        return layout.blocks(length, block)

    growth: Growth = UnevenGrowth(block, ahead, layout) if ahead else EvenGrowth(block, layout)
    inside: list[Request] = []
    step = held = 0
    for move, first, second in moves:
        if move == "join":
            made = Request(len(inside), 0.0, first, 99, length=first, joined=step, blocks=blocks_of(first, block))
            made.rate = 1 + ahead * second / 31 if ahead else 1
            held += made.blocks
            growth.join(made, step)
            inside.append(made)
        elif move == "leave" and inside:
            gone = inside.pop(first % len(inside))
            growth.leave(gone, step)
            held -= gone.blocks
        elif move == "steps":
            fits = growth.room(step, first, second)
            assert 1 <= fits <= first
            one = growth.next_need(step)
            taken = growth.advance(step, fits)
            assert taken >= one
            assert taken <= max(second, one)
            held += taken
            step += fits
        expected = 0
        for each in inside:
            reached = int(each.length + each.rate * (step - each.joined) + 1e-9)
            if ahead and step > each.joined:
                before = int(each.length + each.rate * (step - 1 - each.joined) + 1e-9)
                expected += max(blocks_of(before + 1 + ahead, block), blocks_of(each.length, block))
            else:
                expected += blocks_of(reached, block)
        assert held == expected


def test_even_growth_fills_the_room_exactly() -> None:
    growth = EvenGrowth(4, USUAL)
    for length in (4, 5, 7):
        growth.join(Request(0, 0.0, length, 9, length=length, joined=0), 0)
    assert [growth.next_need(step) for step in range(5)] == [1, 1, 0, 1, 1]
    assert [growth.room(0, 100, blocks) for blocks in (1, 2, 3, 4)] == [1, 3, 4, 5]
    assert growth.room(0, 3, 100) == 3


def test_who_comes_back_is_counted_once() -> None:
    growth = UnevenGrowth(4, 1, USUAL)
    made = Request(0, 0.0, 4, 99, length=4, joined=0, rate=2.0, blocks=1)
    growth.join(made, 0)
    growth.leave(made, 0)
    growth.join(made, 0)
    assert growth.advance(0, 1) == 1
    assert growth.advance(1, 1) == 0
    assert growth.advance(2, 1) == 1
    assert growth.count == 1


def test_past_a_window_a_block_of_tokens_takes_fewer() -> None:
    growth = EvenGrowth(4, Layout(7, 3, 1, 8))
    made = Request(0, 0.0, 4, 99, length=4, joined=10)
    growth.join(made, 10)
    assert [growth.next_need(step) for step in (10, 11, 12, 13)] == [3, 0, 0, 0]
    # Tokens 5 to 21: blocks at 5 (inside), 9, 13, 17, 21 (past it).
    assert growth.advance(10, 17) == 3 + 4 * 1
    growth.leave(made, 27)
    assert (made.blocks, growth.count) == (7 + 2 * 3 + 4, 0)


def test_who_comes_back_before_its_window_ends_turns_once() -> None:
    growth = EvenGrowth(4, Layout(0, 3, 1, 16))
    made = Request(0, 0.0, 4, 99, length=4, joined=0)
    growth.join(made, 0)
    growth.leave(made, 0)
    growth.join(made, 0)
    assert growth.advance(0, 20) == 3 * 3 + 2
    assert growth.count == 1
