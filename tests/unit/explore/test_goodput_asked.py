"""What is asked of a long run: its interval in whole steps, checks of what cannot be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.goodput_asked import RULES, Asked, check_asked, interval_of

ASKED = Asked(steps=100.0)
RULE = st.sampled_from(sorted(RULES))


@given(RULE, st.floats(0.01, 100.0), st.floats(0.0, 500.0), st.floats(200.0, 1e7), st.floats(0.1, 60.0))
def test_an_interval_is_of_whole_steps_and_lets_a_checkpoint_be_written(
    rule: str, save: float, lag: float, mean: float, step: float
) -> None:
    found = interval_of(replace(ASKED, interval=rule), save, lag, mean, step, 1e9)
    assert found / step == pytest.approx(round(found / step))
    assert found >= max(step, lag) * (1.0 - 1e-12)
    assert interval_of(replace(ASKED, interval=rule), save, lag, mean, step, 0.5 * found) == 0.5 * found


def test_what_is_given_is_taken_and_nothing_failing_needs_one_checkpoint() -> None:
    assert interval_of(replace(ASKED, interval="10 min"), 5.0, 0.0, 1e4, 7.0, 1e6) == 602.0
    assert interval_of(replace(ASKED, interval=70.0), 5.0, 0.0, 1e4, 7.0, 1e6) == 70.0
    assert interval_of(ASKED, 5.0, 0.0, math.inf, 7.0, 700.0) == 700.0


def test_the_first_fault_is_told() -> None:
    check_asked(ASKED)
    with pytest.raises(SpecError, match="steps: must be more than 0"):
        check_asked(replace(ASKED, steps=math.nan, spares=-1))
    with pytest.raises(SpecError, match="steps: must be more than 0"):
        check_asked(replace(ASKED, steps=math.inf))
    with pytest.raises(SpecError, match="nearest: async"):
        check_asked(replace(ASKED, save="asyn"))
