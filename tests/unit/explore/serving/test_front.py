"""The table of all deployments: best, front, limits left away, what came nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.explore.serving.front import (
    SIGNS,
    Found,
    Part,
    best_of,
    found_of,
    front_of_users,
    nearest_of,
    stopped,
)
from cosim.explore.serving.scores import LIMITS, Scores
from cosim.explore.serving.search_file import OBJECTIVES

CODES = {name: code for code, name in enumerate(LIMITS)}
ROWS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.sampled_from(["", "memory", "tpot_limit"])),
    min_size=1,
    max_size=30,
)


def found(rows: list[Any]) -> Found:
    """Deployments by tokens/s of a chip, tpot, ttft, and the limit that each breaks."""
    chip, tpot, ttft = (np.array([row[place] for row in rows], dtype=float) for place in range(3))
    code = np.array([CODES[row[3]] for row in rows])
    table = {
        "tokens_per_s_per_chip": chip,
        "tokens_per_s_per_user": 1.0 / tpot,
        "usd_per_million_tokens": 1.0 / chip,
        "tokens_per_j": chip,
        "tpot_s": tpot,
        "ttft_s": ttft,
        "cell": np.zeros(len(rows)),
        "apart": np.zeros(len(rows)),
    }
    return Found((), table, code, np.where(code > 0, 1.0 + np.arange(len(rows)), np.nan))


def test_every_objective_has_a_sign() -> None:
    assert set(SIGNS) == set(OBJECTIVES)


@given(ROWS)
def test_no_member_of_the_front_is_beaten(rows: list[Any]) -> None:
    one = found(rows)
    front = front_of_users(one)
    points = [(row[0], -row[1]) for row in rows]
    fits = [place for place, row in enumerate(rows) if not row[3]]
    beaten = {
        place
        for place in fits
        if any(points[o] != points[place] and all(np.greater_equal(points[o], points[place])) for o in fits)
    }
    assert set(front.tolist()).isdisjoint(beaten)
    assert {points[place] for place in front} == {points[place] for place in fits} - {points[p] for p in beaten}
    assert [rows[place][0] for place in front] == sorted((rows[place][0] for place in front), reverse=True)
    # Of equals the earliest first token.
    for place in front:
        assert rows[place][2] == min(rows[o][2] for o in fits if points[o] == points[place])


@given(ROWS, st.sampled_from(OBJECTIVES))
def test_the_best_is_beaten_by_none_that_fits(rows: list[Any], objective: str) -> None:
    one = found(rows)
    best = best_of(one, objective)
    fits = np.flatnonzero(one.fits)
    assert (best is None) == (not fits.size)
    if best is not None:
        worth = SIGNS[objective] * one.table[objective]
        assert best in fits
        assert worth[best] == worth[fits].min()


def test_the_best_of_what_is_unknown_is_none() -> None:
    one = found([(1, 1, 1, ""), (2, 2, 2, "")])
    one.table["usd_per_million_tokens"][:] = np.nan
    assert best_of(one, "usd_per_million_tokens") is None
    one.table["usd_per_million_tokens"][1] = 3.0
    assert best_of(one, "usd_per_million_tokens") == 1


def test_what_came_furthest_is_nearest() -> None:
    one = found([(1, 1, 1, "memory"), (1, 1, 1, "tpot_limit"), (1, 1, 1, "tpot_limit"), (1, 1, 1, "")])
    assert nearest_of(one) == 1
    assert stopped(one) == {"tpot_limit": 2, "memory": 1}
    assert nearest_of(found([(1, 1, 1, "")])) is None


def test_parts_are_one_table() -> None:
    def scores(count: int, code: int) -> Scores:
        return Scores(np.full(count, code), *(np.full(count, float(count)) for _ in range(5)))

    first = Part(0, "together", {"tensor": np.array([1.0, 2.0])}, scores(2, 0), {"ttft_s": np.array([3.0, 4.0])})
    more = {"tensor": np.array([5.0]), "prefill_tensor": np.array([6.0])}
    second = Part(1, "apart", more, scores(1, 1), {"ttft_s": np.array([7.0])})
    one = found_of((), [first, second])
    assert len(one) == 3
    assert one.table["tensor"].tolist() == [1.0, 2.0, 5.0]
    assert np.isnan(one.table["prefill_tensor"][:2]).all()
    assert one.table["apart"].tolist() == [0.0, 0.0, 1.0]
    assert one.code.tolist() == [0, 0, 1]
    assert one.row(0) == {"tensor": 1.0, "ttft_s": 3.0, "cell": 0.0, "apart": 0.0}
    assert one.row(2) == {"tensor": 5.0, "prefill_tensor": 6.0, "ttft_s": 7.0, "cell": 1.0, "apart": 1.0}
    with pytest.raises(IndexError):
        one.cell_of(0)
