"""Orders of the kinds of ranks: which there are, how they are read, what makes two of them the same."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.mapping.order import KINDS, ORDERS, USUAL, checked_order, swapped
from cosim.mapping.plan import Plan

EACH = st.sampled_from(ORDERS)


def test_the_orders_are_those_with_tensor_ranks_inside_the_others_of_a_stage() -> None:
    assert set(ORDERS) == {
        "tp-cp-dp-pp",
        "tp-cp-pp-dp",
        "tp-pp-cp-dp",
        "pp-tp-cp-dp",
        "tp-dp-cp-pp",
        "tp-dp-pp-cp",
        "tp-pp-dp-cp",
        "pp-tp-dp-cp",
    }
    assert len(ORDERS) == 8
    assert USUAL in ORDERS
    assert Plan().order == USUAL


@given(order=EACH, place=st.integers(1, 3))
def test_expert_ranks_may_be_written_between_tensor_and_data_ranks_and_change_nothing(order: str, place: int) -> None:
    words = order.split("-")
    written = "-".join([*words[:place], "ep", *words[place:]])
    if words.index("tp") < place <= words.index("dp"):
        assert checked_order(written) == checked_order(f" {written.upper()} ") == order
    else:
        with pytest.raises(SpecError, match="ep lies between tp and dp"):
            checked_order(written)


def test_a_plan_reads_the_order_that_megatron_writes() -> None:
    assert Plan(order="tp-cp-ep-dp-pp").order == USUAL
    assert Plan(order="tp-cp-ep-pp-dp").order == "tp-cp-pp-dp"


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("tp-cp-dp-xp", "is no kind of rank", USUAL),
        ("tp-cp-dp", "is no order of ranks", "each of tp, cp, dp, pp once, and ep or not"),
        ("tp-tp-cp-dp-pp", "is no order of ranks", "once"),
        ("tp-ep-ep-cp-dp-pp", "is no order of ranks", "ep or not"),
        ("", "is no kind of rank", USUAL),
        (
            "cp-tp-dp-pp",
            "is an order that is not modelled",
            "tensor ranks lie inside the others of a stage: tp-cp-dp-pp",
        ),
        ("dp-pp-cp-tp", "is an order that is not modelled", "pp-tp-dp-cp"),
    ],
)
def test_what_is_no_order_is_said(text: str, problem: str, hint: str) -> None:
    with pytest.raises(SpecError) as raised:
        checked_order(text)
    assert (raised.value.problem, hint in str(raised.value.hint)) == (problem, True)


@given(one=EACH, other=EACH, ranks=st.tuples(*(st.sampled_from([1, 2]) for _ in KINDS)))
def test_orders_are_the_same_where_no_pair_of_kinds_with_ranks_is_the_other_way_round(
    one: str, other: str, ranks: tuple[int, ...]
) -> None:
    several = {kind for kind, count in zip(KINDS, ranks, strict=True) if count > 1}
    left = [[word for word in order.split("-") if word in several] for order in (one, other)]
    assert any({*pair} <= several for pair in swapped(one, other)) == (left[0] != left[1])


def test_every_pair_that_is_swapped_by_hand() -> None:
    assert swapped("tp-cp-dp-pp", "tp-cp-pp-dp") == (("dp", "pp"),)
    assert swapped("tp-cp-dp-pp", "pp-tp-dp-cp") == (("tp", "pp"), ("cp", "dp"), ("cp", "pp"), ("dp", "pp"))
    assert all(swapped(order, order) == () for order in ORDERS)
    assert all(swapped(a, b) for a, b in itertools.combinations(ORDERS, 2))
