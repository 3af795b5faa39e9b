"""Traces as requests: each format by hand, order, words as numbers, prefixes seen before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.workload.requests.records import Blocks, offsets_of
from cosim.workload.requests.trace_rows import read_rows, seen_before

Trace = Callable[..., Path]
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"


def mooncake(time: float, prompt: int, ids: object) -> str:
    return json.dumps({"timestamp": time, "input_length": prompt, "output_length": 3, "hash_ids": ids})


def test_azure_by_hand(trace: Trace) -> None:
    path = trace("a.csv", AZURE, "2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:18:04.9799600,3180,8")
    found = read_rows(path, "azure")
    assert found.requests.arrival_s.tolist() == [0.0, pytest.approx(61.0)]
    assert found.requests.prompt_tokens.tolist() == [4808, 3180]
    assert found.requests.output_tokens.tolist() == [10, 8]
    assert (found.timed, found.sorted_already, found.requests.blocks) == (True, True, None)


def test_azure_over_midnight_with_a_zone(trace: Trace) -> None:
    path = trace("a.csv", AZURE, "2024-05-10 23:59:59.5+00:00,1,1", "2024-05-11 00:00:00.250000+00:00,2,2")
    assert read_rows(path, "azure").requests.arrival_s.tolist() == [0.0, 0.75]


def test_mooncake_by_hand(trace: Trace) -> None:
    rows = [mooncake(500, 1100, [0, 1, 2]), mooncake(1500, 1030, [0, 1, 9]), mooncake(3000, 512, [0])]
    found = read_rows(trace("m.jsonl", *rows), "mooncake").requests
    assert found.arrival_s.tolist() == [0.0, 1.0, 2.5]
    assert found.blocks is not None
    assert (found.blocks.tokens, found.blocks.of(1).tolist()) == (512, [0, 1, 9])
    assert found.prefix.tolist() == [0, 1024, 512]


def test_a_last_block_that_was_seen_counts_what_the_prompt_has_of_it(trace: Trace) -> None:
    found = read_rows(trace("m.jsonl", mooncake(0, 600, [4, 5]), mooncake(1, 600, [4, 5])), "mooncake").requests
    assert found.prefix.tolist() == [0, 600]


def test_rows_out_of_order_are_sorted_with_their_blocks(trace: Trace) -> None:
    rows = [mooncake(2000, 10, [7]), mooncake(1000, 600, [7, 8]), mooncake(1000, 20, [9])]
    found = read_rows(trace("m.jsonl", *rows), "mooncake")
    assert not found.sorted_already
    assert found.requests.prompt_tokens.tolist() == [600, 20, 10]
    assert found.requests.prefix.tolist() == [0, 0, 10]
    assert found.requests.blocks is not None
    assert found.requests.blocks.ids.tolist() == [7, 8, 9, 7]


@pytest.mark.parametrize(
    ("head", "row", "arrival"),
    [
        ("arrival_s,prompt_tokens,output_tokens", "{},5,6", 1.0),
        ("Timestamp,Model,Request tokens,Response tokens", "{},GPT-4,5,6", 1.0),
        ("arrived_at,num_prefill_tokens,num_decode_tokens,note", "{},5,6,x", 1.0),
        ("timestamp_ms,input_tokens,output_tokens", "{},5,6", 1e-3),
        ("request_id,arrival,input_len,output_len", "b,{},5,6", 1.0),
    ],
)
def test_columns_are_known_by_their_usual_names(trace: Trace, head: str, row: str, arrival: float) -> None:
    found = read_rows(trace("x.csv", head, row.format(3), row.format(8)), "csv").requests
    assert found.arrival_s.tolist() == pytest.approx([0.0, 5 * arrival])
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([5, 5], [6, 6])


def test_words_of_sessions_and_clients_become_numbers_in_order(trace: Trace) -> None:
    head = "arrival_s,prompt_tokens,output_tokens,session_id,user,priority"
    path = trace("x.csv", head, "0,5,5,b,zoe,1", "1,5,5,,,0", "2,5,5,a,amy,-3", "3,5,5,b,zoe,0")
    found = read_rows(path, "csv").requests
    assert found.session.tolist() == [0, -1, 1, 0]
    assert found.client.tolist() == [0, 0, 1, 0]
    assert found.priority.tolist() == [1, 0, -3, 0]


def test_lengths_without_arrivals_say_so(trace: Trace) -> None:
    found = read_rows(trace("x.csv", "num_prefill_tokens,num_decode_tokens", "5,6", "7,8"), "csv")
    assert not found.timed
    assert found.requests.prompt_tokens.tolist() == [5, 7]
    lines = [
        '{"prompt_tokens": 5, "output_tokens": 6, "arrival_s": 2}',
        '{"output_tokens": 1, "prompt_tokens": 2, "arrival_s": 3}',
    ]
    assert read_rows(trace("x.jsonl", *lines), "jsonl").requests.arrival_s.tolist() == [0.0, 1.0]


@given(st.lists(st.tuples(st.lists(st.integers(0, 6), max_size=5), st.integers(0, 3)), min_size=1, max_size=12))
def test_what_was_seen_before_is_what_a_plain_search_finds(rows: list[tuple[list[int], int]]) -> None:
    ids = [list(dict.fromkeys(each)) for each, _ in rows]
    prompts = np.array([max(4 * len(each) - cut, 1) for each, (_, cut) in zip(ids, rows, strict=True)])
    blocks = Blocks(
        offsets_of(np.array([len(each) for each in ids])), np.array([i for e in ids for i in e], dtype=np.int64), 4
    )
    found = seen_before(blocks, prompts)
    for row, own in enumerate(ids):
        before = {each for earlier in ids[:row] for each in earlier}
        leading = 0
        while leading < len(own) and own[leading] in before:
            leading += 1
        assert found[row] == min(4 * leading, prompts[row])


@pytest.mark.parametrize(
    ("style", "body", "line", "said"),
    [
        ("azure", (AZURE, "2023-11-16 18:17:03,5,5", "2023-13-16 18:17:03,5,5"), 3, "TIMESTAMP: is not a date"),
        ("azure", (AZURE, "2023-11-16 18:17:03,0,5"), 2, "ContextTokens: must be a number of at least 1"),
        ("azure", (AZURE, "2023-11-16 18:17:03,5.5,5"), 2, "ContextTokens: must be a whole number"),
        ("csv", ("arrival_s,prompt_tokens,output_tokens", "soon,5,5"), 2, "arrival_s: must be a number"),
        ("csv", ("arrival_s,prompt_tokens,output_tokens", "-1,5,5"), 2, "arrival_s: must be a number"),
        ("csv", ("arrival_s,promt,output_tokens", "1,5,5"), 1, "has no column of prompt lengths"),
        ("csv", ("arrival_s,prompt_tokens", "1,5"), 1, "has no column of output lengths"),
        ("csv", ("arrival_s,prompt_tokens,output_tokens",), None, "holds no request"),
        ("mooncake", (mooncake(0, 5, [0]), mooncake(1, 5, [0, 1])), 2, "hash_ids: has more blocks than the prompt"),
        ("mooncake", (mooncake(0, 5, [0.5]),), 1, "hash_ids: must be a list of whole numbers"),
        ("mooncake", (mooncake(0, 5, [True]),), 1, "hash_ids: must be a list of whole numbers"),
        ("mooncake", (mooncake(0, 5, None),), 1, "hash_ids: must be a list of whole numbers"),
        ("mooncake", (mooncake(0, 5, [2**63]),), 1, "hash_ids: must be a list of whole numbers"),
        ("jsonl", ('{"arrival_s": 0, "prompt_tokens": 5, "output_tokens": 5}', '{"arrival_s": 1}'), 2, "prompt_tokens"),
        ("jsonl", ('{"prompt_tokens": 5, "output_tokens": 5, "user": [1]}',), 1, "user: must be a number or a word"),
    ],
)
def test_a_broken_row_is_one_message_with_file_and_line(
    trace: Trace, style: str, body: tuple[str, ...], line: int | None, said: str
) -> None:
    path = trace("x", *body)
    with pytest.raises(SpecError) as caught:
        read_rows(path, style)
    assert said in str(caught.value)
    assert (caught.value.file, caught.value.line) == (path, line)


def test_blocks_in_some_lines_only_are_refused(trace: Trace) -> None:
    lines = ['{"prompt_tokens": 5, "output_tokens": 5}', '{"prompt_tokens": 5, "output_tokens": 5, "hash_ids": [1]}']
    with pytest.raises(SpecError, match="in some lines only"):
        read_rows(trace("x", *lines), "jsonl")
