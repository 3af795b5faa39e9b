"""Conversations: turns send the earlier text again, shared prompts are shared, blocks say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.records import Requests
from cosim.workload.requests.stream import all_requests

Pattern = Callable[..., RequestPattern]


def chats(pattern: Pattern, turns: dict[str, Any], seed: int = 0, **changes: object) -> Requests:
    sessions = {"turns": turns, "think": "5 s", **changes.pop("sessions", {})}  # type: ignore[dict-item]
    return all_requests(pattern(sessions=sessions, **changes), np.random.default_rng(seed))


def turns_of(requests: Requests) -> dict[int, list[int]]:
    """Rows of every conversation."""
    found: dict[int, list[int]] = {}
    for row, session in enumerate(requests.session.tolist()):
        found.setdefault(session, []).append(row)
    return found


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(0, 99), st.sampled_from([0.0, 1.0, 3.0]))
def test_every_turn_sends_all_earlier_text_of_its_conversation(
    pattern: Pattern, most: int, seed: int, cv: float
) -> None:
    turns = {"kind": "uniform", "low": 1, "high": most}
    requests = chats(pattern, turns, seed, count=400, sessions={"think_cv": cv})
    assert np.all(np.diff(requests.arrival_s) >= 0.0)
    for rows in turns_of(requests).values():
        assert len(rows) <= most
        text = 0
        for row in rows:
            assert requests.prefix[row] == text
            assert 100 <= requests.prompt_tokens[row] - text <= 300
            text = int(requests.prompt_tokens[row] + requests.output_tokens[row])


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(1, 100), st.integers(1, 64))
def test_blocks_are_equal_exactly_as_far_as_text_is_shared(
    pattern: Pattern, seed: int, system: int, block: int
) -> None:
    shared = {"share": 0.6, "tokens": system, "prompts": 2}
    turns = {"kind": "uniform", "low": 1, "high": 3}
    requests = chats(pattern, turns, seed, count=60, system_prompts=shared, block_tokens=block)
    blocks = requests.blocks
    assert blocks is not None
    assert blocks.tokens == block
    rows = [blocks.of(row).tolist() for row in range(len(requests))]
    assert [len(ids) for ids in rows] == (requests.prompt_tokens // block).tolist()
    for first in range(len(rows)):
        for second in range(first):
            pair = (first, second)
            equal = [one == two for one, two in zip(rows[first], rows[second], strict=False)]
            common = equal.index(False) if False in equal else len(equal)
            assert not any(equal[common:])
            if requests.session[first] == requests.session[second]:
                assert common == min(len(rows[each]) for each in pair)
            else:
                assert common in (0, system // block)


def test_turns_without_randomness_by_hand(pattern: Pattern) -> None:
    requests = chats(
        pattern,
        {"kind": "fixed", "tokens": 3},
        count=6,
        arrivals={"kind": "deterministic", "rate": "0.05 Hz"},
        prompt={"kind": "fixed", "tokens": 100},
        output={"kind": "fixed", "tokens": 10},
        sessions={"think_cv": 0.0, "prompt": {"kind": "fixed", "tokens": 7}},
        system_prompts={"share": 1.0, "tokens": 32},
    )
    assert requests.arrival_s.tolist() == [20.0, 25.0, 30.0, 40.0, 45.0, 50.0]
    assert requests.session.tolist() == [0, 0, 0, 1, 1, 1]
    assert requests.prompt_tokens.tolist() == [132, 149, 166] * 2
    assert requests.prefix.tolist() == [32, 142, 159] * 2
    assert requests.blocks is not None
    first, second, other = (requests.blocks.of(row).tolist() for row in (0, 1, 3))
    assert (first[:8], first[:2]) == (second[:8], other[:2])
    assert not set(first[2:]) & set(other[2:])


def test_a_conversation_ends_before_it_is_too_long(pattern: Pattern) -> None:
    turns = {"kind": "fixed", "tokens": 50}
    requests = chats(pattern, turns, count=2000, sessions={"max_context": 1500})
    whole = requests.prompt_tokens + requests.output_tokens
    assert whole.max() <= 1500
    # 110 to 330 tokens a turn: between 4 and 13 turns.
    counts = [len(rows) for rows in turns_of(requests).values()]
    assert 4 <= max(counts) <= 13
    lone = chats(pattern, turns, count=50, sessions={"max_context": 5})
    assert set(lone.prefix.tolist()) == {0}


def test_turns_come_a_think_time_apart(pattern: Pattern) -> None:
    requests = chats(pattern, {"kind": "fixed", "tokens": 4}, count=20_000)
    pauses = np.concatenate([np.diff(requests.arrival_s[rows]) for rows in turns_of(requests).values()])
    assert pauses.mean() == pytest.approx(5.0, rel=0.03)
    assert pauses.std() / pauses.mean() == pytest.approx(1.0, rel=0.05)


def test_system_prompts_begin_as_many_conversations_as_asked_each_as_likely(pattern: Pattern) -> None:
    shared = {"share": 0.4, "tokens": 64, "prompts": 3}
    requests = all_requests(pattern(count=20_000, system_prompts=shared), np.random.default_rng(0))
    assert np.mean(requests.prefix == 64) == pytest.approx(0.4, abs=0.015)
    assert set(np.unique(requests.prefix)) == {0, 64}
    blocks = requests.blocks
    assert blocks is not None
    starts = blocks.ids[blocks.offsets[:-1]][requests.prefix == 64]
    found, counts = np.unique(starts, return_counts=True)
    assert len(found) == 3
    assert counts / counts.sum() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert np.all(requests.prompt_tokens[requests.prefix == 64] >= 164)


def test_clients_have_their_shares_and_priorities_and_keep_their_conversations(pattern: Pattern) -> None:
    clients = [{"share": 0.25, "priority": 3}, {"share": 0.75, "priority": -1}]
    requests = chats(pattern, {"kind": "fixed", "tokens": 2}, count=20_000, clients=clients)
    assert np.mean(requests.client == 0) == pytest.approx(0.25, abs=0.02)
    assert set(zip(requests.client.tolist(), requests.priority.tolist(), strict=True)) == {(0, 3), (1, -1)}
    assert all(len(set(requests.client[rows].tolist())) == 1 for rows in turns_of(requests).values())


def test_nothing_shared_has_no_blocks(pattern: Pattern) -> None:
    assert all_requests(pattern(), np.random.default_rng(0)).blocks is None
