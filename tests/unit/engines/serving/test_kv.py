"""The cache: admission, sharing, eviction, and every block accounted for."""

from __future__ import annotations

from typing import Any

import pytest

from cosim.engines.serving.kv import Memory
from cosim.engines.serving.layout import Layout
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Scheduler


def memory(blocks: int = 10, **settings: Any) -> Memory:
    return Memory(Scheduler(blocks, **{"block_tokens": 4, "watermark": 0.0, **settings}))


def request(number: int, prompt: int, blocks_of: tuple[int, ...] = ()) -> Request:
    return Request(number, 0.0, prompt, 5, blocks_of=blocks_of, target=prompt)


def test_admission_rounds_up_and_keeps_watermark_and_reserve() -> None:
    cache = memory(watermark=0.2)
    first = request(0, 13)
    assert cache.admit(first, 13, 0)
    assert (cache.free, cache.used, first.blocks) == (6, 4, 4)
    assert not cache.admit(request(1, 16), 16, 1)
    assert cache.free == 6
    assert cache.admit(request(1, 16), 16, 0)
    cache.release(first)
    assert (cache.free, first.blocks) == (6, 0)


def test_a_prefix_is_shared_and_outlives_its_maker() -> None:
    cache = memory(prefix_tokens=8)
    first, second = request(0, 18, (1, 2)), request(1, 18, (1, 2))
    assert cache.admit(first, 18, 0)
    cache.publish(first, 18)
    assert (cache.free, cache.used, first.shared) == (5, 5, 4)
    assert cache.admit(second, 18, 0)
    assert (cache.free, second.done, second.shared) == (4, 16, 4)
    cache.release(first)
    cache.release(second)
    assert (cache.free, cache.available, cache.used) == (6, 10, 0)
    # Room is made of what nobody holds.
    assert cache.admit(request(2, 40), 40, 0)
    assert (cache.free, cache.available) == (0, 0)
    assert cache.tree is not None
    assert cache.tree.nodes == 0


def test_a_prefix_that_two_computed_is_given_back_once() -> None:
    cache = memory(prefix_tokens=4)
    first, second = request(0, 9, (1, 2)), request(1, 9, (1, 2))
    assert cache.admit(first, 9, 0)
    assert cache.admit(second, 9, 0)
    assert cache.free == 4
    cache.publish(first, 9)
    cache.publish(second, 9)
    assert cache.free == 6
    cache.release(first)
    cache.release(second)
    assert (cache.free, cache.available) == (8, 10)


def test_who_is_not_admitted_holds_nothing() -> None:
    cache = memory(prefix_tokens=4)
    first = request(0, 8, (1, 2))
    assert cache.admit(first, 8, 0)
    cache.publish(first, 8)
    cache.release(first)
    late = request(1, 60, (1, 2))
    assert not cache.admit(late, 60, 0)
    assert (late.node, late.shared, cache.available) == (None, 0, 10)


def test_what_is_stored_elsewhere_is_not_looked_for() -> None:
    cache = memory(prefix_tokens=4)
    first = request(0, 8, (1, 2))
    assert cache.admit(first, 8, 0)
    cache.publish(first, 8)
    back = request(1, 8, (1, 2))
    back.stored = back.done = 8
    assert cache.admit(back, 8, 0)
    assert (back.shared, back.done, cache.free) == (0, 8, 6)


@pytest.mark.parametrize("tokens", [0, 4])
def test_more_than_is_free_is_taken_from_the_idle(tokens: int) -> None:
    cache = memory(prefix_tokens=tokens)
    first = request(0, 20, (1, 2, 3))
    assert cache.admit(first, 20, 0)
    cache.publish(first, 20)
    cache.release(first)
    cache.take(9)
    assert (cache.free, cache.available) == (0 if tokens else 1, 1)


def test_a_state_is_everyones_own_and_a_node_is_what_is_kept_past_the_window() -> None:
    cache = memory(60, prefix_tokens=8, layout=Layout(5, 3, 1, 8))
    first, second = request(0, 18, (1, 2)), request(1, 18, (1, 2))
    assert cache.admit(first, 18, 0)
    # 5 blocks of tokens: 2 of 3 blocks each, 3 of one, and the state.
    assert (first.blocks, cache.used) == (5 + 2 * 3 + 3, 14)
    cache.publish(first, 18)
    assert (first.shared, cache.used) == (4, 14)
    assert cache.admit(second, 18, 0)
    assert (second.done, cache.used) == (16, 14 + 10)
    cache.release(first)
    cache.release(second)
    assert (cache.used, cache.free) == (0, 56)
