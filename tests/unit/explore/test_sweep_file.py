"""The file of a sweep: what it may say, what is taken where nothing is said, which contradictions are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosim import documents, library
from cosim.errors import SpecError
from cosim.explore.experiment import load_study
from cosim.explore.metrics import MAXIMISED, metric_names
from cosim.explore.sweep_file import Search, Sweep, SweepCase
from cosim.schema import validated

ROWS, COLUMNS = "system.chip.matrix.rows", "system.chip.matrix.columns"
LEAST: dict[str, Any] = {
    "kind": "sweep",
    "question": "Which?",
    "system": "asic-8",
    "cases": [{"workload": "llama-3.1-8b", "phase": "decode"}],
    "axes": [{"path": ROWS, "values": [64, 128]}],
}


def made(**changes: Any) -> Sweep:
    return validated(Sweep, {**LEAST, **changes})


def fault(**changes: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        made(**changes)
    return caught.value


def test_little_needs_to_be_said() -> None:
    sweep = made()
    assert (sweep.system, sweep.cases) == (("asic-8",), (SweepCase(workload="llama-3.1-8b", phase="decode"),))
    assert (sweep.power, sweep.silicon, sweep.search, sweep.precision) == ("given", True, None, None)
    assert (sweep.constraints, sweep.heat_map, sweep.maximise) == ((), (), "tokens_per_s_per_chip")
    assert made(search={}).search == Search(max_batch=1024)


def test_systems_and_paths_are_one_name_or_several() -> None:
    assert made(system=["asic-8", "dgx-h100"]).system == ("asic-8", "dgx-h100")
    assert made().axes[0].path == (ROWS,)
    assert made(axes=[{"path": [ROWS, COLUMNS], "values": [64]}]).axes[0].path == (ROWS, COLUMNS)


MORE_IS_BETTER = {
    "mfu",
    *(f"mfu.{each}" for each in ("model_6n", "causal", "full", "hardware")),
    "items_per_s",
    *(f"tokens_per_s_per_{each}" for each in ("chip", "user", "mm2")),
    *(f"tokens_per_j_{each}" for each in ("chip", "server", "facility")),
}


@pytest.mark.parametrize("name", metric_names())
def test_a_number_of_which_more_is_better_can_be_maximised_and_no_other(name: str) -> None:
    assert set(MAXIMISED) == MORE_IS_BETTER
    if name in MORE_IS_BETTER:
        assert made(maximise=name).maximise == name
    else:
        caught = fault(maximise=name)
        assert (caught.field, caught.value) == ("maximise", name)
        assert "names no number of which more is better" in str(caught)


@pytest.mark.parametrize(
    ("changes", "field", "problem", "hint"),
    [
        ({"maximise": "area_mm2"}, "maximise", "names no number of which more is better", ""),
        (
            {"maximise": "tokens_per_s_per_chips"},
            "maximise",
            "names no number of which more is better",
            "tokens_per_s_per_chip",
        ),
        ({"constraints": ["aera_mm2 <= 800"]}, "constraints.0", "names no number of a result", "area_mm2"),
        ({"constraints": ["mfu >= 0", "area < "]}, "constraints.1", "", ""),
        ({"axes": [{"path": ROWS, "values": [1]}] * 2}, "axes", "is on two axes", "a path has one axis"),
        ({"axes": [{"path": [ROWS, ROWS], "values": [1]}]}, "axes", "is on two axes", ""),
        ({"heat_map": [ROWS]}, "heat_map", "needs two paths", "one for each side"),
        ({"heat_map": [ROWS, COLUMNS]}, "heat_map", "is on no axis", f"nearest: {ROWS}"),
        ({"heat_map": [ROWS] * 3}, "heat_map", "at most 2", ""),
        ({"axes": [{"path": f"system.a{n}", "values": [1]} for n in range(17)]}, "axes", "at most 16", ""),
        ({"cases": []}, "cases", "at least 1", ""),
        ({"cases": [{"workload": "llama-3.1-8b", "phase": "serve"}]}, "cases.0.phase", "'prefill'", ""),
        ({"cases": [{"workload": "llama-3.1-8b"}]}, "cases.0.phase", "is missing", ""),
        ({"power": "automatic"}, "power", "'derived'", ""),
        ({"search": {"max_batch": 0}}, "search.max_batch", "greater than or equal to 1", ""),
        ({"search": {"batch": 8}}, "search.batch", "unknown field", "max_batch"),
        ({"precision": "fp5"}, "precision", "'fp8'", ""),
        ({"systems": ["asic-8"]}, "systems", "unknown field", "system"),
        ({"axes": [{"path": ROWS}]}, "axes.0.values", "needs values, or from and to", ""),
    ],
)
def test_a_contradiction_is_named_by_its_field(changes: dict[str, Any], field: str, problem: str, hint: str) -> None:
    caught = fault(**changes)
    assert caught.field == field
    assert problem in str(caught)
    assert hint in (caught.hint or "")


@pytest.mark.parametrize("name", ["asic-sweep", "asic-search"])
def test_the_shipped_sweeps_read_and_name_what_is_in_the_library(name: str) -> None:
    sweep = load_study(name).experiment
    assert isinstance(sweep, Sweep)
    assert set(sweep.system) <= set(library.names("systems"))
    assert {case.workload for case in sweep.cases} <= set(library.names("workloads"))
    assert (sweep.search is not None) == (name == "asic-search")
    assert sweep.power == "derived"


def test_a_fault_is_told_at_its_line(tmp_path: Path) -> None:
    text = documents.read_text(library.find("experiments", "asic-sweep"))
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("heat_map: [system.chip.matrix.arrays", "heat_map: [system.chip.matrix.array"))
    with pytest.raises(SpecError) as caught:
        load_study(str(path))
    assert caught.value.line is not None
    assert path.read_text().splitlines()[caught.value.line - 1].startswith("heat_map:")
    assert "nearest: system.chip.matrix.arrays" in str(caught.value)
