"""Recompute by module and by layer: every op and tensor has its modules, shares, counts of layers, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.mapping.backward import recomputed
from cosim.mapping.device import DeviceGraph
from cosim.mapping.plan import MODULES, Plan, PlanArrays
from cosim.mapping.recompute import (
    OPS,
    SAVED,
    check_modules,
    largest_again,
    layers_again,
    share_again,
    share_dropped,
)
from cosim.mapping.shard import shard
from cosim.mapping.stages import by_group, stages
from cosim.mapping.training import saved_bytes
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.model import Model, ModelArrays
from cosim.workload.network import has_phase
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]


def is_trained(name: str) -> bool:
    """Whether a workload is a transformer that this library trains."""
    model = load_workload(name)
    try:
        has_phase(lower_workload(Varied(model)), "train")
    except SpecError:
        return False
    return isinstance(model, Model)


LANGUAGE = [name for name in library.names("workloads") if is_trained(name)]
LENGTH = 1024.0
SUBSETS = st.sets(st.sampled_from(MODULES)).map(lambda names: ",".join(sorted(names)))


def device_of(model: ModelArrays, plan: PlanArrays, *, fused: bool = True) -> DeviceGraph:
    return shard(training_graph(model, array(1.0), array(LENGTH), fused=fused), plan)


def layer_ops(device: DeviceGraph) -> Iterator[tuple[str, str]]:
    for ops in (device.matmuls, device.attentions, device.vectors, device.collectives):
        yield from ((op.name.partition(".")[0], op.group) for op in ops if op.group not in {"embed", "head"})


@pytest.mark.parametrize("fused", [True, False])
def test_every_op_and_tensor_of_a_layer_has_its_modules(model_of: ModelOf, plan_of: PlanOf, *, fused: bool) -> None:
    for name in ("llama-3.1-8b", "gpt3-175b", "mixtral-8x7b", "deepseek-v3", "qwen3-235b-a22b"):
        device = device_of(model_of(name), plan_of(tensor_parallel=2, sequence_parallel=True, dtype="fp8"), fused=fused)
        assert {op for op, _ in layer_ops(device)} <= set(OPS)
        kept = {t.name for t in device.saved if t.group not in {"embed", "head"} and not t.boundary}
        assert kept <= set(SAVED)


def test_every_language_model_of_the_library_has_ops_with_modules(plan_of: PlanOf, model_of: ModelOf) -> None:
    assert len(LANGUAGE) > 20
    for name in LANGUAGE:
        device = device_of(model_of(name), plan_of())
        assert {op for op, _ in layer_ops(device)} <= set(OPS), name


def test_modules_named_by_ops_are_those_a_plan_may_ask_for() -> None:
    named = {module for own in (*OPS.values(), *SAVED.values()) for module in own}
    assert named == set(MODULES)


def names_again(device: DeviceGraph, modules: str) -> dict[str, float]:
    ops = (*device.matmuls, *device.attentions, *device.vectors, *device.collectives)
    found = {op.name: share_again(op, device, tuple(modules.split(","))) for op in ops}
    return {name: share for name, share in found.items() if share}


def names_dropped(device: DeviceGraph, modules: str) -> dict[str, float]:
    found = {tensor.name: share_dropped(tensor, device, tuple(modules.split(","))) for tensor in device.saved}
    return {name: share for name, share in found.items() if share}


def test_modules_of_a_dense_layer_by_hand(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = device_of(model_of("llama-3.1-8b"), plan_of())
    assert names_again(device, "core_attention") == {"attention": 1.0}
    assert names_dropped(device, "core_attention") == {"attention_sums": 1.0}
    assert names_again(device, "norms") == {"norm": 1.0}
    assert names_dropped(device, "norms") == {"qkv_input": 1.0, "ffn_input": 1.0}
    assert names_again(device, "activation") == {"activation": 1.0}
    assert names_dropped(device, "activation") == {"activation_output": 1.0}
    assert set(names_again(device, "mlp")) == {"ffn_in", "activation", "ffn_out", "ffn_sum"}
    assert set(names_dropped(device, "mlp")) == {"activation_input", "activation_output"}
    whole = {"qkv", "rotary_and_cache", "attention", "attention_out", "attention_sum"}
    assert set(names_again(device, "attention")) == whole
    assert set(names_dropped(device, "attention")) == {"qkv", "attention_output", "attention_sums"}
    titan = names_again(device, "elementwise,products")
    assert {name: share for name, share in titan.items() if share < 1.0} == dict.fromkeys(
        ("qkv", "attention_out", "ffn_in", "ffn_out"), 0.5
    )
    assert {name for name, share in titan.items() if share == 1.0} == {"norm", "rotary_and_cache", "activation"}
    assert names_dropped(device, "elementwise,products") == {
        "qkv_input": 1.0,
        "ffn_input": 1.0,
        "activation_output": 1.0,
        "qkv": 0.5,
        "activation_input": 0.5,
    }


def test_modules_of_latents_and_experts_by_hand(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = device_of(model_of("deepseek-v3"), plan_of(tensor_parallel=1))
    latent = {"kv_up", "query_up", "kv_latent_norm", "query_latent_norm", "rotary_and_cache"}
    assert set(names_again(device, "latent")) == latent
    assert names_dropped(device, "latent") == {"qkv": 1.0}
    moe = {op for op, group in layer_ops(device) if group == "moe"}
    assert {name.partition(".")[0] for name in names_again(device, "moe")} == moe
    routed = {tensor.name for tensor in device.saved if tensor.group == "moe"}
    assert set(names_dropped(device, "moe")) == routed - {"router_input"}
    active = {"activation", "expert_activation", "shared_activation"}
    assert set(names_again(device, "activation")) == active


def test_a_plain_relu_keeps_its_output_and_is_not_run_again(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = device_of(model_of("gpt3-175b", activation="relu"), plan_of())
    assert not names_again(device, "activation")
    assert not names_dropped(device, "activation")
    assert names_dropped(device, "mlp") == {"activation_output": 1.0}


@settings(max_examples=40, deadline=None)
@given(asked=SUBSETS, more=SUBSETS, tensor=st.sampled_from([1, 4]), fused=st.booleans())
def test_more_modules_run_more_again_and_keep_less(
    model_of: ModelOf, plan_of: PlanOf, asked: str, more: str, tensor: int, *, fused: bool
) -> None:
    model = model_of("gpt3-175b", layers=8)
    stage = stages(model.layers, array(1.0))

    def found(names: str, recompute: str = "none") -> tuple[float, float]:
        plan = plan_of(recompute_modules=names, tensor_parallel=tensor, recompute=recompute)
        device = device_of(model, plan, fused=fused)
        again = recomputed(device, plan.recompute, plan.recompute_modules)
        ops = (*again.matmuls, *again.attentions, *again.vectors)
        # Without what is in work while it is made again.
        held = saved_bytes(device, stage, plan) - largest_again(device, plan.recompute_modules)
        return sum(float(op.count) for op in ops), float(held[0, 0])

    few, many = found(asked), found(f"{asked},{more}")
    assert many[0] >= few[0]
    assert many[1] <= few[1]
    everything = found(asked, "full")
    assert everything[0] == pytest.approx(found("", "full")[0])
    assert everything[0] >= many[0]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["llama-3.1-8b", "deepseek-v3", "mixtral-8x7b"]),
    pipeline=st.sampled_from([1, 2, 4]),
    first=st.integers(0, 40),
)
def test_first_layers_of_every_stage_recompute(
    model_of: ModelOf, plan_of: PlanOf, name: str, pipeline: int, first: int
) -> None:
    model, plan = model_of(name), plan_of(pipeline_parallel=pipeline, recompute="full", recompute_layers=first)
    stage = stages(model.layers, plan.pipeline, model.dense_layers)
    counts = {group: by_group(stage, group) * layers_again(stage, plan, group) for group in ("layer", "dense", "moe")}
    expected = np.minimum(float(first), stage.layers)
    np.testing.assert_allclose(counts["layer"], expected)
    np.testing.assert_allclose(counts["dense"] + counts["moe"], expected)
    np.testing.assert_allclose(counts["dense"], np.minimum(stage.dense, expected))
    assert float(layers_again(stage, plan, "embed")) == 1.0


def test_dense_layers_between_the_others_recompute_in_proportion(plan_of: PlanOf) -> None:
    stage = stages(array(8.0), array(2.0), array(4.0), between=True)
    plan = plan_of(pipeline_parallel=2, recompute="full", recompute_layers=2)
    assert float((by_group(stage, "dense") * layers_again(stage, plan, "dense"))[0, 0]) == 1.0
    assert float((by_group(stage, "moe") * layers_again(stage, plan, "moe"))[0, 0]) == 1.0


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 12), level=st.sampled_from(["selective", "full"]), fused=st.booleans())
def test_memory_lies_between_that_of_no_layer_and_of_all(
    model_of: ModelOf, plan_of: PlanOf, first: int, level: str, *, fused: bool
) -> None:
    model = model_of("gpt3-175b", layers=12)

    def kept(**fields: object) -> float:
        plan = plan_of(**fields)
        return float(saved_bytes(device_of(model, plan, fused=fused), stages(model.layers, array(1.0)), plan)[0, 0])

    none, every = kept(), kept(recompute=level)
    some = kept(recompute=level, recompute_layers=first)
    work = kept(recompute=level) - kept(recompute=level, recompute_layers=12)
    assert work == pytest.approx(0.0, abs=1.0)
    ends = kept(recompute=level, recompute_layers=0)
    assert ends == pytest.approx(none, rel=1e-12)
    each = _each(every, kept(recompute=level, recompute_layers=6))
    in_work = every - none + 12.0 * each
    assert in_work >= 0.0
    if first:
        assert some == pytest.approx(none - first * each + in_work)


def _each(every: float, half: float) -> float:
    """Bytes that a layer keeps less, of 12 layers with all and with half of them computed again."""
    return (half - every) / 6.0


def test_a_list_of_modules_is_read_in_any_order() -> None:
    assert Plan(recompute_modules=" mlp , norms,norms").recompute_modules == "norms,mlp"
    assert Plan(recompute_modules="").recompute_modules == ""
    with pytest.raises(ValueError, match="nearest: norms"):
        Plan(recompute_modules="norm,mlp")


def test_what_the_model_has_not_is_refused(model_of: ModelOf, plan_of: PlanOf) -> None:
    dense, latent = model_of("llama-3.1-8b"), model_of("deepseek-v3")
    for module in ("moe", "latent"):
        with pytest.raises(SpecError, match="no module of this model"):
            check_modules(device_of(dense, plan_of()), plan_of(recompute_modules=module))
        check_modules(device_of(latent, plan_of()), plan_of(recompute_modules=module))
    with pytest.raises(SpecError, match="how many layers"):
        check_modules(device_of(dense, plan_of()), plan_of(recompute_layers=4))
    check_modules(device_of(dense, plan_of()), plan_of(recompute_layers=4, recompute="full"))
    check_modules(device_of(dense, plan_of()), plan_of(recompute_layers=4, recompute_modules="mlp"))
