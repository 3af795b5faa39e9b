"""Memory of a chip when serving, in bytes worked by hand for Llama 3.1 70B and GPT-3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.memory import KINDS, Memory, _weights, serving_memory
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.shard import DeviceGraph, shard
from cosim.mapping.stages import stages
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.workload.graph import decode_graph, kv_bytes_per_token, parameters, prefill_graph
from cosim.workload.model import ModelArrays
from cosim.workload.network import Network, lower_network

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
ScenarioOf = Callable[..., ScenarioArrays]
Weigh = Callable[..., Memory]
RESERVED = array(1.5e9)
PLAN = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
    "micro_batches",
    "dtype",
    "kv_dtype",
    "weights_dtype",
)


def device_of(model: ModelArrays, plan: PlanArrays, scenario: ScenarioArrays, phase: str = "decode") -> DeviceGraph:
    sequences = scenario.batch / (plan.data * plan.micro_batches)
    build = decode_graph if phase == "decode" else prefill_graph
    return shard(build(model, sequences, scenario.context), plan)


@pytest.fixture(scope="session")
def weigh(plan_of: PlanOf, scenario_of: ScenarioOf) -> Weigh:
    """Memory of a chip of `model` under plan and scenario fields given by name."""

    def build(model: ModelArrays, phase: str = "decode", **fields: Any) -> Memory:
        plan = plan_of(**{name: value for name, value in fields.items() if name in PLAN})
        scenario = scenario_of(**{name: value for name, value in fields.items() if name not in PLAN})
        stage = stages(model.layers, plan.pipeline, model.dense_layers)
        return serving_memory(device_of(model, plan, scenario, phase), stage, model, plan, scenario, RESERVED)

    return build


def over_all_ranks(model: ModelArrays, plan: PlanArrays, scenario: ScenarioArrays) -> Array:
    """Elements of weights at 16 bits on all chips of one replica."""
    stage = stages(model.layers, plan.pipeline)
    per_stage = _weights(device_of(model, plan, scenario), stage)
    total: Array = np.sum(stage.count * per_stage, axis=0) * plan.tensor / 2.0
    return total


@pytest.mark.parametrize(
    ("tensor", "kv_bytes"),
    [
        (1, 327_680),  # of one token: 2 x 80 layers x 8 heads x 128 x 2 B
        (2, 163_840),
        (4, 81_920),
        (8, 40_960),
        (16, 40_960),  # one head cannot be divided: two ranks hold the same
    ],
)
def test_cache_per_rank_of_llama_70b(model_of: ModelOf, weigh: Weigh, tensor: int, kv_bytes: int) -> None:
    assert weigh(model_of(), tensor_parallel=tensor, context=1).kv.tolist() == [kv_bytes]
    # 64 sequences of 4608 tokens hold 294,912 tokens
    assert weigh(model_of(), tensor_parallel=tensor, batch=64, context=4608).kv.tolist() == [294_912 * kv_bytes]


@pytest.mark.parametrize(
    ("tensor", "elements"),
    [
        # layers 80 x 8192 x (columns of qkv + out + ffn_in + ffn_out), 161 norms, table and head
        (1, 80 * 8192 * (10240 + 8192 + 57344 + 28672) + 161 * 8192 + 2 * 128_256 * 8192),
        (8, 80 * 8192 * (1280 + 1024 + 7168 + 3584) + 161 * 8192 + 2 * 16_032 * 8192),
        (16, 80 * 8192 * (768 + 512 + 3584 + 1792) + 161 * 8192 + 2 * 8_016 * 8192),
    ],
)
def test_weights_per_rank_of_llama_70b(model_of: ModelOf, weigh: Weigh, tensor: int, elements: int) -> None:
    assert weigh(model_of(), tensor_parallel=tensor).weights.tolist() == [2 * elements]


def test_one_chip_holds_two_bytes_a_parameter(model_of: ModelOf, weigh: Weigh) -> None:
    for name in ("llama-3.1-70b", "llama-3.1-8b", "qwen3-32b", "gpt3-175b"):
        model = model_of(name)
        assert weigh(model).weights.tolist() == [2.0 * float(parameters(model))]


def test_the_fullest_stage_is_the_one_with_the_head_where_both_ends_have_equal_layers(
    model_of: ModelOf, weigh: Weigh
) -> None:
    # 40 layers of 855,654,400, the head of 1,050,673,152, the final norm of 8,192; at 2 B
    assert weigh(model_of(), pipeline_parallel=2).weights.tolist() == [70_553_714_688]


def test_an_eight_bit_format_halves_only_the_linear_layers(model_of: ModelOf, weigh: Weigh) -> None:
    # 80 x 855,638,016 in one byte; table, head and 161 norms in two: 2 x (2,101,346,304 + 1,318,912)
    narrow = weigh(model_of(), dtype="fp8", context=1)
    assert narrow.weights.tolist() == [68_451_041_280 + 4_205_330_432]
    assert narrow.kv.tolist() == [327_680]  # the cache has its own format


def test_an_eight_bit_cache_halves_only_the_cache(model_of: ModelOf, weigh: Weigh) -> None:
    wide, narrow = weigh(model_of(), context=1), weigh(model_of(), kv_dtype="fp8", context=1)
    assert narrow.kv.tolist() == [163_840]
    assert narrow.weights.tolist() == wide.weights.tolist()


def test_replicas_share_the_sequences_but_not_the_weights(model_of: ModelOf, weigh: Weigh) -> None:
    spread = weigh(model_of(), data_parallel=[1, 2, 8], batch=64)
    np.testing.assert_array_equal(spread.kv, spread.kv[0] / np.array([1.0, 2.0, 8.0]))
    assert np.unique(spread.weights).size == 1


def test_micro_batches_keep_every_sequence_cached_and_shrink_the_activations(model_of: ModelOf, weigh: Weigh) -> None:
    cut = weigh(model_of(), micro_batches=[1, 4], batch=64)
    assert cut.kv[0] == cut.kv[1]
    assert cut.activations[0] == 4.0 * cut.activations[1]


def test_capacity_and_not_context_sizes_the_cache(model_of: ModelOf, weigh: Weigh) -> None:
    assert weigh(model_of(), context=1000, capacity=8192).kv.tolist() == [8192 * 327_680]


@pytest.mark.parametrize(("context", "tokens"), [(4096, (40 * 4096 + 40 * 1024) / 80), (512, 512)])
def test_windowed_layers_keep_a_window(model_of: ModelOf, weigh: Weigh, context: int, tokens: float) -> None:
    model = model_of(window=1024, windowed_layers=40)
    assert weigh(model, context=context).kv.tolist() == [tokens * 327_680]


def test_activations_of_a_prefill_by_hand(model_of: ModelOf, weigh: Weigh) -> None:
    # norm and residual of 4096 rows x 8192: four tensors of 2 B, and the stream itself once more
    prefill = weigh(model_of(), "prefill", tensor_parallel=8, context=4096)
    assert prefill.activations.tolist() == [4 * 67_108_864 + 67_108_864]


def test_what_the_runtime_keeps_is_other_and_serving_has_no_gradients(model_of: ModelOf, weigh: Weigh) -> None:
    held = weigh(model_of(), tensor_parallel=[4, 8])
    assert held.other.tolist() == [1.5e9, 1.5e9]
    assert [held.gradients.tolist(), held.optimizer.tolist()] == [[0.0, 0.0], [0.0, 0.0]]


degrees = st.sampled_from([1, 2, 4, 8, 16, 32, 64])


@settings(max_examples=60, deadline=None)
@given(tensor=degrees, pipeline=st.integers(1, 80), batch=st.integers(1, 512), context=st.integers(1, 100_000))
def test_kinds_are_never_negative_and_sum_to_the_total(
    model_of: ModelOf, weigh: Weigh, tensor: int, pipeline: int, batch: int, context: int
) -> None:
    held = weigh(model_of(), tensor_parallel=tensor, pipeline_parallel=pipeline, batch=batch, context=context)
    kinds = [float(getattr(held, kind)[0]) for kind in KINDS]
    assert min(kinds) >= 0.0
    assert float(held.total[0]) == pytest.approx(sum(kinds), rel=1e-15)


@settings(max_examples=60, deadline=None)
@given(tensor=degrees, pipeline=st.integers(1, 80))
def test_weights_over_all_ranks_are_the_parameters_and_their_replicas(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, tensor: int, pipeline: int
) -> None:
    plan = plan_of(tensor_parallel=tensor, pipeline_parallel=pipeline)
    norms = (tensor - 1) * 161 * 8192  # on every rank
    replicated = max(tensor // 8 - 1, 0) * 80 * 2 * 8 * 128 * 8192  # keys and values once per eight ranks
    assert over_all_ranks(model_of(), plan, scenario_of()).tolist() == [70_553_706_496 + norms + replicated]


@settings(max_examples=40, deadline=None)
@given(tensor=st.integers(1, 96), pipeline=st.integers(1, 96))
def test_weights_over_all_ranks_cover_a_tied_model_whatever_the_split(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, tensor: int, pipeline: int
) -> None:
    model = model_of("gpt3-175b")
    held = over_all_ranks(model, plan_of(tensor_parallel=tensor, pipeline_parallel=pipeline), scenario_of())[0]
    table = 50257 * 12288 if pipeline > 1 else 0  # the last stage has its own copy
    assert held >= float(parameters(model)) + table
    assert (held > float(parameters(model)) + table) == (tensor > 1)


@settings(max_examples=40, deadline=None)
@given(tensor=st.integers(1, 64), pipeline=st.integers(1, 79), batch=st.integers(1, 256))
def test_a_finer_split_never_needs_more_on_a_chip(
    model_of: ModelOf, weigh: Weigh, tensor: int, pipeline: int, batch: int
) -> None:
    tensors = weigh(model_of(), tensor_parallel=[tensor, tensor + 1], pipeline_parallel=pipeline, batch=batch).total
    depths = weigh(model_of(), pipeline_parallel=[pipeline, pipeline + 1], tensor_parallel=tensor, batch=batch).total
    assert tensors[1] <= tensors[0]
    assert depths[1] <= depths[0]


@pytest.mark.parametrize(
    ("tensor", "kv_bytes"),
    [(1, 65_536), (2, 32_768), (4, 16_384), (8, 8_192), (16, 8_192), (32, 8_192)],  # 32 layers x 2 x 128 x heads
)
def test_cache_of_eight_key_value_heads_halves_until_a_head_is_left(
    model_of: ModelOf, weigh: Weigh, tensor: int, kv_bytes: int
) -> None:
    held = weigh(model_of("mixtral-8x7b"), tensor_parallel=tensor, kv_dtype="fp8", context=1)
    assert held.kv.tolist() == [kv_bytes]


@pytest.mark.parametrize("tensor", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(("kv_dtype", "element"), [("fp8", 1), ("bf16", 2)])
def test_cache_of_a_latent_does_not_change_with_tensor_ranks(
    model_of: ModelOf, weigh: Weigh, tensor: int, kv_dtype: str, element: int
) -> None:
    model = model_of("deepseek-v3")
    # 61 layers x (512 + 64) elements a token, whole on every rank
    assert weigh(model, tensor_parallel=tensor, kv_dtype=kv_dtype, context=1).kv.tolist() == [35_136 * element]
    held = weigh(model, tensor_parallel=tensor, kv_dtype=kv_dtype, batch=64, context=4608)
    assert held.kv.tolist() == [294_912 * 35_136 * element]


def test_replicas_and_stages_divide_a_latent_cache(model_of: ModelOf, weigh: Weigh) -> None:
    model = model_of("deepseek-v3")
    spread = weigh(model, data_parallel=[1, 4, 32], batch=64, context=1000, kv_dtype="fp8").kv
    assert spread.tolist() == [64_000 * 35_136, 16_000 * 35_136, 2_000 * 35_136]
    # 61 layers on four stages: the fullest has 16
    assert weigh(model, pipeline_parallel=4, context=1000, kv_dtype="fp8").kv.tolist() == [1000 * 16 * 576]


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-235b-a22b", "gpt-oss-120b", "deepseek-v3"])
def test_one_chip_holds_two_bytes_of_each_parameter_of_a_mixture(model_of: ModelOf, weigh: Weigh, name: str) -> None:
    assert weigh(model_of(name)).weights.tolist() == [2.0 * float(parameters(model_of(name)))]


@pytest.mark.parametrize(
    ("tensor", "data", "expert", "experts"),
    [
        (1, 1, 1, 8),
        (1, 8, 8, 1),
        (1, 8, 2, 4),
        (8, 1, 8, 1),
        (8, 1, 2, 1),  # four of them, each over four ranks
        (8, 1, 1, 1),  # all of them, each over eight ranks
        (2, 4, 8, 1),
    ],
)
def test_weights_per_rank_of_mixtral(
    model_of: ModelOf, weigh: Weigh, tensor: int, data: int, expert: int, experts: int
) -> None:
    held = weigh(model_of("mixtral-8x7b"), tensor_parallel=tensor, data_parallel=data, expert_parallel=expert, batch=8)
    # q and o of 4096, k and v of 1024; the router of 8 whole; two tables of 32000; 65 norms
    attention = 32 * 4096 * (2 * 4096 + 2 * 1024) // tensor
    whole = 32 * 8 * 4096 + 65 * 4096
    assert held.weights.tolist() == [
        2 * (attention + whole + 2 * 32_000 * 4096 // tensor + experts * 32 * 3 * 4096 * 14_336)
    ]


def test_weights_of_deepseek_v3_over_thirty_two_expert_ranks(model_of: ModelOf, weigh: Weigh) -> None:
    held = weigh(model_of("deepseek-v3"), data_parallel=32, expert_parallel=32, batch=32, dtype="fp8", context=1)
    # Every rank: attention of 61 layers, three dense layers, the shared expert and eight of 256 in 58, at one byte
    attention = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    linear = 61 * attention + 3 * 3 * 7168 * 18_432 + 58 * 9 * 3 * 7168 * 2048
    # at two: router, tables, two norms of 7168 a layer and the last, norms of both latents
    wide = 58 * 256 * 7168 + 2 * 129_280 * 7168 + 123 * 7168 + 61 * (1536 + 512)
    assert held.weights.tolist() == [linear + 2 * wide]


@settings(max_examples=40, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 4, 8]),
    data=st.sampled_from([1, 2, 4, 8, 16, 32]),
    name=st.sampled_from(["mixtral-8x7b", "deepseek-v3", "gpt-oss-120b"]),
)
def test_more_expert_ranks_never_hold_more_weights(
    model_of: ModelOf, weigh: Weigh, tensor: int, data: int, name: str
) -> None:
    model = model_of(name)
    degrees = [d for d in (1, 2, 4, 8, 16, 32, 64, 128, 256) if d <= min(tensor * data, int(model.experts))]
    held = weigh(model, tensor_parallel=tensor, data_parallel=data, expert_parallel=degrees, batch=data).weights
    assert np.all(np.diff(held) <= 0.0)
    # Inside a tensor group the same weights are cut another way; beyond it they are shared out.
    beyond = np.array([degree >= tensor for degree in degrees])
    assert np.all(np.diff(held[beyond]) < 0.0)


def network(*layers: dict[str, Any]) -> ModelArrays:
    named = [{"name": f"l{index}", **layer} for index, layer in enumerate(layers)]
    about = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "an item", "layers": named}
    return lower_network(Varied(Network.model_validate(about)))


def test_a_convolution_holds_its_tensors_and_not_its_patches(weigh: Weigh) -> None:
    conv = {"kind": "conv", "inputs": 8, "outputs": 4, "kernel": 3, "height": 10}
    held = weigh(network(conv), "prefill", batch=6, data_parallel=2)
    # Three images: 100 pixels of 8 channels in and 4 out; the largest tensor once more for what else waits.
    assert held.activations.item() == pytest.approx(3 * 100 * (8 + 4 + 4) * 2)
    assert (held.kv.item(), held.weights.item()) == (0.0, 4 * 8 * 9 * 2)


def test_a_gathers_table_is_weights_and_no_activation(weigh: Weigh) -> None:
    gather = {"kind": "gather", "lookups": 10, "width": 32, "table_rows": 1000, "count": 3}
    held = weigh(network(gather), "prefill", batch=2)
    assert held.weights.item() == 3 * 1000 * 32 * 2
    assert held.activations.item() == 2 * (2 * 10 * 32 * 2)


def test_micro_batches_of_a_network_hold_less(weigh: Weigh) -> None:
    conv = {"kind": "conv", "inputs": 8, "outputs": 4, "kernel": 3, "height": 10}
    whole, quarter = (weigh(network(conv), "prefill", batch=8, micro_batches=m) for m in (1, 4))
    assert whole.activations.item() == 4 * quarter.activations.item()


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["qwen3.5-397b-a17b", "nemotron-h-56b", "whisper-large-v3", "llama-3.1-8b"]),
    batch=st.integers(1, 64),
    context=st.integers(1, 400),
    tensor=st.sampled_from([1, 2, 4]),
)
def test_a_sequence_holds_its_state_beside_its_tokens(
    model_of: ModelOf, weigh: Weigh, name: str, batch: int, context: int, tensor: int
) -> None:
    model = model_of(name)
    held = weigh(model, batch=batch, context=context, tensor_parallel=tensor).kv.item()
    heads = np.ceil(model.cache_heads / tensor) / model.cache_heads
    tokens = float(kv_bytes_per_token(model, 2.0)) * context * float(heads)
    assert held == pytest.approx(batch * (tokens + float(model.layers * model.state_bytes) / tensor), rel=1e-12)


def test_states_of_linear_attention_by_hand(model_of: ModelOf, weigh: Weigh) -> None:
    # 45 of 60 layers: 64 heads of 128 x 128 at fp32, three inputs of 2 x 16 x 128 + 64 x 128 channels; 15 with a cache
    state = 45 * (64 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 64 * 128) * 2)
    cache = 15 * 2 * 256 * 2 * 2
    held = weigh(model_of("qwen3.5-397b-a17b"), context=100, batch=3)
    assert held.kv.item() == pytest.approx(3 * (state + 100 * cache))


def test_keys_of_what_was_heard_do_not_grow_with_the_answer(model_of: ModelOf, weigh: Weigh) -> None:
    short, long = (weigh(model_of("whisper-large-v3"), context=context).kv.item() for context in (1, 101))
    # 32 layers: keys and values of 20 heads x 64 for 1500 tokens heard, and for each token said
    each = 32 * 2 * 20 * 64 * 2
    assert short == pytest.approx(each * (1500 + 1))
    assert long - short == pytest.approx(each * 100)


def test_an_encoder_keeps_no_cache(model_of: ModelOf, weigh: Weigh) -> None:
    held = weigh(model_of("bert-large-pretraining"), "prefill", batch=8, context=128)
    assert held.kv.item() == 0.0
    assert held.weights.item() > 0.0


@pytest.mark.parametrize(("stored", "element"), [("fp8", 1.0), ("int4", 0.5)])
def test_weights_lie_in_the_format_that_they_are_kept_in(
    model_of: ModelOf, weigh: Weigh, stored: str, element: float
) -> None:
    wide, narrow = (weigh(model_of("llama-3.1-8b"), weights_dtype=kept).weights.item() for kept in (None, stored))
    linear = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336)
    assert wide - narrow == pytest.approx(linear * (2.0 - element))
