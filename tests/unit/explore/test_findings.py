"""What a comparison found: winners that come out again, ties that tie, prices that match, reasons."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cosim.datum import Datum
from cosim.engines.analytic import Estimates, evaluate
from cosim.explore.compare import Block, Goal, goals, scaled_quality, winner
from cosim.explore.experiment import Compare, Lengths
from cosim.explore.findings import Finding, as_json, findings, operators, whole_requests
from cosim.explore.request import estimate_request
from cosim.explore.run import Inputs
from cosim.hardware.load import load_system
from cosim.hardware.system import System
from cosim.overrides import Varied
from cosim.records import array, points, take

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Runs = list[tuple[Block, Estimates]]
Evaluate = Callable[[Compare], Runs]
PLAN = ("tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batches", "dtype", "kv_dtype")
SCENARIO = ("batch", "context", "capacity")
SECONDS = 4 * 365.25 * 86400.0  # every shipped system lives four years
# Weights of Llama-3.1-8B per layer: QKV 4,096 x 6,144, out 4,096 x 4,096, gated feed-forward 3 x 4,096 x 14,336.
LAYERS = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
HEAD = 4096 * 128256
TILED = ("dgx-h100", "mi300x-8gpu")


@pytest.fixture(scope="module")
def found(runs: Runs, inputs: Inputs, study: Compare) -> list[Finding]:
    return findings(runs, inputs.systems, goals(study), study.precisions)


@pytest.fixture(scope="module")
def entries(found: list[Finding]) -> list[tuple[Goal, dict[str, Any]]]:
    """Every system's entry of every goal."""
    return [(finding.goal, entry) for finding in found for entry in finding.entries]


def block_of(runs: Runs, system: str, phase: str) -> tuple[Block, Estimates]:
    return next((b, r) for b, r in runs if (b.system, b.phase, b.quality) == (system, phase, "own"))


def found_for(study: Compare, evaluated: Evaluate, **changes: object) -> list[Finding]:
    """Findings of the small study with one batch per replica and `changes`."""
    asked = study.model_copy(update={"max_batch": 1, **changes})
    systems = {name: Varied(load_system(name)) for name in asked.systems}
    return findings(evaluated(asked), systems, goals(asked), asked.precisions)


def test_there_is_one_finding_a_goal_and_precision_with_every_system_in_it(
    found: list[Finding], study: Compare
) -> None:
    assert [(f.goal.text, f.label) for f in found] == [
        ("llama-3.1-8b decode, TPOT <= 20 ms", "bf16"),
        ("llama-3.1-8b prefill, TTFT <= 10 s", "bf16"),
    ]
    for finding in found:
        assert {entry["system"] for entry in finding.entries} == set(study.systems)
        rates = [entry["rate"] for entry in finding.entries]
        assert rates == sorted(rates, reverse=True)


