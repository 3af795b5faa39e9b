"""Tables of steps: equal to direct steps on the grid, close between, rising; blocks of the cache."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case
from cosim.engines.served import step_seconds
from cosim.engines.served_memory import room, room_of
from cosim.engines.serving.layout import Layout
from cosim.engines.serving.steps import kv_layout, step_table
from cosim.engines.serving.table import StepTable
from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.serving import Serving, lower_serving
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.load import load_model
from cosim.workload.model import lower_model
from cosim.workload.work import Work

STACK = {"name": "plain", "title": "Plain", "token_budget": 2048, "max_sequences": 256, "memory_share": 0.9}
MODELS = ("llama-3.1-8b", "gpt-oss-20b", "deepseek-v2-lite", "nemotron-3-nano-30b-a3b", "qwen3-30b-a3b")
LIKE = pytest.mark.parametrize("model", MODELS)
HOST: dict[str, Any] = {"host_step": array(5e-4), "host_sequence": array(2e-6)}


@functools.cache
def case(model: str, tensor: int = 1, data: int = 1, expert: int = 1) -> Case:
    plan = vary(Varied(Plan()), {"tensor_parallel": tensor, "data_parallel": data, "expert_parallel": expert})
    return Case(
        "serve",
        lower_system(Varied(load_system("dgx-h100"))),
        lower_model(Varied(load_model(model))),
        lower_plan(plan),
        lower_scenario(Varied(Scenario())),
        stack=replace(lower_serving(Serving.model_validate({**STACK, "policy": "chunked"})), **HOST),
    )


@functools.cache
def table(model: str, tensor: int = 1, data: int = 1, expert: int = 1) -> StepTable:
    return step_table(case(model, tensor, data, expert), most_tokens=4096, most_context=8192)


def direct(model: str, work: Work, data: int = 1, expert: int = 1) -> float:
    return float(np.ravel(step_seconds(case(model, 1, data, expert), [work])[0])[0])


def mixed(chunks: float, chunk: float, past: float, decodes: float, context: float) -> Work:
    return Work(*(array(x) for x in (chunks, chunk, past, decodes, context, chunks + decodes)))


def looked_up(model: str, chunks: int, chunk: int, past: float, decodes: int, context: float) -> float:
    pairs = chunks * chunk * (past + (chunk + 1) / 2)
    return table(model).seconds(chunks * chunk, pairs, decodes, decodes * context, chunks + decodes)


@LIKE
@settings(max_examples=8, deadline=None)
@given(count=st.sampled_from([1, 4, 24, 64, 192, 256]), context=st.sampled_from([1, 64, 512, 1536, 8192]))
def test_decode_steps_on_the_grid_are_direct_ones(model: str, count: int, context: int) -> None:
    # Levelled where more tokens take less.
    found = looked_up(model, 0, 0, 0.0, count, context)
    assert found == pytest.approx(direct(model, mixed(0, 0, 0, count, context)), rel=0.01)


@LIKE
@settings(max_examples=8, deadline=None)
@given(tokens=st.sampled_from([127, 512, 1024, 2048]), seen=st.sampled_from([0, 512, 3072]))
def test_one_piece_of_a_prompt_is_a_direct_step(model: str, tokens: int, seen: int) -> None:
    found = looked_up(model, 1, tokens, seen, 0, 0)
    assert found == pytest.approx(direct(model, mixed(1, tokens, seen, 0, 0)), rel=0.01)


@LIKE
@settings(max_examples=12, deadline=None)
@given(
    chunks=st.integers(1, 6),
    chunk=st.integers(64, 600),
    decodes=st.integers(1, 200),
    context=st.integers(64, 8000),
)
def test_mixed_steps_between_are_close(model: str, chunks: int, chunk: int, decodes: int, context: int) -> None:
    found = looked_up(model, chunks, chunk, 0.0, decodes, context)
    # Products grow in tiles, of which the table has the first and the last row of some.
    assert found == pytest.approx(direct(model, mixed(chunks, chunk, 0, decodes, context)), rel=0.06)


@LIKE
def test_many_short_prompts_cost_less_than_a_long_one_of_as_many_tokens(model: str) -> None:
    many, one = looked_up(model, 32, 128, 0.0, 0, 0), looked_up(model, 1, 4096, 0.0, 0, 0)
    assert many < one
    assert many == pytest.approx(direct(model, mixed(32, 128, 0, 0, 0)), rel=0.08)


@LIKE
def test_every_term_rises_along_tokens_and_keys(model: str) -> None:
    made = table(model)
    for values in (made.linear_s, made.head_s):
        assert np.all(np.diff(values) >= 0.0)
    for values in (made.prefill_s, made.decode_s):
        assert np.all(np.diff(values, axis=0) >= 0.0)
        assert np.all(np.diff(values, axis=1) >= 0.0)
        assert np.all(values >= 0.0)


@settings(max_examples=30, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    new=st.integers(0, 3000),
    decodes=st.integers(1, 256),
    context=st.integers(1, 8000),
    more=st.tuples(st.integers(0, 500), st.integers(0, 100), st.integers(0, 2000)),
)
def test_more_in_a_step_never_takes_less(
    model: str, new: int, decodes: int, context: int, more: tuple[int, int, int]
) -> None:
    def seconds(new: int, decodes: int, context: int) -> float:
        return table(model).seconds(new, new * 500.0, decodes, decodes * float(context), decodes)

    least = seconds(new, decodes, context)
    assert seconds(new, decodes, context + more[2]) >= least * (1.0 - 1e-12)
    assert seconds(new, decodes + more[1], context) >= least * (1.0 - 1e-12)
    assert new == 0 or seconds(new + more[0], decodes, context) >= least * (1.0 - 1e-12)


def test_the_grid_reaches_what_is_asked() -> None:
    made = step_table(case("llama-3.1-8b"), most_tokens=1000, most_context=5000)
    assert (made.tokens[0], made.tokens[-1]) == (1.0, 1000.0)
    assert (made.contexts[0], made.contexts[1], made.contexts[-1]) == (1.0, 64.0, 5000.0)
    assert np.all(np.diff(made.tokens) > 0.0)
    assert {64.0, 96.0, 128.0, 192.0} <= set(made.contexts.tolist())
    # The last row of a tile and the first of the next.
    assert {1.0, 48.0, 64.0, 65.0, 96.0, 97.0, 128.0, 129.0, 768.0, 769.0} <= set(made.tokens.tolist())
    assert 49.0 not in made.tokens


@LIKE
def test_steps_between_points_of_the_table_are_right_on_the_mean(model: str) -> None:
    # What several hundred steps of a run take together: two per cent at most, and none more than a few.
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(120):
        chunks, chunk, decodes, context = (
            int(rng.integers(*ends)) for ends in ((1, 7), (64, 601), (1, 201), (64, 8001))
        )
        exact = direct(model, mixed(chunks, chunk, 0, decodes, context))
        errors.append(looked_up(model, chunks, chunk, 0.0, decodes, context) / exact - 1.0)
    assert abs(float(np.mean(errors))) < 0.02
    assert float(np.quantile(np.abs(errors), 0.9)) < 0.03


def test_the_host_is_told_apart() -> None:
    made = table("llama-3.1-8b")
    assert (made.host_step_s, made.host_sequence_s, made.host_hidden) == (5e-4, 2e-6, False)
    without = replace(case("llama-3.1-8b"), stack=None)
    own = float(without.system.chip.launch.host_step)
    plain = step_table(without, most_tokens=64, most_context=128)
    assert (plain.host_step_s, plain.host_sequence_s) == (own, 0.0)
    np.testing.assert_allclose(plain.linear_s, made.linear_s[: len(plain.linear_s)], rtol=1e-12)


def test_a_stack_that_does_not_say_has_the_host_of_the_chip() -> None:
    known = case("llama-3.1-8b")
    assert known.stack is not None
    silent = replace(known, stack=replace(known.stack, host_step=array(np.nan)))
    made = step_table(silent, most_tokens=8, most_context=64)
    assert made.host_step_s == float(known.system.chip.launch.host_step)


def test_a_draft_is_a_step_of_the_smaller_model() -> None:
    drafts = case("llama-3.1-8b")
    made = step_table(case("qwen3-30b-a3b"), most_tokens=64, most_context=8192, draft=drafts)
    assert made.draft_s is not None
    # Drawn from a table like its own: at the nearest context to 4,096 tokens, without a host.
    whole = direct("llama-3.1-8b", mixed(0, 0, 0, 64, 4096)) - 5e-4 - 64 * 2e-6
    assert float(made.draft_s[-1]) == pytest.approx(whole, rel=0.01)
    assert table("llama-3.1-8b").draft_s is None


def test_the_busiest_of_several_replicas_has_whole_sequences() -> None:
    one, two = table("qwen3-30b-a3b"), table("qwen3-30b-a3b", 1, 2)
    at = {int(count): index for index, count in enumerate(one.tokens)}
    np.testing.assert_allclose(two.linear_s[at[1]], two.linear_s[at[2]], rtol=1e-12)
    assert two.linear_s[at[64]] == pytest.approx(one.linear_s[at[32]], rel=0.02)


PROMPT = st.sampled_from([128, 256, 512, 1024, 2048, 4096])


def prompt(model: str, tokens: int, data: int = 1, expert: int = 1) -> float:
    """Seconds of a step of one whole prompt, from the table."""
    return table(model, 1, data, expert).seconds(tokens, tokens * (tokens + 1) / 2, 0, 0, 0)


@settings(max_examples=6, deadline=None)
@given(tokens=PROMPT, ranks=st.sampled_from([2, 4]))
def test_one_prompt_is_the_work_of_one_rank(tokens: int, ranks: int) -> None:
    # Ranks of a dense model share nothing: the one with the prompt is as a replica alone, to the grid of contexts.
    assert prompt("llama-3.1-8b", tokens, ranks) == pytest.approx(prompt("llama-3.1-8b", tokens), rel=2e-3)


@settings(max_examples=6, deadline=None)
@given(tokens=PROMPT, ranks=st.sampled_from([2, 4]))
def test_one_prompt_takes_longer_than_its_parts_and_less_than_one_for_each_rank(tokens: int, ranks: int) -> None:
    found = prompt("qwen3-30b-a3b", tokens, ranks, ranks) + 5e-4
    # Tables rise, where finer tiles make a direct step of few tokens up to 2 % shorter.
    past = (tokens - tokens / ranks) / 2  # so that its parts see as many keys
    parts = direct("qwen3-30b-a3b", mixed(ranks, tokens / ranks, past, 0, 1), ranks, ranks) - ranks * 2e-6
    each = direct("qwen3-30b-a3b", mixed(ranks, tokens, 0, 0, 1), ranks, ranks) - ranks * 2e-6
    assert parts < found < 1.02 * each


def test_experts_of_one_prompt_are_shared_by_all_ranks() -> None:
    # Products and attention of 4,096 tokens on one rank; half of its experts' work, which is most of a step, and sends.
    alone, shared = prompt("qwen3-30b-a3b", 4096), prompt("qwen3-30b-a3b", 4096, 2, 2)
    assert 0.5 * alone < shared < 0.95 * alone
    # Ranks that hold all experts each share none.
    assert prompt("qwen3-30b-a3b", 4096, 2) == pytest.approx(alone, rel=2e-3)


@settings(max_examples=6, deadline=None)
@given(tokens=st.sampled_from([128, 256, 512, 1024]), ranks=st.sampled_from([2, 4]))
def test_as_many_prompts_as_ranks_are_dealt_out(tokens: int, ranks: int) -> None:
    # Each rank has one, as a direct step has them.
    made = table("qwen3-30b-a3b", 1, ranks, ranks)
    dealt = made.seconds(ranks * tokens, ranks * tokens * (tokens + 1) / 2, 0, 0, 0)
    whole = direct("qwen3-30b-a3b", mixed(ranks, tokens, 0, 0, 1), ranks, ranks) - 5e-4 - ranks * 2e-6
    assert dealt == pytest.approx(whole, rel=0.04)


@pytest.mark.parametrize(("ranks", "seen"), [(2, 3000.0), (4, 6000.0)])
def test_pieces_of_long_prompts_are_no_longer_than_a_rank_takes(ranks: int, seen: float) -> None:
    # Each rank has 1,024 tokens of a prompt of which it has seen much: not one prompt of all that the keys could be.
    model, piece = "qwen3-30b-a3b", 1024
    made = step_table(case(model, 1, ranks, ranks), most_tokens=4096, most_context=8192, piece=piece)
    tokens = ranks * piece
    pairs = tokens * (seen + (piece + 1) / 2)
    told = made.seconds(tokens, pairs, 0, 0, 0)
    whole = direct(model, mixed(ranks, piece, seen, 0, 1), ranks, ranks) - 5e-4 - ranks * 2e-6
    assert told == pytest.approx(whole, rel=0.05)
    long = table(model, 1, ranks, ranks).seconds(tokens, pairs, 0, 0, 0)
    assert told < 0.9 * long


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 4000), more=st.integers(0, 96), keys=st.integers(1, 8000), ranks=st.sampled_from([2, 4]))
def test_more_of_prompts_on_ranks_never_takes_less(tokens: int, more: int, keys: int, ranks: int) -> None:
    made = table("qwen3-30b-a3b", 1, ranks, ranks)
    less = made.seconds(tokens, tokens * keys, 0, 0, 0)
    assert made.seconds(tokens + more, (tokens + more) * keys, 0, 0, 0) >= less * (1 - 1e-12)
    assert made.seconds(tokens, tokens * (keys + more), 0, 0, 0) >= less * (1 - 1e-12)


@LIKE
def test_blocks_are_as_many_as_the_room_holds(model: str) -> None:
    known = case(model)
    blocks, layout = kv_layout(known, 16)
    for tokens in (16, 64, 128, 256, 1024, 4096, 32768, 131072):
        # What is kept past a window is told in parts of a block, and a state is rounded up.
        fit = float(room(known, array(float(tokens))).sequences[0])
        assert blocks // layout.blocks(tokens, 16) == pytest.approx(fit, abs=1, rel=5e-3)
    assert kv_layout(known, 32)[0] == pytest.approx(blocks / 2, abs=1)


def test_layouts_by_hand() -> None:
    assert kv_layout(case("llama-3.1-8b"), 16)[1] == Layout()
    # Every second layer keeps 128 tokens; five of six keep 1,024.
    assert kv_layout(case("gpt-oss-20b"), 16)[1] == Layout(0, 2, 1, 128)
    assert kv_layout(case("gemma3-12b"), 16)[1] == Layout(0, 6, 1, 1024)
    # Six layers of attention keep 1,024 bytes of a token each, and 48 MB of states are 500 blocks of them.
    hybrid = kv_layout(case("nemotron-3-nano-30b-a3b"), 16)[1]
    state = float(room(case("nemotron-3-nano-30b-a3b"), array(1e-9)).per_sequence[0])
    grown = float(room(case("nemotron-3-nano-30b-a3b"), array(16.0)).per_sequence[0]) - state
    assert hybrid == Layout(int(np.ceil(state / grown - 1e-6)), 1, 1)
    assert hybrid.state > 100


def test_all_layers_with_a_window_take_nothing_past_it_and_states_alone_are_one_block() -> None:
    known = case("gpt-oss-20b")
    windowed = replace(known, model=replace(known.model, windowed_layers=known.model.layers))
    assert kv_layout(windowed, 16)[1] == Layout(0, 1, 0, 128)
    hybrid = case("nemotron-3-nano-30b-a3b")
    assert hybrid.model.mamba is not None
    mixers = replace(hybrid.model.mamba, attention=array(0.0))
    alone = replace(hybrid, model=replace(hybrid.model, mamba=mixers))
    blocks, layout = kv_layout(alone, 16)
    assert layout == Layout(1, 0, 0)
    assert blocks == float(room(alone, array(4096.0)).sequences[0])
    with pytest.raises(SpecError, match="keeps no cache"):
        kv_layout(replace(known, model=replace(known.model, causal=False)), 16)


def test_replicas_have_as_many_blocks_each_and_weights_too_large_leave_none() -> None:
    known = case("llama-3.1-8b")
    assert kv_layout(case("llama-3.1-8b", 1, 2), 16)[0] == pytest.approx(2 * kv_layout(known, 16)[0], abs=1)
    assert known.stack is not None
    assert kv_layout(replace(known, stack=replace(known.stack, memory_share=array(0.1))), 16)[0] == 0


def test_a_model_that_drafts_takes_its_weights_and_its_own_cache_of_every_token() -> None:
    large, small = case("llama-2-13b"), case("llama-3.1-8b")
    alone, together = room(large, array(4096.0)), room_of(large, array(4096.0), small)
    assert float(together.left[0]) < float(alone.left[0]) - 2e9
    drafted = room(small, array(4096.0)).per_sequence
    assert float(together.per_sequence[0]) == pytest.approx(float((alone.per_sequence + drafted)[0]))
    blocks, layout = kv_layout(large, 16, small)
    assert layout == Layout()
    assert blocks == int(float(together.left[0]) // (float(together.per_sequence[0]) / 256))


@settings(max_examples=30, deadline=None)
@given(tokens=st.sampled_from([1, 16, 64, 256, 1024, 4096]), decodes=st.sampled_from([0, 1, 16, 64]))
def test_kernels_that_are_issued_one_by_one_bound_steps_with_prompts(tokens: int, decodes: int) -> None:
    own = case("qwen3-30b-a3b")
    assert own.stack is not None
    eager = replace(own, stack=replace(own.stack, host_kernel=array(19e-6), graph_decodes=True))
    made = step_table(eager, most_tokens=8192, most_context=8192)
    work = mixed(1, tokens, 0, decodes, 1000)
    exact = float(np.ravel(step_seconds(eager, [work])[0])[0])
    told = made.seconds(tokens, tokens * (tokens + 1) / 2, decodes, decodes * 1000.0, 1 + decodes)
    assert told == pytest.approx(exact, rel=0.1)
    # Steps of decodes alone are replayed.
    plain = step_table(own, most_tokens=8192, most_context=8192)
    assert made.seconds(0, 0.0, 16, 16e3, 16) == plain.seconds(0, 0.0, 16, 16e3, 16)
    assert made.issue_s > made.issue_decode_s > 0.0 == plain.issue_s
