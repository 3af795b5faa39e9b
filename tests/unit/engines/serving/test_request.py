"""Chunks of requests: what is wrong is named, blocks of text have their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cosim.engines.serving.request import SESSION_BLOCKS, Request, requests
from cosim.errors import SpecError


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"arrival_s": np.array([1.0, 0.5, 2.0])}, "requests.arrival_s"),
        ({"arrival_s": np.array([-1.0, 0.5, 2.0])}, "requests.arrival_s"),
        ({"arrival_s": np.array([1.0, 2.0, np.inf])}, "requests.arrival_s"),
        ({"prompt_tokens": np.array([1, 0, 1])}, "requests.prompt_tokens"),
        ({"output_tokens": np.array([1, 1])}, "requests.output_tokens"),
        ({"client": np.array([1])}, "requests.client"),
        ({"block_ids": np.array([1])}, "requests.block_ids"),
        ({"block_ids": np.array([1]), "block_offsets": np.array([0, 1])}, "requests.block_offsets"),
    ],
)
def test_wrong_chunks_are_named(chunk: Any, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        replace(chunk([0.0, 1.0, 2.0]), **changes)
    assert refused.value.field == field


def test_time_may_not_run_back_between_chunks(chunk: Any) -> None:
    source = requests([chunk([0.0, 5.0]), chunk([4.0])], 0)
    assert [next(source).number for _ in range(2)] == [0, 1]
    with pytest.raises(SpecError, match="before the last one ends"):
        next(source)


def test_requests_are_made_one_by_one(chunk: Any) -> None:
    rows = [chunk([0.0, 1.0], [5, 6], [7, 8], client=[1, 2], priority=[3, 4], session=[-1, 9]), chunk([]), chunk([2.0])]
    made = list(requests(rows, 0))
    assert [(each.number, each.arrival_s) for each in made] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert (made[1].prompt, made[1].output, made[1].client, made[1].priority, made[1].session) == (6, 8, 2, 4, 9)
    assert made[1].target == made[1].left == 6
    assert all(not each.blocks_of for each in made)


def test_turns_of_a_session_name_the_same_blocks(chunk: Any) -> None:
    first, second, other, alone = requests([chunk([0.0] * 4, [30, 60, 30, 30], 10, session=[2, 2, 3, -1])], 16)
    assert list(first.blocks_of) == [2 * SESSION_BLOCKS, 2 * SESSION_BLOCKS + 1]
    assert list(second.blocks_of)[:2] == list(first.blocks_of)
    assert not set(second.blocks_of) & set(other.blocks_of)
    assert not alone.blocks_of


def test_a_block_that_a_prompt_does_not_fill_is_not_shared(chunk: Any) -> None:
    blocks = {"block_offsets": np.array([0, 2, 5]), "block_ids": np.array([1, 2, 3, 4, 5])}
    part, whole = requests([replace(chunk([0.0, 0.0], [20, 32], [30, 30]), **blocks)], 16)
    assert list(part.blocks_of) == [1]
    # More names than the prompt has blocks are those of the answer.
    assert list(whole.blocks_of) == [3, 4, 5]


def test_reset_is_as_it_came() -> None:
    made = Request(0, 1.0, 10, 5, target=14, done=14, stored=3, generated=4, first_s=2.0, ends=7, shared=1, blocks=2)
    made.reset()
    assert (made.target, made.done, made.stored, made.generated, made.first_s, made.ends) == (10, 0, 0, 0, -1.0, -1)
