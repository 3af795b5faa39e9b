"""Attention and feed-forward on chips of their own: pipelined in micro-batches, tokens to and fro."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case
from cosim.engines.served import step_seconds
from cosim.engines.served_memory import room, room_beside
from cosim.engines.served_split import Split, forward_share, split_of, split_seconds, split_step, way_joules
from cosim.engines.serving.steps import split_energy, split_table, step_energy
from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.mapping.placement import tensor_placement
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.serving import load_serving, lower_serving
from cosim.overrides import Varied
from cosim.records import array, map_leaves
from cosim.timing.collective import all_gather
from cosim.timing.energy import link_energy
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


def split(near: Case, far: Case, micro_batches: float) -> Split:
    """Both sides on one node."""
    return split_of(near, far, array(micro_batches), array(1.0))


DENSE = split(case("llama-3.1-8b", data=4), case("llama-3.1-8b", tensor=4), 2.0)


def batch(sequences: float, context: float = 2048.0) -> Work:
    """A step in which so many sequences decode."""
    return decode_work(array(sequences), array(context))


def test_a_layer_is_the_slower_side_or_the_way_through() -> None:
    step = split_step(DENSE, batch(256.0))
    near, far, moved = (float(value.item()) for value in (step.attention, step.feed_forward, step.transfer))
    layer = max(2.0 * near, 2.0 * far, 2.0 * moved, near + far + 2.0 * moved)
    layers = float(DENSE.attention.model.layers)
    ends = float(step.time.item()) - layers * layer
    assert near > 0.0
    assert far > 0.0
    assert moved > 0.0
    assert 0.0 < ends < layer * layers


def test_one_micro_batch_adds_both_sides() -> None:
    step = split_step(split(*DENSE.sides, 1.0), batch(64.0))
    layers = float(DENSE.attention.model.layers)
    least = layers * float((step.attention + step.feed_forward + 2.0 * step.transfer).item())
    assert float(step.time.item()) > least


def test_chips_of_both_sides_count() -> None:
    assert float(DENSE.chips) == 8.0


def test_both_sides_on_one_chip_and_no_way_between_make_a_plain_step() -> None:
    own = case("llama-3.1-8b")
    step = split_step(split(own, own, 1.0), batch(8.0))
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
    step = split_step(split(near, far, 2.0), batch(128.0))
    assert float(step.feed_forward.item()) > float(step.attention.item()) * 0.1
    assert np.isfinite(step.time).all()


def test_a_table_says_what_a_step_takes() -> None:
    table = split_table(DENSE, most_tokens=512, most_context=8192)
    direct = float(split_step(DENSE, batch(256.0)).time.item())
    told = table.seconds(0, 0.0, 256, 256 * 2048.0, 256) - table.host_step_s
    assert told == pytest.approx(direct, rel=0.05)


def test_the_feed_forward_side_sees_the_tokens_that_there_are() -> None:
    # One rank of four has a prompt: attention takes as long as if all had one, the other side does not.
    zero, one = array(0.0), array(1.0)
    prompt = Work(one, array(1024.0), zero, zero, one, zero)
    every = replace(prompt, chunks=array(4.0))
    uneven, even = split_step(DENSE, prompt, every), split_step(DENSE, every)
    assert uneven.attention == pytest.approx(even.attention)
    assert float(uneven.feed_forward.item()) < 0.5 * float(even.feed_forward.item())
    assert uneven.transfer < even.transfer


def test_a_wide_table_of_prompts_knows_the_busiest_rank() -> None:
    table = split_table(DENSE, most_tokens=8192, most_context=8192)
    zero, one = array(0.0), array(1.0)
    prompt = Work(one, array(1024.0), zero, zero, one, zero)
    alone = float(split_step(DENSE, prompt, replace(prompt, chunks=array(4.0))).time.item())
    told = table.seconds(1024, 1024 * 512.5, 0, 0.0, 0) - table.host_step_s
    assert told == pytest.approx(alone, rel=0.1)


def test_sides_share_out_weights_and_one_keeps_the_cache() -> None:
    whole = room(case("qwen3-30b-a3b"), array(1024.0))
    near, far = case("qwen3-30b-a3b"), case("qwen3-30b-a3b")
    sides = split(near, far, 1.0)
    attention, forward = room(sides.attention, array(1024.0)), room_beside(sides.feed_forward, array(512.0))
    assert float((attention.weights + forward.weights).item()) == pytest.approx(float(whole.weights.item()))
    assert attention.per_sequence == whole.per_sequence
    assert float(forward.per_sequence) == 0.0
    assert forward.weights > attention.weights
    assert forward.left == pytest.approx(forward.most - forward.weights - forward.activations - forward.other)


def test_more_tokens_take_more_room_beside() -> None:
    sides = split(case("llama-3.1-8b"), case("llama-3.1-8b"), 1.0)
    few, many = (room_beside(sides.feed_forward, array(tokens)) for tokens in (128.0, 8192.0))
    assert many.activations > few.activations
    assert many.weights == few.weights


def test_joules_of_both_sides_are_those_of_a_plain_step_and_the_way() -> None:
    own = case("llama-3.1-8b")
    sides = split(own, own, 1.0)
    sizes = {"most_tokens": 256, "most_context": 4096}
    near, far = split_energy(sides, **sizes)
    plain = step_energy(own, **sizes)
    ways = sum(way_joules(sides, plain.tokens))
    # In larger steps a chip that does both lowers its clock, and takes less.
    few = plain.tokens <= 64.0
    np.testing.assert_allclose((near.linear_j + far.linear_j)[few], (plain.linear_j + ways)[few], rtol=1e-6)
    np.testing.assert_allclose(near.decode_j, plain.decode_j, rtol=1e-6)
    assert not far.decode_j.any()
    assert not far.prefill_j.any()
    assert near.idle_w == far.idle_w == plain.idle_w


def test_joules_of_the_way_by_hand() -> None:
    model = DENSE.attention.model
    near, far = (float(joules) for joules in way_joules(DENSE, array(10.0)))
    chip = DENSE.attention.system.chip
    size = array(10.0 * float(model.hidden) * 2.0 * float(model.layers))
    assert near == far == pytest.approx(float(link_energy(size, chip)))
    assert near > 0.0


def test_a_side_is_a_case_that_is_timed_alone() -> None:
    (time,) = (timed_step(replace(side, work=batch(64.0)))[0]["time"] for side in DENSE.sides[:1])
    assert 0.0 < float(np.ravel(time)[0]) < float(step_seconds(case("llama-3.1-8b"), [batch(64.0)])[0][0])


def test_the_way_out_of_a_node_is_slower_and_must_be_there() -> None:
    both = replace(DENSE, inside=array([1.0, 0.0]))
    two = map_leaves(batch(512.0), lambda leaf: np.full(2, leaf))
    inside, outside = split_step(both, two).transfer
    assert inside == pytest.approx(float(split_step(DENSE, batch(512.0)).transfer.item()))
    assert outside > 2.0 * inside
    alone = case("llama-3.1-8b", system="rtx-4090-8gpu-pcie4")
    alone = replace(alone, system=replace(alone.system, tiers=alone.system.tiers[: alone.system.node_tier + 1]))
    with pytest.raises(SpecError, match=r"feed_forward\.system: has no way between the sides"):
        split_step(split_of(alone, alone, array(2.0), array(0.0)), batch(8.0))


def test_seconds_of_several_works_are_those_of_each_with_the_host() -> None:
    works = [batch(8.0), batch(64.0, 4096.0)]
    found = split_seconds(DENSE, works)
    host = float(DENSE.attention.system.chip.launch.host_step)
    for seconds, work in zip(found, works, strict=True):
        assert seconds == pytest.approx(split_step(DENSE, work).time + host)
    stack = lower_serving(load_serving("sglang"))
    hidden = replace(DENSE.attention, stack=replace(stack, host_hidden=True, host_step=array(10.0)))
    (slow,) = split_seconds(replace(DENSE, attention=hidden), works[:1])
    assert float(slow.item()) == pytest.approx(10.0, rel=1e-2)


@pytest.mark.parametrize("workload", ["llama-3.1-8b", "nemotron-3-nano-30b-a3b", "qwen3-30b-a3b", "deepseek-v2-lite"])
@pytest.mark.parametrize("tokens", [256.0, 4096.0])
def test_a_table_of_prompts_is_the_direct_step(workload: str, tokens: float) -> None:
    # States of a hybrid are read and written once for a sequence, not for each token of its prompt.
    sides = split(case(workload), case(workload), 2.0)
    table = split_table(sides, most_tokens=8192, most_context=8192)
    zero, one = array(0.0), array(1.0)
    direct = float(split_step(sides, Work(one, array(tokens), zero, zero, one, zero)).time.item())
    told = table.seconds(int(tokens), tokens * (tokens + 1.0) / 2.0, 0, 0.0, 0) - table.host_step_s
    assert told == pytest.approx(direct, rel=0.08)


def test_ways_are_those_of_blocks_with_a_feed_forward() -> None:
    hybrid, dense = case("nemotron-3-nano-30b-a3b"), case("llama-3.1-8b")
    # 23 of 52 blocks are experts.
    assert float(forward_share(hybrid.model)) == pytest.approx(23 / 52)
    assert float(forward_share(dense.model)) == 1.0
    near, _ = way_joules(split(hybrid, hybrid, 1.0), array(100.0))
    size = array(100.0 * float(hybrid.model.hidden) * 2.0 * 23)
    assert float(near) == pytest.approx(float(link_energy(size, hybrid.system.chip)))


def test_tensor_ranks_gather_what_they_are_sent() -> None:
    one = split_step(split(case("llama-3.1-8b"), case("llama-3.1-8b"), 1.0), batch(512.0)).transfer
    four = split_step(split(case("llama-3.1-8b"), case("llama-3.1-8b", tensor=4), 1.0), batch(512.0))
    model, system = DENSE.attention.model, DENSE.attention.system
    size = array(512.0 * float(model.hidden) * 2.0)
    gather = float(all_gather(size, tensor_placement(array(4.0), system.sizes), system).time) / 2.0
    # The whole goes one way from a single rank, and is gathered by four on the other side.
    assert float(four.transfer.item()) == pytest.approx(float(one.item()) + gather)


def test_a_batch_is_cut_into_no_more_parts_than_it_has_tokens() -> None:
    near, far = case("llama-3.1-8b"), case("llama-3.1-8b")
    one, eight = (split_step(split(near, far, parts), batch(1.0)).time for parts in (1.0, 8.0))
    assert one == pytest.approx(eight)
    few, many = (split_step(split(near, far, parts), batch(2.0)).time for parts in (2.0, 8.0))
    assert few == pytest.approx(many)


def test_a_split_table_waits_for_kernels_that_are_issued() -> None:
    stack = replace(lower_serving(load_serving("vllm")), host_kernel=array(1e-4))
    sides = split(*(replace(each, stack=stack) for each in (case("llama-3.1-8b"), case("llama-3.1-8b"))), 2.0)
    table = split_table(sides, most_tokens=512, most_context=4096)
    plain = split_table(DENSE, most_tokens=512, most_context=4096)
    assert table.issue_s > 0.0 == plain.issue_s
    assert table.seconds(16, 136.0, 0, 0.0, 0) >= table.issue_s
    # Decodes alone are in as many micro-batches as prompts, each with kernels of its own.
    assert table.issue_decode_s == pytest.approx(float(split_step(sides, batch(256.0)).issued.item()), rel=1e-12)
    assert table.issue_decode_s > 1.5 * float(split_step(sides, batch(1.0)).issued.item())
    zero, one = array(0.0), array(1.0)
    short = Work(one, array(16.0), zero, zero, one, one)
    (seconds,) = split_seconds(sides, [short])
    # Kernels of attention over prompts and over answers are both in the table's.
    told = table.seconds(16, 136.0, 0, 0.0, 1)
    assert float(seconds.item()) == pytest.approx(told, rel=0.2)
    replayed = replace(stack, graph_decodes=True)
    decoding = split(*(replace(each, stack=replayed) for each in sides.sides), 2.0)
    host = float(stack.host_step) + 8 * float(stack.host_sequence)
    assert split_seconds(decoding, [batch(8.0)])[0] == pytest.approx(split_step(decoding, batch(8.0)).time + host)
