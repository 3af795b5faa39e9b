"""Steps over time: nothing is lost between bins, chunks do not matter, bins that grow, gaps between tokens by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.serving.replica import Segment
from cosim.explore.serving.series import BINS, WIDTH_S, Series


def segment(start: float, seconds: float, *, steps: int = 1, **values: int) -> Segment:
    usual = {"prefill": 0, "decodes": 1, "blocks": 10, "waiting": 0, "replica": 0, **values}
    counts = tuple(usual[name] for name in ("prefill", "decodes", "blocks", "waiting", "replica"))
    return (start, steps, seconds, *counts)  # type: ignore[return-value]  # eight entries


def runs(spans: list[tuple[float, float, int]]) -> list[Segment]:
    """Runs one after the other with gaps between them: (gap, seconds, decodes)."""
    now, found = 0.0, []
    for gap, seconds, decodes in spans:
        now += gap
        found.append(segment(now, seconds, decodes=decodes, blocks=2 * decodes, waiting=decodes % 3))
        now += seconds
    return found


SPANS = st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(1e-3, 40.0), st.integers(1, 50)), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(spans=SPANS)
def test_no_second_is_lost_between_bins(spans: list[tuple[float, float, int]]) -> None:
    rows, series = runs(spans), Series()
    series.add(rows)
    end = rows[-1][0] + rows[-1][2]
    drawn = series.drawn(end)
    busy = sum(row[2] for row in rows)
    assert sum(drawn["busy"]) * series.width_s == pytest.approx(busy)
    assert sum(drawn["decodes"]) * series.width_s == pytest.approx(sum(row[2] * row[4] for row in rows))
    assert max(drawn["busy"]) <= 1.0 + 1e-9
    assert series.means().batch == pytest.approx(sum(row[2] * row[4] for row in rows) / busy)
    assert len(drawn["time_s"]) == len(drawn["blocks"]) <= BINS


@settings(max_examples=30, deadline=None)
@given(spans=SPANS, cut=st.integers(0, 40), pauses=st.booleans())
def test_chunks_do_not_matter(spans: list[tuple[float, float, int]], cut: int, pauses: bool) -> None:  # drawn
    rows, whole, parts = runs(spans), Series(pauses=pauses), Series(pauses=pauses)
    whole.add(rows)
    parts.add(rows[:cut])
    parts.add(rows[cut:])
    end = rows[-1][0] + rows[-1][2]
    for name, values in whole.drawn(end).items():
        assert parts.drawn(end)[name] == pytest.approx(values)
    assert parts.means().waiting == pytest.approx(whole.means().waiting)
    assert np.allclose(parts.token_gaps.weights, whole.token_gaps.weights)


def test_bins_double_when_time_goes_past_the_last() -> None:
    series = Series()
    series.add([segment(0.0, 1.0)])
    assert series.width_s == WIDTH_S
    series.add([segment(3.0 * BINS * WIDTH_S, 1.0)])
    assert series.width_s == 4.0 * WIDTH_S
    assert sum(series.drawn(1e9)["busy"]) * series.width_s == pytest.approx(2.0)


def test_two_replicas_add_up() -> None:
    series = Series()
    series.add([segment(0.0, 1.0, decodes=3), segment(0.0, 1.0, decodes=5, replica=1)])
    drawn = series.drawn(1.0)
    assert drawn["decodes"] == pytest.approx([8.0] * 4)
    assert drawn["busy"] == pytest.approx([2.0] * 4)
    assert series.means().batch == 4.0


def test_nothing_is_done() -> None:
    series = Series()
    series.add([])
    assert np.isnan(series.means().batch)
    assert series.drawn(0.0)["busy"] == [0.0]


def test_gaps_of_steps_in_which_all_decode() -> None:
    series = Series()
    series.add([segment(0.0, 1.0, steps=10, decodes=4), segment(1.0, 0.5, decodes=6, prefill=100)])
    gaps = series.token_gaps
    assert gaps.total == 46.0
    assert gaps.mean == pytest.approx((40 * 0.1 + 6 * 0.5) / 46)


def test_prompts_alone_delay_those_that_decode() -> None:
    series = Series(pauses=True)
    series.add(
        [
            segment(0.0, 0.1, decodes=2),
            segment(0.1, 0.3, decodes=0, prefill=500),
            segment(0.4, 0.2, steps=2, decodes=3),
        ]
    )
    gaps = series.token_gaps
    # 2 gaps of 0.1; then 3 sequences take 2 tokens: 2 of the 6 had waited 0.3 + 0.1, 4 take 0.1.
    assert gaps.total == 8.0
    assert gaps.mean == pytest.approx((6 * 0.1 + 2 * 0.4) / 8)
    assert gaps.largest == pytest.approx(0.4)


def test_a_batch_that_has_ended_waits_for_no_prompt() -> None:
    series = Series(pauses=True)
    series.add([segment(0.0, 0.1, blocks=0), segment(0.1, 0.3, decodes=0, prefill=5), segment(0.4, 0.1)])
    assert series.token_gaps.largest == pytest.approx(0.1)
    other = Series(pauses=True)
    # What another replica does delays nobody.
    other.add([segment(0.0, 0.1), segment(0.1, 0.3, decodes=0, prefill=5, replica=1), segment(0.1, 0.1)])
    assert other.token_gaps.largest == pytest.approx(0.1)


@settings(max_examples=30, deadline=None)
@given(spans=SPANS, tokens=st.floats(1.0, 5.0), pauses=st.booleans())
def test_drafts_give_more_tokens_in_the_same_time(
    spans: list[tuple[float, float, int]],
    tokens: float,
    pauses: bool,  # drawn
) -> None:
    plain, drafted = Series(pauses=pauses), Series(pauses=pauses, step_tokens=tokens)
    for series in (plain, drafted):
        series.add(runs(spans))
    assert drafted.token_gaps.total == pytest.approx(tokens * plain.token_gaps.total)
    assert drafted.token_gaps.mean == pytest.approx(plain.token_gaps.mean / tokens)


def test_gaps_with_drafts_by_hand() -> None:
    series = Series(pauses=True, step_tokens=2.5)
    rows = [segment(0.0, 0.1, decodes=2), segment(0.1, 0.3, decodes=0, prefill=500), segment(0.4, 0.1, decodes=2)]
    series.add(rows)
    # 2 sequences take 2.5 tokens in 0.1 s, then as many in 0.3 + 0.1 s.
    assert series.token_gaps.total == 10.0
    assert series.token_gaps.mean == pytest.approx((0.1 + 0.4) / 5)
    assert series.token_gaps.largest == pytest.approx(0.4 / 2.5)
