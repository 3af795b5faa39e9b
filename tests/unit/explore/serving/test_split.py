"""Replicas with feed-forward layers on chips of their own: degrees, room, the way between, chips that are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosim.errors import InfeasibleError, SpecError
from cosim.explore.serving import serve_rows
from cosim.explore.serving.deployed import Deployed
from cosim.explore.serving.metrics import Limits
from cosim.explore.serving.simulate import Outcome, simulate
from cosim.explore.serving.split import full_step_tokens, room_of_forward
from cosim.workload.requests.description import RequestPattern

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Ready = Callable[..., Deployed]
Pattern = Callable[..., RequestPattern]
MOE = {"workload": "qwen3-30b-a3b"}
FOUR = {"tensor_parallel": 4}


def run(made: Deployed, requests: RequestPattern) -> Outcome:
    return simulate(made, requests, Limits(), np.random.SeedSequence(3))


def test_both_sides_are_chips_of_the_replica(ready: Ready) -> None:
    found = ready(
        plan={"tensor_parallel": 1, "data_parallel": 2, "dtype": "bf16"},
        feed_forward={"plan": {"tensor_parallel": 2}, "micro_batches": 3},
    )
    split = found.pool.split
    assert split is not None
    assert (found.pool.own_chips, found.pool.forward_chips, found.chips) == (2.0, 2.0, 4.0)
    assert (found.pool.count, float(split.micro_batches)) == (1, 3.0)
    assert found.pool.case is split.attention
    assert [side.chips for side in found.sides] == [2.0, 2.0]
    assert float(split.inside) == 1.0
    tokens = float(full_step_tokens(split.attention))
    assert tokens == found.pool.scheduler.token_budget == 2 * 8192


def test_what_is_left_open_is_the_least_that_has_room(ready: Ready) -> None:
    dense = ready(plan={"tensor_parallel": 1}, feed_forward={})
    assert dense.pool.forward_chips == 1.0
    assert dense.pool.completed["feed_forward.plan.tensor_parallel"] == 1
    large = ready(
        workload="qwen3-235b-a22b", plan={"tensor_parallel": 4, "dtype": "bf16"}, system="dgx-h200", feed_forward={}
    )
    assert large.pool.forward_chips == 4.0
    assert large.pool.completed["feed_forward.plan.expert_parallel"] == 4
    assert float(room_of_forward(large.pool.split).left) > 0.0  # type: ignore[arg-type]


def test_experts_without_data_ranks_have_as_many_as_share_them(ready: Ready) -> None:
    found = ready(**MOE, plan={"tensor_parallel": 1}, feed_forward={"plan": {"expert_parallel": 4}})
    assert found.pool.forward_chips == 4.0
    assert "feed_forward.plan.expert_parallel" not in found.pool.completed


def test_chips_of_two_systems_meet_outside_of_their_nodes(ready: Ready) -> None:
    found = ready(plan={"tensor_parallel": 1, "dtype": "bf16"}, feed_forward={"system": "dgx-h200"})
    split = found.pool.split
    assert split is not None
    assert found.forward_system is not None
    assert [side.system.name for side in found.sides] == ["dgx-h100", "dgx-h200"]
    assert float(split.inside) == 0.0


def test_weights_of_the_other_side_leave_room_for_a_cache(ready: Ready) -> None:
    plan = {"tensor_parallel": 1, "dtype": "bf16"}
    together, split = ready(plan=plan), ready(plan=plan, feed_forward={})
    assert split.pool.scheduler.kv_blocks > together.pool.scheduler.kv_blocks
    assert split.pool.room.weights < together.pool.room.weights


def test_all_is_as_many_as_both_systems_hold(ready: Ready) -> None:
    same = ready(replicas="all", plan={"tensor_parallel": 1}, feed_forward={})
    assert (same.pool.count, same.chips) == (4, 8.0)
    other = {"system": "dgx-h200", "plan": {"tensor_parallel": 4}}
    apart = ready(replicas="all", plan={"tensor_parallel": 1}, feed_forward=other)
    assert apart.pool.count == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plan": {"expert_parallel": 2}, **MOE}, r"plan\.expert_parallel: is not one of the attention side"),
        ({"plan": {"pipeline_parallel": 2}}, r"plan\.pipeline_parallel: is not one of the attention side"),
        ({"plan": {"micro_batches": 2}}, r"plan\.micro_batches.*give feed_forward\.micro_batches"),
        (
            {"speculation": {"draft": "qwen3-8b", "acceptance": [0.5]}},
            r"speculation\.draft: drafts on neither side",
        ),
        ({"replicas": 5, "plan": {"tensor_parallel": 1}}, r"replicas: of 2 chips are more than the 8"),
        ({"feed_forward": {"system": "dgx-h10"}}, r"feed_forward\.system: no system has this name"),
        (
            {"replicas": 3, "feed_forward": {"system": "dgx-h200", "plan": FOUR}},
            r"replicas: of 4 chips for feed-forward are more than dgx-h200 has",
        ),
        (
            {"plan": {"dtype": "fp8"}, "feed_forward": {"system": "dgx-a100"}},
            r"feed_forward\.system: has no matrix rate",
        ),
        (
            {
                "autoscale": {"measure": "queue", "target": 2, "most": 3},
                "feed_forward": {"plan": {"tensor_parallel": 4}},
            },
            r"autoscale\.most: needs more than the 8 chips",
        ),
        ({"workload": "gpt-j-6b"}, r"feed_forward: is not split .*stay on one chip"),
        ({"prefill": {"replicas": 7}}, r"prefill\.replicas: and the pool that decodes take 9 chips"),
    ],
)
def test_faults_name_their_field(ready: Ready, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ready(**{"feed_forward": {}, **fields})


@pytest.mark.parametrize(
    ("plan", "limit", "message"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel", "feed-forward side of llama-3.1-8b on dgx-h100, tensor 3"),
        ({"tensor_parallel": 9}, "chips", "needs 1 chips more"),
    ],
)
def test_degrees_that_do_not_divide(ready: Ready, plan: dict[str, int], limit: str, message: str) -> None:
    with pytest.raises(InfeasibleError, match=message) as caught:
        ready(plan={"tensor_parallel": 1}, feed_forward={"plan": plan})
    assert caught.value.limit == limit


def test_weights_that_have_no_room_say_what_takes_how_much(ready: Ready) -> None:
    fields = {"workload": "qwen3-235b-a22b", "plan": {"tensor_parallel": 4, "dtype": "bf16"}}
    with pytest.raises(InfeasibleError, match=r"has no room: weights .* of .*; lacks .*") as caught:
        ready(**fields, feed_forward={"plan": {"expert_parallel": 2}})
    assert caught.value.limit == "memory"


def test_energy_and_money_are_of_both_sides(ready: Ready, pattern: Pattern) -> None:
    plan = {"tensor_parallel": 1, "dtype": "bf16"}
    same = run(ready(plan=plan, feed_forward={}), pattern()).row
    other = run(ready(plan=plan, feed_forward={"system": "dgx-h200"}), pattern()).row
    alone = run(ready(plan=plan), pattern()).row
    assert same["chips"] == pytest.approx(2.0)
    assert other["chips"] == pytest.approx(2.0)
    assert alone["chips"] == pytest.approx(1.0)
    idle = float(ready(plan=plan).pool.case.system.chip.power.idle)
    assert same["energy_j"] > 2.0 * idle * same["makespan_s"]
    # A dearer chip with as much to do.
    assert other["usd_per_million_tokens"] > same["usd_per_million_tokens"]
    assert same["requests"] == same["finished"] == other["finished"]


def test_overrides_reach_the_section(ready: Ready) -> None:
    changes = {"feed_forward": {"plan.tensor_parallel": 2, "micro_batches": 4}}
    found = ready(plan={"tensor_parallel": 1}, feed_forward={}, changes=changes)
    assert found.pool.forward_chips == 2.0
    assert found.asked.feed_forward is not None
    assert found.asked.feed_forward.micro_batches == 4
    with pytest.raises(SpecError, match="feed_forward: has no chips for feed-forward layers alone"):
        ready(changes=changes)


def test_a_pool_of_prompts_is_not_split(ready: Ready, pattern: Pattern) -> None:
    found = ready(plan={"tensor_parallel": 1}, feed_forward={}, prefill={"replicas": 2})
    assert found.prefill is not None
    assert found.prefill.split is None
    assert [(side.pool, side.chips) for side in found.sides] == [(0, 1.0), (0, 1.0), (1, 1.0)]
    row = run(found, pattern()).row
    assert row["chips"] == pytest.approx(4.0)
    assert row["transfers"] == row["finished"]


def test_rows_tell_the_other_side(ready: Ready) -> None:
    split = serve_rows.about("x", ready(plan={"tensor_parallel": 1}, feed_forward={"plan": {"tensor_parallel": 2}}))
    assert (split["feed_forward.chips"], split["feed_forward.system"], split["chips_per_replica"]) == (
        2.0,
        "dgx-h100",
        3.0,
    )
    assert split["feed_forward.plan.tensor_parallel"] == split["feed_forward.micro_batches"] == 2.0
    assert split["feed_forward.memory_bytes.weights"] > 0.0
    assert serve_rows.unit_of("feed_forward.memory_bytes.weights") == "B"
    plain = serve_rows.about("x", ready())
    assert (plain["feed_forward.chips"], plain["feed_forward.system"]) == (0.0, "")
    table = serve_rows.table_of([plain, split])
    assert table.column("feed_forward.system").to_pylist() == ["", "dgx-h100"]


def test_more_micro_batches_hide_more_until_weights_are_read_too_often(ready: Ready) -> None:
    def step(micro: int, sequences: int) -> float:
        plan = {"tensor_parallel": 1, "data_parallel": 2, "dtype": "bf16"}
        made = ready(plan=plan, feed_forward={"plan": {"tensor_parallel": 2}, "micro_batches": micro})
        return made.pool.table.seconds(0, 0.0, sequences, sequences * 1024.0, sequences)

    assert step(2, 512) < step(1, 512)
    assert step(8, 8) > step(2, 8)
