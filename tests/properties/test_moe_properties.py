"""Laws of routed models and of latent attention over whole steps: batches, imbalance, expert ranks, both forms."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosim
from cosim.engines.analytic import BREAKDOWN, Estimates, evaluate
from cosim.engines.case import Case, Phase
from cosim.engines.events import simulate
from cosim.errors import InfeasibleError
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import CODES
from cosim.mapping.memory import KINDS
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import SoftwareArrays, load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.records import Array, array, at
from cosim.schema import validated
from cosim.workload.graph import decode_graph, parameters
from cosim.workload.load import load_model
from cosim.workload.model import Model, lower_model

SYSTEMS = ("dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8")
SERVING: tuple[Phase, ...] = ("prefill", "decode")
PHASES: tuple[Phase, ...] = (*SERVING, "train")
# Routed with ordinary attention, latent attention alone, both with dense layers first.
MODELS = ("mixtral-8x7b", "dense-latent", "deepseek-v3")
PLAIN = ("time", "tokens", "energy", "server_energy", "facility_energy", "power", "utilisation")
SLACK = 1.0 + 1e-12
POOL = 16
ROUTED = ("experts", "experts_per_token", "expert_ffn", "shared_experts", "dense_layers", "expert_groups")
NOTHING: Mapping[str, Any] = MappingProxyType({})
Values = Mapping[str, Any]


@functools.cache
def described(name: str) -> Varied[System]:
    return Varied(load_system(name))


@functools.cache
def network(name: str) -> Varied[Model]:
    """A model of the library, or DeepSeek-V3 with its dense feed-forward in every layer."""
    if name != "dense-latent":
        return Varied(load_model(name))
    plain = load_model("deepseek-v3").model_dump(exclude_none=True, exclude={*ROUTED, "groups_per_token", "quantised"})
    return Varied(validated(Model, plain))


@functools.cache
def software() -> SoftwareArrays:
    return lower_software(load_software("megatron"))


def case_of(
    phase: Phase, name: str, model: str, plan: Values, scenario: Values, changes: Values = NOTHING, layers: object = 4
) -> Case:
    """A small model: four layers unless said otherwise, on four nodes of chips that hold it."""
    dims = {"layers": layers} | ({"windowed_layers": 2} if model == "gpt-oss-120b" else {})
    return Case(
        phase,
        lower_system(vary_system(described(name), {"nodes": 4, "chip.memory.dram.capacity": "500 GB", **changes})),
        lower_model(vary(network(model), dims)),
        lower_plan(vary(Varied(Plan()), plan)),
        lower_scenario(vary(Varied(Scenario()), scenario)),
        software() if phase == "train" else None,
    )


@functools.cache
def pool(phase: Phase, model: str, name: str) -> tuple[Case, Estimates]:
    """Points whose chip, model, degrees, imbalance, batch and context differ all at once."""
    rng = np.random.default_rng(len(model) + 10 * len(phase))
    degrees = {"tensor_parallel": [1, 2, 4, 8], "data_parallel": [1, 2, 4], "pipeline_parallel": [1, 1, 2, 3]}
    degrees |= {"micro_batches": [1, 2], "micro_batch": [1, 2], "expert_parallel": [1, 2, 4, 8]}
    if model == "dense-latent":
        degrees["expert_parallel"] = [1, 1, 1, 2]
    if phase == "train":
        degrees |= {"zero": [0, 1, 2, 3]}
    plan = {field: rng.choice(legal, POOL) for field, legal in degrees.items()}
    scenario = {
        "batch": rng.choice([4, 8, 24, 256], POOL),
        "global_batch": rng.choice([8, 16, 64, 96], POOL),
        "context": rng.integers(1, 4000, POOL),
        "expert_imbalance": rng.uniform(0.0, 2.0, POOL),
    }
    chip = {
        "chip.memory.dram.capacity": rng.uniform(30e9, 500e9, POOL),
        "chip.memory.dram.bandwidth": rng.uniform(1e12, 8e12, POOL),
        "chip.quality.matmul": rng.uniform(0.3, 1.0, POOL),
        "chip.quality.collective": rng.uniform(0.3, 1.0, POOL),
    }
    case = case_of(phase, name, model, plan, scenario, chip, rng.integers(4, 9, POOL))
    return case, evaluate(case)


def numbers(result: Estimates) -> dict[str, Array]:
    """Every array of the result by name."""
    found = {name: getattr(result, name) for name in (*PLAIN, "chips")}
    found |= {f"breakdown {name}": value for name, value in result.breakdown.items()}
    found |= {f"memory {name}": value for name, value in result.memory.items()}
    return {**found, "code": array(result.verdict.code), "shortfall": result.verdict.shortfall}


@pytest.mark.parametrize("name", ["dgx-h100", "tpu-v5p-8"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_batch_equals_its_points_one_by_one(phase: Phase, model: str, name: str) -> None:
    case, whole = pool(phase, model, name)
    assert 2 < whole.feasible.sum() < POOL
    wanted = numbers(whole)
    for index in range(POOL):
        scale = np.nan_to_num(whole.time[index])
        for key, value in numbers(evaluate(at(case, index))).items():
            right = wanted[key][index]
            slack = 1e-12 * (scale if key.startswith("breakdown") else abs(np.nan_to_num(right)))
            assert np.isnan(value[0]) == np.isnan(right), key
            assert abs(np.nan_to_num(value[0]) - np.nan_to_num(right)) <= slack, (key, index)


@pytest.mark.parametrize("name", ["dgx-h100", "tpu-v5p-8"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("phase", PHASES)
def test_parts_sum_to_the_whole_and_nothing_beats_the_peak(phase: Phase, model: str, name: str) -> None:
    _, result = pool(phase, model, name)
    ok = result.feasible
    parts = np.stack([result.breakdown[part] for part in BREAKDOWN])
    held = np.stack([result.memory[kind] for kind in KINDS])
    np.testing.assert_allclose(parts[:, ok].sum(axis=0), result.time[ok], rtol=1e-12)
    np.testing.assert_allclose(held.sum(axis=0), result.memory["total"], rtol=1e-12)
    assert parts[:, ok].min() >= 0.0
    assert held.min() >= 0.0
    assert np.all((result.utilisation[ok] > 0.0) & (result.utilisation[ok] <= 1.0))
    assert all(np.isfinite(getattr(result, field)[ok]).all() for field in PLAIN)


def without_waiting(result: Estimates) -> Array:
    """Time of a step but for what chips wait at their power limit, which follows the tilings and not the work."""
    return result.time - result.breakdown["throttle"]


@settings(max_examples=80, deadline=None)
@given(
    phase=st.sampled_from(PHASES),
    name=st.sampled_from(SYSTEMS),
    model=st.sampled_from(["mixtral-8x7b", "deepseek-v3"]),
    tensor=st.sampled_from([1, 2, 4]),
    expert=st.sampled_from([1, 2, 4, 8]),
    each=st.sampled_from([1, 4, 64]),
    context=st.integers(1, 2000),
    imbalance=st.lists(st.floats(0.0, 20.0), min_size=2, max_size=6).map(sorted),
)
def test_more_imbalance_is_never_faster(
    phase: Phase, name: str, model: str, tensor: int, expert: int, each: int, context: int, imbalance: list[float]
) -> None:
    plan = {"tensor_parallel": tensor, "data_parallel": 8 // tensor, "expert_parallel": expert}
    batch = each * 8 // tensor
    scenario = {"batch": batch, "global_batch": batch, "context": context, "expert_imbalance": imbalance}
    roomy = {"chip.memory.dram.capacity": "5 TB"}
    result = evaluate(case_of(phase, name, model, plan, scenario, roomy))
    assert result.feasible.all()
    time = without_waiting(result)
    assert np.all(np.diff(time) >= -1e-12 * time[:-1])
    assert np.ptp(result.memory["weights"]) == 0.0


def test_one_expert_rank_has_no_imbalance() -> None:
    scenario = {"batch": 64, "expert_imbalance": [0.0, 1.0, 50.0]}
    for phase in PHASES:
        time = evaluate(case_of(phase, "dgx-h100", "mixtral-8x7b", {"tensor_parallel": 4}, scenario)).time
        assert np.ptp(time) == 0.0


@settings(max_examples=40, deadline=None)
@given(
    phase=st.sampled_from(PHASES),
    model=st.sampled_from(["mixtral-8x7b", "deepseek-v3", "gpt-oss-120b"]),
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from(["bf16", "fp8"]),
)
def test_twice_the_expert_ranks_never_hold_more_weights(
    phase: Phase, model: str, tensor: int, pipeline: int, dtype: str
) -> None:
    ranks = 32 // pipeline
    degrees = [degree for degree in (1, 2, 4, 8, 16, 32) if degree <= min(ranks, 8 if "mixtral" in model else 32)]
    degrees = [degree for degree in degrees if degree <= tensor or degree % tensor == 0]
    plan = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "data_parallel": ranks // tensor}
    case = case_of(phase, "dgx-h100", model, {**plan, "expert_parallel": degrees, "dtype": dtype}, {"batch": 64})
    result = evaluate(case)
    assert "expert_parallel" not in {list(CODES)[code] for code in result.verdict.code}
    assert np.all(np.diff(result.memory["weights"]) <= 0.0)
    # Beyond the tensor ranks replicas share the experts: each holds less.
    beyond = np.array(degrees) >= tensor
    assert np.all(np.diff(result.memory["weights"][beyond]) < 0.0)


@pytest.mark.parametrize("phase", SERVING)
def test_attention_in_replicas_serves_deepseek_v3_where_whole_replicas_do_not_fit(phase: Phase) -> None:
    system, model = cosim.system("dgx-h100", nodes=4), cosim.workload("deepseek-v3")
    estimate = cosim.estimate_decode if phase == "decode" else cosim.estimate_prefill
    plan = {"data_parallel": 32, "dtype": "fp8", "kv_dtype": "fp8"}
    found = estimate(system, model, {**plan, "expert_parallel": 32}, batch=32, context=2048).result
    assert found.feasible.all()
    # Eight of 256 experts a chip: 39.5 GB. All of them on every chip: 673 GB of 80.
    assert found.memory["weights"][0] == pytest.approx(39.5e9, rel=0.01)
    with pytest.raises(InfeasibleError, match=r"memory: .* lacks") as caught:
        estimate(system, model, plan, batch=32, context=2048)
    assert "data 32" in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(
    phase=st.sampled_from(PHASES),
    name=st.sampled_from(SYSTEMS),
    tensor=st.sampled_from([1, 2, 4, 8]),
    batch=st.integers(1, 64),
)
def test_a_second_replica_with_experts_of_its_own_takes_no_time_in_serving_and_no_weights(
    phase: Phase, name: str, tensor: int, batch: int
) -> None:
    plan = {"tensor_parallel": tensor, "expert_parallel": [1, tensor] * 2, "data_parallel": [1, 1, 2, 2]}
    batches = [batch, batch, 2 * batch, 2 * batch]
    scenario = {"batch": batches, "global_batch": batches, "context": 512}
    roomy = {"chip.memory.dram.capacity": "5 TB"}
    result = evaluate(case_of(phase, name, "mixtral-8x7b", plan, scenario, roomy))
    assert result.feasible.all()
    np.testing.assert_allclose(result.memory["weights"][2:], result.memory["weights"][:2], rtol=1e-12)
    np.testing.assert_allclose(result.tokens[2:], 2.0 * result.tokens[:2], rtol=1e-12)
    if phase == "train":
        assert np.all(result.time[2:] >= result.time[:2])
    else:
        np.testing.assert_allclose(result.time[2:], result.time[:2], rtol=1e-12)
        np.testing.assert_allclose(result.energy[2:], 2.0 * result.energy[:2], rtol=1e-12)


@pytest.mark.parametrize("model", ["dense-latent", "deepseek-v3"])
@pytest.mark.parametrize("phase", SERVING)
def test_both_forms_of_latent_attention_have_the_same_weights_and_cache(phase: Phase, model: str) -> None:
    degrees = {"tensor_parallel": [1, 2, 8, 8], "data_parallel": [1, 2, 1, 4], "pipeline_parallel": [1, 1, 2, 1]}
    held = {}
    for form in ("absorbed", "expanded", "best"):
        plan = {**degrees, "latent": form, "dtype": "fp8"}
        case = case_of(phase, "dgx-h100", model, plan, {"batch": 64, "context": 1024})
        held[form] = evaluate(case)
        assert held[form].feasible.all()
    for kind in ("weights", "kv"):
        np.testing.assert_array_equal(held["absorbed"].memory[kind], held["expanded"].memory[kind])
    best = "absorbed" if phase == "decode" else "expanded"
    np.testing.assert_array_equal(held["best"].time, held[best].time)
    assert np.all(held["absorbed"].time != held["expanded"].time)


@settings(max_examples=40, deadline=None)
@given(
    layers=st.integers(4, 100),
    heads=st.integers(1, 256),
    widths=st.lists(st.integers(1, 2048), min_size=4, max_size=4),
)
def test_absorbed_and_expanded_decode_count_the_same_parameters(layers: int, heads: int, widths: list[int]) -> None:
    names = ("head_dim", "rope_dim", "value_dim", "kv_latent")
    dims = {"layers": layers, "heads": heads, "kv_heads": heads, **dict(zip(names, widths, strict=True))}
    model = lower_model(vary(network("deepseek-v3"), dims))
    counted = []
    for absorbed in (True, False):
        graph = decode_graph(model, array(1), array(1), absorbed=absorbed)
        layer = [op for op in graph.matmuls if op.group == "layer"]
        products = [1.0 if op.batch is None else float(op.batch.size) for op in layer]
        sizes = [sum(float(axis.size) for axis in op.n) * float(op.k.size) for op in layer]
        counted.append(sum(p * s for p, s in zip(products, sizes, strict=True)))
    assert counted[0] == counted[1]
    assert counted[0] * layers < float(parameters(model))


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(SYSTEMS), phase=st.sampled_from(PHASES), batch=st.sampled_from([1, 4, 64]))
def test_a_mixture_of_one_expert_is_a_dense_model_that_also_routes(name: str, phase: Phase, batch: int) -> None:
    scenario = {"batch": batch, "global_batch": batch, "context": 512}
    one = {"experts": 1, "experts_per_token": 1}
    roomy = {"chip.memory.dram.capacity": "5 TB", "chip.power.limit": 1e5}
    shape = case_of(phase, name, "mixtral-8x7b", {}, scenario, roomy)
    dense = {"experts", "experts_per_token", "expert_ffn"}
    plain = validated(Model, load_model("mixtral-8x7b").model_dump(exclude_none=True, exclude=dense))
    results = []
    for varied in (vary(network("mixtral-8x7b"), {**one, "layers": 4}), vary(Varied(plain), {"layers": 4})):
        own = Case(phase, shape.system, lower_model(varied), shape.plan, shape.scenario, shape.software)
        results.append(evaluate(own))
    routed, single = results
    # One score a token and layer: 4096 weights of two bytes, serving and training
    assert routed.memory["weights"][0] - single.memory["weights"][0] == 4 * 4096 * 2
    assert float(routed.memory["kv"][0]) == float(single.memory["kv"][0])
    assert routed.time[0] > single.time[0]
    assert routed.breakdown["matmul"][0] == pytest.approx(single.breakdown["matmul"][0], rel=0.2)
    assert routed.breakdown["collective"][0] == single.breakdown["collective"][0] == 0.0


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(SYSTEMS), phase=st.sampled_from(SERVING), batch=st.sampled_from([8, 64, 512]))
def test_experts_over_replicas_cost_collectives_and_experts_over_tensor_ranks_add_none(
    name: str, phase: Phase, batch: int
) -> None:
    plan = {"tensor_parallel": [8, 8, 1, 1], "data_parallel": [1, 1, 8, 8], "expert_parallel": [1, 8, 1, 8]}
    roomy = {"chip.memory.dram.capacity": "5 TB"}
    result = evaluate(case_of(phase, name, "mixtral-8x7b", plan, {"batch": batch, "context": 128}, roomy))
    summed, same, alone, carried = result.breakdown["collective"]
    assert summed == same > 0.0
    assert alone == 0.0 < carried


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("phase", SERVING)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_as_events_takes_the_time_of_the_closed_form(phase: Phase, name: str, model: str) -> None:
    expert = [1, 1, 1] if model == "dense-latent" else [2, 4, 8]
    plan = {"tensor_parallel": 2, "pipeline_parallel": [1, 2, 2], "data_parallel": 4, "expert_parallel": expert}
    free = {"chip.memory.dram.capacity": "5 TB", "chip.power.limit": 1e5}
    scenario = {"batch": 64, "context": 512, "expert_imbalance": 0.5}
    case = case_of(phase, name, model, {**plan, "micro_batches": [1, 2, 4]}, scenario, free, layers=8)
    times = evaluate(case).time
    for index in range(3):
        assert simulate(case, index).time_s == pytest.approx(times[index], rel=1e-3)
