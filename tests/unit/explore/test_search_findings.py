"""Findings of a search as plain data: counts by limit and by degree, the front, what came nearest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import cosim
from cosim.explore.search import Answer, answered, judged, parts_of, run_part
from cosim.explore.search_file import StrategySearch
from cosim.explore.search_findings import (
    FRONT_SHOWN,
    TOP,
    about_search,
    fits_of,
    limits_of,
    nearest_of,
    search_findings,
    space_of,
)
from cosim.explore.search_inputs import searched_inputs
from cosim.schema import validated

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


def searched(**more: Any) -> Answer:
    asked: dict[str, Any] = {
        "kind": "search",
        "question": "",
        "system": "dgx-a100",
        "workload": "llama-3.1-8b",
        "scenario": {"global_batch": 16, "context": 2048},
        "space": {"micro_batch": [1, 2], "schedule": ["1f1b", "zb-h1"], "zero": [0, 1], "sequence_parallel": "on"},
        "objectives": ["time_s", "mfu"],
    }
    study = validated(StrategySearch, {**asked, **more})
    inputs = searched_inputs(study, cosim.system(study.system).varied, cosim.workload(study.workload).varied)
    return answered(inputs, [(part, judged(inputs, part, run_part(inputs, part))) for part in parts_of(inputs)])


@pytest.fixture(scope="module")
def answer() -> Answer:
    return searched(nodes=[1, 2])


@pytest.fixture(scope="module")
def found(answer: Answer) -> dict[str, Any]:
    return search_findings(answer, {"workload.layers": 32})


def test_counts_by_limit_and_by_degree_are_those_of_the_whole(answer: Answer) -> None:
    limits, fits = limits_of(answer), fits_of(answer)
    assert sum(limits.values()) + answer.feasible == answer.inputs.legal
    assert list(limits.values()) == sorted(limits.values(), reverse=True)
    assert sum(cell["legal"] for cell in fits) == answer.inputs.legal
    assert sum(cell["fit"] for cell in fits) == answer.feasible
    assert min(cell["best"] for cell in fits if cell["best"] is not None) == float(answer.number("time_s").min())
    assert all((cell["best"] is None) == (cell["fit"] == 0) for cell in fits)


def test_the_map_of_an_objective_to_maximise_has_its_own_sign() -> None:
    best = searched(objectives=["mfu"])
    values = [cell["best"] for cell in fits_of(best) if cell["best"] is not None]
    assert max(values) == pytest.approx(float(best.number("mfu").max()))
    assert min(values) > 0.0


def test_the_top_is_in_order_and_the_best_leads_it(found: dict[str, Any]) -> None:
    for each, sign in zip(found["objectives"], (1.0, -1.0), strict=True):
        values = [sign * row[each["column"]] for row in each["top"]]
        assert values == sorted(values)
        assert len(values) == TOP
        assert each["top"][0] == each["best"]
        assert each["neighbours"]


def test_the_front_is_whole_as_points_and_its_head_as_rows(found: dict[str, Any], answer: Answer) -> None:
    assert found["front_size"] == len(answer.front) == len(found["front_points"]["least time_s"])
    assert len(found["front"]) == min(FRONT_SHOWN, found["front_size"])
    assert found["front_points"]["most mfu"][0] == pytest.approx(found["front"][0]["mfu"])
    assert found["nearest"] is None


def test_commands_carry_nodes_and_what_was_set(found: dict[str, Any]) -> None:
    best = found["objectives"][0]["best"]
    assert f"--set system.nodes={best['nodes']}" in best["command"]
    assert "--set workload.layers=32" in best["command"]
    assert best["command"].startswith("cosim estimate train --system dgx-a100 --workload llama-3.1-8b ")


def test_findings_are_plain_data(found: dict[str, Any], answer: Answer) -> None:
    text = json.dumps({**about_search(answer.inputs), **found}, allow_nan=False)
    assert "NaN" not in text


def test_what_a_search_rests_on(answer: Answer) -> None:
    about = about_search(answer.inputs)
    assert about["space"]["nodes"] == [1, 2]
    assert about["space"]["sequence_parallel"] == ["on"]
    assert about["space"]["recompute"] == ["none", "full"]
    assert about["space"]["data"] == []
    assert about["asked"]["global_batch"] == 16
    assert {"dgx-a100", "llama-3.1-8b", "megatron"} <= set(about["assumptions"])
    assert any("price of a100-80gb-sxm is not published" in warning for warning in about["warnings"])
    assert set(space_of(answer.inputs)["tensor"]) == {1, 2, 4, 8, 16}


def test_what_came_nearest_is_what_lacks_least(answer: Answer) -> None:
    nothing = searched(workload="llama-3.1-70b")
    assert nothing.feasible == 0
    near = nearest_of(nothing)
    least = min(float(cell.shortfall.min()) for cell in nothing.cells)
    capacity = 80e9
    total = float(near["why"].removeprefix("memory: ").split(" GB")[0]) * 1e9
    assert total == pytest.approx(capacity + least, rel=5e-3)
    assert near["fits"] is not None
    assert limits_of(nothing) == {"memory": nothing.inputs.legal}
    assert np.isfinite(least)
    assert search_findings(nothing, {})["objectives"][0]["why"] == "nothing fits"
    assert answer.feasible > 0
