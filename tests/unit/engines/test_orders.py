"""Orders of passes: by hand, every pass once, nothing before what it needs, no more live than the schedule says."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.orders import Block, Pass, entries, following, last_pass, orders

SPLIT = ("zb-h1", "zb-v", "dualpipe")
ALL = ("gpipe", *SPLIT)


def written(order: list[Block]) -> str:
    """F0, B0, W0 of a micro-batch, with the piece in front where there are several; blocks joined by +."""
    several = any(piece for block in order for _, piece, _ in block)
    return " ".join(
        "+".join(f"{kind[0].upper()}{f'{piece}.' if several else ''}{micro}" for kind, piece, micro in block)
        for block in order
    )


def passes(order: list[Block]) -> list[Pass]:
    return [step for block in order for step in block]


@pytest.mark.parametrize(
    ("stage", "order"),
    [
        (0, "F0 F1 F2 B0 W0 F3 B1 W1 B2 W2 B3 W3"),
        (1, "F0 F1 B0 F2 B1 W0 F3 B2 W1 B3 W2 W3"),
        (2, "F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3"),
    ],
)
def test_zero_bubble_by_hand(stage: int, order: str) -> None:
    assert written(orders("zb-h1", 3, 4)[stage]) == order


def test_gpipe_turns_once() -> None:
    assert [written(order) for order in orders("gpipe", 2, 3)] == ["F0 F1 F2 B0 B1 B2"] * 2


def test_a_v_of_two_stages_by_hand() -> None:
    first, last = orders("zb-v", 2, 2)
    assert written(first) == "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 B0.0 W1.0 B0.1 W1.1 W0.0 W0.1"
    assert written(last) == "F0.0 F1.0 F0.1 F1.1 B1.0 B0.0 B1.1 B0.1 W1.0 W0.0 W1.1 W0.1"


def test_both_ways_through_two_stages_by_hand() -> None:
    first, last = orders("dualpipe", 2, 4)
    assert written(first) == "F0.0 F1.0 F0.1 B1.0+W1.0 F1.1+B0.0+W0.0 B1.1+W1.1 B0.1 W0.1"
    # The other end does the same with the pieces changed.
    swapped = [tuple((kind, 1 - piece, micro) for kind, piece, micro in block) for block in first]
    assert last == swapped


def legal(half: int, more: int) -> tuple[int, int]:
    stages = 2 * half
    return stages, 2 * stages + 2 * more


DRAWN = {"schedule": st.sampled_from(ALL), "half": st.integers(1, 5), "more": st.integers(0, 6)}


@settings(max_examples=80, deadline=None)
@given(**DRAWN)
def test_every_pass_runs_once_and_after_what_it_needs(schedule: str, half: int, more: int) -> None:
    stages, micro = legal(half, more)
    every = orders(schedule, stages, micro)
    pieces = 2 if schedule in ("zb-v", "dualpipe") else 1
    each = micro // 2 if schedule == "dualpipe" else micro
    kinds = ("forward", "backward", "weight") if schedule in SPLIT else ("forward", "backward")
    wanted = {(kind, piece, k) for kind in kinds for piece in range(pieces) for k in range(each)}
    for order in every:
        found = passes(order)
        assert (len(found), set(found)) == (len(wanted), wanted)
        place = {step: index for index, step in enumerate(found)}
        for _, piece, k in found:
            assert place["forward", piece, k] < place["backward", piece, k]
            assert place["backward", piece, k] <= place[last_pass(schedule), piece, k]


@settings(max_examples=80, deadline=None)
@given(**DRAWN)
def test_all_passes_can_be_run_in_their_order(schedule: str, half: int, more: int) -> None:
    stages, micro = legal(half, more)
    every = orders(schedule, stages, micro)
    ready = set(entries(schedule, stages, micro))
    at = [0] * stages
    moved = True
    while moved:
        moved = False
        for stage, order in enumerate(every):
            while at[stage] < len(order) and all(
                step[0] == "weight" or (stage, step) in ready for step in order[at[stage]]
            ):
                for step in order[at[stage]]:
                    after = following(schedule, stages, stage, step)
                    if after:
                        assert after not in ready
                        ready.add(after)
                at[stage] += 1
                moved = True
    assert at == [len(order) for order in every]


@settings(max_examples=80, deadline=None)
@given(**DRAWN)
def test_a_stage_keeps_no_more_than_the_schedule_says(schedule: str, half: int, more: int) -> None:
    stages, micro = legal(half, more)
    most = {"gpipe": micro, "zb-h1": stages, "zb-v": 2 * stages, "dualpipe": stages + 1}[schedule]
    done = last_pass(schedule)
    peaks = []
    for order in orders(schedule, stages, micro):
        change = [{"forward": 1, done: -1}.get(kind, 0) for kind, _, _ in passes(order)]
        peaks.append(max(accumulate(change)))
        assert sum(change) == 0
    assert max(peaks) <= most
    assert max(peaks) == most or schedule == "dualpipe"


def test_where_passes_hand_on_by_hand() -> None:
    assert following("gpipe", 3, 0, ("forward", 0, 4)) == (1, ("forward", 0, 4))
    assert following("gpipe", 3, 2, ("forward", 0, 4)) == (2, ("backward", 0, 4))
    assert following("zb-h1", 3, 0, ("backward", 0, 4)) is None
    assert following("zb-h1", 3, 1, ("weight", 0, 4)) is None
    assert following("zb-v", 3, 2, ("forward", 0, 1)) == (2, ("forward", 1, 1))
    assert following("zb-v", 3, 2, ("forward", 1, 1)) == (1, ("forward", 1, 1))
    assert following("zb-v", 3, 0, ("forward", 1, 1)) == (0, ("backward", 1, 1))
    assert following("zb-v", 3, 2, ("backward", 1, 1)) == (2, ("backward", 0, 1))
    assert following("zb-v", 3, 0, ("backward", 0, 1)) is None
    assert following("dualpipe", 4, 0, ("forward", 1, 1)) == (0, ("backward", 1, 1))
    assert following("dualpipe", 4, 3, ("backward", 1, 1)) is None
    assert following("dualpipe", 4, 1, ("backward", 1, 1)) == (2, ("backward", 1, 1))


def test_an_order_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="no order of passes is known for 1f1b"):
        orders("1f1b", 2, 4)
