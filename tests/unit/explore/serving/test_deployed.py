"""Deployments made ready: overrides by path, a pool before the other, chips that are counted, faults by field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.explore.serving.deployed import Deployed, Given, deployed, files_of, varied_deployment
from cosim.explore.serving.serve_file import Deployment
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.mapping.serving import load_serving, lower_serving
from cosim.overrides import Varied
from cosim.schema import validated
from cosim.workload.load import load_workload

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Ready = Callable[..., Deployed]


def test_one_pool(ready: Ready) -> None:
    found = ready(replicas=3, routing="least_loaded")
    assert (found.chips, found.pool.count, found.prefill) == (3.0, 3, None)
    assert found.entry is found.pool
    assert found.cluster.routing == "least_loaded"
    assert found.pools == ((found.pool, found.system),)
    start = load_serving("vllm").request_start
    assert found.start_s == (0.0 if start is None else start.si)
    assert found.start_steps == 0.0
    other = ready(stack="tensorrt-llm")
    stack = lower_serving(load_serving("tensorrt-llm"))
    assert (other.start_s, other.start_steps) == (float(stack.request_start), float(stack.request_steps))
    assert other.start_steps > 0.0


def test_overrides_by_path(ready: Ready) -> None:
    changes = {
        "scheduler": {"token_budget": 2048, "max_sequences": 100},
        "plan": {"tensor_parallel": 2},
        "system": {"nodes": 2},
        "workload": {"layers": 16},
    }
    found = ready(changes=changes)
    assert (found.pool.scheduler.token_budget, found.pool.chips) == (2048, 2.0)
    assert found.system.nodes.si == 2
    assert found.pool.token_bytes == 65_536 / 2
    spec = Deployment(system="a", workload="b")
    assert varied_deployment(spec, {"scenario": {"rate": "3 Hz"}}).scenario.rate == 3.0
    with pytest.raises(SpecError, match=r"scheduler\.token_bugdet: unknown path; nearest: scheduler\.token_budget"):
        varied_deployment(spec, {"scheduler": {"token_bugdet": 3}})
    with pytest.raises(SpecError, match="prefill: has no pool that only prefills"):
        varied_deployment(spec, {"prefill": {"replicas": 3}})


def test_a_pool_before_the_other_is_like_it_unless_said(ready: Ready) -> None:
    found = ready(
        prefill={"replicas": 2, "scheduler": {"token_budget": 4096}},
        plan={"tensor_parallel": 2, "dtype": "fp8"},
        scheduler={"max_sequences": 128},
    )
    before = found.prefill
    assert before is not None
    assert (before.count, before.chips, found.chips) == (2, 2.0, 6.0)
    assert before.case.plan.dtype == "fp8"
    assert (before.scheduler.token_budget, before.scheduler.max_sequences) == (4096, 128)
    assert found.pool.scheduler.token_budget == 8192
    assert found.entry is before
    assert found.cluster.prefill is not None
    assert found.cluster.transfer is not None


def test_a_pool_on_chips_of_its_own_has_plans_of_its_own(ready: Ready) -> None:
    found = ready(prefill={"system": "asic-8", "replicas": 8}, replicas=8)
    assert found.prefill is not None
    assert found.prefill_system.name == "asic-8"
    assert found.prefill.case.plan.dtype != "bf16"
    assert found.chips == 16.0


def test_a_pool_without_chips_left_is_refused(ready: Ready) -> None:
    with pytest.raises(SpecError, match=r"prefill\.replicas: and the pool that decodes take 9 chips.*system\.nodes=2"):
        ready(prefill={"replicas": 2}, replicas=7)
    with pytest.raises(SpecError, match=r"autoscale\.most: needs more than the 8 chips"):
        ready(autoscale={"measure": "queue", "target": 2, "most": 9})
    assert ready(autoscale={"measure": "queue", "target": 2, "most": 8}).cluster.autoscale is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"system": "dgx-h10"}, "system: no system has this name"),
        ({"workload": "llama"}, "workload: no workload has this name"),
        ({"stack": "vlm"}, "stack: no serving software has this name"),
        ({"prefill": {"stack": "vlm"}}, r"prefill\.stack: no serving software"),
        ({"speculation": {"draft": "tiny", "acceptance": [0.5]}}, r"speculation\.draft: no workload"),
        ({"routing": "prefix_aware"}, "routing: needs a prefix cache"),
        ({"scheduler": {"batching": "static"}, "prefill": {}}, "cannot be static where prefill is apart"),
    ],
)
def test_faults_name_their_field(ready: Ready, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ready(**fields)


def test_all_replicas_leave_room_for_the_pool_of_prompts(ready: Ready) -> None:
    found = ready(replicas="all", prefill={"replicas": 3}, plan={"tensor_parallel": 1})
    assert (found.pool.count, found.chips) == (5, 8.0)
    with pytest.raises(SpecError, match=r"replicas: leaves no replica: of 8 chips 8 only prefill"):
        ready(replicas="all", prefill={"replicas": 8}, plan={"tensor_parallel": 1})


def test_a_stack_reserves_room_as_it_does(ready: Ready) -> None:
    assert ready().pool.scheduler.reserve == "grown"
    apart = ready(stack="tensorrt-llm", prefill={})
    assert apart.pool.scheduler.reserve == "whole"
    # Where prompts run answers need no room.
    assert apart.cluster.entry.scheduler.reserve == "grown"
    with pytest.raises(SpecError, match=r"prefill\.scheduler\.reserve: decodes no answer"):
        ready(prefill={"scheduler": {"reserve": "whole"}})
    assert ready(stack="tensorrt-llm", scheduler={"reserve": "grown"}).pool.scheduler.reserve == "grown"
    assert ready(scheduler={"reserve": "whole"}).pool.scheduler.whole


def test_systems_and_models_at_hand() -> None:
    spec = validated(Deployment, {"system": "any", "workload": "any", "plan": {"dtype": "bf16"}})
    machine = vary_system(Varied(load_system("dgx-h100")), {"chip.memory.dram.reserved": "1 GB"})
    model = Varied(load_workload("llama-3.1-8b"))
    found = deployed("x", spec, {}, None, Given(machine, model))
    usual = deployed("x", spec, {}, None, Given(Varied(load_system("dgx-h100")), model))
    assert found.pool.scheduler.kv_blocks > usual.pool.scheduler.kv_blocks
    points = vary_system(Varied(load_system("dgx-h100")), {"chip.memory.dram.stacks": [5.0, 6.0]})
    with pytest.raises(SpecError, match=r"system\.chip\.memory\.dram\.stacks: holds points"):
        deployed("x", spec, {}, None, Given(points, model))


def test_files_are_all_that_is_read() -> None:
    spec = Deployment(system="dgx-h100", workload="llama-3.1-8b", stack="vllm")
    found = {path.name for path in files_of(spec)}
    assert {"dgx-h100.yaml", "h100-sxm.yaml", "llama-3.1-8b.yaml", "vllm.yaml"} <= found
    assert all(isinstance(path, Path) and library.shipped() in path.parents for path in files_of(spec))
