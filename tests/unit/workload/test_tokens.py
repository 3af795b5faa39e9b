"""What a step works on: rows of the activations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.records import array, at, points
from cosim.workload.tokens import Tokens

POINTS = st.lists(st.tuples(st.integers(1, 4096), st.integers(1, 131_072)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(drawn=POINTS)
def test_every_point_has_a_row_for_each_new_token_of_its_sequences(drawn: list[tuple[int, int]]) -> None:
    sequences, query = np.array(drawn, dtype=float).T
    tokens = Tokens("prefill", sequences, query, query)
    assert tokens.rows.tolist() == [s * q for s, q in drawn]
    assert points(tokens) == len(drawn)
    for index, (s, q) in enumerate(drawn):
        assert float(at(tokens, index).rows) == s * q


def test_the_context_adds_no_rows() -> None:
    assert float(Tokens("decode", array(7), array(1), array(4096)).rows) == 7.0


def test_one_length_serves_many_batches() -> None:
    assert Tokens("train", array([1.0, 2.0, 8.0]), array(512), array(512)).rows.tolist() == [512.0, 1024.0, 4096.0]


def test_tokens_cannot_be_changed_in_place() -> None:
    tokens = Tokens("decode", array(7), array(1), array(4096))
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens.query = array(2)  # type: ignore[misc]
