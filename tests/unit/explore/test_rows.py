"""Columns of a result: the promised names, units and sums, plain values, NaN as null."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosim
from cosim.engines.analytic import BREAKDOWN
from cosim.explore.estimate import Estimate
from cosim.explore.metrics import unit_of
from cosim.explore.rows import Text, bottlenecks, plain, row

# As the interfaces promise them to other programs.
PROMISED = """
system workload phase chips plan.tensor_parallel plan.pipeline_parallel plan.data_parallel plan.micro_batches
plan.dtype plan.kv_dtype scenario.batch scenario.context feasible limit limit_by time_s tokens_per_s_per_chip
tokens_per_s_per_user mfu memory_bytes.weights memory_bytes.kv memory_bytes.activations memory_bytes.gradients
memory_bytes.optimizer memory_bytes.other memory_bytes.total energy_j power_w bottleneck breakdown_s.matmul
breakdown_s.attention breakdown_s.vector breakdown_s.launch breakdown_s.collective breakdown_s.bubble
breakdown_s.host quality confidence
"""


@functools.cache
def found(phase: str) -> Estimate:
    """Three points on two nodes: one chip, a pipeline, and a degree that does not divide."""
    machine = cosim.system("dgx-h100", nodes=2).vary({"server.power": "4.6 kW", "facility.pue": 1.2})
    model = cosim.workload("llama-3.1-8b")
    plan = {"tensor_parallel": [1, 4, 3], "pipeline_parallel": [1, 2, 1], "data_parallel": [1, 2, 1]}
    step = cosim.estimate_prefill if phase == "prefill" else cosim.estimate_decode
    return step(machine, model, plan, batch=np.array([2.0, 8.0, 8.0]), context=1000)


def table(phase: str) -> dict[str, Any]:
    return found(phase).table()


def text_of(words: list[str]) -> Text:
    """A column of these words; one name more than they need, the last first."""
    names = sorted({*words, "unused"}, reverse=True)
    return Text(np.array([names.index(word) for word in words], dtype=np.int32), tuple(names))


WORDS = st.lists(st.text("aé€", max_size=2), max_size=12)


@settings(max_examples=60, deadline=None)
@given(words=WORDS, start=st.integers(-14, 14), stop=st.integers(-14, 14), step=st.sampled_from((-2, -1, 1, 3)))
def test_a_column_of_words_is_a_sequence_of_them(words: list[str], start: int, stop: int, step: int) -> None:
    column = text_of(words)
    assert (len(column), list(column), list(reversed(column))) == (len(words), words, words[::-1])
    assert [column[index] for index in range(-len(words), len(words))] == words + words
    assert list(column[start:stop:step]) == words[start:stop:step]
    assert isinstance(column[start:], Text)
    for word in {*words, "missing"}:
        assert (word in column, column.count(word)) == (word in words, words.count(word))
        assert word not in words or column.index(word) == words.index(word)
    for index in (len(words), -len(words) - 1):
        with pytest.raises(IndexError):
            column[index]


@settings(max_examples=60, deadline=None)
@given(words=WORDS, other=WORDS)
def test_columns_of_words_are_equal_by_what_they_say(words: list[str], other: list[str]) -> None:
    column = text_of(words)
    alike = Text(np.arange(len(words), dtype=np.int32), tuple(words))  # the same words, each with a code of its own
    assert column == alike == words
    assert (column == text_of(other)) == (column == other) == (words == other)
    with pytest.raises(TypeError):
        hash(column)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_one_word_at_every_point(count: int) -> None:
    assert Text.same("fp8", count) == ["fp8"] * count


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_words_and_flags_of_a_table_are_columns_and_not_lists(phase: str) -> None:
    for name, values in table(phase).items():
        assert isinstance(values, Text | np.ndarray), name
    made = table(phase)
    assert isinstance(made["limit"], Text)
    assert made["limit"] == ["", "", "tensor_parallel"]
    assert made["plan.sequence_parallel"].dtype == np.bool_


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_every_promised_column_is_there_for_every_point(phase: str) -> None:
    made = table(phase)
    assert set(PROMISED.split()) <= made.keys()
    assert {name: len(values) for name, values in made.items()} == dict.fromkeys(made, 3)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_row_is_plain_and_survives_strict_json(phase: str, index: int) -> None:
    made = row(table(phase), index)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert all(type(value) in (str, int, float, bool, type(None)) for value in made.values())


def test_inputs_of_a_row() -> None:
    made = row(table("decode"), 1)
    inputs = {name: value for name, value in made.items() if name.startswith(("plan.", "scenario."))}
    assert inputs == {
        "plan.tensor_parallel": 4,
        "plan.pipeline_parallel": 2,
        "plan.data_parallel": 2,
        "plan.micro_batches": 1,
        "plan.expert_parallel": 1,
        "plan.dtype": "fp8",
        "plan.weights_dtype": "",
        "plan.kv_dtype": "fp8",
        "plan.algorithm.all_reduce": "fastest",
        "plan.latent": "best",
        "plan.micro_batch": None,
        "plan.context_parallel": None,
        "plan.context_exchange": "",
        "plan.virtual_pipeline": None,
        "plan.schedule": "",
        "plan.sequence_parallel": False,
        "plan.zero": None,
        "plan.expert_tensor_parallel": None,
        "plan.order": "",
        "plan.fp8_recipe": "",
        "plan.shard": None,
        "scenario.updates": "",
        "scenario.adapter_rank": None,
        "scenario.bytes_per_sample": None,
        "plan.recompute": "",
        "plan.software": "",
        "plan.recompute_modules": "",
        "plan.recompute_layers": None,
        **{f"plan.offload_{name}": None for name in ("activations", "weights", "optimizer")},
        "plan.optimizer": "",
        "plan.optimizer_dtype": "",
        "scenario.batch": 8,
        "scenario.global_batch": None,
        "scenario.context": 1000,
        "scenario.expert_imbalance": 0,
        "scenario.capacity": 1000,
    }
    assert (made["system"], made["workload"], made["phase"], made["chips"]) == (
        "dgx-h100",
        "llama-3.1-8b",
        "decode",
        16,
    )
    assert (made["quality"], made["confidence"], made["feasible"], made["limit"]) == ("own", "measured", True, "")
    assert made["limit_by"] is None


@pytest.mark.parametrize(("phase", "tokens"), [("prefill", 8000), ("decode", 8)])
def test_rates_by_hand(phase: str, tokens: int) -> None:
    made = row(table(phase), 1)
    rate = tokens / made["time_s"]
    assert made["tokens_per_s_per_chip"] == pytest.approx(rate / 16, rel=1e-12)
    assert made["tokens_per_s_per_user"] == pytest.approx(rate / 8, rel=1e-12)
    assert made["tokens_per_j_chip"] == pytest.approx(tokens / made["energy_j"], rel=1e-12)
    # 4.6 kW of server over eight chips, 1.2 of facility
    server = made["energy_j"] + 2 * 4600.0 * made["time_s"]
    assert made["tokens_per_j_server"] == pytest.approx(tokens / server, rel=1e-12)
    assert made["tokens_per_j_facility"] == pytest.approx(tokens / server / 1.2, rel=1e-12)


@pytest.mark.parametrize("index", [0, 1])
def test_parts_of_a_row_add_up(index: int) -> None:
    made = row(table("prefill"), index)
    parts = {name: value for name, value in made.items() if name.startswith("breakdown_s.")}
    held = {name: value for name, value in made.items() if name.startswith("memory_bytes.")}
    assert sum(parts.values()) == pytest.approx(made["time_s"], rel=1e-12)
    assert sum(held.values()) == pytest.approx(2 * made["memory_bytes.total"], rel=1e-12)
    assert parts[f"breakdown_s.{made['bottleneck']}"] == max(parts.values())


def test_an_infeasible_row_has_its_limit_and_no_outputs() -> None:
    made = row(table("decode"), 2)
    assert (made["feasible"], made["limit"], made["limit_by"]) == (False, "tensor_parallel", 2)  # 32 = 10 x 3 + 2
    assert made["limit_unit"] != ""
    assert made["bottleneck"] == ""
    outputs = ("time_s", "tokens_per_s_per_chip", "tokens_per_s_per_user", "mfu", "energy_j", "power_w")
    names = [name for name in made if name in outputs or name.startswith(("breakdown_s.", "tokens_per_j_"))]
    assert len(names) == len(outputs) + len(BREAKDOWN) + 3
    assert all(made[name] is None for name in names)
    assert made["memory_bytes.total"] > 0  # what it would take is known


def test_the_bottleneck_is_the_largest_share_of_each_point() -> None:
    result = found("prefill").result
    assert bottlenecks(result)[2] == ""
    for index in (0, 1):
        shares = {name: values[index] for name, values in result.breakdown.items()}
        assert bottlenecks(result)[index] == max(shares, key=lambda name: shares[name])


def test_units_of_columns() -> None:
    names = ["time_s", "breakdown_s.host", "memory_bytes.kv", "energy_j", "power_w", "tokens_per_j_server"]
    assert [unit_of(name) for name in names] == ["s", "s", "B", "J", "W", "token/J"]
    assert unit_of("tokens_per_s_per_chip") == "token/s"
    assert [unit_of(name) for name in ("mfu", "plan.dtype", "feasible")] == ["", "", ""]


@settings(max_examples=60, deadline=None)
@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_plain_numbers_are_equal_finite_and_whole_where_they_can_be(value: float) -> None:
    for given_value in (value, np.float64(value)):
        shown = plain(given_value)
        if not math.isfinite(value):
            assert shown is None
        else:
            assert shown == value
            assert isinstance(shown, int) == (value.is_integer() and abs(value) < 1e15)


@pytest.mark.parametrize(
    ("value", "shown"), [(np.True_, True), (True, True), ("fp8", "fp8"), (np.int64(7), 7), (None, None), (2.5, 2.5)]
)
def test_other_values_stay_what_they_are(value: object, shown: object) -> None:
    assert plain(value) == shown
    assert type(plain(value)) is type(shown)
