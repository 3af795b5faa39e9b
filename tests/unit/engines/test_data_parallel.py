"""What data ranks send and when it shows: ZeRO stages, overlap with the passes, the optimizer's update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case, device_graph, stage_classes
from cosim.engines.data_parallel import closing, layer_traffic
from cosim.engines.training import software_of, step_parts, step_table, with_micro_batches
from cosim.mapping.placement import Placement, placed
from cosim.mapping.weights import Weights, group_parameters, stage_parameters
from cosim.records import Array, array
from cosim.timing.collective import all_gather, all_reduce, reduce_scatter

Train = Callable[..., Case]
OVERLAP = {"software.gradient_overlap": True}


def one_stage(train: Train, cores: float = 0.0, **fields: Any) -> tuple[Case, dict[str, Array], Array]:
    """A case of one stage whose collectives take no cores, the parts of its step, and the parameters of a rank."""
    case = with_cores(with_micro_batches(train(**fields)), cores)
    return case, step_parts(case, step_table(case)), owned(case).shared[0]


def with_cores(case: Case, cores: float) -> Case:
    """The case with collectives that take this share of a chip's cores."""
    chip = replace(case.system.chip, collective_cores=array(cores))
    return replace(case, system=replace(case.system, chip=chip))


def owned(case: Case) -> Weights:
    return stage_parameters(device_graph(case), stage_classes(case))


def replicas(case: Case) -> Placement:
    return placed(case.plan.data, case.plan.tensor, case.system.sizes)


def number(value: Array) -> float:
    return float(np.ravel(value)[0])


