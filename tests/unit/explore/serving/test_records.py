"""Records of served requests: latencies by hand, order of times, what is cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.serving.records import (
    COLUMNS,
    LATENCIES,
    Served,
    latencies,
    later,
    of_tuples,
    served_of,
    steady,
    where,
)

Make = Callable[..., Served]
SPANS = st.lists(st.tuples(*[st.floats(0, 100)] * 4, st.integers(1, 50)), min_size=1, max_size=20)


def test_latencies_by_hand(served: Make) -> None:
    found = {name: values[0] for name, values in latencies(served(1)).items()}
    assert found == {
        "ttft_s": 2.0,
        "tpot_s": 1.0,
        "tpot_with_first_s": 12.0 / 11.0,
        "e2e_s": 12.0,
        "queueing_s": 1.0,
        "normalized_s": 12.0 / 11.0,
    }
    assert tuple(found) == LATENCIES


def test_a_front_end_is_in_all_that_follows_the_arrival(served: Make) -> None:
    before, after = latencies(served(3)), latencies(later(served(3), 0.25))
    for name, more in {"ttft_s": 0.25, "e2e_s": 0.25, "queueing_s": 0.25, "tpot_s": 0.0}.items():
        np.testing.assert_allclose(after[name], before[name] + more)


@given(SPANS, st.floats(0.0, 10.0), st.floats(0.0, 20.0))
def test_a_front_end_may_take_steps_of_the_request(
    served: Make, spans: list[tuple[float, float, float, float, int]], start: float, steps: float
) -> None:
    arrival, wait, prefill, decode, output = np.array(spans).T
    times = np.cumsum([arrival, wait, prefill, decode], axis=0)
    names = ("arrival_s", "scheduled_s", "first_token_s", "finished_s")
    record = served(len(spans), **dict(zip(names, times, strict=True)), output_tokens=output)
    before, after = latencies(record), latencies(later(record, start, steps))
    more = start + steps * np.nan_to_num(before["tpot_s"])
    for name in ("ttft_s", "e2e_s", "queueing_s"):
        np.testing.assert_allclose(after[name], before[name] + more, atol=1e-6)
    np.testing.assert_allclose(after["tpot_s"], before["tpot_s"], atol=1e-6)


def test_one_token_has_no_time_per_next_token(served: Make) -> None:
    found = latencies(served(2, output_tokens=[1, 2]))
    assert np.isnan(found["tpot_s"]).tolist() == [True, False]
    assert found["tpot_s"][1] == 10.0


@given(SPANS)
def test_the_parts_of_a_latency_add_up(served: Make, spans: list[tuple[float, float, float, float, int]]) -> None:
    arrival, wait, prefill, decode, output = np.array(spans).T
    times = np.cumsum([arrival, wait, prefill, decode], axis=0)
    names = ("arrival_s", "scheduled_s", "first_token_s", "finished_s")
    record = served(len(spans), **dict(zip(names, times, strict=True)), output_tokens=output)
    found = latencies(record)
    several = output > 1
    assert np.all(found["queueing_s"] <= found["ttft_s"])
    assert np.all(found["ttft_s"] <= found["e2e_s"])
    whole = found["ttft_s"] + np.where(several, found["tpot_s"], 0.0) * (output - 1)
    assert np.allclose(whole[several], found["e2e_s"][several])
    assert np.allclose(found["tpot_with_first_s"] * output, found["e2e_s"])
    assert np.array_equal(np.isnan(found["tpot_s"]), ~several)


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"scheduled_s": [0.0, 0.5]}, "scheduled_s", "is before arrival_s, in row 1"),
        ({"first_token_s": [0.5, 9.0]}, "first_token_s", "is before scheduled_s, in row 0"),
        ({"finished_s": [20.0, 2.5]}, "finished_s", "is before first_token_s, in row 1"),
        ({"finished_s": [20.0, np.nan]}, "finished_s", "in row 1"),
        ({"output_tokens": [3, 0]}, "output_tokens", "less than 1, in row 1"),
    ],
)
def test_times_out_of_order_are_refused(served: Make, changes: dict[str, object], field: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        served(2, **changes)
    assert caught.value.field == field


def test_rows_of_an_engine_become_columns(served: Make) -> None:
    rows = [(7, 0.0, 100, 5, 0, 1, 2, 3, 0.5, 1.0, 2.0, 1), (8, 1.0, 200, 6, 64, 0, 0, 0, 1.5, 2.0, 3.0, 0)]
    found = of_tuples(rows)
    assert (found.request.tolist(), found.cached_tokens.tolist()) == ([7.0, 8.0], [0.0, 64.0])
    assert (found.replica.tolist(), found.preemptions.tolist(), len(found)) == ([3.0, 0.0], [1.0, 0.0], 2)
    columns = {name: getattr(served(1), name) for name in COLUMNS if name != "replica"}
    with pytest.raises(SpecError, match="is missing") as caught:
        served_of(columns)
    assert caught.value.field == "replica"


def test_a_mask_and_an_index_choose_rows(served: Make) -> None:
    record = served(4)
    assert where(record, record.arrival_s > 1.5).request.tolist() == [2.0, 3.0]
    assert where(record, np.array([3, 0])).request.tolist() == [3.0, 0.0]


@given(st.integers(1, 40), st.floats(0, 0.6), st.floats(0, 0.3))
def test_the_cut_takes_shares_from_both_ends_by_arrival(served: Make, count: int, warm: float, cool: float) -> None:
    order = np.random.default_rng(0).permutation(count)
    found = steady(where(served(count), order), warm, cool)
    first, last = int(count * warm), count - int(count * cool)
    assert found.request.tolist() == list(range(first, last))


@pytest.mark.parametrize(("warm", "cool"), [(-0.1, 0.0), (0.0, 1.0), (0.6, 0.6), (float("nan"), 0.0)])
def test_a_cut_that_leaves_nothing_is_refused(served: Make, warm: float, cool: float) -> None:
    with pytest.raises(SpecError):
        steady(served(10), warm, cool)
