"""Replicas: jumps are the steps that they stand for, nothing is lost, and small cases are as by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.serving.settings import ClosedLoop, Cluster, Pool, Scheduler, Speculation, Swap

ISSUED: tuple[dict[str, Any], ...] = (
    {},
    {"issue_s": 8e-3, "issue_decode_s": 6e-3},
    {"issue_s": 8e-3, "graph_decodes": True, "graph_tokens": 9.0},
)
SPECULATIONS = st.sampled_from(
    [None, Speculation((0.8, 0.5)), Speculation((0.9, 0.7, 0.2), expected=True), Speculation((0.6,), n_gram=True)]
)


@st.composite
def schedulers(draw: Any) -> Scheduler:
    """Settings of every kind, some with room for two or three requests only."""
    batching = draw(st.sampled_from(["chunked", "prefill_first", "static"]))
    block = draw(st.sampled_from([1, 8, 16]))
    static = batching == "static"
    return Scheduler(
        kv_blocks=draw(st.sampled_from([1300, 2500, 20000])) // block,
        batching=batching,
        policy=draw(st.sampled_from(["first_come", "priority", "fair", "shortest"])),
        token_budget=draw(st.sampled_from([64, 256, 1000])) + (500 if batching != "chunked" else 0),
        max_sequences=draw(st.integers(1, 16)),
        block_tokens=block,
        watermark=draw(st.sampled_from([0.0, 0.02])),
        swap=draw(st.sampled_from([None, Swap(1e5, 2e10)])),
        prefix_tokens=draw(st.sampled_from([0, 1, 4])) * block,
        ageing_s=draw(st.sampled_from([0.1, 10.0])),
        speculation=None if static else draw(SPECULATIONS),
        reserve=draw(st.sampled_from(["grown", "whole"])),
        piece_tokens=draw(st.sampled_from([0, 0, 40])),
    )


@given(schedulers(), st.integers(0, 10**6), st.sampled_from([1.0, 8.0, 100.0]), st.sampled_from([None, 3, 20]))
@settings(max_examples=150)
def test_jumps_are_the_steps_that_they_stand_for(
    table: Any, poisson: Any, served: Any, scheduler: Scheduler, seed: int, rate: float, clients: int | None
) -> None:
    loop = None if clients is None else ClosedLoop(clients, think_s=0.013)
    runs = [
        served(
            Cluster(Pool(table(host_hidden=seed % 2 == 0, **ISSUED[seed % 3]), replace(scheduler, jump=jump))),
            poisson(40, rate, seed),
            closed_loop=loop,
        )
        for jump in (True, False)
    ]
    jumped, stepped = runs
    np.testing.assert_allclose(jumped.records, stepped.records, rtol=1e-9, atol=1e-9)
    assert len(jumped.segments) <= len(stepped.segments)
    assert jumped.run.steps == stepped.run.steps
    assert jumped.run.refused == stepped.run.refused
    assert jumped.run.busy_s == pytest.approx(stepped.run.busy_s, rel=1e-9)


@given(schedulers(), st.integers(0, 10**6), st.sampled_from([2.0, 100.0]))
@settings(max_examples=60)
def test_tokens_are_conserved(
    table: Any, poisson: Any, served: Any, scheduler: Scheduler, seed: int, rate: float
) -> None:
    chunks = list(poisson(40, rate, seed))
    answer = served(Cluster(Pool(table(), scheduler)), chunks)
    run, rows = answer.run, answer.records
    assert run.requests == 40
    assert run.finished == len(rows)
    assert run.finished + sum(run.refused.values()) == 40
    assert run.prompt_tokens == rows[:, 2].sum()
    assert run.output_tokens == rows[:, 3].sum()
    assert run.cached_tokens == rows[:, 4].sum()
    computed = run.prompt_tokens - run.cached_tokens
    assert run.prefill_tokens == sum(segment[3] for segment in answer.segments)
    assert run.prefill_tokens >= computed
    if not run.preemptions:
        assert run.prefill_tokens == computed
    if scheduler.whole:
        assert not run.preemptions
    assert np.all(rows[:, 1] <= rows[:, 8] + 1e-12)
    assert np.all(rows[:, 8] < rows[:, 9])
    assert np.all((rows[:, 9] < rows[:, 10]) == (rows[:, 3] > 1))
    assert sum(segment[2] for segment in answer.segments) == pytest.approx(run.busy_s[0])


def times(answer: Any) -> list[tuple[float, float, float]]:
    """Scheduled, first token and last token of each request [s]."""
    return [(row[8], row[9], row[10]) for row in np.round(answer.records, 9).tolist()]


def test_a_prompt_is_cut_into_chunks_beside_those_that_decode(fixed: Any, chunk: Any, served: Any) -> None:
    # A step takes 1 s and 0.01 s a token; the budget is 50 tokens and 2 sequences.
    pool = Pool(fixed(1.0, 0.01), Scheduler(1000, token_budget=50, max_sequences=2))
    answer = served(Cluster(pool), [chunk([0.0, 0.5, 0.6], [50, 60, 1], [4, 2, 1])])
    # 0: prefill 50 tokens ends at 1.5. Then 1 decode + 49 of 60: 1.5. Then 1 + 11: 1.12, and 0 ends with its third
    # decode step, 1 + 1: 1.02 with both, which ends both. The third comes last: 1 token, 1.01.
    ends = np.cumsum([1.5, 1.5, 1.12, 1.02, 1.01])
    assert times(answer) == [
        pytest.approx((0.0, ends[0], ends[3])),
        pytest.approx((ends[0], ends[2], ends[3])),
        pytest.approx((ends[3], ends[4], ends[4])),
    ]
    assert [segment[3] for segment in answer.segments] == [50, 49, 11, 0, 1]
    assert [segment[4] for segment in answer.segments] == [0, 1, 1, 2, 0]


def test_ranks_take_a_piece_of_several_prompts_each(fixed: Any, chunk: Any, served: Any) -> None:
    # A step takes 1 s and 0.01 s a token; two ranks of 50 tokens each: no prompt has more than 50 in a step.
    scheduler = Scheduler(1000, token_budget=100, max_sequences=4, piece_tokens=50)
    answer = served(Cluster(Pool(fixed(1.0, 0.01), scheduler)), [chunk([0.0, 0.0, 0.0], [120, 60, 30], 1)])
    # 50 + 50; then 50 + 10 + 30; then 20.
    assert [segment[3] for segment in answer.segments] == [100, 90, 20]
    ends = np.cumsum([2.0, 1.9, 1.2])
    assert times(answer) == [
        pytest.approx((0.0, ends[2], ends[2])),
        pytest.approx((0.0, ends[1], ends[1])),
        pytest.approx((ends[0], ends[1], ends[1])),
    ]
    whole = replace(scheduler, batching="prefill_first")
    assert whole.longest_piece == 100
    assert replace(scheduler, piece_tokens=0).longest_piece == 100
    assert replace(scheduler, piece_tokens=500).longest_piece == 100


def test_prompts_first_let_decodes_wait(fixed: Any, chunk: Any, served: Any) -> None:
    pool = Pool(fixed(1.0, 0.01), Scheduler(1000, batching="prefill_first", token_budget=70, max_sequences=3))
    answer = served(Cluster(pool), [chunk([0.0, 0.5, 0.6, 0.7], [50, 60, 1, 71], [4, 2, 1, 1])])
    # 50 tokens: 1.5; then 60 + 1 tokens at once: 1.61; then 2 decode: 1.02, 1 decodes twice: 1.01 each.
    ends = np.cumsum([1.5, 1.61, 1.02, 2.02])
    assert times(answer) == [
        pytest.approx((0.0, ends[0], ends[3])),
        pytest.approx((ends[0], ends[1], ends[2])),
        pytest.approx((ends[0], ends[1], ends[1])),
    ]
    assert answer.run.refused == {"token_budget": 1}


def test_a_static_batch_is_its_formula(table: Any, chunk: Any, served: Any) -> None:
    made = table()
    answer = served(
        Cluster(Pool(made, Scheduler(4000, batching="static", max_sequences=8))), [chunk([0.0] * 8, 90, 31)]
    )
    prefill = made.seconds(8 * 90, 8 * 90 * 91 / 2, 0, 0, 8)
    decode = sum(made.seconds(0, 0.0, 8, 8 * (90 + step), 8) for step in range(30))
    for scheduled, first, last in ((row[8], row[9], row[10]) for row in answer.records):
        assert (scheduled, first, last) == (0.0, pytest.approx(prefill), pytest.approx(prefill + decode))


def test_a_static_batch_runs_to_its_end(fixed: Any, chunk: Any, served: Any) -> None:
    pool = Pool(fixed(1.0), Scheduler(1000, batching="static", max_sequences=2))
    answer = served(Cluster(pool), [chunk([0.0, 0.0, 0.0], 10, [2, 5, 3])])
    # The first ends after 2 steps; its place is taken until the second has had its 5.
    assert times(answer) == [(0.0, 1.0, 2.0), (0.0, 1.0, 5.0), (5.0, 6.0, 8.0)]
    assert [segment[4] for segment in answer.segments] == [0, 2, 2, 0, 1]


@pytest.mark.parametrize(("swap", "ends"), [(None, (8.0, 11.0)), (Swap(3.0, 30.0), (8.8, 12.6))])
def test_who_came_last_gives_way(
    fixed: Any, chunk: Any, served: Any, swap: Swap | None, ends: tuple[float, float]
) -> None:
    # 5 blocks of 4 tokens: each prompt takes 2, and the first its third when it decodes its first token.
    scheduler = Scheduler(5, block_tokens=4, watermark=0.0, swap=swap, token_budget=100, max_sequences=4)
    answer = served(Cluster(Pool(fixed(1.0), scheduler)), [chunk([0.0, 0.0], [8, 7], [8, 5])])
    # The second step fills the last block of the second, which goes with 8 tokens cached: 9 are computed anew after
    # the first has ended, then 2 tokens are left; or 8 are moved out and in at 10 a second, then 3 are left.
    assert (answer.records[:, 11] == (0, 1)).all()
    assert tuple(answer.records[:, 10]) == pytest.approx(ends)
    assert answer.run.preemptions == 1
    assert answer.run.prefill_tokens == 15 + (9 if swap is None else 0)


@pytest.mark.parametrize(("reserve", "preempted"), [("grown", 1), ("whole", 0)])
def test_room_for_whole_answers_keeps_the_second_waiting(
    fixed: Any, chunk: Any, served: Any, reserve: Any, preempted: int
) -> None:
    # 5 blocks of 4 tokens: the first takes 2 for its prompt and 4 with its answer, the second 2 and 3.
    scheduler = Scheduler(5, block_tokens=4, watermark=0.0, token_budget=100, max_sequences=4, reserve=reserve)
    answer = served(Cluster(Pool(fixed(1.0), scheduler)), [chunk([0.0, 0.0], [8, 7], [8, 5])])
    assert answer.run.preemptions == preempted
    if reserve == "whole":
        # One after the other: 8 steps, then 5; the blocks are those of the first.
        assert times(answer) == [(0.0, 1.0, 8.0), (8.0, 9.0, 13.0)]
        assert answer.run.most_blocks[0] == 4


def test_drafts_have_their_room_reserved(fixed: Any, chunk: Any, served: Any) -> None:
    # 7 tokens of prompt, 5 - 1 of answer and 2 drafts in a step: 13 tokens, 4 blocks.
    drafts = Speculation((1.0, 1.0), n_gram=True)
    scheduler = Scheduler(100, block_tokens=4, watermark=0.0, reserve="whole", speculation=drafts)
    answer = served(Cluster(Pool(fixed(1.0), scheduler)), [chunk([0.0], 7, 5)])
    assert answer.run.most_blocks[0] == 4
    tight = replace(scheduler, kv_blocks=3)
    assert served(Cluster(Pool(fixed(1.0), tight)), [chunk([0.0], 7, 5)]).run.refused == {"kv_blocks": 1}


def test_turns_of_a_session_are_cached(fixed: Any, chunk: Any, served: Any) -> None:
    scheduler = Scheduler(100, block_tokens=4, prefix_tokens=8)
    rows = [chunk([0.0, 100.0, 200.0], [20, 40, 40], [13, 3, 1], session=[5, 5, 6])]
    answer = served(Cluster(Pool(fixed(1.0), scheduler)), rows)
    # The first turn leaves 32 tokens, the second shares them all; another session shares nothing.
    assert list(answer.records[:, 4]) == [0, 32, 0]
    assert answer.run.prefill_tokens == 20 + 8 + 40
    assert answer.run.hit_rate == pytest.approx(0.32)


def test_the_last_token_of_a_prompt_is_always_computed(fixed: Any, chunk: Any, served: Any) -> None:
    scheduler = Scheduler(100, block_tokens=4, prefix_tokens=4)
    blocks = {"block_offsets": np.array([0, 4, 8]), "block_ids": np.array([7, 8, 9, 5] * 2)}
    rows = chunk([0.0, 100.0], [16, 16], 1)
    answer = served(Cluster(Pool(fixed(1.0), scheduler)), [replace(rows, **blocks)])
    assert list(answer.records[:, 4]) == [0, 12]


def test_what_can_never_fit_is_refused(fixed: Any, chunk: Any, served: Any) -> None:
    scheduler = Scheduler(10, block_tokens=4, watermark=0.1, max_context=60)
    answer = served(Cluster(Pool(fixed(1.0), scheduler)), [chunk([0.0] * 4, [30, 30, 30, 50], [7, 8, 20, 11])])
    assert answer.run.refused == {"kv_blocks": 2, "max_context": 1}
    assert list(answer.records[:, 0]) == [0]


def test_drafts_that_hold_shorten_answers(fixed: Any, chunk: Any, served: Any) -> None:
    def makespan(speculation: Speculation | None) -> float:
        pool = Pool(fixed(1.0), Scheduler(1000, speculation=speculation))
        return float(served(Cluster(pool), [chunk([0.0], 10, 31)]).run.makespan_s)

    assert makespan(None) == pytest.approx(31.0)
    assert makespan(Speculation((1.0, 1.0), n_gram=True)) == pytest.approx(11.0)
    assert makespan(Speculation((0.5, 0.0), n_gram=True, expected=True)) == pytest.approx(21.0)
    assert 17.0 <= makespan(Speculation((0.5,), n_gram=True)) <= 27.0


def test_a_small_class_passes_but_nobody_starves(fixed: Any, chunk: Any, served: Any) -> None:
    scheduler = Scheduler(1000, policy="priority", max_sequences=1, ageing_s=20.0)
    arrivals = [0.0, 0.1, *(0.2 + 1.5 * count for count in range(40))]
    answer = served(Cluster(Pool(fixed(1.0), scheduler)), [chunk(arrivals, 5, 2, priority=[0, 1, *[0] * 40])])
    # The queue grows by one every 2 s: the request of class 1 is next once all that came within 20 s are served.
    scheduled = answer.records[:, 8]
    assert scheduled[1] == pytest.approx(30.0)
    assert np.all(np.diff(np.delete(scheduled, 1)) > 0.0)


@given(st.integers(0, 10**6), st.sampled_from(["chunked", "prefill_first"]))
@settings(max_examples=25)
def test_more_of_anything_is_no_slower_in_a_closed_loop(
    table: Any, chunk: Any, served: Any, seed: int, batching: Any
) -> None:
    random = np.random.default_rng(seed)
    prompt, output = int(random.integers(20, 300)), int(random.integers(20, 100))
    scheduler = Scheduler(40, batching=batching, token_budget=1000, max_sequences=64, watermark=0.0)

    def rate(pool: Pool) -> float:
        answer = served(Cluster(pool), [chunk([0.0] * 200, prompt, output)], closed_loop=ClosedLoop(32))
        return float(answer.run.output_tokens_per_s)

    plain = rate(Pool(table(), scheduler))
    assert rate(Pool(table(0.5), scheduler)) >= plain
    assert rate(Pool(table(), replace(scheduler, kv_blocks=2000))) >= plain * (1.0 - 1e-9)
