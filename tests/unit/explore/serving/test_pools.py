"""Pools apart in closed form: what binds the rate, the queue by hand, chips that come out, the cache that moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.explore.serving import pools
from cosim.explore.serving.deployments import Cell, Ground, Machine, cells_of, levels_of, replicas_of, size_of
from cosim.explore.serving.pools import BUSIEST, scored_apart, transfer_of
from cosim.explore.serving.scores import LIMITS, Scores, steps_of
from cosim.explore.serving.search_file import ServingSearch
from cosim.mapping.serving import load_serving, lower_serving
from cosim.records import Array, array
from cosim.timing.collective import send

Study = Callable[..., ServingSearch]
Grounds = Callable[..., Ground]
Machines = Callable[..., Machine]
Table = dict[str, Array]
START = float(lower_serving(load_serving("vllm")).request_start)
"""The front end of the stack that is searched with [s]."""


def apart(asked: ServingSearch, own: Ground, one: Machine) -> tuple[Cell, Table, Scores]:
    (cell,) = cells_of(asked.space, [one], own)
    replicas = replicas_of(cell, asked.space, own)[0]
    return cell, *scored_apart(cell, replicas, levels_of(asked.space, own), own, asked)


def prefill_size(table: Table) -> Array:
    return table["prefill_tensor"] * table["prefill_pipeline"] * table["prefill_data"]


def test_no_chip_is_left_over(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study(chips=8)
    _, table, scores = apart(asked, ground(asked), machine(chips=8))
    assert len(scores.code) > 100
    chips = table["replicas"] * size_of(table) + table["prefill_replicas"] * prefill_size(table)
    assert np.all(chips == 8)
    assert np.all(table["replicas"] >= 1)
    assert np.all(np.mod(table["replicas"], 1.0) == 0.0)
    assert {tuple(row) for row in zip(table["prefill_replicas"], table["replicas"], strict=True)} >= {(1, 7), (4, 4)}


def test_one_chip_has_no_pools(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study(chips=1)
    _, table, scores = apart(asked, ground(asked), machine(chips=1))
    assert len(scores.code) == len(table["tensor"]) == 0


def test_the_queue_of_prompts_by_hand(study: Study, ground: Grounds, machine: Machines) -> None:
    # One chip of prompts, one of answers, one sequence: T is a step of the whole prompt.
    asked = study({"tensor": 1, "pipeline": 1, "max_sequences": 8, "token_budget": 4096}, chips=2)
    own = ground(asked)
    cell, table, scores = apart(asked, own, machine(chips=2))
    assert (table["prefill_replicas"].tolist(), table["replicas"].tolist()) == ([1.0], [1.0])
    one = {name: array(1.0) for name in ("tensor", "pipeline", "data", "expert")}
    case = pools.case_of(cell, {**one, "token_budget": array(4096.0)}, own)
    zero = array(0.0)
    works = [
        pools.Work(array(1.0), array(1000.0), zero, zero, zero, array(1.0)),
        pools.Work(zero, zero, zero, array(8.0), array(1050.0), array(8.0)),
    ]
    (took, step), _ = steps_of(case, works)
    rate = min(8.0 / (99.5 * step[0]), 1.0 / took[0])
    load = rate * took[0]
    assert scores.requests_per_s[0] == pytest.approx(rate)
    assert scores.ttft_s[0] == pytest.approx(START + took[0] + load * took[0] / (2 * (1 - load)))
    moved = float(transfer_of(cell, one, one, own).seconds(1000.0))
    moving = moved + rate * moved * moved / (2 * (1 - rate * moved))
    assert scores.tpot_s[0] == pytest.approx(step[0] + (moving + step[0] / 2) / 99)


def test_prompts_set_the_rate_and_just_keep_the_limit(study: Study, ground: Grounds, machine: Machines) -> None:
    space = {"tensor": 1, "pipeline": 1, "max_sequences": 128, "prefill_replicas": 1, "token_budget": 4096}
    limits = [START + wait for wait in (0.04, 0.06, 0.1, 0.2, 1.0, 1000.0)]
    rates = []
    for limit in limits:
        asked = study(space, chips=4, ttft_limit=limit, tpot_limit=None)
        _, _, scores = apart(asked, ground(asked), machine())
        assert scores.fits.all()
        assert scores.ttft_s[0] <= limit * (1 + 1e-9)
        rates.append(scores.requests_per_s[0])
    assert rates == sorted(rates)
    # A short limit is used up whole; at the longest prompts are busy nearly all the time.
    asked = study(space, chips=4, ttft_limit=limits[0], tpot_limit=None)
    assert apart(asked, ground(asked), machine())[2].ttft_s[0] == pytest.approx(limits[0])
    asked = study({**space, "max_sequences": 256}, chips=4, ttft_limit=None, tpot_limit=None)
    _, _, free = apart(asked, ground(asked), machine())
    assert rates[-1] == pytest.approx(free.requests_per_s[0])
    took = (free.ttft_s[0] - START) / (1.0 + BUSIEST / (2 * (1 - BUSIEST)))
    assert free.requests_per_s[0] * took == pytest.approx(BUSIEST)


def test_a_prompt_alone_can_break_the_limit(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study(ttft_limit=1e-4)
    _, _, scores = apart(asked, ground(asked), machine())
    assert {LIMITS[code] for code in scores.code} == {"ttft_limit"}
    assert np.all(scores.shortfall > 0.0)


def test_replicas_that_memory_refuses_are_listed(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study()
    _, table, scores = apart(asked, ground(), machine(capacity=0.2))
    refused = scores.code == LIMITS.index("memory")
    assert refused.any()
    assert np.isnan(table["prefill_tensor"][refused] + table["tensor"][refused]).all()
    assert np.isfinite(table["tensor"][~refused]).all()
    assert np.all(scores.shortfall[refused] > 0.0)


def test_the_cache_moves_over_the_network(study: Study, ground: Grounds, machine: Machines) -> None:
    # 131,072 B a token over the switch of a node, and half of it by each of two ranks.
    asked = study()
    (cell,) = cells_of(asked.space, [machine()], ground())
    alone, pair = ({"tensor": array(tensor), "pipeline": array(1.0)} for tensor in (1.0, 2.0))
    one, two = (transfer_of(cell, ranks, ranks, ground()) for ranks in (alone, pair))
    system = cell.machine.system
    assert [float(each.token_bytes) for each in (one, two)] == pytest.approx([131_072, 131_072 / 2])
    assert float(transfer_of(cell, alone, pair, ground()).token_bytes) == pytest.approx(131_072)
    assert float(one.seconds(1000.0)) == pytest.approx(float(send(array(131_072e3), 0, system)))
    assert float(two.seconds(1000.0)) == pytest.approx(float(send(array(131_072e3 / 2), 0, system)))
    far = replace(ground(), chips=64)
    slow = transfer_of(Cell(machine(chips=64), "bf16", None, "bf16"), alone, alone, far)
    assert float(slow.seconds(1000.0)) > float(one.seconds(1000.0))


def test_pairs_beyond_any_use_are_refused(
    study: Study, ground: Grounds, machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "MOST", 10)
    with pytest.raises(SpecError, match=r"holds too many pairs of pools .*at most 10: list values"):
        apart(study(), ground(), machine())


def test_a_pair_alone_is_what_it_is_among_all(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study()
    _, table, scores = apart(asked, ground(), machine())
    for place in np.linspace(0, len(scores.code) - 1, 5).astype(int):
        own = {name: column[place] for name, column in table.items()}
        if np.isnan(own["tensor"] + own["prefill_tensor"]):
            continue
        space = {
            "tensor": sorted({int(own["tensor"]), int(own["prefill_tensor"])}),
            "pipeline": sorted({int(own["pipeline"]), int(own["prefill_pipeline"])}),
            "max_sequences": int(own["max_sequences"]),
            "token_budget": int(own["prefill_token_budget"]),
            "prefill_replicas": int(own["prefill_replicas"]),
        }
        _, few, judged = apart(study(space), ground(), machine())
        same = np.all([few[name] == own[name] for name in table], axis=0)
        assert same.sum() == 1
        for name in ("ttft_s", "tpot_s", "requests_per_s", "joules_per_request"):
            assert getattr(judged, name)[same] == pytest.approx(getattr(scores, name)[place], rel=1e-12)


def test_no_plan_of_a_pool_is_beaten_by_another_of_its_size(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study(chips=8, ttft_limit=None, tpot_limit=None)
    _, table, scores = apart(asked, ground(asked), machine(chips=8))
    plans = {
        (size, tensor, pipeline, budget)
        for size, tensor, pipeline, budget in zip(
            prefill_size(table).tolist(),
            table["prefill_tensor"].tolist(),
            table["prefill_pipeline"].tolist(),
            table["prefill_token_budget"].tolist(),
            strict=True,
        )
    }
    # A dense model: the plan with the shortest prompt is the one with the highest rate.
    assert len(plans) == len({plan[0] for plan in plans})
    assert np.isfinite(scores.joules_per_request).all()


def test_chips_that_wait_draw_power(study: Study, ground: Grounds, machine: Machines) -> None:
    space = {"tensor": 1, "pipeline": 1, "max_sequences": 8, "token_budget": 4096}
    asked = study(space)
    cell, table, scores = apart(asked, ground(), machine())
    system = cell.machine.system
    power = scores.joules_per_request * scores.requests_per_s / 4
    idle = float((system.chip.power.idle + system.server_power) * system.pue)
    assert np.all(power > idle)
    # More replicas of prompts for the same answers draw more for each of them.
    order = np.argsort(table["prefill_replicas"])
    per_request = scores.joules_per_request[order]
    assert per_request.tolist() == sorted(per_request.tolist())
