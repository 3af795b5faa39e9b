"""How an estimate looks on a terminal: all of it, in words and shares that add up."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cosim.cli.screen import estimate_text, operators_text
from cosim.explore.findings import operator_rows
from cosim.explore.request import estimate_request

SETTINGS = {"plan.tensor_parallel": 2, "scenario.batch": 8, "scenario.context": 1024}


@pytest.fixture(scope="module")
def answer() -> Any:
    return estimate_request("decode", "dgx-h100", "llama-3.1-8b", SETTINGS)


@pytest.fixture(scope="module")
def row(answer: Any) -> dict[str, Any]:
    return {**answer.to_row(), "plans_tried": answer.plans_tried, "defaults": dict(answer.defaults)}


def line(text: str, name: str) -> str:
    return next(part for part in text.splitlines() if part.strip().startswith(name))


def test_the_first_line_says_what_was_asked(row: dict[str, Any]) -> None:
    assert estimate_text(row).splitlines()[0] == "decode of llama-3.1-8b on dgx-h100, 2 chips"
    assert "batch 8, context 1024" in line(estimate_text(row), "asked")


def test_defaults_that_were_taken_are_said_and_none_where_there_are_none(row: dict[str, Any]) -> None:
    assert "(defaults taken: plan.dtype=fp8, plan.kv_dtype=fp8)" in line(estimate_text(row), "asked")
    assert "defaults" not in estimate_text(row | {"defaults": {"phase": "decode"}})


def test_a_plan_says_whether_it_was_given_or_found_among_how_many(row: dict[str, Any]) -> None:
    plan = "tensor 2 x pipeline 1 x data 1, micro-batches 1, fp8, KV fp8"
    assert line(estimate_text(row), "plan").strip() == f"plan        {plan} (given)"
    assert line(estimate_text(row | {"plans_tried": 12}), "plan").endswith("(best of 12 plans on all chips)")


@pytest.mark.parametrize(("name", "prefix"), [("breakdown", "breakdown_s."), ("memory", "memory_bytes.")])
def test_shares_fall_and_add_up_and_leave_out_what_is_zero(row: dict[str, Any], name: str, prefix: str) -> None:
    shown = line(estimate_text(row), name)
    shares = [int(share) for share in re.findall(r"\((\d+)%\)", shown)]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) <= len(shares) / 2  # each is rounded to a percent
    for key, value in row.items():
        part = key.removeprefix(prefix)
        if key.startswith(prefix) and part != "total":
            assert (f"{part} " in shown) == (value > 0.0)


def test_speed_energy_and_bottleneck_are_those_of_the_row(row: dict[str, Any]) -> None:
    text = estimate_text(row)
    assert f"{row['tokens_per_s_per_chip']:,.4g} tokens/s/chip" in line(text, "speed")
    assert f"bottleneck {row['bottleneck']}" in line(text, "time")
    assert f"{row['tokens_per_j_server']:.3g} at the server" in line(text, "energy")
    assert line(text, "confidence").endswith(row["confidence"])


def test_every_operator_is_a_row_under_the_head(answer: Any) -> None:
    rows = operator_rows(answer.case)
    head, lines = operators_text(rows)
    assert len(lines) == len(rows)
    assert {len(cells) for cells in lines} == {len(head)}
    by_name = {cells[0]: dict(zip(head, cells, strict=True)) for cells in lines}
    # 4,096 into 4,096 queries and 2 x 1,024 keys and values, half of them on each of two chips.
    assert by_name["qkv"]["shape"] == "8 x 3072 x 4096"
    assert (by_name["qkv"]["count"], by_name["qkv"]["dtype"]) == ("32", "fp8")
    assert by_name["logits"]["count"] == "1"
    # Sixteen rows hold the four queries of a key/value head; keys are walked 64 at a time.
    assert by_name["attention"]["tiling"].startswith("16x64x")
    assert by_name["activation"]["use"] == "-"
    assert " > " in by_name["activation"]["shape"]
    assert all(cells["bound"] and cells["time"].endswith("s") for cells in by_name.values())
