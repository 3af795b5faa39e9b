"""Steps from a table: between and past its points, runs against sums of steps, and how fast."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.engines.serving.lookup import DENSE
from cosim.engines.serving.table import StepTable
from cosim.errors import SpecError

HOSTS = st.sampled_from([(0.0, 0.0, False), (2e-4, 1e-6, False), (7e-3, 1e-5, True), (5.4e-3, 0.0, True)])


def hosted(table: Any, host: tuple[float, float, bool], **more: Any) -> StepTable:
    step, sequence, hidden = host
    made: StepTable = table(host_step_s=step, host_sequence_s=sequence, host_hidden=hidden, **more)
    return made


@given(
    st.integers(1, 300),
    st.integers(0, 8000),
    st.integers(1, 900),
    HOSTS,
    st.sampled_from([1, 3]),
    st.booleans(),
    st.sampled_from([0.0, 5.3e-3, 9e-3]),
)
def test_a_run_is_the_sum_of_its_steps(
    table: Any,
    decodes: int,
    mean: int,
    steps: int,
    host: tuple[float, float, bool],
    verified: int,
    falls: bool,
    issue: float,
) -> None:
    changes: dict[str, Any] = {"issue_decode_s": issue, "graph_tokens": 100.0}
    if falls:
        changes["decode_s"] = table().decode_s[:, ::-1] * 3.0
    made = hosted(table, host, **changes)
    context = decodes * mean + decodes // 2
    drafted = verified - 1
    each = [
        made.seconds(0, 0.0, decodes, context + decodes * step, decodes, verified, drafted) for step in range(steps)
    ]
    count, seconds = made.run(decodes, context, decodes, steps, verified=verified, drafted=drafted)
    assert count == steps
    assert seconds == pytest.approx(sum(each), rel=1e-9)
    if verified == 1:
        assert made.decode_run(decodes, context, steps) == seconds
    for part in (0.001, 0.3, 0.77, 1.5):
        span = seconds * part
        begins = np.concatenate([[0.0], np.cumsum(each)[:-1]])
        count, took = made.run(decodes, context, decodes, steps, span, verified, drafted)
        assert count in (np.sum(begins < span * (1.0 - 1e-9)), np.sum(begins < span * (1.0 + 1e-9)))
        assert took == pytest.approx(sum(each[:count]), rel=1e-9)
        if verified == 1:
            assert made.steps_before(decodes, context, span, steps) == count


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.0, 20000.0), st.floats(0.0, 20000.0))
def test_where_the_table_rises_steps_rise(table: Any, few: int, more: int, near: float, far: float) -> None:
    made = table()
    few, more, near, far = *sorted((few, more)), *sorted((near, far))
    assert made.seconds(few, few * near, 0, 0, 1) <= made.seconds(more, more * far, 0, 0, 1) * (1.0 + 1e-12)
    assert made.seconds(0, 0, few, few * near, 1) <= made.seconds(0, 0, more, more * far, 1) * (1.0 + 1e-12)


def test_points_of_the_table_are_what_it_says() -> None:
    tokens, contexts = np.array([1.0, 10.0]), np.array([2.0, 6.0])
    prefill, decode = np.array([[1.0, 2.0], [3.0, 8.0]]), np.array([[10.0, 20.0], [30.0, 80.0]])
    made = StepTable(tokens, contexts, np.array([100.0, 190.0]), np.array([1000.0, 1009.0]), prefill, decode)
    assert made.seconds(10, 20.0, 0, 0, 0) == pytest.approx(190.0 + 3.0)
    assert made.seconds(10, 60.0, 0, 0, 1) == pytest.approx(190.0 + 1000.0 + 8.0)
    assert made.seconds(10, 40.0, 0, 0, 0) == pytest.approx(190.0 + 5.5)
    assert made.seconds(0, 0.0, 1, 2, 1) == pytest.approx(100.0 + 1000.0 + 10.0)
    # Below the first context it stays; past the last it goes on; past the last count as well.
    assert made.seconds(0, 0.0, 1, 0, 1) == pytest.approx(1110.0)
    assert made.seconds(0, 0.0, 1, 10, 1) == pytest.approx(100.0 + 1000.0 + 30.0)
    assert made.seconds(20, 40.0, 0, 0, 0) == pytest.approx(290.0 + 3.0 + 10 * 2 / 9)
    # 4 decode with 3 new tokens: 7 tokens, 5 rows.
    rows = 10.0 + 3 * 20 / 9, 20.0 + 3 * 60 / 9
    expected = 160.0 + 1004.0 + (1.0 + 2 * 2 / 9) + sum(rows) / 2
    assert made.seconds(3, 6.0, 4, 16, 5) == pytest.approx(expected)


def test_drafts_and_host() -> None:
    one = np.array([1.0])
    flat = np.array([[0.0]])
    made = StepTable(one, one, one * 3.0, one * 0.5, flat, flat, 1.0, 0.25, draft_s=one * 0.1)
    assert made.seconds(0, 0, 4, 40, 4, verified=3, drafted=2) == pytest.approx(3.0 + 0.5 + 0.2 + 1.0 + 1.0)
    hidden = StepTable(one, one, one * 3.0, one * 0.5, flat, flat, 3.4, 0.25, host_hidden=True)
    assert hidden.seconds(0, 0, 2, 40, 2) == pytest.approx(3.9)
    assert hidden.run(2, 40, 2, 10) == (10, pytest.approx(39.0))


def test_steps_that_are_not_replayed_wait_for_their_kernels(table: Any) -> None:
    made = table(issue_s=0.04, issue_decode_s=0.03, graph_tokens=50.0)
    plain = table()
    assert made.seconds(40, 820.0, 10, 1000.0, 11) == plain.seconds(40, 820.0, 10, 1000.0, 11)
    host = plain.host_step_s + plain.host_sequence_s * 12
    assert made.seconds(41, 861.0, 10, 1000.0, 12) == pytest.approx(0.04 + host)
    host = plain.host_step_s + plain.host_sequence_s * 51
    assert made.seconds(0, 0.0, 51, 5100.0, 51) == pytest.approx(0.03 + host)
    replayed = table(issue_s=0.04, issue_decode_s=0.03, graph_decodes=True)
    assert replayed.seconds(0, 0.0, 51, 5100.0, 51) == plain.seconds(0, 0.0, 51, 5100.0, 51)
    assert made.seconds(2048, 2e6, 0, 0.0, 1) == plain.seconds(2048, 2e6, 0, 0.0, 1) > 0.04
    with pytest.raises(SpecError, match="issue_s"):
        table(issue_s=-1.0)


def test_more_tokens_than_are_looked_up() -> None:
    tokens, contexts = np.array([1.0, 4.0 * DENSE]), np.array([1.0])
    none = np.zeros((2, 1))
    made = StepTable(tokens, contexts, tokens * 1e-6, np.zeros(2), none, none)
    for count in (DENSE - 1, DENSE, DENSE + 1, 3 * DENSE, 9 * DENSE):
        assert made.seconds(count, count, 0, 0, 0) == pytest.approx(count * 1e-6)


def test_a_step_takes_microseconds(table: Any) -> None:
    made = table()
    start = time.process_time()
    for _ in range(20_000):
        made.seconds(256, 256 * 100.5, 64, 64 * 600, 65)
    assert (time.process_time() - start) / 20_000 < 15e-6


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tokens": np.array([2.0, 8.0, 64.0, 512.0, 2048.0])}, "table.tokens"),
        ({"contexts": np.array([1.0, 40.0, 40.0, 700.0, 4000.0])}, "table.contexts"),
        ({"linear_s": np.ones(4)}, "table.linear_s"),
        ({"decode_s": np.full((5, 5), -1.0)}, "table.decode_s"),
        ({"prefill_s": np.full((5, 5), np.nan)}, "table.prefill_s"),
        ({"draft_s": np.ones((5, 5))}, "table.draft_s"),
        ({"host_step_s": -1.0}, "table.host_step_s"),
        ({"host_sequence_s": np.inf}, "table.host_sequence_s"),
    ],
)
def test_what_is_no_table_is_refused(table: Any, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        table(**changes)
    assert refused.value.field == field
