"""The choice among layouts: sweeps by run, regret and rank correlation; properties first, then numbers by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.records import Array, array
from cosim.validation.cases import Case
from cosim.validation.layout_choice import APART, LAYOUT, RUN, regret, sweeps, tau

TIMES = st.lists(st.floats(0.01, 100.0), min_size=2, max_size=12)
PAIRS = st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)), min_size=2, max_size=12)


def apart(*times: float) -> Array:
    return array(times)


def case(name: str, **values: object) -> Case:
    columns = dict.fromkeys((*RUN, *LAYOUT), "")
    given_values = {"source": "lab: table 1", "workload": "gpt", "num_accelerators": "8", **values}
    return Case(name, 1, {**columns, **{key: str(value) for key, value in given_values.items()}})


@given(PAIRS)
def test_regret_is_never_negative_and_nothing_beats_the_best(pairs: Sequence[tuple[float, float]]) -> None:
    predicted, measured = array(pairs).T
    found = regret(predicted, measured)
    assert 0.0 <= found <= float(np.max(measured) / np.min(measured)) - 1.0
    assert regret(measured, measured) == 0.0


@given(PAIRS, st.floats(0.1, 10.0))
def test_units_and_common_factors_do_not_matter(pairs: Sequence[tuple[float, float]], factor: float) -> None:
    predicted, measured = array(pairs).T
    assert regret(predicted * 2.0, measured) == regret(predicted, measured)
    assert regret(predicted, measured * 4.0) == pytest.approx(regret(predicted, measured))
    assert tau(predicted * 8.0, measured) == tau(predicted, measured)
    assert regret(measured * factor, measured) == pytest.approx(0.0, abs=1e-9)


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_of_the_layouts_does_not_matter(pairs: list[tuple[float, float]], random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert tau(*array(pairs).T) == pytest.approx(tau(*array(shuffled).T))
    if len({guess for guess, _ in pairs}) == len(pairs):
        assert regret(*array(pairs).T) == pytest.approx(regret(*array(shuffled).T))


@given(PAIRS)
def test_tau_lies_between_minus_one_and_one_and_turns_with_the_prediction(pairs: list[tuple[float, float]]) -> None:
    predicted, measured = array(pairs).T
    found = tau(predicted, measured)
    assert (found is None) == bool(np.max(measured) <= np.min(measured) * (1.0 + APART))
    if found is not None:
        assert -1.0 <= found <= 1.0
        assert tau(-predicted, measured) == pytest.approx(-found)
        assert tau(measured, measured) == 1.0
        assert tau(1.0 / measured, measured) == -1.0


@given(TIMES)
def test_a_prediction_of_one_value_orders_nothing(times: list[float]) -> None:
    measured = array(times)
    found = tau(np.ones_like(measured), measured)
    assert found in (None, 0.0)
    assert regret(np.ones_like(measured), measured) == pytest.approx(times[0] / min(times) - 1.0)


def test_regret_by_hand() -> None:
    # The second is predicted best and measured at 12 where 10 was possible.
    assert regret(apart(3.0, 1.0, 2.0), apart(10.0, 12.0, 40.0)) == pytest.approx(0.2)


def test_tau_by_hand_counts_only_pairs_that_are_apart() -> None:
    # Of 10, 10.4, 20 the first two are 4 % apart and do not count; of the other two pairs one is right.
    assert tau(apart(1.0, 3.0, 2.0), apart(10.0, 10.4, 20.0)) == 0.0
    assert tau(apart(2.0, 1.0, 3.0), apart(10.0, 10.4, 20.0)) == 1.0
    assert tau(apart(2.0, 1.0, 3.0), apart(10.0, 10.4, 20.0), apart=0.01) == pytest.approx(1.0 / 3.0)
    assert tau(apart(1.0, 2.0), apart(10.0, 10.4)) is None


def test_a_sweep_has_one_run_and_at_least_two_layouts() -> None:
    rows = [
        case("a", tp=1),
        case("b", tp=2),
        case("other batch", tp=2, global_batch=64),
        case("other source", tp=4, source="elsewhere: table 2"),
        case("other lengths", tp=1, seq_len=4096),
        case("other chips", tp=1, num_accelerators=16),
        case("c", tp=2, micro_batch=4),
    ]
    (found,) = sweeps(rows, [float(place) for place in range(7)], [10.0 + place for place in range(7)])
    assert found.source == "lab"
    assert found.predicted.tolist() == [0.0, 1.0, 6.0]
    assert found.measured.tolist() == [10.0, 11.0, 16.0]
    assert "gpt" in found.run


def test_repeats_of_a_layout_are_their_median() -> None:
    rows = [case("a", tp=1), case("b", tp=2), case("a again", tp=1), case("and again", tp=1)]
    (found,) = sweeps(rows, [1.0, 2.0, 1.0, 1.0], [10.0, 5.0, 12.0, 50.0])
    assert found.measured.tolist() == [12.0, 5.0]
    assert sweeps(rows[::2], [1.0, 1.0], [1.0, 2.0]) == []


def test_rows_of_one_source_may_name_their_own_lines() -> None:
    rows = [case("a", tp=1, source="lab: row 1"), case("b", tp=2, source="lab: row 2")]
    assert len(sweeps(rows, [1.0, 2.0], [1.0, 2.0])) == 1
    assert sweeps([], [], []) == []
