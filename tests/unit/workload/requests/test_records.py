"""Requests as arrays: order, selection, chunks; blocks follow their rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.workload.requests.records import (
    COLUMNS,
    Blocks,
    Requests,
    by_arrival,
    checked,
    joined,
    limited,
    offsets_of,
    ramp,
    requests_of,
    resized,
    rows_of,
    select,
)


def made(arrivals: list[float], counts: list[int] | None = None) -> Requests:
    """Requests whose prompt is their number + 1, with `counts` ids that say whose they are."""
    whole = np.arange(len(arrivals)) + 1
    blocks = None
    if counts is not None:
        number = np.array(counts, dtype=np.int64)
        blocks = Blocks(offsets_of(number), np.repeat(whole, number) * 100 + ramp(number), 16)
    columns = dict.fromkeys(("session", "priority", "client"), whole * 2)
    return Requests(np.array(arrivals), whole, whole, prefix=whole * 0, blocks=blocks, **columns)


def ids(requests: Requests) -> list[list[int]]:
    assert requests.blocks is not None
    return [requests.blocks.of(row).tolist() for row in range(len(requests))]


def same(first: Requests, second: Requests) -> bool:
    columns = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in COLUMNS)
    return columns and (first.blocks is None or ids(first) == ids(second))


ROWS = st.lists(st.tuples(st.floats(0, 9), st.integers(0, 4)), min_size=1, max_size=20)


@given(ROWS, st.integers(1, 7))
def test_a_stream_cut_anew_is_the_same_stream_in_chunks_of_the_size_asked(
    rows: list[tuple[float, int]], size: int
) -> None:
    whole = made([time for time, _ in rows], [count for _, count in rows])
    borders = sorted({0, len(rows), *range(0, len(rows), 3)})
    parts = [rows_of(whole, start, stop) for start, stop in pairwise(borders)]
    chunks = list(resized(iter(parts), size))
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert 0 < len(chunks[-1]) <= size
    assert same(joined(chunks), whole)


@given(ROWS)
def test_sorting_keeps_every_request_whole_and_the_order_of_those_that_come_at_once(
    rows: list[tuple[float, int]],
) -> None:
    given_rows = made([time for time, _ in rows], [count for _, count in rows])
    found = by_arrival(given_rows)
    assert sorted(found.prompt_tokens.tolist()) == given_rows.prompt_tokens.tolist()
    pairs = list(zip(found.arrival_s.tolist(), found.prompt_tokens.tolist(), strict=True))
    assert pairs == sorted(pairs)
    for row, number in enumerate(found.prompt_tokens.tolist()):
        assert ids(found)[row] == ids(given_rows)[number - 1]
        assert found.client[row] == 2 * number


@given(ROWS, st.integers(1, 25), st.floats(0, 10))
def test_a_limit_keeps_the_first_that_come_before_it(
    rows: list[tuple[float, int]], count: int, duration: float
) -> None:
    whole = by_arrival(made([time for time, _ in rows]))
    parts = [rows_of(whole, start, start + 2) for start in range(0, len(whole), 2)]
    kept = [number for part in limited(iter(parts), count, duration) for number in part.prompt_tokens.tolist()]
    wanted = whole.prompt_tokens[whole.arrival_s < duration][:count].tolist()
    assert kept == wanted


def test_without_a_limit_all_come() -> None:
    parts = [made([0.0, 1.0]), made([2.0])]
    assert [len(part) for part in limited(iter(parts), None, None)] == [2, 1]


def test_a_stream_is_not_read_further_than_its_count() -> None:
    def endless() -> object:
        yield made([0.0, 1.0])
        raise AssertionError("read on")

    assert [len(part) for part in limited(endless(), 2, None)] == [2]  # type: ignore[arg-type]  # it yields requests


def test_one_value_stands_for_all_rows() -> None:
    requests = requests_of([0.0, 1.0, 1.0], 7, [1, 2, 3], client=4)
    assert requests.prompt_tokens.tolist() == [7, 7, 7]
    assert requests.client.tolist() == [4, 4, 4]
    assert requests.session.tolist() == [-1, -1, -1]
    assert (requests.prefix.tolist(), len(requests), requests.blocks) == ([0, 0, 0], 3, None)


def test_ragged_ids_by_hand() -> None:
    assert offsets_of(np.array([2, 0, 3])).tolist() == [0, 2, 2, 5]
    assert ramp(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]
    assert ids(select(made([0.0, 1.0, 2.0], [2, 0, 1]), np.array([2, 0]))) == [[300], [100, 101]]


@pytest.mark.parametrize(
    ("changes", "field", "row"),
    [
        ({"arrival_s": [0.0, 2.0, 1.0]}, "arrival_s", 2),
        ({"prompt_tokens": [1, 0, 1]}, "prompt_tokens", 1),
        ({"output_tokens": [0, 1, 1]}, "output_tokens", 0),
        ({"session": [0, 0, -2]}, "session", 2),
        ({"prefix": [0, -1, 0]}, "prefix", 1),
        ({"prefix": [0, 0, 9], "prompt_tokens": 8}, "prefix", 2),
    ],
)
def test_what_cannot_be_is_refused_with_its_row(changes: dict[str, object], field: str, row: int) -> None:
    columns: dict[str, object] = {"arrival_s": [0.0, 1.0, 2.0], "prompt_tokens": 9, "output_tokens": 1, **changes}
    with pytest.raises(SpecError, match=f"in row {row}") as caught:
        requests_of(**columns)  # type: ignore[arg-type]  # columns of all kinds
    assert caught.value.field == field


def test_arrivals_that_nobody_knows_pass() -> None:
    unknown = requests_of([np.nan, np.nan], 1, 1)
    assert checked(unknown) is unknown


def test_parts_with_and_without_blocks_do_not_join() -> None:
    with pytest.raises(ValueError, match="unlike blocks"):
        joined([made([0.0], [1]), made([1.0])])
    with pytest.raises(ValueError, match="at least one row"):
        list(resized(iter([made([0.0])]), 0))
