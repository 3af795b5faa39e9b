"""The index of sparse latent attention: parameters, the keys that are left, what the cache keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.graph import attention_flop, decode_graph, kv_bytes_per_token, parameters, prefill_graph
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.ops import Attention, Graph
from cosim.workload.training import training_graph

Describe = Callable[..., Model]
INDEX = {"index_heads": 3, "index_dim": 10, "index_keys": 50}
LAYERS, HIDDEN, QUERY = 6, 64, 24


def lowered(describe: Describe, choices: dict[str, Any], **changes: Any) -> ModelArrays:
    return lower_model(Varied(describe(**choices, **changes)))


def named(graph: Graph, name: str) -> Attention:
    return next(op for op in graph.attentions if op.name == name)


def test_an_index_has_its_projections_and_a_norm_of_its_key(describe: Describe, latent_choices: dict[str, Any]) -> None:
    more = parameters(lowered(describe, latent_choices, **INDEX)) - parameters(lowered(describe, latent_choices))
    assert float(more) == LAYERS * (QUERY * 3 * 10 + HIDDEN * 10 + HIDDEN * 3 + 2 * 10)


@settings(max_examples=40, deadline=None)
@given(context=st.integers(1, 500))
def test_attention_reads_no_more_keys_than_the_index_leaves(
    describe: Describe, latent_choices: dict[str, Any], context: int
) -> None:
    sparse, dense = (
        decode_graph(lowered(describe, latent_choices, **extra), array(4.0), array(context)) for extra in (INDEX, {})
    )
    ratio = float(attention_flop(named(sparse, "attention")) / attention_flop(named(dense, "attention")))
    assert ratio == pytest.approx(min(context, 50) / context)
    scores = named(sparse, "index_scores")
    assert float(attention_flop(scores)) == 2 * 4 * 3 * 10 * context  # every key of the context


def test_a_prompt_no_longer_than_what_the_index_leaves_is_dense(
    describe: Describe, latent_choices: dict[str, Any]
) -> None:
    for length, equal in ((50.0, True), (51.0, False)):
        graphs = [prefill_graph(lowered(describe, latent_choices, **e), array(1.0), array(length)) for e in (INDEX, {})]
        sparse, dense = (float(attention_flop(named(graph, "attention"))) for graph in graphs)
        assert (sparse == dense) == equal
        assert sparse <= dense


def test_the_cache_keeps_every_token_and_the_key_of_its_index(
    describe: Describe, latent_choices: dict[str, Any]
) -> None:
    sparse, dense = lowered(describe, latent_choices, **INDEX), lowered(describe, latent_choices)
    assert float(kv_bytes_per_token(sparse, 1.0) - kv_bytes_per_token(dense, 1.0)) == LAYERS * 10
    assert not sparse.has_window


def test_the_index_is_priced_as_attention_of_one_key_head_without_values(
    describe: Describe, latent_choices: dict[str, Any]
) -> None:
    scores = named(decode_graph(lowered(describe, latent_choices, **INDEX), array(2.0), array(80.0)), "index_scores")
    assert (float(scores.heads), float(scores.kv_heads), float(scores.values)) == (3.0, 1.0, 0.0)
    assert float(scores.kept) == 10.0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"index_heads": 3}, "index_dim"),
        ({"index_heads": 3, "index_dim": 10}, "index_keys"),
        ({**INDEX, "query_latent": None}, "index_heads"),
        ({**INDEX, "window": 8, "windowed_layers": 2}, "index_heads"),
    ],
)
def test_an_index_that_is_not_whole_or_not_of_latent_attention_is_refused(
    describe: Describe, latent_choices: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(SpecError, match=field):
        describe(**{**latent_choices, **changes})


def test_gradients_of_an_index_are_not_here_and_that_is_said(
    describe: Describe, latent_choices: dict[str, Any]
) -> None:
    with pytest.raises(SpecError, match="not trained here"):
        training_graph(lowered(describe, latent_choices, **INDEX), array(1.0), array(8.0), fused=True)
