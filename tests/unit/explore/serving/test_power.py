"""Energy of a run: sums of steps and requests by hand, chunks do not matter, drafts, idle chips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.serving.replica import Segment
from cosim.engines.serving.steps import StepEnergy
from cosim.explore.serving.power import Joules
from cosim.explore.serving.records import Served, where

Made = Callable[..., Served]
TOKENS, CONTEXTS = np.array([1.0, 1001.0]), np.array([0.0, 1000.0])
ENERGY = StepEnergy(
    tokens=TOKENS,
    contexts=CONTEXTS,
    linear_j=np.array([10.0, 110.0]),  # 9.9 + 0.1 a token
    head_j=np.array([1.0, 1.0]),
    prefill_j=np.array([0.0, 2.0]),  # 2 mJ a key
    decode_j=np.array([0.0, 1.0]),
    idle_w=50.0,
)


def run(steps: int, prompts: int, decodes: int) -> Segment:
    return (0.0, steps, 1.0, prompts, decodes, 5, 0, 0)


def test_steps_by_hand() -> None:
    joules = Joules(ENERGY)
    joules.add_steps([run(3, 0, 11)])
    assert joules.steps_j == pytest.approx(3 * (9.9 + 0.1 * 11 + 1.0))
    joules = Joules(ENERGY)
    joules.add_steps([run(1, 101, 0)])
    assert joules.steps_j == pytest.approx(9.9 + 10.1 + 1.0)
    joules.add_steps([])
    assert joules.total_j(2.0) == pytest.approx(21.0 + 100.0)


def test_drafts_are_verified_tokens_and_fewer_steps(served: Made) -> None:
    joules = Joules(ENERGY, verified=3, step_tokens=2.0)
    joules.add_steps([run(1, 0, 7)])
    assert joules.steps_j == pytest.approx(9.9 + 0.1 * 21 + 1.0)
    joules.add_answers(served(1))
    plain = Joules(ENERGY)
    plain.add_answers(served(1))
    assert joules.attention_j == plain.attention_j / 2.0


def test_a_model_that_drafts_by_hand(served: Made) -> None:
    # Two drafts a step of 7 sequences, each 9.9 + 0.1 a token and 1 J of its head.
    drafted, plain = Joules(ENERGY, 3, 2.0, ENERGY), Joules(ENERGY, 3, 2.0)
    for joules in (drafted, plain):
        joules.add_steps([run(4, 0, 7), run(1, 101, 0)])
        joules.add_answers(served(1))
    assert drafted.steps_j - plain.steps_j == pytest.approx(4 * 2 * (9.9 + 0.7 + 1.0))
    assert drafted.attention_j == pytest.approx(3 * plain.attention_j)


def test_attention_by_hand(served: Made) -> None:
    joules = Joules(ENERGY)
    joules.add_prompts(served(1))
    # 75 tokens of 100 are computed; they see 25 + 76 / 2 = 63 keys on average.
    assert joules.attention_j == pytest.approx(75 * 63 * 2e-3)
    joules = Joules(ENERGY)
    joules.add_answers(served(1))
    assert joules.attention_j == pytest.approx(10 * (100 + 5.5) * 1e-3)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 20), cached=st.integers(0, 99))
def test_chunks_do_not_matter_and_a_cache_saves(served: Made, cut: int, cached: int) -> None:
    whole, parts, cold = Joules(ENERGY), Joules(ENERGY), Joules(ENERGY)
    some = served(20, cached_tokens=np.full(20, cached))
    whole.add_prompts(some)
    parts.add_prompts(where(some, np.arange(cut)))
    parts.add_prompts(where(some, np.arange(cut, 20)))
    assert parts.attention_j == pytest.approx(whole.attention_j)
    cold.add_prompts(served(20, cached_tokens=np.zeros(20)))
    assert whole.attention_j <= cold.attention_j
    assert whole.attention_j >= 0.0
