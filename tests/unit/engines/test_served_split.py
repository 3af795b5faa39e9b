"""Attention and feed-forward on chips of their own: pipelined in micro-batches, tokens to and fro."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case
from cosim.engines.served import step_seconds
from cosim.engines.served_split import Split, split_step
from cosim.engines.serving.steps import split_table
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.work import Work, decode_work


def case(workload: str, *, data: int = 1, tensor: int = 1, expert: int = 1, system: str = "dgx-h100") -> Case:
    """A case of phase serve on one node."""
    one = array(1.0)
    plan = PlanArrays(
        tensor=array(tensor),
        pipeline=one,
        data=array(data),
        micro_batches=one,
        dtype="bf16",
        kv_dtype="bf16",
        all_reduce="fastest",
        expert=array(expert),
    )
    most = array(np.inf)
    machine, model = lower_system(Varied(load_system(system))), lower_workload(Varied(load_workload(workload)))
    return Case("serve", machine, model, plan, ScenarioArrays(one, one, one, most, most))


DENSE = Split(case("llama-3.1-8b", data=4), case("llama-3.1-8b", tensor=4), array(2.0))


def batch(sequences: float, context: float = 2048.0) -> Work:
    """A step in which so many sequences decode."""
    return decode_work(array(sequences), array(context))


def test_a_layer_is_the_slower_side_or_the_way_through() -> None:
    step = split_step(DENSE, batch(256.0))
    near, far, moved = (float(value.item()) for value in (step.attention, step.feed_forward, step.transfer))
    layer = max(2.0 * near, 2.0 * far, near + far + 2.0 * moved)
    layers = float(DENSE.attention.model.layers)
    ends = float(step.time.item()) - layers * layer
    assert near > 0.0
    assert far > 0.0
    assert moved > 0.0
    assert 0.0 < ends < layer * layers


def test_one_micro_batch_adds_both_sides() -> None:
    step = split_step(replace(DENSE, micro_batches=array(1.0)), batch(64.0))
    layers = float(DENSE.attention.model.layers)
    least = layers * float((step.attention + step.feed_forward + 2.0 * step.transfer).item())
    assert float(step.time.item()) > least


def test_chips_of_both_sides_count() -> None:
    assert float(DENSE.chips) == 8.0


def test_both_sides_on_one_chip_and_no_way_between_make_a_plain_step() -> None:
    own = case("llama-3.1-8b")
    split = Split(own, own, array(1.0))
    step = split_step(split, batch(8.0))
    (whole,) = step_seconds(own, [batch(8.0)])
    moved = 2.0 * float(own.model.layers) * float(step.transfer.item())
    host = float(own.system.chip.launch.host_step)
    assert float(step.time.item()) - moved == pytest.approx(float(whole[0]) - host, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 512), st.integers(1, 512), st.integers(128, 16384), st.integers(1, 8192))
def test_more_sequences_and_longer_contexts_are_never_faster(
    sequences: int, more: int, context: int, longer: int
) -> None:
    few = split_step(DENSE, batch(sequences, context)).time
    many = split_step(DENSE, batch(sequences + more, context)).time
    long = split_step(DENSE, batch(sequences, context + longer)).time
    assert many >= few * (1.0 - 1e-2)
    assert long >= few * (1.0 - 1e-9)


def test_points_are_those_of_the_singles() -> None:
    sequences = np.array([8.0, 64.0, 512.0])
    together = split_step(DENSE, batch(sequences)).time  # type: ignore[arg-type]
    alone = [float(split_step(DENSE, batch(each)).time.item()) for each in sequences]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_experts_are_the_feed_forward_side() -> None:
    near, far = case("qwen3-30b-a3b", data=4), case("qwen3-30b-a3b", data=4, expert=4)
    step = split_step(Split(near, far, array(2.0)), batch(128.0))
    assert float(step.feed_forward.item()) > float(step.attention.item()) * 0.1
    assert np.isfinite(step.time).all()


def test_a_table_says_what_a_step_takes() -> None:
    table = split_table(DENSE, most_tokens=512, most_context=8192)
    direct = float(split_step(DENSE, batch(256.0)).time.item())
    told = table.seconds(0, 0.0, 256, 256 * 2048.0, 256) - table.host_step_s
    assert told == pytest.approx(direct, rel=0.05)
