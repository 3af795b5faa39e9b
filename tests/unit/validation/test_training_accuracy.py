"""The suite of measured training steps on made-up folders: halves, flags, groups, sweeps, chips left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim import validate
from cosim.errors import SpecError
from cosim.validation import training_accuracy as module
from cosim.validation.cases import Case
from cosim.validation.training import Answer
from cosim.validation.training_accuracy import (
    Step,
    answered_steps,
    by,
    chips_left_out,
    figures,
    layout_choice,
    read_rows,
    tables,
    training_accuracy,
)
from cosim.validation.training_known import Condition, Fit, Flag, Known, MeasuredFile, NamedSet, known

Make = Callable[..., Case]
Write = Callable[..., Path]
TIMES = st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)), min_size=1, max_size=10)
KNOWN = Known(
    files=(MeasuredFile(file="training.csv", half="groups"), MeasuredFile(file="odd.csv", half="odd")),
    fits=(Fit(name="megatron-2022", stacks=("megatron-2022",), constants=("host_kernel", "host_step")),),
    flags=(Flag(name="wrong", reason="it is", when=(Condition(column="notes", has="wrong"),)),),
    sets=(NamedSet(name="long", when=(Condition(column="seq_len", at_least=4096),)),),
    sweeps=("lab",),
)


@pytest.fixture
def folder(tmp_path: Path, step: Make, write_steps: Write) -> Path:
    """Five steps that are answered, two layouts of one run among them, and one that is not."""
    write_steps(
        tmp_path / "training.csv",
        step("a"),
        step("b", measured_quantity="samples_per_s", measured_value=4 / 1.1),
        step("c", tp=4, dp=2, micro_batch=2),
        step("d", source="log: 1", software_stack="megatron", split_group="g", recompute=""),
        step("nowhere", workload="no such model"),
    )
    write_steps(tmp_path / "training_vtrain.csv", step("v", source="vtrain: x", notes="one"))
    return tmp_path


def made(
    row: Case, predicted: float | None, measured: float, *, flags: Sequence[str] = (), fitted: bool = False
) -> Step:
    return Step(row, predicted, measured, "" if predicted else "why", tuple(flags), fitted)


def test_errors_are_of_time_whatever_was_measured(folder: Path) -> None:
    rows = {row["id"]: row for row in training_accuracy(folder)["rows"]}
    assert rows["a"]["measured"] == 1.1
    assert rows["b"]["measured"] == pytest.approx(1.1)
    assert rows["b"]["error"] == pytest.approx(rows["a"]["error"])
    assert set(rows) == {"a", "b", "c", "d", "v"}


def test_the_answer_is_json_with_every_table(folder: Path) -> None:
    found = validate(suite="training-accuracy", cases=folder)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["kind"], found["cases"], found["evaluated"], found["missing"]) == ("training-accuracy", 6, 5, [])
    assert [skip["id"] for skip in found["skipped"]] == ["nowhere"]
    assert found["chips"]["a100-80gb-sxm"]["asked"] == 6
    assert found["chips"]["a100-80gb-sxm"]["evaluated"] == 5
    assert list(found["sources"]) == ["lab", "log", "vtrain"]
    assert found["strategy"]["tensor ranks only"]["evaluated"] == 5
    assert found["recompute"]["none"]["evaluated"] == 1
    assert found["left_out"] == []
    assert {row["name"] for row in found["flags"]} == {flag.name for flag in known().flags}
    assert found["sets"]["vTrain, many nodes"]["evaluated"] == 1


def test_the_same_folder_gives_the_same_errors_as_the_kind(folder: Path) -> None:
    plain = {row["id"]: row["error"] for row in validate("training", folder / "training.csv")["rows"]}
    found = {row["id"]: row["error"] for row in training_accuracy(folder)["rows"]}
    assert found["a"] == pytest.approx(plain["a"], rel=1e-12)
    # A rate that is too high is a time that is too short.
    assert 1.0 + found["b"] == pytest.approx(1.0 / (1.0 + plain["b"]), rel=1e-12)


def test_a_folder_that_does_not_stand_is_said(tmp_path: Path, step: Make, write_steps: Write) -> None:
    with pytest.raises(SpecError, match="no such folder") as refused:
        training_accuracy(tmp_path / "none")
    assert "training.csv" in str(refused.value)
    with pytest.raises(SpecError, match="no measured steps"):
        training_accuracy(tmp_path)
    write_steps(tmp_path / "training_vtrain.csv", step())
    assert training_accuracy(tmp_path)["missing"] == ["training.csv"]


def test_halves_are_those_of_each_file(tmp_path: Path, step: Make, write_steps: Write) -> None:
    write_steps(tmp_path / "training.csv", step("a"), step("e"), step("x", split_group="e"))
    write_steps(tmp_path / "odd.csv", step("a"), step("a2"), step("a3"))
    rows, halves, missing = read_rows(tmp_path, KNOWN)
    assert [row.id for row in rows] == ["a", "e", "x", "a", "a2", "a3"]
    assert halves == [False, True, True, True, False, True]
    assert missing == []


def test_only_rows_that_a_fit_takes_are_fitted(step: Make) -> None:
    rows = [step("a"), step("b", software_stack="megatron"), step("c", notes="is wrong")]
    found = answered_steps(
        rows, [True, True, False], KNOWN, [Answer(2.0, 1.0), Answer(None, None, "why"), Answer(1.0, 1.0)]
    )
    assert [each.fitted for each in found] == [True, False, False]
    assert [each.flags for each in found] == [(), (), ("wrong",)]
    assert [each.predicted for each in found] == [2.0, None, 1.0]
    assert found[0].error == 1.0
    assert found[1].reason == "why"


@given(TIMES)
def test_figures_are_those_of_the_errors(step: Make, times: list[tuple[float, float]]) -> None:
    found = figures([made(step(), *each) for each in times])
    errors = np.array([guess / seconds - 1.0 for guess, seconds in times])
    assert found["asked"] == found["evaluated"] == len(times)
    assert found["max_abs_error"] == pytest.approx(np.max(np.abs(errors)))
    assert found["median_abs_error"] <= found["p90_abs_error"] + 1e-12 <= found["max_abs_error"] + 1e-9
    # All of one source and chip: macro and plain are the same.
    assert found["macro_median_abs_error"] == pytest.approx(found["median_abs_error"])
    assert np.min(errors) - 1e-9 <= found["bias"] <= np.max(errors) + 1e-9


def test_no_table_counts_more_for_being_long(step: Make) -> None:
    steps = [made(step(), 1.1, 1.0)] * 9 + [made(step(source="log: 1"), 1.5, 1.0)]
    found = figures(steps)
    assert found["median_abs_error"] == pytest.approx(0.1)
    assert found["macro_median_abs_error"] == pytest.approx(0.3)
    assert figures([])["macro_median_abs_error"] is None
    assert figures([made(step(), None, 1.0)])["max_abs_error"] is None


def test_a_negative_bias_is_too_fast(step: Make) -> None:
    assert figures([made(step(), 0.9, 1.0)])["bias"] == pytest.approx(-0.1)


def test_tables_leave_out_what_is_wrong_and_what_was_fitted(step: Make) -> None:
    row = step(seq_len=4096)
    steps = [
        made(step("a"), 1.0, 1.0, fitted=True),
        made(row, 1.2, 1.0),
        made(step("w"), 3.0, 1.0, flags=("wrong",)),
        made(step("n"), None, 1.0),
    ]
    found = tables(steps, KNOWN)
    assert (found["asked"], found["evaluated"]) == (4, 3)
    assert (found["sound"]["asked"], found["sound"]["max_abs_error"]) == (3, pytest.approx(0.2))
    assert (found["held_out"]["asked"], found["held_out"]["evaluated"]) == (2, 1)
    assert found["flags"][0]["max_abs_error"] == pytest.approx(2.0)
    assert found["sets"]["long"]["evaluated"] == 1
    stack = found["stacks"]["megatron-2022"]
    assert stack["constants"] == ["megatron-2022: host_kernel", "megatron-2022: host_step"]
    assert (stack["fitted"]["evaluated"], stack["held_out"]["evaluated"]) == (1, 2)


def test_groups_are_by_number_of_rows_and_a_row_may_be_in_several(step: Make) -> None:
    steps = [made(step(), 1.0, 1.0), made(step(workload="x"), 1.0, 1.0)]
    found = by(steps, lambda row: ["all", row.values["workload"]])
    assert list(found) == ["all", "megatron-22b", "x"]
    assert [each["evaluated"] for each in found.values()] == [2, 1, 1]
    assert list(by(steps, lambda _: [""])) == ["(blank)"]
    assert by(steps, lambda _: []) == {}


def test_the_choice_of_a_layout_is_judged_without_wrong_rows_and_in_named_sources_alone(step: Make) -> None:
    steps = [
        made(step("a", tp=1), 2.0, 10.0),
        made(step("b", tp=2), 1.0, 12.0),
        made(step("w", tp=4), 0.1, 90.0, flags=("wrong",)),
        made(step("n", tp=8), None, 1.0),
        made(step("o", tp=1, source="log: 1"), 1.0, 1.0),
        made(step("p", tp=2, source="log: 1"), 2.0, 2.0),
    ]
    (found,) = layout_choice(steps, ["lab"])
    assert (found["source"], found["layouts"], found["tau"]) == ("lab", 2, -1.0)
    assert found["regret"] == pytest.approx(0.2)
    assert found["spread"] == pytest.approx(0.2)
    assert len(layout_choice(steps, ["lab", "log"])) == 2
    assert layout_choice(steps, []) == []


def test_chips_left_out_have_both_errors(step: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[Case]] = []

    def answer(rows: Sequence[Case], fits: Sequence[Fit]) -> list[Answer]:
        assert fits == known().fits
        asked.append(rows)
        return [Answer(2.0, 1.0) for _ in rows]

    monkeypatch.setattr(module, "left_out", answer)
    tpu = {"accelerator": "tpu-v6e", "system": "tpu-v6e-pod", "software_stack": "maxtext"}
    slow = {"accelerator": "trainium1", "system": "trn1.32xlarge", "software_stack": "neuronx"}
    steps = [
        made(step("a"), 1.1, 1.0),
        made(step("usual", system=""), 1.1, 1.0),
        made(step("t", **tpu), 1.3, 1.0),
        made(step("s", **slow), 1.2, 1.0),
        made(step("none", system="nowhere"), None, 1.0),
    ]
    together, *found = chips_left_out(steps, known())
    assert [[row.id for row in rows] for rows in asked] == [["a", "usual", "s"]]
    rows: dict[str, Any] = {row["accelerator"]: row for row in found}
    assert list(rows) == ["a100-80gb-sxm", "tpu-v6e", "trainium1"]
    assert rows["tpu-v6e"]["replaced"] == []
    assert rows["tpu-v6e"]["median_abs_error"] == pytest.approx(0.3)
    assert "kernels" in rows["a100-80gb-sxm"]["replaced"]
    assert rows["a100-80gb-sxm"]["median_abs_error"] == pytest.approx(1.0)
    assert rows["a100-80gb-sxm"]["as_it_stands"]["median_abs_error"] == pytest.approx(0.1)
    # Trainium stands apart, chips without fitted constants are in neither.
    assert together["evaluated"] == 2
    assert together["as_it_stands"]["evaluated"] == 2


def test_chips_left_out_for_good(folder: Path) -> None:
    found = training_accuracy(folder, leave_out=True)["left_out"]
    assert [row["accelerator"] for row in found] == ["all fitted chips but trainium1", "a100-80gb-sxm"]
    assert found[1]["evaluated"] == 5
    assert found[1]["median_abs_error"] != found[1]["as_it_stands"]["median_abs_error"]


@pytest.mark.parametrize("option", [{"kind": "training"}, {"group": "source"}, {"every": True}])
def test_options_that_the_suite_has_no_use_for_are_refused(folder: Path, option: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="does not go with --suite training-accuracy"):
        validate(suite="training-accuracy", cases=folder, **option)
