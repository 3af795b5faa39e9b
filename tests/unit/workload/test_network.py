"""Networks: the description, and its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.overrides import Varied, paths, vary
from cosim.records import at, leaves, map_leaves, points, structure, take
from cosim.schema import validated
from cosim.workload.load import load_model, lower_workload
from cosim.workload.model import lower_model
from cosim.workload.network import Network, has_phase, lower_network

LAYERS: list[dict[str, Any]] = [
    {"name": "stem", "kind": "conv", "inputs": 3, "outputs": 8, "kernel": 3, "height": 16, "norm": True},
    {"name": "heads", "kind": "attention", "heads": 4, "head_dim": 8, "tokens": "tokens"},
    {"name": "table", "kind": "gather", "lookups": 5, "width": 8, "table_rows": 100, "count": 2},
]


def network(*layers: dict[str, Any], **changes: Any) -> Varied[Network]:
    about = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "an item"}
    return Varied(validated(Network, {**about, "layers": list(layers or LAYERS), **changes}))


def test_a_size_left_open_is_that_of_its_partner() -> None:
    stem, heads, table = lower_network(network()).network
    assert {name: float(size) for name, size in stem.sizes.items()} == {
        "inputs": 3.0,
        "outputs": 8.0,
        "kernel": 3.0,
        "kernel_width": 3.0,
        "stride": 1.0,
        "height": 16.0,
        "width": 16.0,
        "depth": 1.0,
        "kernel_depth": 1.0,
        "groups": 1.0,
    }
    assert stem.choices == {"padding": "same", "bias": False, "norm": True}
    assert set(heads.of_tokens) == {"tokens", "context"}  # self-attention: keys of the same tokens
    assert float(heads.sizes["kv_heads"]) == 4.0
    assert (float(table.sizes["outputs"]), float(table.count)) == (5.0, 2.0)


def test_a_given_size_stays_itself() -> None:
    stem = lower_network(network({**LAYERS[0], "width": 4, "kernel_width": 1})).network[0]
    assert (float(stem.sizes["width"]), float(stem.sizes["kernel_width"])) == (4.0, 1.0)


def test_an_array_replaces_a_size_and_what_equals_it() -> None:
    varied = vary(network(), {"layers.stem.height": [8.0, 16.0], "layers.heads.heads": [2.0, 4.0]})
    stem, heads, _ = lower_network(varied).network
    assert np.array_equal(stem.sizes["height"], [8.0, 16.0])
    assert np.array_equal(stem.sizes["width"], [8.0, 16.0])
    assert np.array_equal(heads.sizes["kv_heads"], [2.0, 4.0])
    assert points(lower_network(varied)) == 2


def test_a_number_may_take_the_place_of_the_tokens_and_an_array_is_the_scenarios() -> None:
    heads = lower_network(vary(network(), {"layers.heads.tokens": 32})).network[1]
    assert (float(heads.sizes["tokens"]), float(heads.sizes["context"]), heads.of_tokens) == (32.0, 32.0, ())
    with pytest.raises(SpecError, match="is a choice"):
        vary(network(), {"layers.heads.tokens": [32.0, 64.0]})


def test_an_array_gives_a_size_that_was_left_open() -> None:
    varied = vary(network(), {"layers.stem.width": [8.0, 4.0]})
    stem = lower_network(varied).network[0]
    assert np.array_equal(stem.sizes["width"], [8.0, 4.0])
    assert float(stem.sizes["height"]) == 16.0


def test_arrays_of_layers_are_points_like_any_other() -> None:
    model = lower_network(vary(network(), {"layers.stem.outputs": [8.0, 16.0, 24.0]}))
    second = at(model, 1)
    assert float(second.network[0].sizes["outputs"]) == 16.0
    assert points(take(model, np.array([0, 2]))) == 2
    assert structure(second) == structure(lower_network(network()))
    doubled = map_leaves(model, lambda leaf: 2.0 * leaf)
    assert len(list(leaves(doubled))) == len(list(leaves(model)))
    assert float(doubled.network[2].count) == 4.0


def test_paths_name_layers() -> None:
    spec = network().spec
    assert "layers.0.outputs" in paths(spec)
    assert vary(network(), {"layers.table.width": 16}).spec.layers[2].width == 16
    with pytest.raises(SpecError, match="unknown path"):
        vary(network(), {"layers.table.kernel": 3})
    with pytest.raises(SpecError, match="must be a positive whole number"):
        vary(network(), {"layers.stem.outputs": [8.0, 8.5]})


def test_two_layers_of_one_name_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        network(LAYERS[0], LAYERS[2], {**LAYERS[1], "name": "stem"})
    assert (caught.value.field, caught.value.value) == ("layers.2.name", "stem")


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(SpecError, match="names no layer"):
        network(layers=[])


def test_a_network_is_one_layer_without_cache_or_hidden_size() -> None:
    model = lower_network(network())
    assert (float(model.layers), float(model.hidden), float(model.kept_per_token)) == (1.0, 0.0, 0.0)
    assert not (model.is_moe)
    assert not (model.is_latent)
    assert not (model.has_window)
    assert np.isinf(model.max_positions)
    assert float(lower_network(network(max_positions=512)).max_positions) == 512.0


def test_a_network_is_followed_by_no_answer() -> None:
    assert not lower_network(network()).keeps_cache


def test_tokens_are_asked_for_where_a_layer_has_them() -> None:
    assert lower_network(network()).has_tokens
    assert not lower_network(network(LAYERS[0], LAYERS[2])).has_tokens
    assert lower_model(Varied(load_model("llama-3.1-8b"))).has_tokens


def test_a_network_has_no_decode_step() -> None:
    model = lower_workload(network())
    for phase in ("prefill", "train"):
        has_phase(model, phase)
    with pytest.raises(SpecError, match="has no decode step") as caught:
        has_phase(model, "decode")
    assert (caught.value.field, caught.value.value) == ("workload", "n")
    has_phase(lower_model(Varied(load_model("llama-3.1-8b"))), "decode")


def test_an_encoder_has_no_decode_step_and_a_hybrid_has_all() -> None:
    encoder, hybrid = (lower_model(Varied(load_model(name))) for name in ("bert-large-pretraining", "nemotron-h-56b"))
    for phase in ("prefill", "train"):
        has_phase(encoder, phase)
    for phase in ("prefill", "decode", "train"):
        has_phase(hybrid, phase)
    with pytest.raises(SpecError, match="has no decode step: it is an encoder") as caught:
        has_phase(encoder, "decode")
    assert (caught.value.field, caught.value.value) == ("workload", "bert-large-pretraining")
