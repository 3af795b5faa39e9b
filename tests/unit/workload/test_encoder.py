"""Encoders as they are trained: every token sees all, the head fills in masked ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.graph import model_flop, parameters
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
