"""Split replicas in a search: every legal pair of sides, memory of both, rates against the simulation, energy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from cosim.engines.served_split import split_seconds
from cosim.explore.serving.deployments import Cell, Ground, Machine, cells_of, levels_of
from cosim.explore.serving.scores import LIMITS, Scores
from cosim.explore.serving.search import ServingResult, ground_of, simulate
from cosim.explore.serving.search_file import ServingSearch
from cosim.explore.serving.search_findings import described
from cosim.explore.serving.split_space import FORWARD, scored_split, split_cases, split_size
from cosim.hardware.load import load_system
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.workload.load import load_workload
from cosim.workload.work import decode_work

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Study = Callable[..., ServingSearch]
Grounds = Callable[..., Ground]
Machines = Callable[..., Machine]
Searched = Callable[..., ServingResult]
Table = dict[str, Array]


def split(asked: ServingSearch, own: Ground, one: Machine) -> tuple[Cell, Table, Scores]:
    (cell,) = cells_of(asked.space, [one], own)
    return cell, *scored_split(cell, levels_of(asked.space, own), own, asked)


def moe(asked: ServingSearch) -> Ground:
    """Of a model of 128 experts, 4 heads of keys."""
    return ground_of(asked, Varied(load_system("dgx-h200")), Varied(load_workload("qwen3-30b-a3b")))


def test_every_legal_pair_of_sides_and_no_chip_left_over(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study({"max_sequences": 8, "token_budget": 1024}, chips=8)
    _, table, _ = split(asked, ground(asked), machine(chips=8))
    found = sorted(zip(*(table[name].tolist() for name in ("tensor", "data", *FORWARD)), strict=True))
    # Llama 3.1 8B: 8 heads of keys, 32 of queries; a width of 14,336 = 2,048 x 7.
    expected = []
    for tensor, data, far, micro in product((1, 2, 4, 8), range(1, 8), range(1, 8), (2, 3)):
        size = tensor * data + far
        if size <= 8 and 8 % size == 0 and 14_336 % far == 0:
            expected.append((float(tensor), float(data), float(far), 1.0, 1.0, float(micro)))
    assert found == sorted(expected)
    assert len(found) > 10
    assert np.all(table["replicas"] * split_size(table) == 8)
    assert np.all(table["expert"] == 1.0)


def test_experts_lie_over_all_chips_of_their_side(study: Study, machine: Machines) -> None:
    asked = study({"max_sequences": 8, "token_budget": 1024}, chips=8)
    cell, table, _ = split(asked, moe(asked), machine(chips=8))
    assert set(table["forward_expert"].tolist()) == {1.0, 2.0, 4.0}
    assert np.all(table["forward_tensor"] == 1.0)
    assert np.all(table["forward_data"] == table["forward_expert"])
    sides = split_cases(cell, table, moe(asked))
    assert (sides.attention.side, sides.feed_forward.side) == ("attention", "feed_forward")
    assert np.all(sides.inside == 1.0)


def test_listed_values_are_those_that_are_tried(study: Study, ground: Grounds, machine: Machines) -> None:
    space = {"feed_forward": 2, "micro_batches": [1, 4], "tensor": 2, "max_sequences": 8, "token_budget": 1024}
    asked = study(space, chips=8)
    _, table, _ = split(asked, ground(asked), machine(chips=8))
    assert set(table["forward_tensor"].tolist()) == {2.0}
    assert set(table["micro_batches"].tolist()) == {1.0, 4.0}
    assert set(table["tensor"].tolist()) == {2.0}
    none = study({**space, "feed_forward": 5}, chips=8)
    _, empty, scores = split(none, ground(none), machine(chips=8))
    assert len(scores.code) == len(empty["tensor"]) == 0


def test_replicas_beyond_a_node_meet_outside(study: Study, machine: Machines) -> None:
    asked = study({"max_sequences": 8, "token_budget": 1024, "tensor": 1, "data": [4, 8]}, chips=16)
    own = moe(asked)
    cell, table, scores = split(asked, own, machine(chips=16))
    inside = split_cases(cell, table, own).inside
    assert set(split_size(table)[inside == 1.0]) <= {1.0, 2.0, 4.0, 8.0}
    assert set(split_size(table)[inside == 0.0]) == {16.0}
    assert np.all(np.isfinite(scores.tpot_s[scores.fits]))


def test_memory_is_asked_of_either_side(study: Study, machine: Machines) -> None:
    asked = study({"max_sequences": [1, 128], "token_budget": 1024, "micro_batches": 2}, chips=4)
    own = moe(asked)
    _, table, scores = split(asked, own, machine(chips=4))
    _, _, small = split(asked, own, machine(chips=4, capacity=0.3))
    memory = LIMITS.index("memory")
    assert not np.any(scores.code == memory)
    # 30 GB of experts on one chip of 42 GB leave no room for steps; on two they do.
    refused = small.code == memory
    assert refused[table["forward_data"] == 1.0].any()
    assert not refused[(table["forward_data"] == 2.0) & (table["max_sequences"] == 1.0)].all()
    assert np.all(small.shortfall[refused] > 0.0)


def test_a_faster_memory_serves_no_less(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study({"micro_batches": [2, 3]}, ttft_limit=None, tpot_limit=None)
    _, _, plain = split(asked, ground(asked), machine())
    _, _, fast = split(asked, ground(asked), machine(bandwidth=2.0))
    both = plain.fits & fast.fits
    assert both.sum() > 20
    assert np.all(fast.requests_per_s[both] >= plain.requests_per_s[both] * (1.0 - 1e-9))


def test_energy_lies_between_idle_and_the_limit(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study({"token_budget": 4096})
    own, one = ground(asked), machine()
    _, _, scores = split(asked, own, one)
    fits = scores.fits
    watts = scores.joules_per_request[fits] * scores.requests_per_s[fits] / own.chips
    system = one.system
    idle = float((system.chip.power.idle + system.server_power) * system.pue)
    most = float((system.chip.power.limit + system.server_power) * system.pue)
    assert np.all(watts > 0.9 * idle)
    assert np.all(watts < most)


@pytest.mark.parametrize("place", range(4))
def test_the_simulation_agrees(searched: Searched, place: int) -> None:
    space = {"layout": "split", "tensor": [1, 2], "data": 1, "micro_batches": 2, "token_budget": 4096}
    found = searched({**space, "max_sequences": [8, 32]}, ttft_limit=None, tpot_limit=None, check="none")
    rows = np.flatnonzero(found.found.fits)
    index = int(rows[len(rows) * place // 4])
    row = found.found.row(index)
    study = found.study.model_copy(update={"check": "closed_loop", "capacity": False})
    seen = simulate(study, found.ground, found.found, index).seen
    # Requests of one length keep in waves, whose prompts wait: more in the first token, less in each further one.
    assert seen.tpot_s["mean"] == pytest.approx(row["tpot_s"], rel=0.22)
    assert seen.requests_per_s == pytest.approx(row["requests_per_s"], rel=0.25)


def test_a_split_deployment_in_words(searched: Searched) -> None:
    space: dict[str, Any] = {"layout": ["together", "split"], "tensor": 1, "max_sequences": 32, "token_budget": 4096}
    found = searched({**space, "data": 1, "micro_batches": 2}, check="none")
    rows = [described(found.found, index) for index in range(len(found.found))]
    assert {row["layout"] for row in rows} == {"together", "split"}
    (one, *_) = (row for row in rows if row["layout"] == "split" and row["forward_tensor"] == 1)
    assert one["plan"].startswith(
        "dgx-h200: 2 x 1 chip (4096 tokens a step, 32 sequences) beside 1 for feed-forward, 2"
    )
    assert isinstance(one["micro_batches"], int)
    assert all("forward_tensor" not in row for row in rows if row["layout"] == "together")


def test_steps_are_those_of_one_replica(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study({"max_sequences": 8, "token_budget": 1024})
    own = ground(asked)
    cell, table, _ = split(asked, own, machine())
    whole = split_seconds(split_cases(cell, table, own), [decode_work(8.0 * table["data"], array(1000.0))])[0]
    for place in range(len(whole)):
        single = {name: column[place] for name, column in table.items()}
        (alone,) = split_seconds(split_cases(cell, single, own), [decode_work(8.0 * single["data"], array(1000.0))])
        assert whole[place] == pytest.approx(float(alone.item()), rel=1e-12)


def test_models_with_both_side_by_side_are_not_split(study: Study, machine: Machines) -> None:
    asked = study({"max_sequences": 8, "token_budget": 1024}, chips=8)
    own = ground_of(asked, Varied(load_system("dgx-h200")), Varied(load_workload("gpt-j-6b")))
    _, table, scores = split(asked, own, machine(chips=8))
    assert len(scores.code) == len(table["tensor"]) == 0
