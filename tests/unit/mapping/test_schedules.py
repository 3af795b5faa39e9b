"""What stages hold under each schedule: pieces, copies, live micro-batches, memory; and what plans lack for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.memory import Memory
from cosim.mapping.plan import SCHEDULES, PlanArrays
from cosim.mapping.schedules import PIECES, copies, held, hops, live_passes, pieces, shortfalls
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import stages
from cosim.mapping.training import training_memory
from cosim.mapping.weights import stage_parameters
from cosim.records import array
from cosim.workload.graph import parameters
from cosim.workload.model import ModelArrays
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
SoftwareOf = Callable[..., SoftwareArrays]
NAMED = sorted(PIECES)
PAIRS = st.integers(1, 8)


def total(stage: Any, name: str) -> float:
    """Of all stages together."""
    return float(np.sum(stage.count * getattr(stage, name)))


@settings(max_examples=60, deadline=None)
@given(schedule=st.sampled_from(SCHEDULES), pairs=PAIRS, each=st.integers(1, 6), dense=st.integers(0, 4))
def test_all_layers_and_both_ends_are_somewhere_once(schedule: str, pairs: int, each: int, dense: int) -> None:
    layers = 4 * pairs * each
    split = stages(array(layers), array(2 * pairs), array(dense))
    found = held(split, schedule)
    assert (total(found, "layers"), total(found, "embeds"), total(found, "heads")) == (layers, 1.0, 1.0)
    assert total(found, "dense") == pytest.approx(total(split, "dense"))


@settings(max_examples=60, deadline=None)
@given(schedule=st.sampled_from(["zb-v", "dualpipe"]), pairs=PAIRS, each=st.integers(1, 6), dense=st.integers(0, 4))
def test_pieces_make_up_a_stage(schedule: str, pairs: int, each: int, dense: int) -> None:
    split = stages(array(4 * pairs * each), array(2 * pairs), array(dense))
    first, second = pieces(split, schedule)
    whole = held(split, schedule)
    # Under dualpipe half the micro-batches meet each piece.
    share = 2.0 if schedule == "dualpipe" else 1.0
    for name in ("layers", "embeds", "heads", "dense"):
        np.testing.assert_allclose(getattr(first, name) + getattr(second, name), share * getattr(whole, name))


def test_where_the_ends_are_by_hand() -> None:
    split = stages(array(16.0), array(4.0))
    assert pieces(split, "zb-h1") == pieces(split, "1f1b") == ()
    down, up = pieces(split, "zb-v")
    assert (down.layers[0, 0], up.layers[0, 0]) == (2.0, 2.0)
    assert (down.embeds[0, 0], down.heads[0, 0], up.embeds[0, 0], up.heads[0, 0]) == (1.0, 0.0, 0.0, 1.0)
    assert float(held(split, "zb-v").heads[3, 0]) == 0.0
    near, far = pieces(split, "dualpipe")
    assert (near.layers[0, 0], far.layers[0, 0]) == (4.0, 4.0)
    assert (near.embeds[0, 0], near.heads[3, 0], far.heads[0, 0], far.embeds[3, 0]) == (1.0, 1.0, 1.0, 1.0)
    assert held(split, "1f1b") is held(split, "gpipe") is split


def test_dense_layers_change_ends_on_the_way_up() -> None:
    # Four stages of four layers, the first five dense: 4, 1, 0, 0; from the other end 0, 0, 1, 4.
    split = stages(array(16.0), array(4.0), array(5.0))
    _, far = pieces(split, "dualpipe")
    np.testing.assert_allclose(far.dense[[0, 2, 3], 0], [0.0, 0.5, 4.0])
    np.testing.assert_allclose(split.dense[[0, 2, 3], 0], [4.0, 0.5, 0.0])


def test_live_micro_batches_by_hand(plan_of: PlanOf) -> None:
    live = {
        name: float(live_passes(plan_of(pipeline_parallel=8, micro_batches=32, schedule=name)))
        for name in sorted(PIECES)
    }
    assert live == {"gpipe": 32.0, "zb-h1": 8.0, "zb-v": 8.0, "dualpipe": 9.0}
    assert float(live_passes(plan_of(pipeline_parallel=8, micro_batches=5, schedule="zb-h1"))) == 5.0


def test_transfers_by_hand(plan_of: PlanOf) -> None:
    found = {
        name: float(hops(plan_of(pipeline_parallel=4, schedule=name, virtual_pipeline=int(PIECES.get(name, 2)))))
        for name in SCHEDULES
    }
    # There and back over 3 boundaries by 4 chips; 7 with two interleaved pieces; V down and up.
    assert found == {"1f1b": 3.5, "gpipe": 1.5, "zb-h1": 1.5, "zb-v": 3.0, "dualpipe": 1.5}


LACKS: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({"schedule": "1f1b", "virtual_pipeline": 3}, {}),
    ({"schedule": "gpipe"}, {"schedule_pieces": 0.0}),
    ({"schedule": "zb-h1", "virtual_pipeline": 3}, {"schedule_pieces": 2.0}),
    ({"schedule": "zb-v"}, {"schedule_pieces": 1.0}),
    ({"schedule": "zb-v", "pipeline_parallel": 3}, {"schedule_stages": 1.0, "schedule_layers": 2.0}),
    ({"schedule": "zb-v", "pipeline_parallel": 1}, {"schedule_stages": 1.0}),
    ({"schedule": "zb-v", "pipeline_parallel": 16}, {"schedule_layers": 0.0}),
    ({"schedule": "zb-v", "micro_batches": 3}, {"schedule_micro_batches": 1.0}),
    ({"schedule": "dualpipe"}, {"schedule_micro_batches": 0.0, "schedule_layers": 0.0, "schedule_stages": 0.0}),
    ({"schedule": "dualpipe", "micro_batches": 6}, {"schedule_micro_batches": 2.0}),
    ({"schedule": "dualpipe", "micro_batches": 9}, {"schedule_micro_batches": 1.0}),
    ({"schedule": "dualpipe", "pipeline_parallel": 6, "micro_batches": 12}, {"schedule_layers": 2.0}),
]


@pytest.mark.parametrize(("fields", "lacks"), LACKS)
def test_what_a_plan_lacks_by_hand(plan_of: PlanOf, fields: dict[str, Any], lacks: dict[str, float]) -> None:
    plan = plan_of(**{"pipeline_parallel": 4, "micro_batches": 8, **fields})
    found = {name: float(lack) for name, lack in shortfalls(plan, array(32.0)).items()}
    assert {name: found[name] for name in lacks} == lacks
    assert bool(found) == (fields["schedule"] != "1f1b")


def test_an_unknown_schedule_is_refused(plan_of: PlanOf) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="no schedule is called zb-h3"):
        shortfalls(replace(plan_of(), schedule="zb-h3"), array(32.0))


# Memory.


def memory_of(model: ModelArrays, stack: SoftwareArrays, plan: PlanArrays) -> Memory:
    device = shard(training_graph(model, plan.micro_batch, array(512.0), fused=stack.fused), plan)
    stage = held(stages(model.layers, plan.pipeline), plan.schedule)
    return training_memory(device, stage, plan, stack, array(0.0))


@settings(max_examples=40, deadline=None)
@given(
    schedule=st.sampled_from(NAMED),
    pairs=st.integers(1, 4),
    micro=st.integers(4, 20),
    more=st.integers(1, 20),
    recompute=st.sampled_from(["none", "selective", "full"]),
    zero=st.integers(0, 3),
)
def test_more_micro_batches_never_take_less_and_only_gpipe_keeps_them_all(
    model_of: ModelOf,
    plan_of: PlanOf,
    software_of: SoftwareOf,
    schedule: str,
    pairs: int,
    micro: int,
    more: int,
    recompute: str,
    zero: int,
) -> None:
    model, stack = model_of("gpt3-175b", layers=48), software_of("megatron-2022")
    fields = {"pipeline_parallel": 2 * pairs, "schedule": schedule, "recompute": recompute, "zero": zero}
    few, many = (
        memory_of(model, stack, plan_of(**fields, data_parallel=2, micro_batches=4 * pairs + k))
        for k in (micro, micro + more)
    )
    assert many.total >= few.total
    assert (many.activations > few.activations) == (schedule == "gpipe")
    assert many.weights == few.weights


def test_gpipe_keeps_most_and_dualpipe_two_copies(model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf) -> None:
    model, stack = model_of("gpt3-175b"), software_of("megatron")
    found = {
        name: memory_of(model, stack, plan_of(pipeline_parallel=8, micro_batches=32, schedule=name))
        for name in SCHEDULES
    }
    saved = {name: float(memory.activations[0]) for name, memory in found.items()}
    assert saved["gpipe"] > 3.5 * saved["1f1b"]
    assert saved["1f1b"] <= saved["zb-h1"] < saved["dualpipe"] < saved["gpipe"]
    middle = found["zb-h1"]
    for kind in ("weights", "gradients", "optimizer"):
        assert float(getattr(found["dualpipe"], kind)[0]) > 1.9 * float(getattr(middle, kind)[0])
        assert float(getattr(found["gpipe"], kind)[0]) == float(getattr(found["1f1b"], kind)[0])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("schedule", ["zb-v", "dualpipe"])
def test_a_tied_table_is_kept_once_where_both_ends_meet(
    model_of: ModelOf, plan_of: PlanOf, schedule: str, tied: bool
) -> None:
    model = model_of("gpt3-175b", layers=48, tied_embeddings=tied)
    plan = plan_of(pipeline_parallel=4, schedule=schedule)
    device = shard(training_graph(model, array(1.0), array(512.0), fused=True), plan)
    stage = held(stages(model.layers, plan.pipeline), schedule)
    owned = stage_parameters(device, stage, copies(schedule))
    assert float(np.sum(stage.count * owned.shared)) == pytest.approx(copies(schedule) * float(parameters(model)))
