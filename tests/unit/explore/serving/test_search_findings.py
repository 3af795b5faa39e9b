"""What is said of a search: plain data, plans in words, costs of limits, why the best is best, what came nearest."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cosim.explore.serving import search_findings
from cosim.explore.serving.search import ServingResult
from cosim.explore.serving.search_findings import limits_cost, nearest, plan_text, why_best

Search = Callable[..., ServingResult]


def test_findings_are_plain_data(searched: Search) -> None:
    found = searched()
    text = json.dumps(found.findings, allow_nan=False)
    again = json.loads(text)
    assert again["size"] == len(found.found)
    assert again["feasible"] + sum(again["limits"].values()) == again["size"]
    assert again["front_size"] == len(again["front"]) == len(found.front)
    assert again["best"]["simulated"]["requests"] >= 100
    assert again["capacity"]["requests_per_s"] == found.capacity.rate  # type: ignore[union-attr]  # it was asked


def test_a_deployment_as_a_row(searched: Search) -> None:
    found = searched({"tensor": 2, "pipeline": 1, "layout": "together", "max_sequences": 32})
    row = found.to_row()
    assert (row["system"], row["layout"], row["limit"]) == ("dgx-h200", "together", "")
    assert (row["tensor"], row["replicas"], row["concurrency"]) == (2, 2, 64)
    assert isinstance(row["tensor"], int)
    assert "prefill_tensor" not in row
    assert row["tokens_per_s_per_user"] == pytest.approx(1.0 / row["tpot_s"])
    words = "dgx-h200: 2 x tensor 2 (1024 tokens a step, 32 sequences); bf16, cache bf16"
    assert row["plan"] == words == plan_text(found.found, found.best or 0)


def test_pools_are_told_apart(searched: Search) -> None:
    found = searched(
        {
            "tensor": 1,
            "pipeline": 1,
            "layout": "apart",
            "max_sequences": 32,
            "prefill_replicas": 1,
            "token_budget": 4096,
        }
    )
    row = found.to_row()
    assert (row["layout"], row["prefill_replicas"], row["replicas"]) == ("apart", 1, 3)
    words = "dgx-h200: prompts on 1 x 1 chip (4096 tokens a step), answers on 3 x 1 chip (32 sequences)"
    assert row["plan"].startswith(words)


def test_what_each_limit_costs(searched: Search) -> None:
    found = searched(ttft_limit=0.1, tpot_limit=0.006, check="none")
    assert found.best is not None
    rows = {row["limit"]: row for row in limits_cost(found, found.best)}
    assert set(rows) == {"ttft_limit", "tpot_limit"}
    own = found.to_row()["tokens_per_s_per_chip"]
    for name, row in rows.items():
        free = searched(**{"ttft_limit": 0.1, "tpot_limit": 0.006, "check": "none", name: None}).to_row()
        assert row["without"] == free["tokens_per_s_per_chip"]
        assert row["change"] == pytest.approx(free["tokens_per_s_per_chip"] / own - 1.0)
        assert row["plan"] == free["plan"]
        assert row["change"] >= 0.0
    assert rows["tpot_limit"]["change"] > 0.1


def test_why_the_best_is_best(searched: Search) -> None:
    space = {"layout": "together", "tensor": [1, 2], "pipeline": 1, "token_budget": 4096}
    found = searched(space, tpot_limit=0.009, check="none")
    assert found.best is not None
    rival, more = why_best(found, found.best)
    assert "the next other plan, dgx-h200: " in rival
    assert rival.endswith("% tokens_per_s_per_chip")
    assert " -" in rival
    assert more.endswith("break tpot_limit")
    alone = searched({"layout": "together", "tensor": 1, "pipeline": 1, "max_sequences": 8}, check="none")
    assert why_best(alone, alone.best or 0) == ()


def test_what_came_nearest_says_what_lacks(searched: Search) -> None:
    slow = searched(tpot_limit=1e-4)
    row = slow.findings["nearest"]
    assert (slow.findings["best"], row["limit"]) == (None, "tpot_limit")
    least = slow.found.table["tpot_s"][slow.found.code == slow.found.code.max()].min()
    assert row["shortfall"] == pytest.approx(least - 1e-4)
    assert row["why"].startswith("tpot_limit: lacks 0.00")
    large = searched({"max_sequences": 100_000, "layout": "together", "token_budget": 1_000_000})
    assert large.findings["nearest"]["limit"] == "memory"
    assert "GB of a chip" in large.findings["nearest"]["why"]
    assert searched(check="none").findings["nearest"] is None
    assert nearest(slow) == row


def test_a_pool_that_memory_refuses_is_told_without_the_other(searched: Search) -> None:
    space = {"layout": "apart", "tensor": 1, "pipeline": 1, "max_sequences": [100_000], "token_budget": 1024}
    found = searched(space)
    row = found.findings["nearest"]
    assert (found.best, row["limit"]) == (None, "memory")
    assert row["plan"] == "dgx-h200: prompts on any pool, answers on 1 chip (100000 sequences); bf16, cache bf16"


def test_weights_and_ranks_are_in_the_words(searched: Search) -> None:
    space = {"dtype": "bf16", "weights_dtype": "int4", "kv_dtype": "fp8", "layout": "together", "pipeline": 2}
    found = searched({**space, "tensor": 2}, check="none")
    row = found.to_row()
    assert (row["dtype"], row["weights_dtype"], row["kv_dtype"]) == ("bf16", "int4", "fp8")
    assert "1 x tensor 2 pipeline 2 (" in row["plan"]
    assert row["plan"].endswith("bf16, weights int4, cache fp8")


def test_what_was_not_simulated_says_nothing_of_it(searched: Search) -> None:
    said = searched().findings
    seen = [row["plan"] for row in said["front"] if row["simulated"] is not None]
    assert len(seen) == len([each for each in searched().checked if each.index in searched().front])
    assert all(row["simulated"] is None for row in searched(check="none").findings["front"])
    simulated = said["holds"]["simulated"]
    assert simulated["broken"] == ""
    assert simulated["ttft_s.p90"] <= 0.5
    rate = simulated["requests_per_s"] * 100 / 4
    assert simulated["tokens_per_s_per_chip"] == pytest.approx(rate)
    # Both figures stand beside each other, and not far apart.
    assert rate == pytest.approx(said["holds"]["tokens_per_s_per_chip"], rel=0.25)


def test_the_front_is_listed_as_far_as_it_is_shown(searched: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(check="none")
    monkeypatch.setattr(search_findings, "FRONT_SHOWN", 2)
    said = search_findings.serving_findings(found)
    assert said["front_size"] == len(found.front) > len(said["front"]) == 2
    rates = [row["tokens_per_s_per_chip"] for row in said["front"]]
    assert rates == sorted(rates, reverse=True)