def test_every_winner_comes_out_again_when_its_printed_plan_is_estimated(
    entries: list[tuple[Goal, dict[str, Any]]],
) -> None:
    for goal, entry in entries:
        row = entry["row"]
        asked = {f"plan.{name}": row[f"plan.{name}"] for name in PLAN}
        asked |= {f"scenario.{name}": row[f"scenario.{name}"] for name in SCENARIO}
        again = estimate_request(goal.phase, entry["system"], "llama-3.1-8b", asked).to_row()
        for name, value in row.items():
            if name != "confidence":
                assert again[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name
        assert again["tokens_per_s_per_chip"] == pytest.approx(entry["rate"], rel=1e-9)


def test_a_winner_keeps_its_limit_and_no_other_batch_or_plan_serves_more(
    runs: Runs, entries: list[tuple[Goal, dict[str, Any]]]
) -> None:
    for goal, entry in entries:
        _, result = block_of(runs, entry["system"], goal.phase)
        assert entry["row"]["time_s"] <= goal.limit_s
        within = result.feasible & (result.time <= goal.limit_s)
        assert (result.tokens / result.time / result.chips)[within].max() == entry["rate"]


def test_each_column_of_quality_is_the_best_of_its_own_block(
    runs: Runs, entries: list[tuple[Goal, dict[str, Any]]]
) -> None:
    for goal, entry in entries:
        for quality in ("equal", "low", "high"):
            result = next(
                r for b, r in runs if (b.system, b.phase, b.quality) == (entry["system"], goal.phase, quality)
            )
            best = winner(result, goal)
            assert best is not None
            assert entry[f"rate_{quality}"] == pytest.approx(
                result.tokens[best] / result.time[best] / result.chips[best]
            )
        assert entry["rate_low"] <= entry["rate"] <= entry["rate_high"]


def best_rate(block: Block, goal: Goal, factor: float) -> float:
    """Most tokens/s/chip of all plans and batches with all qualities times `factor`."""
    case = replace(block.case, system=scaled_quality(block.case.system, array(factor)))
    result = evaluate(case)
    best = winner(result, goal)
    return 0.0 if best is None else float(result.tokens[best] / result.time[best] / result.chips[best])


def test_at_the_break_even_quality_a_system_ties_with_its_rival(
    runs: Runs, entries: list[tuple[Goal, dict[str, Any]]]
) -> None:
    tied = [(goal, entry) for goal, entry in entries if entry["break_even"]["factor"] is not None]
    assert tied
    for goal, entry in tied:
        block, _ = block_of(runs, entry["system"], goal.phase)
        rival = next(e for g, e in entries if g == goal and e["system"] == entry["break_even"]["against"])
        factor = entry["break_even"]["factor"]
        assert best_rate(block, goal, factor) >= rival["rate"] * (1 - 1e-12)
        assert best_rate(block, goal, factor * 0.985) < rival["rate"]


def test_a_break_even_is_there_where_perfect_kernels_reach_the_rival(
    runs: Runs, entries: list[tuple[Goal, dict[str, Any]]]
) -> None:
    for goal, entry in entries:
        block, _ = block_of(runs, entry["system"], goal.phase)
        rival = next(e for g, e in entries if g == goal and e["system"] == entry["break_even"]["against"])
        reached = best_rate(block, goal, 1e6) >= rival["rate"] * (1 - 1e-12)
        assert reached == (entry["break_even"]["factor"] is not None)
        assert reached == (entry["break_even"]["reason"] != "not reached even with perfect kernels")


def test_a_break_even_that_is_not_there_says_why_and_perfect_kernels_confirm_it(
    study: Compare, evaluated: Evaluate
) -> None:
    # No kernel makes the 864 GB/s of an L40S serve what the 3,350 GB/s of an H100 do.
    asked = study.model_copy(update={"max_batch": 1, "systems": ("dgx-h100", "l40s-8gpu-pcie4")})
    systems, runs = {name: Varied(load_system(name)) for name in asked.systems}, evaluated(asked)
    decode = next(f for f in findings(runs, systems, goals(asked), asked.precisions) if f.goal.phase == "decode")
    rival, entry = decode.entries
    assert (entry["system"], entry["break_even"]["against"]) == ("l40s-8gpu-pcie4", rival["system"])
    assert entry["break_even"]["factor"] is None
    assert entry["break_even"]["reason"] == "not reached even with perfect kernels"
    block, _ = block_of(runs, entry["system"], "decode")
    assert best_rate(block, decode.goal, 1e6) < rival["rate"]


def test_a_lone_system_has_no_rival_and_no_price_to_match(study: Compare, evaluated: Evaluate) -> None:
    for finding in found_for(study, evaluated, systems=("dgx-h100",)):
        (entry,) = finding.entries
        nothing = {"factor": None, "reason": "no rival", "against": None, "against_confidence": None}
        assert entry["break_even"] == nothing
        assert entry["break_even_price_usd"] is None
        assert entry["usd_per_million"] > 0.0


def test_cost_is_the_price_over_the_life_and_the_energy_of_the_facility(
    entries: list[tuple[Goal, dict[str, Any]]], inputs: Inputs
) -> None:
    for _, entry in entries:
        price = inputs.systems[entry["system"]].spec.chip.price
        assert price is not None
        # 0.08 USD/kWh is 0.08 / 3.6e6 USD/J; a million tokens.
        energy = 1e6 / entry["row"]["tokens_per_j_facility"] * 0.08 / 3.6e6
        for end, usd in zip(("", "_low", "_high"), (price.si, *price.si_range), strict=True):
            capital = 1e6 * usd / (entry["rate"] * SECONDS)
            assert entry[f"usd_per_million{end}"] == pytest.approx(capital + energy, rel=1e-12)


def test_at_its_break_even_price_a_chip_costs_per_token_what_its_rival_costs(
    found: list[Finding], inputs: Inputs
) -> None:
    for finding in found:
        for entry in finding.entries:
            rival = next(e for e in finding.entries if e is not entry)
            price = inputs.systems[entry["system"]].spec.chip.price
            assert price is not None
            for end in ("", "_low", "_high"):  # the ends of the rival's price
                change = 1e6 * (entry[f"break_even_price{end}_usd"] - price.si) / (entry["rate"] * SECONDS)
                cost = entry["usd_per_million"] + change
                assert cost == pytest.approx(rival[f"usd_per_million{end}"], rel=1e-9)


def priced(inputs: Inputs, price: Datum | None) -> dict[str, Varied[System]]:
    """The systems of the study, with the H100 at `price`."""
    system = inputs.systems["dgx-h100"].spec
    chip = system.chip.model_copy(update={"price": price})
    return {**inputs.systems, "dgx-h100": Varied(system.model_copy(update={"chip": chip}))}


def test_an_unknown_price_stays_unknown_but_may_be_told_what_it_must_be(
    study: Compare, runs: Runs, inputs: Inputs
) -> None:
    for finding in findings(runs, priced(inputs, None), goals(study), study.precisions):
        unpriced = next(e for e in finding.entries if e["system"] == "dgx-h100")
        rival = next(e for e in finding.entries if e is not unpriced)
        assert (unpriced["price"], unpriced["usd_per_million"], rival["break_even_price_usd"]) == (None, None, None)
        assert unpriced["break_even_price_usd"] > 0.0


def test_a_dearer_chip_costs_more_a_token_and_lets_its_rival_cost_more(
    study: Compare, runs: Runs, inputs: Inputs, found: list[Finding]
) -> None:
    dear = Datum(value=90_000, unit="USD", kind="given", source="an offer", si_unit="USD")
    again = findings(runs, priced(inputs, dear), goals(study), study.precisions)
    for old, new in zip(found, again, strict=True):
        for name, column in (("dgx-h100", "usd_per_million"), ("mi300x-8gpu", "break_even_price_usd")):
            was, now = (next(e for e in f.entries if e["system"] == name)[column] for f in (old, new))
            assert now > was


def test_a_model_that_does_not_fit_is_last_and_says_so(study: Compare, evaluated: Evaluate) -> None:
    # 405 B parameters are 810 GB in bf16: 8 x 80 GB do not hold them, 8 x 192 GB do.
    decode = study.decode.model_copy(update={"tpot_limits": (0.1,)})
    prefill = study.prefill.model_copy(update={"ttft_limit": 1e3})
    for finding in found_for(study, evaluated, workload=("llama-3.1-405b",), decode=decode, prefill=prefill):
        able, unable = finding.entries
        assert (unable["system"], unable["rate"], unable["row"]) == ("dgx-h100", None, None)
        assert unable["why"] == "infeasible: memory"
        assert unable["usd_per_million"] is None
        assert (able["system"], able["break_even"]["reason"]) == ("mi300x-8gpu", "no rival")


def test_a_limit_that_nothing_meets_tells_the_fastest_step(study: Compare, evaluated: Evaluate) -> None:
    tight = study.decode.model_copy(update={"tpot_limits": (1e-6,)})
    decode = found_for(study, evaluated, systems=("dgx-h100",), decode=tight)[0]
    (entry,) = decode.entries
    assert entry["row"] is None
    fastest = next(r for b, r in evaluated(study.model_copy(update={"max_batch": 1})) if b.quality == "own")
    assert entry["why"] == f"fastest step {np.nanmin(fastest.time) * 1e3:.3g} ms"


def test_a_format_that_a_chip_has_not_is_the_reason(study: Compare, evaluated: Evaluate) -> None:
    finding = found_for(study, evaluated, systems=("dgx-h100", "asic-8"), precisions=("mxfp4",))[0]
    assert [entry["system"] for entry in finding.entries] == ["asic-8", "dgx-h100"]
    assert finding.entries[1]["why"] == "no matrix rate in mxfp4"


def test_a_study_of_two_workloads_ranks_each_as_a_study_of_it_alone(study: Compare, evaluated: Evaluate) -> None:
    # One dense, one mixture of experts; each has its own winner and rivals.
    alone = [found_for(study, evaluated, workload=(name,)) for name in ("gpt-oss-120b", "llama-3.1-8b")]
    both = found_for(study, evaluated, workload=("gpt-oss-120b", "llama-3.1-8b"))
    assert as_json(both) == [*as_json(alone[0]), *as_json(alone[1])]
    names = ["gpt-oss-120b"] * 2 + ["llama-3.1-8b"] * 2
    assert [finding.goal.workload for finding in both] == names
    for finding in both:
        assert {entry["row"]["workload"] for entry in finding.entries} == {finding.goal.workload}
        assert finding.goal.text.startswith(f"{finding.goal.workload} ")
    whole = whole_requests(both, study.scenario)
    assert whole == [*whole_requests(alone[0], study.scenario), *whole_requests(alone[1], study.scenario)]
    assert [group["workload"] for group in whole] == ["gpt-oss-120b", "llama-3.1-8b"]


def test_findings_are_plain_data(found: list[Finding]) -> None:
    plain = as_json(found)
    assert json.loads(json.dumps(plain, allow_nan=False)) == [{**f, "entries": list(f["entries"])} for f in plain]
    assert [(f["workload"], f["phase"], f["limit_s"], f["precision"]) for f in plain] == [
        ("llama-3.1-8b", "decode", 0.020, "bf16"),
        ("llama-3.1-8b", "prefill", 10.0, "bf16"),
    ]


def unpiped(runs: Runs) -> list[tuple[Block, int]]:
    """The last feasible point without pipeline of every block at own quality."""
    own = [(b, np.flatnonzero(r.feasible & (b.case.plan.pipeline == 1.0))) for b, r in runs if b.quality == "own"]
    return [(block, int(rows[-1])) for block, rows in own]


def test_operators_add_up_to_the_breakdown(runs: Runs) -> None:
    results = {id(block): result for block, result in runs}
    for block, index in unpiped(runs):
        listed = operators(block, index)
        for kind in ("matmul", "attention", "vector"):
            total = sum(op["count"] * op["time_s"] for op in listed if op["kind"] == kind)
            assert total == pytest.approx(results[id(block)].breakdown[kind][index], rel=1e-9)


def test_operators_do_the_work_of_the_model(runs: Runs) -> None:
    for block, index in unpiped(runs):
        case = take(block.case, np.array([index], dtype=np.intp))
        done = sum(op["count"] * op["flop"] for op in operators(block, index) if op["kind"] == "matmul")
        each = float(case.scenario.batch[0] / case.plan.data[0])
        # Two FLOP a weight and token; the head sees only the last token of a prompt.
        tokens = 32768 if block.phase == "prefill" else 1
        assert done * float(case.plan.tensor[0]) == pytest.approx(2 * each * (tokens * LAYERS + HEAD), rel=1e-12)


def test_no_operator_beats_the_peak_or_goes_without_a_reason(
    runs: Runs, entries: list[tuple[Goal, dict[str, Any]]]
) -> None:
    for goal, entry in entries:
        for op in operators(block_of(runs, entry["system"], goal.phase)[0], entry["index"]):
            assert op["bound"]
            assert op["time_s"] > 0.0
            assert (op["utilisation"] is None) == (op["kind"] == "vector")
            assert op["utilisation"] is None or 0.0 < op["utilisation"] <= 1.0
            # Attention has tiles where the chip has constants of its kernels.
            tiled = op["kind"] == "matmul" or (op["kind"] == "attention" and entry["system"] in TILED)
            assert (sum(op["tiling"]) > 0.0) == tiled


def test_operators_are_those_of_the_point_that_is_asked_for(runs: Runs) -> None:
    block, _ = block_of(runs, "dgx-h100", "decode")
    for index in (0, 7, points(block.case) - 1):
        one = take(block.case, np.array([index], dtype=np.intp))
        local = float(one.scenario.batch[0] / one.plan.data[0] / one.plan.micro_batches[0])
        qkv = next(op for op in operators(block, index) if op["name"] == "qkv")
        assert qkv["shape"] == [local, 6144 / float(one.plan.tensor[0]), 4096.0]


def test_whole_requests_share_chips_between_the_phases_as_the_lengths_ask() -> None:
    """100 tokens out at 50/s take 2 s of a chip, 400 in at 200/s another 2 s: 100 per 4 s, half of it prefill."""
    decode = {"system": "a", "confidence": "measured", "rate": 50.0, "usd_per_million": 3.0}
    prefill = {"system": "a", "confidence": "measured", "rate": 200.0, "usd_per_million": 0.5}
    found = [
        Finding(Goal("decode", 0.015, workload="m"), "fp8", (decode,)),
        Finding(Goal("prefill", 2.0, workload="m"), "fp8", (prefill,)),
        # Another workload's prefill is not this one's, and a decode without prefill is no whole request.
        Finding(Goal("prefill", 2.0, workload="n"), "fp8", ({**prefill, "rate": 1.0},)),
        Finding(Goal("decode", 0.015, workload="o"), "fp8", (decode,)),
    ]
    (group,) = whole_requests(found, Lengths(input=400, output=100))
    assert (group["workload"], group["goal"], group["precision"]) == ("m", "m decode, TPOT <= 15 ms", "fp8")
    (entry,) = group["entries"]
    assert (entry["rate"], entry["prefill_share"]) == (25.0, 0.5)
    assert entry["usd_per_million"] == 3.0 + 4 * 0.5
    unpriced = [Finding(f.goal, f.label, ({**f.entries[0], "usd_per_million": None},)) for f in found]
    assert whole_requests(unpriced, Lengths(input=400, output=100))[0]["entries"][0]["usd_per_million"] is None
    unable = [found[0], Finding(found[1].goal, "fp8", ({**prefill, "rate": None},))]
    assert whole_requests(unable, Lengths(input=400, output=100))[0]["entries"][0]["rate"] is None
