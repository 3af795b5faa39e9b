"""A run in a few sentences, whatever its kind."""

from __future__ import annotations

from typing import Any

from cosim.report.summary import summary
from cosim.report.tables import bottom_line, verdict

BEST = {"tokens_per_s_per_chip": 120.0, "area_mm2": 700.0, "tdp_w": 650.0, "system.chip.matrix.rows": 64}


def case(**changes: Any) -> dict[str, Any]:
    return {
        "workload": "llama",
        "phase": "decode",
        "system": "asic-8",
        "confidence": "measured",
        "designs": 1200,
        "feasible": 7,
        "limits": {"reticle": 3},
        "best": BEST,
        "base": {"tokens_per_s_per_chip": 100.0},
        **changes,
    }


def swept(*cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "sweep",
        "designs": 1200,
        "points": 2400,
        "feasible_points": 1007,
        "maximise": "tokens_per_s_per_chip",
        "axes": [{"paths": ["system.chip.matrix.rows"], "shown": "system.chip.matrix.rows", "levels": [64]}],
        "units": {},
        "cases": list(cases),
    }


def test_a_comparison_is_its_bottom_line_and_verdict(content: dict[str, Any]) -> None:
    assert summary(content) == (bottom_line(content), verdict(content))


def test_a_sweep_is_its_count_and_a_sentence_a_case() -> None:
    line, sentences = summary(swept(case(), case(phase="prefill", best=None, limits={"reticle": 1200})))
    assert line == "1,200 designs, 1,007 of 2,400 points feasible"
    assert sentences[0] == (
        "llama decode: best of 7 feasible designs has tokens_per_s_per_chip 120, 1.20 times asic-8 as it is, "
        "on 700 mm2 with 650 W: matrix.rows 64. Infeasible: reticle 3."
    )
    assert sentences[1:] == ["llama prefill: no design of 1,200 is feasible (reticle 1,200)."]


def test_what_is_estimated_is_marked_and_systems_are_told_apart() -> None:
    cases = (case(confidence="estimated", limits={}), case(system="dgx-h100"))
    _, (first, second) = summary(swept(*cases))
    assert first.startswith("llama decode, asic-8 (estimated): ")
    assert "1.20 times asic-8 (estimated) as it is" in first
    assert first.endswith("Infeasible: none.")
    assert second.startswith("llama decode, dgx-h100: ")
