"""What a serving step works on: its tokens, its two halves, the share of one rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.records import array, points
from cosim.workload.work import Work, decode_work, prefill_work, shared

COUNTS = st.integers(0, 40)
LENGTHS = st.integers(1, 5000)


def work(chunks: float, chunk: float, past: float, decodes: float, context: float, each: float = 1.0) -> Work:
    numbers = (array(value) for value in (chunks, chunk, past, decodes, context, chunks + decodes, each))
    return Work(*numbers)


@settings(max_examples=60, deadline=None)
@given(chunks=COUNTS, chunk=LENGTHS, past=COUNTS, decodes=COUNTS, context=LENGTHS, each=st.integers(1, 5))
def test_tokens_are_those_of_both_halves(
    chunks: int, chunk: int, past: int, decodes: int, context: int, each: int
) -> None:
    made = work(chunks, chunk, past, decodes, context, each)
    assert float(made.new) == chunks * chunk
    assert float(made.tokens) == chunks * chunk + decodes * each
    seen = float(made.prompts.rows * made.prefills + made.answers.rows * made.decoding)
    assert seen == float(made.tokens)


@settings(max_examples=60, deadline=None)
@given(chunks=COUNTS, chunk=LENGTHS, decodes=COUNTS, context=LENGTHS, ranks=st.integers(1, 16))
def test_ranks_share_sequences_and_not_their_lengths(
    chunks: int, chunk: int, decodes: int, context: int, ranks: int
) -> None:
    whole = work(chunks, chunk, 7.0, decodes, context, 2.0)
    part = shared(whole, array(ranks))
    assert float(part.tokens * ranks) == pytest.approx(float(whole.tokens))
    assert float(part.sampled * ranks) == pytest.approx(float(whole.sampled))
    same = ("chunk", "past", "context", "each")
    assert [float(getattr(part, name)) for name in same] == [float(getattr(whole, name)) for name in same]


def test_a_piece_sees_the_tokens_before_it() -> None:
    prompts = work(3.0, 100.0, 250.0, 0.0, 1.0).prompts
    assert (prompts.phase, float(prompts.sequences)) == ("prefill", 3.0)
    assert (float(prompts.query), float(prompts.context)) == (100.0, 350.0)


def test_a_draft_and_its_check_are_several_tokens_of_one_sequence() -> None:
    answers = work(0.0, 1.0, 0.0, 5.0, 900.0, 4.0).answers
    assert (answers.phase, float(answers.sequences)) == ("decode", 5.0)
    assert (float(answers.query), float(answers.context)) == (4.0, 900.0)


@pytest.mark.parametrize("half", ["prompts", "answers"])
def test_an_absent_half_is_one_token_that_is_counted_no_time(half: str) -> None:
    made = decode_work(array(4.0), array(9.0)) if half == "prompts" else prefill_work(array(4.0), array(9.0))
    absent = getattr(made, half)
    assert (float(absent.sequences), float(absent.query), float(absent.context)) == (1.0, 1.0, 1.0)
    assert float(made.prefills + made.decoding) == 1.0
    assert float(made.prefills if half == "prompts" else made.decoding) == 0.0


def test_whole_prompts_and_single_tokens_draw_one_token_a_sequence() -> None:
    filled, stepped = prefill_work(array(6.0), array(50.0)), decode_work(array(6.0), array(50.0))
    assert (float(filled.tokens), float(filled.sampled), float(filled.past)) == (300.0, 6.0, 0.0)
    assert (float(stepped.tokens), float(stepped.sampled), float(stepped.context)) == (6.0, 6.0, 50.0)


def test_points_may_differ_in_which_half_they_have() -> None:
    both = Work(*(array(x) for x in ([0.0, 2.0], [0.0, 10.0], [0.0, 0.0], [3.0, 0.0], [8.0, 0.0], [3.0, 2.0])))
    assert points(both) == 2
    np.testing.assert_array_equal(both.tokens, [3.0, 20.0])
    np.testing.assert_array_equal(both.prefills, [0.0, 1.0])
    np.testing.assert_array_equal(both.decoding, [1.0, 0.0])
    np.testing.assert_array_equal(both.prompts.query, [1.0, 10.0])
