"""Served requests in closed form: a static batch, a steady state, prompts on workers of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case
from cosim.engines.served import Demand, Served, apart, flight_steps, holds, in_flight, static_batch, step_seconds
from cosim.engines.served_memory import room
from cosim.records import Array, array
from cosim.workload.work import Work, decode_work, prefill_work

Serving = Callable[..., Case]
POLICIES = ("chunked", "first")
LEVELS = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
TILES = 0.94
"""Products grow in tiles: a little more work may cost a little more than its share."""


def demand(prompt: float, output: float, concurrency: Array | float, **more: Any) -> Demand:
    many = array(concurrency)
    return Demand(np.full(many.shape, prompt), np.full(many.shape, output), many, **more)


def number(values: Array | float) -> float:
    """The only number, or the first."""
    return float(np.ravel(values)[0])


def seconds(case: Case, work: Work) -> float:
    """One step timed by itself."""
    timed, _ = timed_step(replace(case, work=work))
    return number(np.ravel(timed["time"])[0])


def step(decodes: float, context: float, chunks: float = 0.0, chunk: float = 0.0, past: float = 0.0) -> Work:
    numbers = (chunks, chunk, past, decodes, context, decodes + chunks)
    return Work(*(array(value) for value in numbers))


MIXTURES = st.tuples(st.integers(0, 64), st.integers(1, 4000), st.integers(0, 4), st.integers(1, 900))


@settings(max_examples=10, deadline=None)
@given(works=st.lists(MIXTURES.filter(lambda row: row[0] + row[2] > 0), min_size=1, max_size=4))
def test_many_kinds_of_steps_at_once_are_each_alone(serving: Serving, works: list[tuple[int, ...]]) -> None:
    case = serving()
    many = [step(*map(float, row)) for row in works]
    found = step_seconds(case, many)
    for work, value in zip(many, found, strict=True):
        assert number(value[0]) == pytest.approx(seconds(case, work), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(decodes=st.integers(1, 256), context=st.integers(1, 6000), chunks=st.integers(1, 6), chunk=st.integers(1, 1500))
def test_a_mixed_step_takes_no_longer_than_its_halves_and_no_less_than_either(
    serving: Serving, decodes: int, context: int, chunks: int, chunk: int
) -> None:
    case = serving()
    both, decode, fill = (
        number(value[0])
        for value in step_seconds(
            case,
            [
                step(decodes, context, chunks, chunk),
                decode_work(array(decodes), array(context)),
                prefill_work(array(chunks), array(chunk)),
            ],
        )
    )
    assert both <= (decode + fill) * 1.02
    assert both >= max(decode, fill) * 0.99


def test_weights_are_read_once_for_both_halves(serving: Serving) -> None:
    case = serving()
    alone = seconds(case, step(8.0, 100.0)), seconds(case, step(0.0, 0.0, 1.0, 64.0))
    both = seconds(case, step(8.0, 100.0, 1.0, 64.0))
    weights = 2.0 * 7.5e9 / 3.35e12
    assert sum(alone) - both > 0.9 * weights


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 64), prompt=st.integers(1, 3000), output=st.integers(1, 500))
def test_a_static_batch_is_its_prompts_and_its_steps(serving: Serving, batch: int, prompt: int, output: int) -> None:
    served = static_batch(serving(**{"stack.policy": "static"}), demand(prompt, output, batch))
    assert number(served.e2e) == pytest.approx(number(served.ttft + (output - 1.0) * served.tpot))
    assert number(served.rate * served.e2e) == pytest.approx(batch)
    assert number(served.held) == batch


def test_a_static_batch_by_hand(serving: Serving) -> None:
    case = serving(**{"stack.policy": "static"})
    served = static_batch(case, demand(512, 101, 16))
    assert number(served.ttft) == pytest.approx(seconds(case, prefill_work(array(16.0), array(512.0))))
    steps = [seconds(case, decode_work(array(16.0), array(number(context)))) for context in range(513, 613)]
    assert number(served.e2e - served.ttft) == pytest.approx(sum(steps), rel=2e-3)


def test_without_prompts_every_token_is_a_step(serving: Serving) -> None:
    served = static_batch(serving(), demand(0, 64, 4))
    assert number(served.ttft) == 0.0
    assert number(served.e2e) == pytest.approx(64 * number(served.tpot))


def test_prompts_beyond_the_budget_are_filled_one_after_the_other(serving: Serving) -> None:
    case = serving(**{"stack.token_budget": 1024})
    served = static_batch(case, demand(1024, 1, 4))
    assert number(served.ttft) == pytest.approx(4 * seconds(case, step(0.0, 0.0, 1.0, 1024.0)), rel=0.02)
    long = static_batch(case, demand(4096, 1, 1))
    pieces = [seconds(case, step(0.0, 0.0, 1.0, 1024.0, past)) for past in (0.0, 1024.0, 2048.0, 3072.0)]
    assert number(long.ttft) == pytest.approx(sum(pieces), rel=0.02)


def test_the_front_end_is_part_of_the_first_token(serving: Serving) -> None:
    starts = (0.0, 0.25)
    quick, slow = (in_flight(serving(**{"stack.request_start": start}), demand(512, 64, 4)) for start in starts)
    assert number(slow.ttft - quick.ttft) == pytest.approx(0.25, abs=0.02)
    quick, slow = (static_batch(serving(**{"stack.request_start": start}), demand(512, 64, 4)) for start in starts)
    assert number(slow.ttft) == number(quick.ttft)  # a batch inside the engine has none


@settings(max_examples=10, deadline=None)
@given(steps=st.floats(0.0, 20.0), prompt=st.integers(1, 4000), output=st.integers(100, 600), many=st.integers(2, 64))
def test_a_front_end_may_take_steps(serving: Serving, steps: float, prompt: int, output: int, many: int) -> None:
    # Of answers of a few tokens a further token is no step of the mean length: what is told to either is rough there.
    none, some = (in_flight(serving(**{"stack.request_steps": k}), demand(prompt, output, many)) for k in (0.0, steps))
    # A cycle that is longer leaves prompts a little more room.
    assert number(some.e2e) >= number(none.e2e) * (1.0 - 1e-12)
    assert number(some.ttft - none.ttft) <= steps * number(none.tpot) * 1.005 + 1e-9
    assert number(some.tpot) <= number(none.tpot) * 1.03


@settings(max_examples=10, deadline=None)
@given(steps=st.floats(0.0, 20.0), prompt=st.integers(1, 4000), output=st.integers(2, 600))
def test_alone_a_front_end_takes_the_steps_that_it_says(
    serving: Serving, steps: float, prompt: int, output: int
) -> None:
    none, some = (in_flight(serving(**{"stack.request_steps": k}), demand(prompt, output, 1)) for k in (0.0, steps))
    assert number(some.ttft - none.ttft) == pytest.approx(steps * number(none.tpot), rel=1e-6, abs=1e-9)
    assert number(some.tpot) == pytest.approx(number(none.tpot))


def test_steps_of_a_front_end_count_where_prompts_have_workers_of_their_own(serving: Serving) -> None:
    one = (array(1.0), array(1.0))
    asked = demand(2000, 200, array([1.0]))
    none, some = (apart(serving(**{"stack.request_steps": k}), serving(), asked, one, array(0.1)) for k in (0.0, 5.0))
    assert number(some.ttft - none.ttft) == pytest.approx(5.0 * number(none.tpot), rel=0.05)


@settings(max_examples=10, deadline=None)
@given(start=st.floats(0.0, 1.0), prompt=st.integers(1, 4000), output=st.integers(1, 600))
def test_behind_a_queue_the_front_end_costs_no_rate(serving: Serving, start: float, prompt: int, output: int) -> None:
    none, some = (serving(**{"stack.max_sequences": 8, "stack.request_start": each}) for each in (0.0, start))
    # Beside those that are held so many are in the front end, and a few wait.
    behind = 8.0 + start * number(in_flight(none, demand(prompt, output, np.nan)).rate) + 4.0
    for many in (np.nan, behind):
        quick, slow = (in_flight(case, demand(prompt, output, many)) for case in (none, some))
        assert number(slow.rate) == pytest.approx(number(quick.rate))
        assert number(slow.held) == pytest.approx(8.0)
    quick, slow = (in_flight(case, demand(prompt, output, 2.0)) for case in (none, some))
    assert number(slow.rate) <= number(quick.rate) * (1.0 + 1e-12)
    assert number(slow.held) == pytest.approx(2.0 - start * number(slow.rate))


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=15, deadline=None)
@given(start=st.floats(0.0, 1.0), steps=st.floats(0.0, 10.0), prompt=st.integers(1, 4000), output=st.integers(1, 600))
def test_one_more_client_past_what_is_held_makes_nothing_faster(
    serving: Serving, policy: str, start: float, steps: float, prompt: int, output: int
) -> None:
    front = {"stack.request_start": start, "stack.request_steps": steps}
    case = serving(**{"stack.max_sequences": 16, "stack.policy": policy, **front})
    levels = np.concatenate([np.linspace(16.0, 24.0, 33), np.geomspace(25.0, 2000.0, 20)])
    served = in_flight(case, demand(prompt, output, levels))
    for rising in (served.rate, served.e2e, served.held):
        assert np.all(np.diff(rising) >= -1e-9 * rising[:-1])
    # None skips its front end or its prompt, and nothing jumps.
    steps_of = flight_steps(case, demand(prompt, output, levels), np.full(levels.shape, 16.0))
    assert np.all(served.ttft >= start + steps * steps_of.step + steps_of.carried - 1e-9)
    assert np.all(served.e2e[1:33] <= served.e2e[:32] * (levels[1:33] / levels[:32]) * (1.0 + 1e-9))
    below, above = (number(in_flight(case, demand(prompt, output, 16.0 + x)).rate) for x in (0.0, 1e-6))
    assert above == pytest.approx(below, rel=1e-5)
    np.testing.assert_allclose(served.rate * served.e2e, levels, rtol=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=10, deadline=None)
@given(prompt=st.integers(1, 5000), output=st.integers(1, 1000), alike=st.booleans())
def test_littles_law_and_the_parts_of_a_request(
    serving: Serving, policy: str, prompt: int, output: int, alike: bool
) -> None:
    served = in_flight(serving(**{"stack.policy": policy}), demand(prompt, output, LEVELS, alike=alike))
    np.testing.assert_allclose(served.rate * served.e2e, LEVELS, rtol=1e-12)
    np.testing.assert_allclose(served.ttft + max(output - 1.0, 0.0) * served.tpot, served.e2e, rtol=1e-12)
    for value in (served.ttft, served.tpot, served.rate):
        assert np.all(np.isfinite(value))
        assert np.all(value > 0.0)
    assert np.all(served.waits >= 0.0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lengths", [(1000.0, 100.0), (100.0, 1000.0), (4000.0, 20.0), (30.0, 30.0)])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b"])
def test_more_in_flight_serve_more_a_second_and_each_more_slowly(
    serving: Serving, policy: str, lengths: tuple[float, float], model: str
) -> None:
    served = in_flight(serving(model, **{"stack.policy": policy}), demand(*lengths, LEVELS))
    assert np.all(served.rate[1:] >= TILES * served.rate[:-1])
    assert np.all(served.tpot[1:] >= TILES * served.tpot[:-1])
    assert served.rate[-1] > 2.0 * served.rate[0]


def test_one_request_alone_is_its_prompt_and_its_steps(serving: Serving) -> None:
    case = serving()
    served = in_flight(case, demand(1000, 201, 1))
    assert number(served.ttft) == pytest.approx(seconds(case, step(0.0, 0.0, 1.0, 1000.0)))
    assert number(served.tpot) == pytest.approx(seconds(case, step(1.0, 1100.5)), rel=1e-3)
    assert number(served.waits) == 0.0


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(["host_step", "host_sequence", "request_start", "host_kernel"]),
    value=st.floats(1e-6, 1e-3),
    conc=st.sampled_from([1.0, 16.0, 100.0]),
)
def test_a_slower_host_is_never_faster(serving: Serving, name: str, value: float, conc: float) -> None:
    none = {"stack.host_step": 0.0}
    quick, slow = (in_flight(serving(**{**none, f"stack.{name}": x}), demand(500, 200, conc)) for x in (0.0, value))
    assert number(slow.rate) <= number(quick.rate) * (1.0 + 1e-12)
    assert number(slow.e2e) >= number(quick.e2e) * (1.0 - 1e-12)


@pytest.mark.parametrize("rate", ["matmul", "attention", "vector"])
def test_slower_kernels_are_never_faster(serving: Serving, rate: str) -> None:
    rates = {f"stack.{rate}_rate": [1.0, 0.8, 0.5, 0.1]}
    served = in_flight(serving(**rates), demand(500, 200, np.full(4, 32.0)))
    assert np.all(np.diff(served.rate) <= 0.0)
    assert served.rate[-1] < served.rate[0]


def test_no_more_are_held_than_memory_and_stack_let(serving: Serving) -> None:
    tight = serving(**{"stack.max_sequences": 1e6, "system.chip.memory.dram.capacity": "24 GB"})
    found = in_flight(tight, demand(2000, 500, array([1.0, 16.0, 1024.0])))
    most = room(tight, array(2250.0)).sequences
    assert 1.0 < number(most[0]) < 1024.0
    np.testing.assert_array_equal(found.held, np.minimum([1.0, 16.0, 1024.0], most))
    # Those who are not held wait for their turn.
    assert number(found.waits[2]) > number(found.waits[1])
    few = in_flight(serving(**{"stack.max_sequences": 8}), demand(100, 100, 64))
    assert number(few.held) == 8.0
    assert number(few.rate * few.e2e) == pytest.approx(64.0)


def test_as_many_as_the_system_holds_where_no_number_is_given(serving: Serving) -> None:
    case = serving(**{"stack.max_sequences": 100})
    full, asked = (in_flight(case, demand(500, 100, conc)) for conc in (np.nan, 100.0))
    assert (number(full.held), number(full.rate)) == (100.0, pytest.approx(number(asked.rate)))


def test_replicas_share_requests_and_answer_as_many_times(serving: Serving) -> None:
    one, four = (in_flight(serving(data_parallel=d), demand(500, 100, 16.0 * d)) for d in (1, 4))
    assert number(four.rate) == pytest.approx(4 * number(one.rate))
    assert number(four.e2e) == pytest.approx(number(one.e2e))
    assert number(four.held) == 16.0


@settings(max_examples=10, deadline=None)
@given(spread=st.floats(1.0, 2.0), more=st.floats(0.0, 2.0))
def test_longer_answers_are_met_more_often(serving: Serving, spread: float, more: float) -> None:
    both = [in_flight(serving(), demand(100, 1000, 64, spread=array(s))) for s in (spread, spread + more)]
    assert number(both[1].rate) <= number(both[0].rate) * (1.0 + 1e-12)
    assert number(demand(100, 1000, 64, spread=array(spread)).made) == pytest.approx(500 * spread)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=8, deadline=None)
@given(prompt=st.integers(1, 9000), output=st.integers(2, 500), waves=st.floats(1.0, 50.0), more=st.floats(1.1, 9.0))
def test_a_shorter_benchmark_holds_more_of_its_start(
    serving: Serving, policy: str, prompt: int, output: int, waves: float, more: float
) -> None:
    many = np.full(2, 32.0)
    runs = demand(prompt, output, many, waves=array([waves, waves * more]))
    short, long = in_flight(serving(**{"stack.policy": policy}), runs).ttft
    endless = number(in_flight(serving(**{"stack.policy": policy}), demand(prompt, output, 32.0)).ttft)
    assert short >= long * (1.0 - 1e-12)
    assert long >= endless * (1.0 - 1e-12)


def test_prompts_of_a_first_wave_end_with_the_step_that_they_share(serving: Serving) -> None:
    # Eight prompts of 1,000 tokens fill a step of 8,000: the first wave of 64 sees eight such steps, on average 4.5.
    case = serving(**{"stack.token_budget": 8000})
    once, endless = (in_flight(case, demand(1000, 2000, 64, waves=array(w))) for w in (1.0, np.inf))
    full = seconds(case, step(0.0, 0.0, 8.0, 1000.0))
    assert number(once.ttft) == pytest.approx(4.5 * full, rel=0.15)
    assert number(once.rate) == number(endless.rate)
    assert number(flight_steps(case, demand(1000, 2000, 64), array(64.0)).at_once) == 8.0
    assert number(flight_steps(case, demand(1000, 2000, 4), array(4.0)).at_once) == 4.0


def test_prompts_that_come_together_do_not_share_what_memory_hides(serving: Serving) -> None:
    # Of 64 answers of 16 tokens four end in a step: their prompts fill it beyond what reading the weights hides.
    case = serving(**{"stack.token_budget": 8192})
    served = in_flight(case, demand(100, 16, 64))
    one, four = (seconds(case, step(64.0 - n, 108.0, n, 100.0)) for n in (1.0, 4.0))
    assert four > 1.5 * one
    assert number(served.e2e) > 16 * 0.9 * four


def test_prompts_on_workers_of_their_own_never_disturb_answers(serving: Serving) -> None:
    decode, prefill = serving(tensor_parallel=2), serving()
    one, four = (array(1.0), array(1.0)), (array(4.0), array(1.0))
    asked = demand(2000, 200, LEVELS)
    found, more = (apart(decode, prefill, asked, workers, array(0.1)) for workers in (one, four))
    np.testing.assert_allclose(found.rate * found.e2e, LEVELS, rtol=1e-12)
    np.testing.assert_allclose(found.ttft + 199 * found.tpot, found.e2e, rtol=1e-12)
    for index, level in enumerate(LEVELS):
        assert found.tpot[index] == pytest.approx(seconds(decode, step(level, 2100.0)))
    # Alone: the prompt on its worker and the way of its cache; in a crowd the prompts' workers are the bound.
    fill = seconds(prefill, step(0.0, 0.0, 1.0, 2000.0))
    assert found.ttft[0] == pytest.approx(fill + 0.1, rel=0.02)
    assert found.rate[-1] <= 1.0 / fill * (1.0 + 1e-9)
    assert np.all(more.rate >= found.rate * (1.0 - 1e-12))
    assert more.rate[-1] > 1.5 * found.rate[-1]


def test_points_of_a_batch_are_what_they_are_alone(serving: Serving) -> None:
    rows = [(100.0, 10.0, 4.0), (5000.0, 300.0, 64.0), (30.0, 900.0, np.nan)]
    columns = [array(column) for column in zip(*rows, strict=True)]
    together = in_flight(serving(), Demand(*columns))
    for index, row in enumerate(rows):
        alone = in_flight(serving(), demand(*row))
        for name in Served.__slots__:
            assert number(getattr(together, name)[index]) == pytest.approx(number(getattr(alone, name)), rel=1e-12)


def test_what_has_no_cache_is_served_by_its_passes(serving: Serving) -> None:
    case = serving("bert-large-pretraining")
    assert number(holds(case, demand(128, 1, 8))) == 256.0
    served = in_flight(case, demand(128, 1, 8))
    assert number(served.rate * served.e2e) == pytest.approx(8.0)
    assert seconds(case, prefill_work(array(8.0), array(128.0))) <= number(served.e2e) * 8
