"""Hub configurations: dimensions as the file states them, choices as the family fixes them.

One file for one reader: every family is read by the same fixtures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.documents import Document
from cosim.errors import SpecError
from cosim.workload.hub import FAMILIES, from_hub, is_hub_config, routed_fields
from cosim.workload.load import load_model
from cosim.workload.model import Model

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 12,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 3000,
    "max_position_embeddings": 4096,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_embd": 768,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}


def read(config: dict[str, Any], name: str = "a-model") -> Model:
    return from_hub(Document(config, Path("hub") / "config.json", ""), name)


def llama(**changes: Any) -> Model:
    return read({**LLAMA, **changes})


@settings(max_examples=40, deadline=None)
@given(layers=st.integers(1, 200), groups=st.integers(1, 16), ratio=st.integers(1, 8), width=st.integers(1, 32))
def test_llama_dimensions_survive_for_any_consistent_file(layers: int, groups: int, ratio: int, width: int) -> None:
    heads = groups * ratio
    model = llama(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        hidden_size=heads * width,
    )
    assert (model.layers, model.heads, model.kv_heads) == (layers, heads, groups)
    assert (model.hidden, model.head_dim) == (heads * width, width)
    assert (model.ffn, model.vocab, model.max_positions) == (1408, 3000, 4096)


def test_llama_is_gated_rotary_and_free_of_bias() -> None:
    model = llama()
    assert (model.gated, model.norm, model.position) == (True, "rms", "rotary")
    assert not any((model.tied_embeddings, model.qkv_bias, model.output_bias, model.ffn_bias, model.qk_norm))
    assert (model.window, model.windowed_layers) == (None, 0)


def test_name_title_and_source_say_where_the_model_is_from() -> None:
    assert read(LLAMA, "mine").title == "mine"
    titled = read({**LLAMA, "_name_or_path": "maker/model"}, "mine")
    assert (titled.name, titled.title) == ("mine", "maker/model")
    assert "config.json" in titled.source


def test_without_kv_heads_every_head_has_its_own() -> None:
    without = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert read(without).kv_heads == 8
    assert llama(num_key_value_heads=None).kv_heads == 8


def test_a_stated_head_dim_wins_over_the_quotient() -> None:
    assert llama().head_dim == 64  # 512 / 8
    assert llama(head_dim=128).head_dim == 128
    assert llama(head_dim=None).head_dim == 64


@pytest.mark.parametrize(
    ("changes", "qkv_bias", "output_bias", "ffn_bias", "qk_norm"),
    [
        ({"model_type": "qwen2"}, True, False, False, False),
        ({"model_type": "qwen3"}, False, False, False, True),
        ({"model_type": "mistral"}, False, False, False, False),
        ({"attention_bias": True}, True, True, False, False),
        ({"mlp_bias": True}, False, False, True, False),
    ],
)
def test_bias_and_norm_of_queries_follow_the_family(
    changes: dict[str, Any], qkv_bias: bool, output_bias: bool, ffn_bias: bool, qk_norm: bool
) -> None:
    model = llama(**changes)
    found = (model.qkv_bias, model.output_bias, model.ffn_bias, model.qk_norm)
    assert found == (qkv_bias, output_bias, ffn_bias, qk_norm)


@pytest.mark.parametrize(("stated", "tied"), [(True, True), (False, False)])
def test_tying_is_as_stated(stated: bool, tied: bool) -> None:
    assert llama(tie_word_embeddings=stated).tied_embeddings is tied
    assert read({**GPT2, "tie_word_embeddings": stated}).tied_embeddings is tied


@pytest.mark.parametrize(
    ("changes", "window", "windowed"),
    [
        ({"model_type": "mistral", "sliding_window": 256}, 256, 12),
        ({"model_type": "mistral", "sliding_window": 256, "max_window_layers": 8}, 256, 12),  # a key of Qwen's
        ({"model_type": "mistral", "sliding_window": None}, None, 0),
        ({"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": False}, None, 0),
        # layers 8, 9, 10, 11 of 12 slide
        ({"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": True, "max_window_layers": 8}, 256, 4),
        ({"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": True, "max_window_layers": 12}, None, 0),
        ({"model_type": "llama", "sliding_window": 256}, None, 0),
    ],
)
def test_layers_slide_where_the_family_lets_them(changes: dict[str, Any], window: int | None, windowed: int) -> None:
    model = llama(**changes)
    assert (model.window, model.windowed_layers) == (window, windowed)


def test_gpt2_is_plain_learned_tied_and_biased() -> None:
    model = read(GPT2)
    assert (model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim) == (12, 768, 12, 12, 64)
    assert (model.ffn, model.vocab, model.max_positions) == (3072, 50257, 1024)  # ffn = 4 x 768
    assert (model.gated, model.norm, model.position) == (False, "layer", "learned")
    assert all((model.tied_embeddings, model.qkv_bias, model.output_bias, model.ffn_bias))


def test_gpt2_inner_width_is_used_where_stated() -> None:
    assert read({**GPT2, "n_inner": 1000}).ffn == 1000
    assert read({**GPT2, "n_inner": None}).ffn == 3072


@pytest.mark.parametrize(
    ("family", "nearest"),
    [
        ("ministral", "nearest: mistral"),
        ("qwen2_moe", "nearest: qwen3_moe"),
        ("llama4", "nearest: llama"),
        ("bert", "known: deepseek_v3, gpt2, gpt_oss, llama"),
    ],
)
def test_other_families_are_refused_with_the_nearest_name(family: str, nearest: str) -> None:
    with pytest.raises(SpecError, match="is not a model family that cosim reads yet") as caught:
        llama(model_type=family)
    assert (caught.value.field, caught.value.value) == ("model_type", family)
    assert str(caught.value.hint).startswith(nearest)
    assert "cosim schema workload" in str(caught.value.hint)
    assert str(caught.value.file).endswith("config.json")


def test_a_configuration_without_a_family_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="is not a model family") as caught:
        read({"architectures": ["LlamaForCausalLM"]})
    assert all(family in str(caught.value.hint) for family in FAMILIES)


@pytest.mark.parametrize("key", sorted(set(LLAMA) - {"model_type", "num_key_value_heads"}))
def test_a_missing_llama_key_is_named_as_the_file_would(key: str) -> None:
    with pytest.raises(SpecError, match=f"{key}: is missing") as caught:
        read({name: value for name, value in LLAMA.items() if name != key})
    assert caught.value.field == key


@pytest.mark.parametrize("key", sorted(set(GPT2) - {"model_type"}))
def test_a_missing_gpt2_key_is_named_as_the_file_would(key: str) -> None:
    with pytest.raises(SpecError, match=f"{key}: is missing"):
        read({name: value for name, value in GPT2.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_attention_heads": 12, "num_key_value_heads": 5, "hidden_size": 768}, "heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"intermediate_size": [1408, 1408]}, "intermediate_size"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_a_value_that_no_model_can_have_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        llama(**changes)
    assert caught.value.field == field
    assert caught.value.file is not None


@pytest.mark.parametrize(
    ("data", "answer"),
    [({"model_type": "llama"}, True), ({"architectures": []}, True), ({"name": "x", "layers": 2}, False), ({}, False)],
)
def test_hub_configurations_are_told_from_descriptions(data: dict[str, Any], answer: bool) -> None:
    assert is_hub_config(data) is answer


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads", "must be a positive whole number"),
        ({"num_attention_heads": "32"}, "num_attention_heads", "must be a positive whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers", "must be a positive whole number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings", "must be true or false"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(changes: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        llama(**changes)
    assert caught.value.field == field


def test_more_full_layers_than_there_are_leave_no_window() -> None:
    changes = {"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": True, "max_window_layers": 70}
    assert llama(**changes).windowed_layers == 0


# The configurations of the makers' repositories, without what no dimension depends on.
MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 94,
    "mlp_only_layers": [],
    "moe_intermediate_size": 1536,
    "num_attention_heads": 64,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 94,
    "num_key_value_heads": 4,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GPT_OSS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
DEEPSEEK_V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
ROUTED: dict[str, dict[str, Any]] = {
    "mixtral-8x7b": MIXTRAL,
    "qwen3-235b-a22b": QWEN3_MOE,
    "gpt-oss-120b": GPT_OSS,
    "deepseek-v3": DEEPSEEK_V3,
}
DESCRIBED = {"name", "title", "source", "quantised", "published_parameters", "published_active_parameters"}


@pytest.mark.parametrize("name", sorted(ROUTED))
def test_a_routed_family_reads_as_the_model_that_is_shipped(name: str) -> None:
    read_back, shipped = (model.model_dump(exclude=DESCRIBED) for model in (read(ROUTED[name]), load_model(name)))
    assert read_back == shipped


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_dense_families_have_nothing_routed(family: str) -> None:
    config = GPT2 if family == "gpt2" else {**LLAMA, "model_type": family}
    assert routed_fields(config, family, Document(config, Path("config.json"), "")) == {}
    assert read(config).experts is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("mixtral-8x7b", key) for key in ("num_local_experts", "num_experts_per_tok", "intermediate_size")),
        *(("qwen3-235b-a22b", key) for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")),
        *(("gpt-oss-120b", key) for key in ("num_local_experts", "num_experts_per_tok", "intermediate_size")),
        *(
            ("deepseek-v3", key)
            for key in (
                "n_routed_experts",
                "num_experts_per_tok",
                "moe_intermediate_size",
                "n_shared_experts",
                "first_k_dense_replace",
                "n_group",
                "topk_group",
                "kv_lora_rank",
                "qk_rope_head_dim",
                "qk_nope_head_dim",
                "v_head_dim",
            )
        ),
    ],
)
def test_a_missing_key_of_a_routed_family_is_named_as_the_file_would(name: str, key: str) -> None:
    with pytest.raises(SpecError, match=f"{key}: is missing") as caught:
        read({field: value for field, value in ROUTED[name].items() if field != key})
    assert (caught.value.field, str(caught.value.file)) == (key, str(Path("hub") / "config.json"))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("qwen3-235b-a22b", "decoder_sparse_step", 2),  # every second layer dense
        ("qwen3-235b-a22b", "mlp_only_layers", [0, 1]),
        ("deepseek-v3", "moe_layer_freq", 2),
    ],
)
def test_mixtures_of_dense_and_routed_layers_that_are_not_modelled_are_refused(
    name: str, key: str, value: object
) -> None:
    with pytest.raises(SpecError, match="is not modelled yet") as caught:
        read({**ROUTED[name], key: value})
    assert (caught.value.field, caught.value.value) == (key, value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("qwen3-235b-a22b", "decoder_sparse_step"),
        ("qwen3-235b-a22b", "mlp_only_layers"),
        ("deepseek-v3", "moe_layer_freq"),
    ],
)
def test_a_configuration_that_leaves_the_mixture_out_has_the_usual_one(name: str, key: str) -> None:
    without = {field: value for field, value in ROUTED[name].items() if field != key}
    assert read(without) == read(ROUTED[name])


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "experts_per_token"),
        ("deepseek-v3", {"first_k_dense_replace": 61}, "dense_layers"),
        ("deepseek-v3", {"topk_group": 9}, "groups_per_token"),
        ("mixtral-8x7b", {"num_local_experts": "8"}, "num_local_experts"),
        ("deepseek-v3", {"kv_lora_rank": 0}, "kv_lora_rank"),
    ],
)
def test_routing_that_no_model_can_have_is_refused(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        read({**ROUTED[name], **changes})
    assert caught.value.field == field


def test_a_query_that_is_not_compressed_is_projected_at_once() -> None:
    assert read({**DEEPSEEK_V3, "q_lora_rank": None}).query_latent is None


@pytest.mark.parametrize(
    ("changes", "window", "windowed"),
    [
        ({}, 128, 18),
        ({"layer_types": ["full_attention"] * 36}, None, 0),
        ({"layer_types": ["sliding_attention"] * 36}, 128, 36),
        ({"sliding_window": None}, None, 0),
    ],
)
def test_gpt_oss_slides_in_the_layers_that_it_names(changes: dict[str, Any], window: int | None, windowed: int) -> None:
    model = read({**GPT_OSS, **changes})
    assert (model.window, model.windowed_layers) == (window, windowed)


def test_mixtral_slides_everywhere_where_a_window_is_given() -> None:
    assert read({**MIXTRAL, "sliding_window": 4096}).windowed_layers == 32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # query and key norms; biases of attention, experts and router; sinks
        ("mixtral-8x7b", (False, False, False, False, False)),
        ("qwen3-235b-a22b", (True, False, False, False, False)),
        ("gpt-oss-120b", (False, True, True, True, True)),
        ("deepseek-v3", (False, False, False, False, False)),
    ],
)
def test_choices_of_a_routed_family_are_those_of_its_code(name: str, expected: tuple[bool, ...]) -> None:
    model = read(ROUTED[name])
    assert (model.qk_norm, model.output_bias, model.ffn_bias, model.router_bias, model.sinks) == expected
