"""Room of a replica: what weights and a full step leave, in sequences; never less with more memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case
from cosim.engines.served_memory import Room, room
from cosim.records import array

Serving = Callable[..., Case]
GIB = 2.0**30
SHOWN = 81559 * 2.0**20
"""What the driver of an H100 shows."""


def held(case: Case, tokens: float = 1000.0) -> float:
    return float(np.ravel(room(case, array(tokens)).sequences)[0])


def test_a_whole_number_of_sequences_fits_what_is_left() -> None:
    numbers = (array(100.0), array(0.5), array(60.0), array(10.0), array(5.0), array(6.0))
    one = Room(*numbers)
    assert (float(one.left), float(one.sequences)) == (12.5, 2.0)
    none = Room(array(70.0), *numbers[1:])
    assert (float(none.left), float(none.sequences)) == (-2.5, 0.0)


@settings(max_examples=15, deadline=None)
@given(
    capacity=st.integers(20, 200),
    more=st.integers(1, 100),
    tokens=st.integers(10, 20_000),
    model=st.sampled_from(["llama-3.1-8b", "deepseek-v2-lite", "nemotron-3-nano-30b-a3b", "gpt-oss-20b"]),
)
def test_more_memory_holds_at_least_as_many(
    serving: Serving, capacity: int, more: int, tokens: int, model: str
) -> None:
    small, large = (
        serving(model, **{"system.chip.memory.dram.capacity": f"{size} GB"}) for size in (capacity, capacity + more)
    )
    assert held(small, tokens) <= held(large, tokens)


@settings(max_examples=15, deadline=None)
@given(tokens=st.integers(1, 20_000), longer=st.integers(1, 20_000))
def test_longer_sequences_are_never_more(serving: Serving, tokens: int, longer: int) -> None:
    found = room(serving(), array([tokens, tokens + longer]))
    assert found.sequences[1] <= found.sequences[0]
    np.testing.assert_allclose(found.per_sequence, 131_072.0 * np.array([tokens, tokens + longer]))


def test_room_of_llama_8b_on_an_h100_by_hand(serving: Serving) -> None:
    found = room(serving(), array(1000.0))
    assert float(found.most) == pytest.approx(0.9 * SHOWN)
    assert float(found.weights[0]) == pytest.approx(8_030_261_248 * 2.0)
    assert float(found.per_sequence[0]) == 1000 * 32 * 2 * 8 * 128 * 2
    left = found.most - found.weights - found.activations - found.other
    assert held(serving()) == np.floor(left / found.per_sequence)[0]


def test_a_share_of_what_is_free_is_less_than_the_same_share_of_all(serving: Serving) -> None:
    whole, free = (room(serving(**{"stack.share_of_free": flag}), array(1000.0)) for flag in (False, True))
    assert float(free.most) == pytest.approx(SHOWN)
    left = free.most - free.weights - free.activations - free.other
    assert float(free.left[0]) == pytest.approx(0.9 * float(left[0]))
    # A tenth of what is free is less than a tenth of all.
    assert float(free.left[0]) > float(whole.left[0])


@pytest.mark.parametrize(("share", "fits"), [(0.9, True), (0.19, False)])
def test_weights_that_do_not_fit_leave_no_room(serving: Serving, share: float, fits: bool) -> None:
    case = serving(**{"stack.memory_share": share})
    assert (held(case) > 0.0) is fits


def test_a_larger_step_takes_room_from_the_cache(serving: Serving) -> None:
    budgets = {"stack.token_budget": [512.0, 8192.0]}
    found = room(serving(**budgets), array([1000.0, 1000.0]))
    assert found.activations[1] > found.activations[0]
    assert found.sequences[1] < found.sequences[0]


def test_tensor_ranks_share_the_cache_and_replicas_hold_their_own(serving: Serving) -> None:
    one, four = (room(serving(tensor_parallel=t), array(1000.0)) for t in (1, 4))
    assert float(four.per_sequence[0]) == pytest.approx(float(one.per_sequence[0]) / 4)
    assert float(four.sequences[0]) > 4 * float(one.sequences[0])
    assert held(serving(data_parallel=8)) == held(serving())


def test_a_narrower_cache_holds_twice_as_many(serving: Serving) -> None:
    wide, narrow = (room(serving(kv_dtype=kept), array(1000.0)) for kept in ("bf16", "fp8"))
    assert float(narrow.per_sequence[0]) == float(wide.per_sequence[0]) / 2


def test_the_state_of_a_sequence_counts_whatever_its_length(serving: Serving) -> None:
    case = serving("nemotron-h-56b", tensor_parallel=8)
    found = room(case, array([1.0, 1001.0]))
    state = float(case.model.layers * case.model.state_bytes) / 8
    token = (float(found.per_sequence[1]) - float(found.per_sequence[0])) / 1000
    assert float(found.per_sequence[0]) == pytest.approx(state + token)
    assert state > 100 * token


def test_without_a_stack_all_of_the_memory_is_there(case_of: Callable[..., Case]) -> None:
    found = room(case_of("serve"), array(1000.0))
    assert float(found.most) == pytest.approx(SHOWN)
    assert float(found.activations[0]) < 0.01 * GIB
