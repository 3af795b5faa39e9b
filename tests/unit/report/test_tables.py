"""Tables and sentences of the page: what they say of entries written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from cosim.report.tables import (
    COST_HEAD,
    RANKING_HEAD,
    TRAINING_HEAD,
    bottom_line,
    commands,
    costs,
    plan_text,
    ranking,
    training_line,
    training_plan_text,
    verdict,
    whole,
)
from cosim.report.tables import training as training_rows

Entry = dict[str, Any]
Make = Callable[..., Entry]


def sentence(*findings: Entry) -> str:
    return verdict({"training": [], "findings": list(findings)})[0]


def cell(line: list[str], name: str) -> str:
    head = RANKING_HEAD if name in RANKING_HEAD else COST_HEAD
    return line[head.index(name)]


def test_a_plan_reads_as_degrees_and_formats(entry: Make) -> None:
    row = entry("a")["row"]
    assert plan_text(row) == "TP4 PP1 DP2 fp8, KV fp8"
    assert plan_text(row | {"plan.pipeline_parallel": 2, "plan.micro_batches": 8}) == "TP4 PP2 DP2 m8 fp8, KV fp8"


def test_a_ranking_has_a_row_a_system_in_the_order_given_and_fills_its_head(entry: Make, finding: Make) -> None:
    lines = ranking(finding(entry("b", 200.0), entry("a"), entry("c", able=False)))
    assert [line[0] for line in lines] == ["b", "a", "c"]
    assert {len(line) for line in lines} == {len(RANKING_HEAD)}
    assert lines[2][1] == "cannot: infeasible: memory"
    assert set(lines[2][2:]) == {""}


def test_a_ranked_row_shows_rate_range_batch_and_use(entry: Make, finding: Make) -> None:
    (line,) = ranking(finding(entry("a", 1234.4, rate_low=1000.0, rate_high=1500.0, rate_equal=98.76)))
    assert cell(line, "tokens/s/chip, own kernels") == "1,234"
    assert cell(line, "range") == "1,000 to 1,500"
    assert cell(line, "equal kernels") == "98.8"
    assert cell(line, "tokens/s/user") == "12.5"
    assert (cell(line, "batch"), cell(line, "MFU"), cell(line, "bottleneck")) == ("64", "12.5%", "matmul")


@pytest.mark.parametrize(("low", "high"), [(None, None), (100.0, 100.0), (100.2, 100.3)])
def test_a_range_that_nobody_could_see_is_not_shown(
    entry: Make, finding: Make, low: float | None, high: float | None
) -> None:
    (line,) = ranking(finding(entry("a", rate_low=low, rate_high=high)))
    assert cell(line, "range") == ""


def test_a_system_without_a_rate_at_equal_kernels_says_none(entry: Make, finding: Make) -> None:
    (line,) = ranking(finding(entry("a", rate_equal=None)))
    assert cell(line, "equal kernels") == "none"


def test_a_break_even_is_a_factor_or_its_reason(entry: Make, finding: Make) -> None:
    tie = {"factor": 0.876, "reason": "", "against": "b", "against_confidence": "measured"}
    never = {**tie, "factor": None, "reason": "not reached even with perfect kernels", "against": "a"}
    first, second = ranking(finding(entry("a", break_even=tie), entry("b", 90.0, break_even=never)))
    assert cell(first, "break-even quality") == "x 0.88 to tie b"
    assert cell(second, "break-even quality") == "not reached even with perfect kernels"
    (guess,) = ranking(finding(entry("a", break_even={**tie, "against_confidence": "estimated"})))
    assert cell(guess, "break-even quality") == "x 0.88 to tie b (estimated)"


def test_costs_are_of_those_that_serve_and_unknown_where_they_are(entry: Make, finding: Make) -> None:
    known = entry("a", price={"text": "30,000 USD", "kind": "estimated", "note": ""})
    known |= {f"usd_per_million{end}": 0.1103 for end in ("", "_low", "_high")}
    known |= {"break_even_price_usd": 40_419.4, "break_even_price_low_usd": 35e3, "break_even_price_high_usd": 5e4}
    lines = costs(finding(known, entry("b"), entry("c", able=False)))
    assert [line[0] for line in lines] == ["a", "b"]
    assert {len(line) for line in lines} == {len(COST_HEAD)}
    money = ["chip price", "USD per M tokens", "break-even price"]
    assert [cell(lines[0], name) for name in money] == [
        "30,000 USD, estimated",
        "0.11",
        "40,419 (35,000 to 50,000) USD to match dgx-h100",
    ]
    assert [cell(lines[1], name) for name in money] == ["unknown", "unknown", "no priced rival"]
    assert (cell(lines[0], "power per chip"), cell(lines[0], "energy per step")) == ("650 W", "52 J")
    # Activations of 1 GB and 4 GB of other things are one column.
    assert [cell(lines[0], name) for name in ("weights", "KV cache", "other")] == ["40 GB", "20 GB", "5 GB"]


def test_the_bottom_line_counts_who_leads_and_where_that_is_clear(entry: Make, finding: Make) -> None:
    clear = finding(entry("a", 200.0, rate_low=150.0), entry("b", 100.0, rate_high=149.0))
    open_ = finding(entry("b", 200.0, rate_low=150.0), entry("a", 100.0, rate_high=151.0))
    alone = finding(entry("a"), entry("b", able=False))
    nobody = finding(entry("a", able=False), entry("b", able=False))
    text = bottom_line({"training": [], "findings": [clear, open_, alone, nobody], "whole_requests": []})
    assert text == (
        "Of 3 serving cases a leads 2, b leads 1; in 2 of them the lead is clear of what is unknown about kernels."
    )
    assert (
        bottom_line({"training": [], "findings": [nobody], "whole_requests": []})
        == "No system meets any of the limits."
    )


def test_a_verdict_says_who_leads_by_how_much_and_what_would_change_it(entry: Make, finding: Make) -> None:
    even = {"factor": 0.4, "reason": "", "against": "b", "against_confidence": "measured"}
    leader = entry("a", 250.0, rate_low=240.0, rate_high=260.0, break_even=even)
    assert sentence(finding(leader, entry("b", 100.0))) == (
        "llama decode, TPOT <= 15 ms, fp8: a leads with 250 tokens/s per chip (240 to 260), 2.50 times b; "
        "it stays first until its kernels fall to 0.40 of their quality; equal kernels give the same order."
    )


def test_a_verdict_is_open_where_the_ranges_overlap(entry: Make, finding: Make) -> None:
    text = sentence(finding(entry("a", 110.0, rate_low=95.0), entry("b", 100.0, rate_high=105.0)))
    assert "1.10 times b; their ranges overlap, so the order is open" in text


def test_a_verdict_names_the_order_that_equal_kernels_give(entry: Make, finding: Make) -> None:
    found = finding(entry("a", 120.0, rate_equal=80.0), entry("b", 110.0, rate_equal=90.0), entry("c", able=False))
    assert sentence(found).endswith("; equal kernels give the order b, a.")


def test_a_lead_is_clear_only_of_every_rival_at_its_best_and_with_kernels_that_serve(
    entry: Make, finding: Make
) -> None:
    """A third that could lead, a rival that serves at its best only, a leader that does not serve at its worst."""
    third = finding(entry("a", 110.0), entry("b", 100.0), entry("c", 90.0, rate_high=120.0))
    hopeful = finding(entry("a", 110.0), entry("b", able=False, rate_high=120.0))
    shaky = finding(entry("a", 110.0, rate_low=None), entry("b", 100.0))
    for found in (third, hopeful, shaky):
        assert "in 0 of them the lead is clear" in bottom_line(
            {"training": [], "findings": [found], "whole_requests": []}
        )
    sure = finding(entry("a", 110.0, has_range=False, rate_low=None), entry("b", 100.0))
    assert "in 1 of them the lead is clear" in bottom_line({"training": [], "findings": [sure], "whole_requests": []})


def test_a_verdict_without_a_winner_or_a_rival_says_no_more_than_is_known(entry: Make, finding: Make) -> None:
    nobody = sentence(finding(entry("a", able=False)))
    assert nobody == "llama decode, TPOT <= 15 ms, fp8: no system meets the limit."
    alone = sentence(finding(entry("a"), entry("b", able=False)))
    assert "times" not in alone
    assert alone.endswith("a leads with 100 tokens/s per chip; equal kernels give the same order.")


def test_a_verdict_has_a_sentence_a_finding_in_order(entry: Make, finding: Make) -> None:
    goals = ["llama decode, TPOT <= 15 ms", "llama decode, TPOT <= 50 ms", "mixtral prefill, TTFT <= 2 s"]
    told = verdict({"training": [], "findings": [finding(entry("a"), goal=goal) for goal in goals]})
    assert [text.split(", fp8:")[0] for text in told] == goals


GUESS = {"confidence": "estimated"}


def test_an_estimated_system_is_marked_in_every_sentence_of_serving(entry: Make, finding: Make) -> None:
    kept = finding(entry("a", 250.0, **GUESS), entry("b", 100.0))
    turned = finding(entry("a", 120.0, rate_equal=80.0), entry("b", 110.0, rate_equal=90.0, **GUESS))
    leads = "a (estimated) leads with 250 tokens/s per chip, 2.50 times b; equal kernels give the same order."
    assert sentence(kept).endswith(leads)
    assert "1.09 times b (estimated); " in sentence(turned)
    assert sentence(turned).endswith("; equal kernels give the order b (estimated), a.")
    serving = {"system": "a", "rate": 300.0, "prefill_share": 0.25, "usd_per_million": None, **GUESS}
    second = {**serving, "system": "b", "rate": 150.0}
    group = {"goal": "llama decode", "workload": "llama", "precision": "fp8", "entries": [serving, second]}
    text = bottom_line({"training": [], "findings": [kept, turned], "whole_requests": [group]})
    assert "a (estimated) serves 300 output tokens/s per chip, prefill included, 2.00 times b (estimated). " in text
    assert "Of 2 serving cases a (estimated) leads 1, a leads 1; " in text


def test_an_estimated_system_is_marked_in_every_sentence_of_training(trained: Make, training: Make) -> None:
    found = [
        training(trained("a", 300.0, **GUESS), trained("b", 100.0), goal="training x, 8 chips each"),
        training(trained("b", 300.0), trained("a", 100.0, **GUESS), goal="training y, 8 chips each"),
    ]
    assert training_line({"training": found}) == (
        "Training, first of each: training x, 8 chips each: a (estimated) (3.00 times b); "
        "training y, 8 chips each: b (3.00 times a (estimated))."
    )
    first, second = verdict({"findings": [], "training": found})
    assert "a (estimated) leads with 300 tokens/s per chip, 3.00 times b; " in first
    assert "b leads with 300 tokens/s per chip, 3.00 times a (estimated); " in second


def test_whole_requests_come_first_and_in_a_table(entry: Make, finding: Make) -> None:
    serving = {"system": "a", "rate": 300.0, "prefill_share": 0.25, "usd_per_million": 0.5}
    second = {"system": "b", "rate": 150.0, "prefill_share": 0.5, "usd_per_million": None}
    unable = {"system": "c", "rate": None, "prefill_share": None, "usd_per_million": None}
    about = {"goal": "llama decode, TPOT <= 15 ms", "workload": "llama", "precision": "fp8"}
    group = about | {"entries": [serving, second, unable]}
    text = bottom_line({"training": [], "findings": [finding(entry("a"))], "whole_requests": [group]})
    assert "a serves 300 output tokens/s per chip, prefill included, 2.00 times b" in text
    assert whole(group) == [["a", "300", "25%", "0.5"], ["b", "150", "50%", "unknown"], ["c", "none", "", "unknown"]]


def test_whole_requests_of_every_workload_are_told_at_their_loosest_limit_in_the_first_precision(
    entry: Make, finding: Make
) -> None:
    def group(workload: str, limit: str, precision: str, rate: float | None) -> Entry:
        only = {"system": f"{workload}-{limit}-{precision}", "rate": rate, "prefill_share": 0.25}
        about = {"goal": f"{workload} decode, TPOT <= {limit} ms", "workload": workload, "precision": precision}
        return about | {"entries": [only]}

    groups = [
        group(workload, limit, precision, None if workload == "huge" else 300.0)
        for workload in ("llama", "huge", "mixtral")
        for limit in ("15", "50")
        for precision in ("fp8", "bf16")
    ]
    text = bottom_line({"training": [], "findings": [finding(entry("a"))], "whole_requests": groups})
    told = [sentence.partition(": ") for sentence in re.findall(r"Whole requests (.*?)\. ", text)]
    assert [about for about, _, _ in told] == [
        f"({name} decode, TPOT <= 50 ms, fp8)" for name in ("llama", "huge", "mixtral")
    ]
    said = "{}-50-fp8 serves 300 output tokens/s per chip, prefill included"
    assert [what for _, _, what in told] == [said.format("llama"), "no system can", said.format("mixtral")]


def test_commands_are_those_of_the_systems_that_can_best_first(
    entry: Make, finding: Make, trained: Make, training: Make
) -> None:
    found = finding(entry("b", 200.0), entry("a"), entry("c", able=False))
    assert commands(found) == [f"cosim estimate decode --system {name}" for name in "ba"]
    assert commands(finding(entry("c", able=False))) == []
    found = training(trained("b", able=False), trained("a"))
    assert commands(found) == ["cosim estimate train --system a"]


# Training.


def shown(line: list[str], name: str, per: str = "chip") -> str:
    return line[TRAINING_HEAD[per].index(name)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "TP8 PP4 DP64 mb2 ZeRO1, recompute full"),
        ({"zero": 0, "recompute": "none"}, "TP8 PP4 DP64 mb2, recompute none"),
        ({"virtual_pipeline": 6}, "TP8 PP4 DP64 v6 mb2 ZeRO1, recompute full"),
        ({"schedule": "zb-h1"}, "TP8 PP4 DP64 zb-h1 mb2 ZeRO1, recompute full"),
        ({"expert_parallel": 16, "zero": 3}, "TP8 PP4 DP64 EP16 mb2 ZeRO3, recompute full"),
    ],
)
def test_a_training_plan_reads_as_degrees_pieces_and_what_is_shared(
    trained: Make, changes: dict[str, Any], text: str
) -> None:
    row = trained("a")["row"] | {f"plan.{name}": value for name, value in changes.items()}
    assert training_plan_text(row) == text


@pytest.mark.parametrize(("per", "rate"), [("chip", "tokens/s/chip"), ("kW", "tokens/s per facility kW")])
def test_training_has_a_row_a_system_in_the_order_given_and_fills_its_head(
    trained: Make, training: Make, per: str, rate: str
) -> None:
    lines = training_rows(training(trained("b", 2000.0), trained("a"), trained("c", able=False), per=per))
    assert [line[0] for line in lines] == ["b", "a", "c"]
    assert {len(line) for line in lines} == {len(TRAINING_HEAD[per])}
    assert [shown(line, f"{rate}, own kernels", per) for line in lines] == [
        "2,000",
        "1,000",
        "cannot: infeasible: memory",
    ]
    assert set(lines[2][2:]) == {""}


def test_a_row_of_training_shows_rate_range_step_plan_and_cost(trained: Make, training: Make) -> None:
    entry = trained("a", 1234.4, rate_low=1000.0, rate_high=1500.0, rate_equal=98.76)
    entry["break_even"] = {"factor": 0.876, "reason": "", "against": "b", "against_confidence": "estimated"}
    entry |= {"usd_per_million": 0.1103, "usd_per_million_low": 0.09, "usd_per_million_high": 0.12}
    (line,) = training_rows(training(entry))
    expected = {
        "range": "1,000 to 1,500",
        "equal kernels": "98.8",
        "break-even quality": "x 0.88 to tie b (estimated)",
        "chips": "2,048",
        "s per step": "12.3",
        "plan": "TP8 PP4 DP64 mb2 ZeRO1, recompute full",
        "plans tried": "12,345",
        "MFU": "45.7%",
        "bottleneck": "matmul",
        "memory per chip": "64.3 GB",
        "power per chip": "612 W",
        "tokens/J facility": "0.876",
        "USD per M tokens": "0.11 (0.09 to 0.12)",
    }
    assert {name: shown(line, name) for name in expected} == expected


def test_training_without_a_price_or_a_range_says_no_more_than_is_known(trained: Make, training: Make) -> None:
    (line,) = training_rows(training(trained("a", rate_low=None, rate_equal=None)))
    cells = [shown(line, name) for name in ("range", "equal kernels", "break-even quality", "USD per M tokens")]
    assert cells == ["", "none", "no rival", "unknown"]


def test_the_line_of_training_names_the_first_of_each_run_and_what_is_open(trained: Make, training: Make) -> None:
    clear = training(trained("a", 300.0, rate_low=250.0), trained("b", 100.0), goal="training x, 8 chips each")
    open_ = training(
        trained("b", 110.0, rate_low=90.0), trained("a", 100.0, rate_high=105.0), goal="training x, power", per="kW"
    )
    alone = training(trained("a"), trained("b", able=False), goal="training y, 8 chips each")
    nobody = training(trained("a", able=False), goal="training z, 8 chips each")
    assert training_line({"training": [clear, open_, alone, nobody]}) == (
        "Training, first of each: training x, 8 chips each: a (3.00 times b); "
        "training x, power: b (1.10 times a), ranges overlap; training y, 8 chips each: a; "
        "training z, 8 chips each: no system can."
    )
    assert training_line({"training": []}) == ""


def test_the_bottom_line_has_training_beside_serving_or_alone(
    entry: Make, finding: Make, trained: Make, training: Make
) -> None:
    train = training(trained("b", 300.0), trained("a", 100.0), goal="training x, 8 chips each")
    line = "Training, first of each: training x, 8 chips each: b (3.00 times a)."
    both = bottom_line({"training": [train], "findings": [finding(entry("a"))], "whole_requests": []})
    assert both.startswith(f"{line} Of 1 serving cases a leads 1; ")
    assert bottom_line({"training": [train], "findings": [], "whole_requests": []}) == line
    nobody = training(trained("a", able=False), goal="training x, 8 chips each")
    assert bottom_line({"training": [nobody], "findings": [], "whole_requests": []}) == (
        "Training, first of each: training x, 8 chips each: no system can."
    )


def test_a_verdict_on_training_says_what_it_ranks_by_and_comes_after_serving(
    entry: Make, finding: Make, trained: Make, training: Make
) -> None:
    by_chip = training(trained("b", 300.0), trained("a", 100.0))
    by_power = training(trained("a", 2000.0, rate_equal=50.0), trained("b", 1000.0, rate_equal=60.0), per="kW")
    told = verdict({"findings": [finding(entry("a"))], "training": [by_chip, by_power]})
    assert told[0].startswith("llama decode, TPOT")
    assert told[1] == (
        "training a model, 2,048 chips each, bf16: b leads with 300 tokens/s per chip, 3.00 times a; "
        "equal kernels give the same order."
    )
    assert told[2].endswith("a leads with 2,000 tokens/s per kW, 2.00 times b; equal kernels give the order b, a.")
