"""Hub configurations: dimensions as the file states them, choices as the family fixes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.documents import Document
from cosim.errors import SpecError
from cosim.workload.hub import FAMILIES, from_hub, is_hub_config
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
