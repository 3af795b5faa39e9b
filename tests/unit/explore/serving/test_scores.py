"""Closed form of deployments: memory before time, batch as singles, columns by hand, limits in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosim.economics.price import Serving, cost_per_million_tokens
from cosim.engines.served import in_flight, static_batch
from cosim.explore.serving.deployments import (
    Cell,
    Ground,
    Machine,
    case_of,
    cells_of,
    demand_of,
    kept,
    levels_of,
    replicas_of,
    together_of,
)
from cosim.explore.serving.scores import (
    LIMITS,
    UNITS,
    Scores,
    blank,
    broken,
    columns_of,
    memory_lacks,
    scored_together,
    within,
)
from cosim.explore.serving.search_file import ServingSearch
from cosim.mapping.serving import load_serving, lower_serving
from cosim.records import Array, array

Study = Callable[..., ServingSearch]
Grounds = Callable[..., Ground]
Machines = Callable[..., Machine]
Table = dict[str, Array]
START = float(lower_serving(load_serving("vllm")).request_start)
"""The front end of the stack that is searched with [s]."""


def space_of(asked: ServingSearch, own: Ground, one: Machine) -> tuple[Cell, Table, Scores]:
    (cell,) = cells_of(asked.space, [one], own)
    table = together_of(replicas_of(cell, asked.space, own)[0], levels_of(asked.space, own), own)
    return cell, table, scored_together(cell, table, own, asked)


def test_every_limit_has_a_unit() -> None:
    assert set(UNITS) == set(LIMITS) - {""}


def test_a_batch_is_its_singles(study: Study, ground: Grounds, machine: Machines) -> None:
    asked, own = study(), ground()
    cell, table, scores = space_of(asked, own, machine())
    for place in range(0, len(scores.code), 7):
        alone = scored_together(cell, kept(table, np.array([place])), own, asked)
        for name in Scores.__slots__:
            np.testing.assert_allclose(getattr(alone, name), getattr(scores, name)[[place]], rtol=1e-12)


def test_latencies_are_those_of_the_steady_state(study: Study, ground: Grounds, machine: Machines) -> None:
    asked, own = study(ttft_limit=None, tpot_limit=None), ground()
    cell, table, scores = space_of(asked, own, machine())
    fits = np.flatnonzero(scores.fits)
    part = kept(table, fits)
    served = in_flight(case_of(cell, part, own), demand_of(part, own))
    assert scores.ttft_s[fits] == pytest.approx(served.ttft)
    assert scores.tpot_s[fits] == pytest.approx(served.tpot)
    assert scores.requests_per_s[fits] == pytest.approx(served.rate * part["replicas"])


def test_what_memory_refuses_is_not_timed(study: Study, ground: Grounds, machine: Machines) -> None:
    asked, own = study(), ground()
    cell, table, scores = space_of(asked, own, machine(capacity=0.25))
    refused = scores.code == LIMITS.index("memory")
    assert 0 < refused.sum() < len(refused)
    assert np.isnan(scores.ttft_s[refused]).all()
    assert np.isfinite(scores.ttft_s[scores.fits]).all()
    lacks = np.broadcast_to(memory_lacks(case_of(cell, table, own), table["max_sequences"], own), refused.shape)
    assert scores.shortfall[refused] == pytest.approx(lacks[refused])
    assert np.all(lacks[scores.fits] <= 0.0)


def test_a_sequence_more_lacks_its_cache(study: Study, ground: Grounds, machine: Machines) -> None:
    # 32 layers x 8 heads x 128 x 2 x 2 B = 131,072 B a token; 1,000 + 100 / 2 of them on average.
    asked, own = study({"tensor": 1, "pipeline": 1}), ground()
    (cell,) = cells_of(asked.space, [machine()], own)
    one = {name: array([1.0, 1.0]) for name in ("tensor", "pipeline", "data", "expert")}
    few, more = memory_lacks(case_of(cell, one, own), array([7.0, 8.0]), own)
    assert more - few == pytest.approx(131_072 * 1050)


def test_a_step_holds_the_prompts_that_come_with_it(study: Study, ground: Grounds, machine: Machines) -> None:
    # 99 steps for 7, 31 or 63 other prompts: 14, 3 or 1 piece each, 8 + 1000 / 14 = 79 tokens, 365, 1,064.
    # 127 are more than there are steps: 128 (1 + 1000 / 100) = 1,408.
    asked = study({"tensor": 1, "pipeline": 1, "token_budget": [70, 1024, 4096]}, ttft_limit=None, tpot_limit=None)
    _, table, scores = space_of(asked, ground(), machine())
    lacks = {70: [9.4, 295.3, 994.0, 1338.0], 1024: [40.0, 384.0], 4096: []}
    for budget, expected in lacks.items():
        short = (table["token_budget"] == budget) & ~scores.fits
        assert {LIMITS[code] for code in scores.code[short]} <= {"token_budget"}
        assert scores.shortfall[short] == pytest.approx(expected, abs=0.05)
    # A lone sequence needs no more than its own token.
    assert scores.fits[table["max_sequences"] == 1.0].all()


def test_limits_of_time_are_broken_by_what_lacks(study: Study, ground: Grounds, machine: Machines) -> None:
    free = space_of(study(ttft_limit=None, tpot_limit=None), ground(), machine())[2]
    tight = space_of(study(ttft_limit=START + 0.03, tpot_limit=0.005), ground(), machine())[2]
    late, slow = (tight.code == LIMITS.index(name) for name in ("ttft_limit", "tpot_limit"))
    assert late.any()
    assert slow.any()
    assert tight.shortfall[late] == pytest.approx(free.ttft_s[late] - START - 0.03)
    assert tight.shortfall[slow] == pytest.approx(free.tpot_s[slow] - 0.005)
    assert np.all(free.ttft_s[slow] <= START + 0.03)
    assert np.all(free.tpot_s[tight.fits] <= 0.005)


def test_columns_by_hand(study: Study, ground: Grounds, machine: Machines) -> None:
    own = ground()
    cell, table, scores = space_of(study(), own, machine())
    judged = columns_of(cell, table, scores, own)
    row = int(np.argmax(scores.fits))
    tokens = scores.requests_per_s[row] * 100
    assert judged["tokens_per_s_per_chip"][row] == pytest.approx(tokens / 4)
    assert judged["tokens_per_s_per_user"][row] == pytest.approx(1.0 / scores.tpot_s[row])
    assert judged["concurrency"][row] == table["max_sequences"][row] * table["replicas"][row]
    money = cell.machine.money
    life = 4.0
    price = money.usd_per_chip_s * life * 365.25 * 86400.0
    joules = scores.joules_per_request[row] / 100
    one = Serving(tokens / 4, joules, price, money.usd_per_j, life)
    assert judged["usd_per_million_tokens"][row] == pytest.approx(cost_per_million_tokens(one))
    assert judged["tokens_per_j"][row] == pytest.approx(1.0 / joules)


def test_power_lies_between_idle_and_the_limit(study: Study, ground: Grounds, machine: Machines) -> None:
    cell, _, scores = space_of(study(ttft_limit=None, tpot_limit=None), ground(), machine())
    system = cell.machine.system
    power = (scores.joules_per_request * scores.requests_per_s)[scores.fits] / 4
    rest = float(system.server_power)
    least, most = (float((each + rest) * system.pue) for each in (system.chip.power.idle, system.chip.power.limit))
    assert power.min() > 0.8 * least
    assert power.max() < 1.1 * most


def test_a_static_stack_runs_its_batches_to_their_end(study: Study, ground: Grounds, machine: Machines) -> None:
    asked, own = study(ttft_limit=None, tpot_limit=None), ground()
    own = replace(own, stack=replace(own.stack, policy="static"))
    cell, table, scores = space_of(asked, own, machine())
    fits = np.flatnonzero(scores.fits)
    part = kept(table, fits)
    served = static_batch(case_of(cell, part, own), demand_of(part, own))
    assert scores.ttft_s[fits] == pytest.approx(served.ttft)
    # A whole prompt must go into a step.
    assert np.all(part["token_budget"] >= 1000.0)


def test_the_first_limit_that_is_broken_stays() -> None:
    scores = blank(4)
    broken(scores, "memory", array([1.0, 0.0, -1.0, 0.0]))
    broken(scores, "tpot_limit", array([2.0, 3.0, 0.0, -4.0]))
    assert [LIMITS[code] for code in scores.code] == ["memory", "tpot_limit", "", ""]
    assert scores.shortfall[:2].tolist() == [1.0, 3.0]
    assert scores.fits.tolist() == [False, False, True, True]


def test_a_limit_that_a_rounding_passes_is_kept(study: Study) -> None:
    scores = blank(3)
    scores.ttft_s[:], scores.tpot_s[:] = 0.5 * (1.0 + array([1e-12, 1e-6, np.nan])), 0.01
    within(scores, study(ttft_limit=0.5, tpot_limit=0.02))
    assert scores.fits.tolist() == [True, False, True]
