"""Encoders as they are trained and served: every token sees all, a head fills in masked ones or sums up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.graph import model_flop, parameters, prefill_graph
from cosim.workload.load import load_model
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.ops import Graph
from cosim.workload.training import training_graph

Describe = Callable[..., Model]


def encoder(describe: Describe, plain: dict[str, Any], **changes: Any) -> ModelArrays:
    return lower_model(Varied(describe(**{**plain, "causal": False, **changes})))


def graph(model: ModelArrays, sequences: float = 3.0, length: float = 40.0) -> Graph:
    return training_graph(model, array(sequences), array(length), fused=True)


def test_an_encoder_is_its_decoder_with_another_head(describe: Describe, plain_choices: dict[str, Any]) -> None:
    decoder = lower_model(Varied(describe(**plain_choices)))
    more = 2 * (64 * 64 + 64) + 100 + 2 * 64  # transform, pooler, bias of the logits, norm of the embedding
    assert float(parameters(encoder(describe, plain_choices)) - parameters(decoder)) == more


def test_every_token_sees_all(describe: Describe, plain_choices: dict[str, Any]) -> None:
    made = graph(encoder(describe, plain_choices))
    assert [op.causal for op in made.attentions] == [False]
    decoder = lower_model(Varied(describe(**plain_choices)))
    more = model_flop(encoder(describe, plain_choices), made) - model_flop(decoder, graph(decoder))
    unseen = 40 * 40 - 40 * 41 / 2
    head = 2 * 64 * 64 * (3 * 40 + 3)
    assert float(more) == pytest.approx(6 * 3 * 8 * 4 * 16 * unseen + head)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.05, 1.0))
def test_the_head_works_on_a_share_of_the_positions(
    describe: Describe, plain_choices: dict[str, Any], share: float
) -> None:
    made = graph(encoder(describe, plain_choices, predicted_share=share))
    rows = {op.name: float(op.m) for op in (*made.matmuls, *made.vectors)}
    assert rows["logits"] == rows["masked_transform"] == rows["cross_entropy"] == pytest.approx(share * 120)
    assert rows["pooler"] == 3.0
    assert rows["qkv"] == rows["embedding_norm"] == 120.0


def test_a_decoder_predicts_every_token(describe: Describe) -> None:
    with pytest.raises(SpecError, match="predicted_share: is not part of a decoder"):
        describe(predicted_share=0.5)


def test_the_shipped_encoder_has_the_size_of_the_checkpoint() -> None:
    model = lower_model(Varied(load_model("bert-large-pretraining")))
    # Without segments (2 x 1024) and the two classes of the next sentence (2 x 1024 + 2).
    assert float(parameters(model)) == 336_226_108 - 2 * 1024 - (2 * 1024 + 2)


def served(model: ModelArrays, sequences: float = 3.0, length: float = 40.0) -> Graph:
    return prefill_graph(model, array(sequences), array(length))


@settings(max_examples=20, deadline=None)
@given(sequences=st.integers(1, 9), length=st.integers(1, 300))
def test_serving_is_the_layers_and_the_pooler(
    describe: Describe, plain_choices: dict[str, Any], sequences: int, length: int
) -> None:
    model = encoder(describe, plain_choices)
    trained = training_graph(model, array(sequences), array(length), fused=True)
    head = 2 * 64 * (64 + 100) * sequences * length  # the transform and the logits of every position
    assert float(model_flop(model, served(model, sequences, length))) == pytest.approx(
        float(model_flop(model, trained)) - head
    )


def test_what_is_served_has_no_cache_and_no_logits(describe: Describe, plain_choices: dict[str, Any]) -> None:
    model = encoder(describe, plain_choices)
    made = served(model)
    names = {op.name for op in (*made.matmuls, *made.vectors)}
    assert {"pooler", "pooler_tanh", "embedding_norm"} <= names
    assert not names & {"logits", "sampling", "rotary_and_cache", "masked_transform"}
    assert [(op.causal, op.cached_keys) for op in made.attentions] == [(False, False)]
    assert not made.saved
    assert (float(model.kept_per_token), model.keeps_cache) == (0.0, False)
    assert lower_model(Varied(describe(**plain_choices))).keeps_cache


def test_an_encoder_that_rotates_touches_queries_and_keys(describe: Describe) -> None:
    model = lower_model(Varied(describe(causal=False)))
    assert "rotary_and_cache" in {op.name for op in served(model).vectors}
    assert all(not op.cached_keys for op in served(model).attentions)
