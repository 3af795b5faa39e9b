"""A summary adds up chunk by chunk, and says unknown where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.workload.requests.records import Blocks, Requests, requests_of, rows_of
from cosim.workload.requests.summary import summary_of


def made(count: int = 7) -> Requests:
    number = np.arange(1, count + 1)
    session = np.where(number % 2, -1, number // 4)
    return requests_of(number * 2.0, number * 10, number, session=session, prefix=number * 5, client=number % 3)


@given(st.integers(1, 9), st.integers(1, 9))
def test_chunks_add_up_to_the_whole(count: int, size: int) -> None:
    whole = made(count)
    parts = [rows_of(whole, start, min(start + size, count)) for start in range(0, count, size)]
    assert summary_of(iter(parts)) == summary_of([whole])


def test_a_summary_by_hand() -> None:
    row = summary_of([made(4)]).to_row()
    assert row == {
        "requests": 4,
        "span_s": 8.0,
        "rate": 0.5,
        "mean_prompt_tokens": 25.0,
        "mean_output_tokens": 2.5,
        "longest_prompt_tokens": 40,
        "longest_output_tokens": 4,
        "shared_prefix": 0.5,
        "clients": 3,
        "sessions": 2,
    }


def test_what_is_not_known_is_none() -> None:
    plain = requests_of([0.0, 1.0], 5, 5)
    assert summary_of([plain]).shared_prefix is None
    assert (summary_of([plain], timed=False).span_s, summary_of([plain], timed=False).rate) == (None, None)
    loop = summary_of([requests_of([np.nan], 5, 5)])
    assert (loop.span_s, loop.rate) == (None, None)
    assert summary_of([requests_of([0.0], 5, 5)]).rate is None
    blocks = Blocks(np.array([0, 0, 0]), np.array([], dtype=np.int64), 16)
    assert summary_of([requests_of([0.0, 1.0], 5, 5, blocks=blocks)]).shared_prefix == 0.0


def test_nothing_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no request"):
        summary_of([])
