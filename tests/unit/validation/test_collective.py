"""Predictions of collectives timed alone: order, nodes that grow with the ranks, the reasons of rows without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.placement import placed
from cosim.overrides import Varied
from cosim.records import array
from cosim.timing.collective import all_reduce, uniform_all_to_all
from cosim.validation.cases import Case
from cosim.validation.collective import OPS, answers, checked_rows, node_placement, rows_of
from cosim.validation.run import validate

ROW = {
    "system": "dgx-h100",
    "accelerator": "h100-sxm",
    "op": "all_reduce",
    "bytes": 2**20,
    "ranks": 8,
    "ranks_per_node": 8,
    "measured_s": 1e-4,
}
SYSTEMS = {"dgx-h100": "h100-sxm", "l40s-8gpu-pcie4": "l40s", "mi300x-8gpu": "mi300x", "tpu-v5p-8": "tpu-v5p"}


def row(**values: object) -> Case:
    return Case("c", 2, {name: str(value) for name, value in (ROW | values).items()})


def seconds(case: Case) -> float:
    ((time, reason),) = answers([case])
    assert (time is not None, reason) == (True, "")
    return time or 0.0


def reason_of(case: Case) -> str:
    ((time, reason),) = answers([case])
    assert time is None
    return reason


CASES = st.builds(
    lambda system, op, ranks, size: row(
        system=system, accelerator=SYSTEMS[system], op=op, ranks=ranks, ranks_per_node=ranks, bytes=size
    ),
    st.sampled_from(sorted(SYSTEMS)),
    st.sampled_from(sorted(OPS)),
    st.sampled_from([2, 4, 8]),
    st.integers(1, 2**30),
)


@settings(max_examples=25, deadline=None)
@given(cases=st.lists(CASES, min_size=1, max_size=8))
def test_rows_are_answered_in_order_and_as_if_alone(cases: list[Case]) -> None:
    together = answers(cases)
    assert [time for time, _ in together] == pytest.approx([seconds(case) for case in cases], rel=1e-12)
    assert all((time or 0.0) > 0.0 for time, _ in together)


def test_a_row_is_the_collective_of_its_ranks() -> None:
    system = lower_system(Varied(load_system("dgx-h100")))
    group = placed(array(4.0), array(1.0), system.sizes)
    size = array(2.0**24)
    assert seconds(row(ranks=4, ranks_per_node=4, bytes=2**24)) == float(all_reduce(size, group, system).time)
    by_pairs = float(uniform_all_to_all(size, group, system).time)
    assert seconds(row(ranks=4, ranks_per_node=4, bytes=2**24, op="alltoall")) == by_pairs


def test_ranks_beyond_a_node_get_as_many_nodes_as_they_need() -> None:
    wide = lower_system(vary_system(Varied(load_system("dgx-h100")), {"nodes": 4}))
    group = placed(array(32.0), array(1.0), wide.sizes)
    expected = float(all_reduce(array(2.0**20), group, wide).time)
    assert seconds(row(ranks=32)) == pytest.approx(expected, rel=1e-12)
    # A blank number of ranks a node fills nodes.
    assert seconds(row(ranks=32, ranks_per_node="")) == pytest.approx(expected, rel=1e-12)
    # One rank a node of four sends over the network alone.
    assert seconds(row(ranks=4, ranks_per_node=1)) > seconds(row(ranks=4, ranks_per_node=4))


def test_ranks_of_a_node_lie_next_to_each_other() -> None:
    system = lower_system(vary_system(Varied(load_system("l40s-8gpu-pcie4")), {"nodes": 3}))
    group = node_placement(array([4.0, 12.0]), array([4.0, 4.0]), system)
    assert [ranks.tolist() for ranks in np.broadcast_arrays(*group.ranks)] == [[2, 2], [2, 2], [1, 1], [1, 3]]


def test_a_blank_system_is_the_usual_node_of_the_accelerator() -> None:
    assert seconds(row(system="")) == seconds(row())
    assert reason_of(row(system="", accelerator="nobody")) == "no system is stated and nobody has no usual one"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system": "dgx-h10"}, "system dgx-h10 is not in the library"),
        ({"accelerator": "a100-80gb-sxm"}, "system dgx-h100 has h100-sxm, not a100-80gb-sxm"),
        ({"op": "gossip"}, "unknown op gossip"),
        ({"bytes": ""}, "bytes, ranks or measured_s are unknown"),
        ({"bytes": -1}, "bytes, ranks or measured_s are unknown"),
        ({"ranks": 2.5}, "bytes, ranks or measured_s are unknown"),
        ({"measured_s": 0}, "bytes, ranks or measured_s are unknown"),
        ({"ranks": 12}, "12 ranks with 8 a node do not fit nodes of 8"),
        ({"ranks": 16, "ranks_per_node": 16}, "16 ranks with 16 a node do not fit nodes of 8"),
    ],
)
def test_a_row_without_an_answer_says_why(change: dict[str, object], reason: str) -> None:
    assert reason_of(row(**change)).startswith(reason)


def test_a_system_without_a_network_answers_inside_its_node_alone() -> None:
    alone = {"system": "m4-max-1", "accelerator": "apple-m4-max", "ranks": 2, "ranks_per_node": 1}
    assert reason_of(row(**alone)) == "system m4-max-1 has no network to 2 nodes"


def test_a_fit_refuses_rows_with_a_fault() -> None:
    system = load_system("dgx-h100")
    found = checked_rows([row(), row(op="alltoall"), row(ranks=2, ranks_per_node=2)], system)
    assert {rows.op: rows.ranks.tolist() for rows in found} == {"all_reduce": [8.0, 2.0], "alltoall": [8.0]}
    with pytest.raises(SpecError, match="cannot be fitted: unknown op gossip"):
        checked_rows([row(op="gossip")], system)


def test_ranks_of_a_node_are_never_more_than_the_group() -> None:
    rows = rows_of(
        "all_reduce", [row(ranks=2, ranks_per_node=""), row(ranks=16, ranks_per_node="")], load_system("dgx-h100")
    )
    assert rows.per_node.tolist() == [2.0, 8.0]


def test_a_file_of_cases_is_compared_and_grouped(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    lines = [
        ",".join(ROW),
        *(",".join(str(v) for v in (ROW | {"bytes": size}).values()) for size in (512, 2**20, 2**28)),
    ]
    path.write_text("\n".join([*lines, ",".join(str(v) for v in (ROW | {"op": "gossip"}).values())]) + "\n")
    found = validate("collective", path, group="op")
    assert (found["cases"], found["evaluated"], len(found["skipped"])) == (4, 3, 1)
    assert found["groups"]["all_reduce"]["evaluated"] == 3
