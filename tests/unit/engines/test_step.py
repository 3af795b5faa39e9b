"""The table of durations: which kernels there are, how often they run on each stage, what a transfer takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case, Phase, device_graph, stage_classes
from cosim.engines.step import (
    CLASSES_OF_TIME,
    OpCost,
    StageCosts,
    group_costs,
    op_costs,
    stage_costs,
    summed,
    transfers,
)
from cosim.engines.training import kernels
from cosim.mapping.stages import Stages
from cosim.records import array, at
from cosim.timing.matmul import matmul_cost

CaseOf = Callable[..., Case]
SYSTEMS = ("dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8")
PHASES: tuple[Phase, ...] = ("prefill", "decode")


# Numbers that are worked with by hand below: they do not move with the shipped description.
LINKS = {
    "system.chip.links.scale_up.bandwidth": "450 GB/s",
    "system.chip.links.scale_out.bandwidth": "50 GB/s",
    "system.chip.quality.collective": 0.8,
    "system.tiers.cluster.efficiency": 0.8,
    "system.tiers.node.constants.protocols.LL.start": "6 us",
    "system.tiers.node.constants.protocols.LL.hop": "0.5 us",
    "system.tiers.cluster.constants.protocols.LL.start": "7 us",
    "system.tiers.cluster.constants.protocols.LL.hop": "3 us",
    "system.chip.power.energy_per_byte.link": "5 pJ/bit",
}


def one_protocol(case: Case) -> Case:
    tiers = tuple(
        replace(tier, protocols=(replace(tier.protocols[0], share=array(1.0)),)) for tier in case.system.tiers
    )
    return replace(case, system=replace(case.system, tiers=tiers))


def table(case: Case) -> StageCosts:
    device = device_graph(case)
    return stage_costs(case, device, op_costs(case, device), stage_classes(case))


def without_collectives(case: Case, stage: Stages, ops: tuple[OpCost, ...]) -> StageCosts:
    return stage_costs(case, replace(device_graph(case), collectives=()), ops, stage)


def test_every_kernel_of_the_model_is_priced_once(case_of: CaseOf) -> None:
    case = case_of("decode", **{"plan.tensor_parallel": [1, 2, 8], "scenario.batch": 4})
    ops = op_costs(case, device_graph(case))
    kinds = {kind: [op.name for op in ops if op.kind == kind] for kind in ("matmul", "attention", "vector")}
    assert kinds["matmul"] == ["qkv", "attention_out", "ffn_in", "ffn_out", "logits"]
    assert kinds["attention"] == ["attention"]
    assert sorted(kinds["vector"]) == [
        "activation", "embedding", "final_norm", "norm_and_residual", "rotary_and_cache", "sampling",
    ]  # fmt: skip
    assert len({op.name for op in ops}) == len(ops)
    for op in ops:
        assert np.broadcast_to(op.cost.time, (3,)).min() > 0.0
        assert np.broadcast_to(op.energy, (3,)).min() > 0.0


def test_formats_go_to_the_linear_layers_and_not_to_the_head(case_of: CaseOf) -> None:
    case = case_of("decode", **{"plan.dtype": "fp8", "plan.kv_dtype": "fp8"})
    formats = {op.name: op.dtype for op in op_costs(case, device_graph(case)) if op.kind != "vector"}
    assert formats == {
        "qkv": "fp8", "attention_out": "fp8", "ffn_in": "fp8", "ffn_out": "fp8", "logits": "bf16", "attention": "fp8",
    }  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(SYSTEMS),
    phase=st.sampled_from(PHASES),
    tensor=st.sampled_from([1, 2, 4, 8]),
    batch=st.integers(1, 64),
)
def test_stacked_matmuls_cost_what_each_costs_alone(
    case_of: CaseOf, name: str, phase: Phase, tensor: int, batch: int
) -> None:
    case = case_of(phase, name, **{"plan.tensor_parallel": [tensor, 1], "scenario.batch": batch, "plan.dtype": "fp8"})
    for op in op_costs(case, device_graph(case)):
        if op.kind != "matmul":
            continue
        m, n, k = (np.atleast_1d(np.broadcast_to(dim, (2,))[0]) for dim in op.dims)
        alone = matmul_cost(m, n, k, case.system.chip, op.dtype, resident="activations")
        assert op.cost.time[0] == pytest.approx(alone.time[0], rel=1e-12)
        assert op.cost.flop[0] == pytest.approx(2.0 * m[0] * n[0] * k[0], rel=1e-12)


def test_a_gap_is_paid_for_every_kernel(case_of: CaseOf) -> None:
    # A layer has 9 kernels (4 matmuls, attention, rotary, activation, 2 norms), the embedding 1, the head 3.
    case = case_of("decode", **{"system.chip.launch.gap": "2 us", "plan.pipeline_parallel": 4})
    launch = table(case).launch[:, 0]
    np.testing.assert_allclose(launch, np.array([8 * 9 + 1, 9 * 9, 8 * 9, 8 * 9 + 3]) * 2e-6, rtol=1e-12)


def test_collectives_of_a_stage(case_of: CaseOf) -> None:
    # Ring of 2: base 6 us + 2 x 1 hop of 0.5 us + 2 x 1/2 x bytes / (450 GB/s x 0.8).
    case = case_of("decode", **LINKS, **{"plan.tensor_parallel": 2, "plan.pipeline_parallel": 2, "scenario.batch": 8})
    size = 8 * 4096 * 2
    reduce_s = 6e-6 + 1e-6 + size / 360e9
    # Gather of the logits: base + 1 hop + 1/2 x bytes / bandwidth.
    gather_s = 6e-6 + 0.5e-6 + 0.5 * (8 * 128256 * 2) / 360e9
    stages = table(one_protocol(case)).collective[:, 0]
    # 16 layers with two sums each, and the sum of the embedding; the last stage gathers instead.
    assert stages[0] == pytest.approx(33 * reduce_s, rel=1e-9)
    assert stages[3] == pytest.approx(32 * reduce_s + gather_s, rel=1e-9)


def test_one_rank_communicates_nothing(case_of: CaseOf) -> None:
    assert not table(case_of("prefill", **{"plan.pipeline_parallel": 2, "scenario.batch": 2})).collective.any()


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_stage_is_the_sum_of_its_kernels(case_of: CaseOf, name: str, phase: Phase) -> None:
    case = case_of(phase, name, **{"plan.pipeline_parallel": 2, "plan.tensor_parallel": 4, "scenario.batch": 6})
    ops, stage = op_costs(case, device_graph(case)), stage_classes(case)
    whole = without_collectives(case, stage, ops)
    single = [without_collectives(case, stage, (op,)) for op in ops]
    for part in (*CLASSES_OF_TIME, "energy"):
        summed = sum(getattr(costs, part) for costs in single)
        np.testing.assert_allclose(summed, getattr(whole, part), rtol=1e-12)
    np.testing.assert_allclose(whole.time, sum(costs.time for costs in single), rtol=1e-12)
    # The links cost time and energy on top.
    assert np.all(table(case).time > whole.time)
    assert np.all(table(case).energy > whole.energy)


@pytest.mark.parametrize(
    ("nodes", "tensor", "pipeline", "inside", "across"),
    [
        (1, 8, 1, 0, 0),
        (1, 2, 4, 3, 0),
        (2, 8, 2, 0, 1),
        (2, 4, 4, 2, 1),  # two stages in each node
        (2, 2, 8, 6, 1),
        (4, 16, 2, 0, 1),  # a stage is two nodes
    ],
)
def test_transfers_inside_and_across_nodes(
    case_of: CaseOf, nodes: int, tensor: int, pipeline: int, inside: int, across: int
) -> None:
    changes = {"system.nodes": nodes, "plan.tensor_parallel": tensor, "plan.pipeline_parallel": pipeline}
    moved = transfers(case_of("decode", **changes))
    assert (float(moved.inside), float(moved.across)) == (inside, across)


def test_time_and_energy_of_a_transfer_by_hand(case_of: CaseOf) -> None:
    fields = {**LINKS, "plan.tensor_parallel": 2, "plan.pipeline_parallel": 2, "plan.micro_batches": 4}
    prefill = transfers(one_protocol(case_of("prefill", **fields, **{"scenario.batch": 8, "scenario.context": 1000})))
    # 2 sequences x 1000 tokens x 4096 x 2 B over 2 ranks: 8.192 MB on 450 and on 50 GB/s, of which 80 % are reached.
    size = 8.192e6
    assert float(prefill.inside_time) == pytest.approx(6e-6 + 0.5e-6 + size / 360e9, rel=1e-12)
    assert float(prefill.across_time) == pytest.approx(7e-6 + 3e-6 + size / 40e9, rel=1e-12)
    assert float(prefill.energy) == pytest.approx(size * 5e-12 * 8, rel=1e-12)
    decode = transfers(case_of("decode", **fields, **{"scenario.batch": 8, "scenario.context": 1000}))
    assert float(decode.energy) == pytest.approx(float(prefill.energy) / 1000, rel=1e-12)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_point_has_the_same_table_alone(case_of: CaseOf, name: str) -> None:
    fields = {"plan.tensor_parallel": [1, 4, 8], "plan.pipeline_parallel": [4, 2, 1], "scenario.batch": [1, 64, 7]}
    case = case_of("decode", name, **fields)
    whole = table(case)
    for index in range(3):
        alone = table(at(case, index))
        np.testing.assert_allclose(alone.time[:, 0], whole.time[:, index], rtol=1e-12)
        np.testing.assert_allclose(alone.energy[:, 0], whole.energy[:, index], rtol=1e-12)


def test_passes_of_a_group_add_up_and_no_pass_is_nothing(case_of: CaseOf) -> None:
    case = case_of("decode", **{"scenario.batch": 8})
    device = device_graph(case)
    cost = group_costs(case, device, op_costs(case, device))["layer"]
    twice, none = summed([cost, cost], cost), summed([], cost)
    for name in (*CLASSES_OF_TIME, "energy", "clocked", "core_energy", "kernels", "time"):
        np.testing.assert_allclose(getattr(twice, name), 2.0 * getattr(cost, name), rtol=1e-12, err_msg=name)
        assert not np.any(getattr(none, name))


@pytest.mark.parametrize(("system", "promotes"), [("dgx-h100", True), ("dgx-b200", False)])
def test_products_in_blocks_promote_where_the_chip_does_not_scale_by_itself(
    case_of: Callable[..., Case], system: str, promotes: bool
) -> None:
    plain, blocks = (
        case_of("train", system, **{"plan.dtype": "fp8", "plan.fp8_recipe": recipe, "scenario.global_batch": 8})
        for recipe in ("tensor", "block")
    )
    energies, times = [], []
    for case in (plain, blocks):
        own = [op for op in kernels(case) if op.name.startswith("ffn_in")]
        assert {op.dtype for op in own} == {"fp8"}
        energies.append(sum(float(op.energy[0]) - float(op.cost.dram_bytes[0]) * dram_energy(case) for op in own))
        times.append(sum(float(op.cost.compute[0]) for op in own))
    # On-chip bytes of scales apart, only promotion takes arithmetic and time of the cores.
    assert (energies[1] / energies[0] > 1.02) == promotes
    assert (times[1] > times[0]) == promotes


def dram_energy(case: Case) -> float:
    return float(case.system.chip.power.energy_per_byte["dram"])
