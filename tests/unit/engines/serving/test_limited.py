"""Steps whose chips reach their limit of power: the sum of loads at one clock, the host beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.engines.serving.limited import Limited, QuickLimited
from cosim.records import Array, array
from cosim.timing.clock import sustained_seconds

TOKENS, CONTEXTS = array([1.0, 100.0, 1000.0]), array([1.0, 1000.0, 10_000.0])


def over_tokens(each: float, start: float = 0.0) -> Array:
    return start + each * TOKENS


def over_both(each: float) -> Array:
    return each * TOKENS[:, None] * CONTEXTS


def loads(budget: float = 400.0) -> Limited:
    """Lines: products that follow the clock, heads and decodes that do not, prompts by halves."""
    return Limited(
        linear=np.stack([over_tokens(1e-4, 5e-3), over_tokens(1e-4), over_tokens(1e-3, 1.0), over_tokens(6e-2)]),
        head=np.stack([over_tokens(1e-6), over_tokens(0.0), over_tokens(1e-4), over_tokens(0.0)]),
        prefill=np.stack([over_both(1e-9), over_both(5e-10), over_both(1e-7), over_both(3e-7)]),
        decode=np.stack([over_both(1e-8), over_both(0.0), over_both(1e-6), over_both(0.0)]),
        budget_w=budget,
        floor=0.6,
    )


def quick(budget: float = 400.0) -> QuickLimited:
    return QuickLimited(loads(budget), TOKENS, CONTEXTS)


def summed(new: int, keys: float, decodes: int, cached: float) -> tuple[float, float, float, float]:
    """Seconds, those that follow the clock, both kinds of joules, of the lines."""
    rows, drawn, seen, held = new + decodes, 1 + decodes, new * keys, decodes * cached
    time = 5e-3 + 1e-4 * rows + 1e-6 * drawn + 1e-9 * seen + 1e-8 * held
    fixed = 1.0 + 1e-3 * rows + 1e-4 * drawn + 1e-7 * seen + 1e-6 * held
    return time, 1e-4 * rows + 5e-10 * seen, fixed, 6e-2 * rows + 3e-7 * seen


STEPS = {
    "new": st.integers(1, 700),
    "keys": st.integers(1, 9000),
    "decodes": st.integers(1, 300),
    "cached": st.integers(1, 9000),
}


@given(**STEPS, host=st.sampled_from([0.0, 5e-3]), budget=st.sampled_from([150.0, 400.0, 1e6]))
def test_a_step_is_one_window_of_all_its_terms_and_its_host(
    new: int, keys: int, decodes: int, cached: int, host: float, budget: float
) -> None:
    time, clocked, fixed, core = summed(new, keys, decodes, cached)
    whole = sustained_seconds(time - clocked + host, clocked, fixed, core, budget=budget, floor=0.6)
    rows = (new + decodes, 1 + decodes)
    found = quick(budget).seconds(rows, (new, float(new * keys)), (decodes, float(decodes * cached)), host)
    assert found == pytest.approx(whole - host, rel=1e-9)
    assert found >= time * (1.0 - 1e-9)
    # A host that is waited for makes room for a higher clock, and no limit is no window.
    assert found <= quick(budget).seconds(rows, (new, float(new * keys)), (decodes, float(decodes * cached)), 0.0) * (
        1.0 + 1e-9
    )
    if budget == 1e6:
        assert found == pytest.approx(time)


@given(**STEPS, more=st.tuples(st.integers(0, 200), st.integers(0, 500), st.integers(0, 50), st.integers(0, 500)))
def test_more_of_anything_never_takes_less(
    new: int, keys: int, decodes: int, cached: int, more: tuple[int, ...]
) -> None:
    made = quick()

    def seconds(new: int, keys: int, decodes: int, cached: int) -> float:
        rows = (new + decodes, 1 + decodes)
        return made.seconds(rows, (new, float(new * keys)), (decodes, float(decodes * cached)), 1e-3)

    least = seconds(new, keys, decodes, cached)
    longer = seconds(new + more[0], keys + more[1], decodes + more[2], cached + more[3])
    assert longer >= least * (1.0 - 1e-9)


def test_decodes_beside_prompts_make_up_for_them() -> None:
    # 500 tokens of a prompt are held down, 300 decodes that draw little are not: together they take less than both.
    made = quick()
    prompt = made.seconds((500, 1), (500, 500.0 * 250.0), (0, 0.0), 0.0)
    time, *_ = summed(500, 250, 0, 0)
    assert prompt > 1.2 * time
    decodes = 1e-8 * 300 * 9000
    both = made.seconds((500, 1), (500, 500.0 * 250.0), (300, 300 * 9000.0), 0.0)
    assert prompt < both < prompt + 0.9 * decodes


def test_no_sum_is_held_down_where_no_term_is() -> None:
    assert loads().holds
    assert not loads(1e6).holds
    one = replace(loads(1e6), budget_w=250.0)
    assert one.holds == bool(np.any(one.linear[2] + one.linear[3] > 250.0 * one.linear[0]))
