"""A batch by hand: who is admitted, what must stay free, who gives way."""

from __future__ import annotations

from typing import Any

import pytest

from cosim.engines.serving.batch import Batch, Chunks
from cosim.engines.serving.layout import Layout
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Scheduler, Swap


def batch(blocks: int = 10, **settings: Any) -> Batch:
    fields = {"block_tokens": 4, "watermark": 0.0, "token_budget": 100, "max_sequences": 4, **settings}
    return Batch(Scheduler(blocks, **fields), None)


def waiting(made: Batch, *prompts: int, output: int = 9, **more: Any) -> list[Request]:
    requests = [
        Request(number, float(number), prompt, output, target=prompt, **more) for number, prompt in enumerate(prompts)
    ]
    for request in requests:
        made.wait(request)
    return requests


def test_admission_is_in_order_and_within_budget() -> None:
    made = batch()
    first, second, third = waiting(made, 8, 12, 4)
    chunks: Chunks = []
    assert made.admit(chunks, 15, 7.0) == 0.0
    assert chunks == [(first, 8), (second, 7)]
    assert (made.memory.free, made.prefill_left, made.held_tokens) == (5, 20, 20)
    assert (first.scheduled_s, third.scheduled_s) == (7.0, -1.0)
    assert not made.blocked


def test_nobody_overtakes_the_one_that_does_not_fit() -> None:
    made = batch()
    waiting(made, 24, 20, 4)
    chunks: Chunks = []
    made.admit(chunks, 100, 0.0)
    assert [request.number for request, _ in chunks] == [0]
    assert made.blocked
    assert made.full()
    assert len(made.queue) == 2


def test_states_and_windows_are_room_as_well() -> None:
    # 4 tokens are 3 blocks of the cache up to 8 tokens and one after; a sequence keeps 5 more.
    made = batch(30, layout=Layout(5, 3, 1, 8))
    first, second = waiting(made, 16, 4, 4)[:2]
    chunks: Chunks = []
    made.admit(chunks, 100, 0.0)
    assert (first.blocks, second.blocks) == (13, 8)
    assert len(chunks) == 3
    assert made.memory.free == 30 - 13 - 8 - 8


def test_whole_prompts_only() -> None:
    made = batch(100)
    waiting(made, 60, 50, 10)
    chunks: Chunks = []
    made.admit(chunks, 100, 0.0, whole=True)
    assert [tokens for _, tokens in chunks] == [60]
    assert not made.blocked


def test_a_static_batch_has_room_to_its_end() -> None:
    made = batch(batching="static")
    waiting(made, 8, 8, 8, output=9)
    chunks: Chunks = []
    made.admit(chunks, 100, 0.0, whole=True)
    # 8 + 9 - 1 tokens are 4 blocks each.
    assert len(chunks) == 2
    assert made.memory.free == 2


def decoding(made: Batch, *lengths: int) -> list[Request]:
    """Sequences that decode with so many tokens cached."""
    requests = waiting(made, *lengths)
    made.admit([], 10**6, 0.0)
    made.prefilling.clear()
    made.prefill_left = 0
    for request in requests:
        request.done, request.generated = request.target, 1
        made.join(request, request.target)
    return requests


def test_room_is_kept_for_those_that_decode() -> None:
    made = batch(7)
    decoding(made, 8, 8)
    late = Request(9, 9.0, 8, 1, target=8)
    made.wait(late)
    made.admit([], 100, 0.0)
    # 3 blocks are free, the next step needs 2 of them.
    assert late not in made.running
    made.blocked = False
    made.decoding.step = 1
    made.admit([], 100, 0.0)
    assert late in made.running


@pytest.mark.parametrize("swap", [None, Swap(2.0, 4.0)])
def test_who_came_last_gives_way(swap: Swap | None) -> None:
    made = batch(4, swap=swap)
    first, second = decoding(made, 8, 8)
    preempted, seconds = made.make_room()
    assert preempted
    assert seconds == (4.0 if swap else 0.0)
    assert list(made.running) == [first]
    assert made.queue.head() is second
    assert (second.target, second.stored, second.left) == ((8, 8, 0) if swap else (9, 0, 9))
    assert (made.memory.free, made.preemptions, second.preemptions) == (2, 1, 1)
    made.check()


def test_the_lowest_class_gives_way() -> None:
    made = batch(4, policy="priority", ageing_s=100.0)
    requests = waiting(made, 8)
    requests[0].priority = 0
    low = Request(5, 0.0, 8, 9, priority=3, target=8)
    made.queue.pop()
    for request in (low, requests[0]):
        made.wait(request)
    made.admit([], 100, 0.0)
    made.prefilling.clear()
    for request in (low, requests[0]):
        request.done, request.generated = 8, 1
        made.join(request, 8)
    made.make_room()
    assert list(made.running) == [requests[0]]


def test_a_prompt_that_gives_way_starts_anew() -> None:
    made = batch(4)
    first = decoding(made, 8)[0]
    late = Request(9, 9.0, 5, 9, target=5)
    made.memory.take(-1)
    made.wait(late)
    made.admit([], 3, 1.0)
    late.done = 3
    made.prefill_left -= 3
    made.memory.take(1)
    made.memory.take(made.memory.free)
    made.make_room()
    assert (late.done, made.prefill_left, made.held_tokens) == (0, 0, 0)
    assert list(made.running) == [first]


def test_the_check_finds_what_is_lost() -> None:
    made = batch()
    decoding(made, 8, 7)
    made.check()
    made.memory.free -= 1
    with pytest.raises(AssertionError, match="blocks: 9"):
        made.check()
    made.memory.free += 1
    made.decoding.context += 1
    with pytest.raises(AssertionError, match="context"):
        made.check()


def test_whole_answers_are_reserved_and_leave_as_they_came() -> None:
    made = batch(reserve="whole")
    first, second = waiting(made, 8, 12, output=9)
    chunks: Chunks = []
    made.admit(chunks, 100, 0.0)
    # 16 tokens and 20: 4 blocks and 5.
    assert (first.blocks, second.blocks, made.memory.free) == (4, 5, 1)
    assert made.make_room() == (False, 0.0)
    first.done, first.generated = first.target, 1
    made.prefilling.remove(first)
    made.prefill_left -= first.prompt
    made.join(first, 8)
    made.check()
    made.decoding.advance(3)
    made.leave(first)
    made.remove(first)
    assert made.memory.free == 5


def test_a_single_token_reserves_its_prompt() -> None:
    made = batch(reserve="whole")
    (one,) = waiting(made, 8, output=1)
    made.admit([], 100, 0.0)
    assert one.blocks == 2
