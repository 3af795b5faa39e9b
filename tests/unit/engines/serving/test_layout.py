"""Blocks of a sequence by its tokens: rising, the inverse, a window, a state."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.engines.serving.layout import Held, Layout
from cosim.errors import SpecError


@st.composite
def layouts(draw: Any) -> Layout:
    near = draw(st.integers(0, 6))
    state = draw(st.integers(0 if near else 1, 9))
    return Layout(state, near, draw(st.integers(0, near)), draw(st.integers(0, 60)))


@given(layouts(), st.integers(1, 200), st.sampled_from([1, 4, 16]))
def test_blocks_rise_with_tokens_by_near_or_far(layout: Layout, tokens: int, block: int) -> None:
    more = layout.blocks(tokens + 1, block) - layout.blocks(tokens, block)
    if tokens % block:
        assert more == 0
    else:
        assert more == (layout.near if tokens < layout.window else layout.far)
    assert layout.blocks(tokens, block) >= layout.state


@given(layouts(), st.integers(1, 200), st.sampled_from([1, 4, 16]))
def test_tokens_are_the_most_that_blocks_hold(layout: Layout, tokens: int, block: int) -> None:
    most = layout.tokens(layout.blocks(tokens, block), block) if layout.near else math.inf
    assert most >= tokens
    if not math.isinf(most):
        assert layout.blocks(int(most), block) <= layout.blocks(tokens, block) < layout.blocks(int(most) + 1, block)


def test_usual_is_a_block_for_each_of_tokens() -> None:
    usual = Layout()
    assert [usual.blocks(tokens, 16) for tokens in (1, 16, 17, 160)] == [1, 1, 2, 10]
    assert usual.unit == 1


def test_a_window_and_a_state_by_hand() -> None:
    # Three of four layers keep 8 tokens, in blocks of 4; the state is 5 blocks.
    mixed = Layout(5, 4, 1, 8)
    assert [mixed.blocks(tokens, 4) for tokens in (1, 4, 5, 8, 9, 13)] == [9, 9, 13, 13, 14, 15]
    assert [mixed.tokens(blocks, 4) for blocks in (5, 9, 12, 13, 14)] == [0, 4, 4, 8, 12]
    assert mixed.whole(4) == 8
    assert Layout(0, 4, 1, 9).whole(4) == 12


def test_a_window_of_all_layers_is_full_and_a_state_is_all() -> None:
    full = Layout(0, 1, 0, 8)
    assert [full.blocks(tokens, 4) for tokens in (4, 8, 800)] == [1, 2, 2]
    assert full.tokens(2, 4) == math.inf
    assert full.unit == 1
    assert [Layout(1, 0, 0).blocks(tokens, 4) for tokens in (1, 1000)] == [1, 1]


@pytest.mark.parametrize(
    ("bad", "field"),
    [((-1, 1, 1, 0), "state"), ((0, 1, 2, 0), "far"), ((0, 1, 1, -8), "window"), ((0, 0, 0, 0), "layout")],
)
def test_bad_numbers_are_told(bad: tuple[int, int, int, int], field: str) -> None:
    with pytest.raises(SpecError, match=field):
        Layout(*bad)


def test_bytes_of_a_state_a_window_and_what_lies_past_it() -> None:
    held = Held(1000.0, 10.0, 2.0, 100)
    assert [held.bytes(tokens) for tokens in (0, 50, 100, 150)] == [1000.0, 1500.0, 2000.0, 2100.0]
    assert Held(0.0, 3.0, 3.0).bytes(7) == 21.0


@given(st.floats(0.0, 1e9), st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.integers(0, 5000), st.integers(1, 64))
def test_parts_side_by_side_add_up(state: float, near: float, far: float, window: int, parts: int) -> None:
    held = Held(state, near, far, window)
    for tokens in (1.0, 700.0, 90_000.0):
        assert parts * held.over(parts).bytes(tokens) == pytest.approx(held.bytes(tokens))
        assert held.bytes(tokens + 1.0) >= held.bytes(tokens)