@pytest.mark.parametrize("data", [2, 8, 16])
def test_plain_replicas_reduce_their_gradients_once_a_step(train: Train, data: int) -> None:
    case, parts, held = one_stage(train, data_parallel=data, global_batch=64)
    # 2 B a parameter, after the last micro-batch
    by_hand = all_reduce(2.0 * held, replicas(case), case.system).time
    assert number(parts["data_parallel"]) == pytest.approx(number(by_hand), rel=1e-12)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_zero_scatters_gradients_and_gathers_weights(train: Train, zero: int) -> None:
    case, parts, held = one_stage(train, data_parallel=4, global_batch=64, zero=zero)
    plain = one_stage(train, data_parallel=4, global_batch=64)[1]
    group = replicas(case)

    def scatter(numbers: Array) -> float:
        return number(reduce_scatter(2.0 * numbers, group, case.system).time)

    def gather(numbers: Array) -> float:
        return number(all_gather(2.0 * numbers, group, case.system).time)

    # Once a step: stage 1 scatters and gathers everything, stage 2 gathers it.
    once = {1: scatter(held) + gather(held), 2: gather(held), 3: 0.0}[zero]
    assert number(parts["data_parallel"]) == pytest.approx(once, rel=1e-12, abs=1e-15)
    # In each of 16 micro-batches: from stage 2 on every layer is scattered, at stage 3 gathered forward and back.
    groups = {name: each.shared for name, each in group_parameters(device_graph(case)).items()}
    runs = {"layer": 12, "embed": 1, "head": 1}
    assert set(groups) == set(runs)
    often = sum(
        runs[name] * ((scatter(each) if zero >= 2 else 0.0) + (2.0 * gather(each) if zero == 3 else 0.0))
        for name, each in groups.items()
    )
    more = number(parts["collective"] - plain["collective"])
    assert more == pytest.approx(16 * often, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
def test_one_replica_moves_nothing(train: Train, software: str) -> None:
    plain = evaluate(train(software))
    for zero in (0, 1, 2, 3):
        result = evaluate(train(software, zero=zero))
        assert float(result.breakdown["data_parallel"][0]) == 0.0
        assert float(result.time[0]) == float(plain.time[0])
        assert float(result.energy[0]) == float(plain.energy[0])


def test_bytes_on_the_wire_of_a_chip_by_hand(train: Train) -> None:
    # A ring of 4 nodes sends 3/4 of the data for each half of an all-reduce, 2 B a parameter.
    for zero, sent in ((0, 6 / 4), (1, 6 / 4), (2, 3 / 4), (3, 0.0)):
        case = with_micro_batches(train(tensor_parallel=8, data_parallel=4, global_batch=64, zero=zero))
        ends = closing(case, software_of(case), owned(case), stage_classes(case))
        total = number(owned(case).shared) * 2.0
        assert number(ends.wire_bytes) == pytest.approx(sent * total, rel=1e-12)
        layer = group_parameters(device_graph(case))["layer"]
        _, _, wire = layer_traffic(case, software_of(case), layer)
        a_pass = {0: 0.0, 1: 0.0, 2: 3 / 4, 3: 9 / 4}[zero]
        assert number(wire) == pytest.approx(a_pass * number(layer.shared) * 2.0, rel=1e-12)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_reduction_hides_behind_the_last_backward_pass_but_for_its_last_layer(train: Train, zero: int) -> None:
    fields = {"data_parallel": 4, "global_batch": 64, "micro_batch": 4, "zero": zero}
    apart = one_stage(train, **fields)[1]["data_parallel"]
    behind = one_stage(train, **fields, **OVERLAP)[1]["data_parallel"]
    assert number(behind) == pytest.approx(number(apart) / 12.0, rel=1e-12)


def test_a_reduction_longer_than_the_backward_pass_shows_for_the_rest(train: Train) -> None:
    slow = {"data_parallel": 4, "global_batch": 64, "system.chip.links.scale_out.bandwidth": 1e8}
    case, apart, _ = one_stage(train, **slow)
    back = number(step_table(case).schedule.backward[0])
    behind = one_stage(train, **slow, **OVERLAP)[1]
    # All layers but the first have it to hide behind.
    by_hand = number(apart["data_parallel"]) - back * 11.0 / 12.0
    assert number(behind["data_parallel"]) == pytest.approx(by_hand, rel=1e-9)


def test_traffic_that_runs_behind_passes_takes_cores_from_them(train: Train) -> None:
    fields = {"data_parallel": 4, "global_batch": 64, "micro_batch": 4}
    free = one_stage(train, **fields, **OVERLAP)[1]["data_parallel"]
    taken = one_stage(train, cores=0.2, **fields, **OVERLAP)[1]["data_parallel"]
    reduce = one_stage(train, **fields)[1]["data_parallel"]
    # The backward pass is long enough for all of it: a fifth of the reduction's time is lost to it.
    assert number(taken) == pytest.approx(0.2 * number(reduce), rel=1e-9)
    assert number(taken) > number(free)


def test_stages_behind_finish_their_reduction_while_others_still_work(train: Train) -> None:
    # The last of four stages ends its last backward pass before the first does: only the first one's shows.
    case = with_micro_batches(train(pipeline_parallel=4, data_parallel=4, global_batch=64))
    table = step_table(case)
    parts = step_parts(case, table)
    after = number(parts["data_parallel"]) + number(parts["optimizer"])
    assert after == pytest.approx(number((table.closing.reduce + table.optimizer)[0]), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    data=st.sampled_from([2, 4, 8]),
    zero=st.integers(0, 3),
    pipeline=st.sampled_from([1, 2, 4]),
    slower=st.floats(1.0, 50.0),
    overlap=st.booleans(),
)
def test_slower_links_between_replicas_never_speed_a_step(
    train: Train, data: int, zero: int, pipeline: int, slower: float, overlap: bool
) -> None:
    fields = {"data_parallel": data, "zero": zero, "pipeline_parallel": pipeline, "tensor_parallel": 8}
    path = "system.chip.links.scale_out.bandwidth"
    fast, slow = (
        evaluate(train("megatron", **fields, **{path: 25e9 / by, "software.gradient_overlap": overlap}))
        for by in (1.0, slower)
    )
    assert float(slow.time[0]) >= float(fast.time[0]) * (1.0 - 1e-12)


@pytest.mark.parametrize(("software", "bytes_"), [("megatron-2022", 32), ("megatron", 38)])
@pytest.mark.parametrize(("zero", "share"), [(0, 1.0), (1, 0.25), (3, 0.25)])
def test_the_optimizer_streams_its_state_once(
    train: Train, software: str, bytes_: int, zero: int, share: float
) -> None:
    case, parts, held = one_stage(train, software=software, data_parallel=4, zero=zero)
    chip = case.system.chip
    # Gradient read twice and cleared, weight and moments read and written, the 16-bit weight written.
    rate = float(chip.memory["dram"].bandwidth * chip.quality.memory)
    by_hand = bytes_ * float(held[0]) * share / rate + float(chip.launch.gap)
    assert number(parts["optimizer"]) == pytest.approx(by_hand, rel=1e-12)


def test_no_layer_sends_anything_below_stage_two(train: Train) -> None:
    for zero in ([0, 0], [1, 0], [0, 2]):
        case = with_micro_batches(train(data_parallel=[2, 4], zero=zero))
        found = layer_traffic(case, software_of(case), Weights(shared=array(1e9)))
        sends = [number(np.broadcast_to(each, (2,))[0]) for each in found], [np.max(each) > 0.0 for each in found]
        assert sends[0] == [0.0, 0.0, 0.0]
        assert sends[1] == [False, max(zero) == 2, max(zero) == 2]
