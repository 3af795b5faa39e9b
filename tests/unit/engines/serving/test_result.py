"""Rows leave in chunks; totals say rates."""

from __future__ import annotations

from cosim.engines.serving.request import Request
from cosim.engines.serving.result import AT_ONCE, RECORD, SEGMENT, ServingRun, Sink, record


def test_rows_leave_in_chunks_and_in_order() -> None:
    chunks: list[list[int]] = []
    sink = Sink(chunks.append)
    for row in range(2 * AT_ONCE + 5):
        sink.add(row)
        assert len(sink._rows) < AT_ONCE
    sink.flush()
    sink.flush()
    assert [len(chunk) for chunk in chunks] == [AT_ONCE, AT_ONCE, 5]
    assert [row for chunk in chunks for row in chunk] == list(range(2 * AT_ONCE + 5))


def test_nobody_asks_nothing_is_kept() -> None:
    sink: Sink[int] = Sink(None)
    sink.add(1)
    sink.flush()
    assert sink._rows == []


def test_a_record_has_its_columns() -> None:
    made = Request(3, 1.5, 10, 5, client=2, priority=1, cached=4, scheduled_s=2.0, first_s=3.0, finished_s=4.0)
    row = dict(zip(RECORD, record(made, 6), strict=True))
    assert row == {
        "request": 3,
        "arrival_s": 1.5,
        "prompt_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 4,
        "client": 2,
        "priority": 1,
        "replica": 6,
        "scheduled_s": 2.0,
        "first_token_s": 3.0,
        "finished_s": 4.0,
        "preemptions": 0,
    }
    assert len(SEGMENT) == 8


def test_rates() -> None:
    none = ServingRun(0.0, 0, 0, {}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (), (), 0.0, 1)
    assert (none.hit_rate, none.output_tokens_per_s) == (0.0, 0.0)
    some = ServingRun(4.0, 1, 1, {}, 10, 8, 5, 5, 8, 0, 0, 0, 0, 0, (4.0,), (1,), 4.0, 1)
    assert (some.hit_rate, some.output_tokens_per_s) == (0.5, 2.0)
