"""Fits of serving stacks: constants that made the rows are found again, on the fitted half, each by its own rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.mapping.serving import load_serving, lower_serving
from cosim.validation.cases import Case
from cosim.validation.inference import answers
from cosim.validation.inference_fit import (
    START,
    figures,
    fit_inference,
    loss_of,
    present_values,
    runs_of,
    searched,
    with_constants,
)
from cosim.validation.inference_known import DraftHeads, Known, RowFile
from cosim.validation.training_known import Fit

Make = Callable[..., Case]
Write = Callable[..., Path]
STACK = load_serving("vllm")
PATHS = ("host_step", "request_start", "rates.matmul")
FIT = Fit(name="vllm", stacks=("vllm",), constants=("host_step", START))
KNOWN = Known(
    tasks={},
    clients=(),
    files=(RowFile(file="inference.csv", fitted=True), RowFile(file="other.csv")),
    draft_heads=(DraftHeads(workloads=("mixtral-8x7b",), reason="made up"),),
    fits=(FIT,),
)


def rows_of(served: Make, count: int = 60) -> list[Case]:
    """Times per token and to the first token of as many runs, each measured as it is predicted."""
    plain = [
        served(
            f"{quantity}{at}",
            point_id=f"run {at}",
            batch=1 + 3 * (at % 7),
            input_len=200 + 40 * at,
            measured_quantity=quantity,
        )
        for at in range(count // 2)
        for quantity in ("tpot_s", "ttft_s")
    ]
    return [
        Case(row.id, row.line, {**row.values, "measured_value": f"{found.predicted!r}"})
        for row, found in zip(plain, answers(plain), strict=True)
    ]


@settings(max_examples=20, deadline=None)
@given(values=st.dictionaries(st.sampled_from(PATHS), st.floats(1e-6, 10.0)))
def test_constants_are_put_where_they_belong(values: dict[str, float]) -> None:
    changed, plain = lower_serving(with_constants(STACK, values)), lower_serving(STACK)
    names = {"host_step": "host_step", START: "request_start", "rates.matmul": "matmul_rate"}
    for path, name in names.items():
        wanted = values.get(path, float(getattr(plain, name)))
        assert float(getattr(changed, name)) == pytest.approx(wanted, rel=1e-12)
    # A stack that says nothing of routed experts has them as other products.
    assert float(changed.routed_rate) == float(changed.matmul_rate)
    others = {"sum_start", "attention_rate", "vector_rate", "token_budget", "policy"}
    assert all(getattr(changed, name) == getattr(plain, name) for name in others)


def test_present_values_are_in_si_units() -> None:
    found = present_values(FIT, STACK)
    assert found == {"host_step": pytest.approx(8e-4), START: pytest.approx(0.035)}
    with pytest.raises(SpecError, match=r"vllm: rates\.exchange: is not stated") as refused:
        present_values(Fit(name="vllm", stacks=("vllm",), constants=("rates.exchange",)), STACK)
    assert "a fit starts from the present value" in str(refused.value)


def test_present_values_predict_as_the_kind_does(served: Make) -> None:
    rows = rows_of(served, 10)
    runs = runs_of([*rows, served("none", workload="no such model")], STACK)
    assert runs.measured.shape == (10,)
    assert np.abs(runs.logs({})).max() < 1e-9
    assert np.abs(runs.logs(present_values(FIT, STACK))).max() < 1e-9
    assert runs.first.tolist() == [False, True] * 5
    assert set(runs.groups.tolist()) == {0}


def test_a_tuned_run_has_the_layout_of_the_highest_rate(served: Make) -> None:
    rows = [served(tp="", pp="", dp="", num_accelerators=4, batch=64), served("b", batch=2)]
    runs = runs_of(rows, STACK)
    predicted = [each.predicted or math.nan for each in answers(rows)]
    assert np.exp(runs.logs({})) * runs.measured == pytest.approx(predicted)


def test_a_row_counts_for_the_constant_that_it_is_for(served: Make) -> None:
    rows = rows_of(served, 10)
    loss = loss_of(runs_of(rows, STACK))
    assert loss(START, {}) == pytest.approx(0.0, abs=1e-9)
    assert loss("host_step", {START: 0.5}) < 0.05
    assert loss(START, {START: 0.5}) == pytest.approx(1.0)  # clipped
    tpot = loss_of(runs_of(rows[::2], STACK))
    assert math.isnan(tpot(START, {}))
    assert tpot("host_step", {}) == pytest.approx(0.0, abs=1e-9)


def test_the_loss_is_the_mean_of_plain_and_macro_by_hand(served: Make) -> None:
    base = rows_of(served, 8)[::2]
    logs, sources = (0.1, 0.2, 0.3, -3.0), ("a", "a", "a", "b")
    rows = [
        Case(
            row.id,
            1,
            {
                **row.values,
                "source_key": source,
                "measured_value": repr(float(row.values["measured_value"]) * math.exp(-log)),
            },
        )
        for row, log, source in zip(base, logs, sources, strict=True)
    ]
    plain, macro = (0.1 + 0.2 + 0.3 + 1.0) / 4.0, (0.2 + 1.0) / 2.0
    assert loss_of(runs_of(rows, STACK))("host_step", {}) == pytest.approx((plain + macro) / 2.0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 5.0), st.floats(0.2, 5.0))
def test_the_search_finds_a_least_loss_from_near(first: float, second: float) -> None:
    def loss(path: str, values: Mapping[str, float]) -> float:
        return abs(math.log(values[path] / {"a": first, "b": second}[path]))

    found = searched({"a": 1.0, "b": 1.0, "zero": 0.0}, loss)
    assert found["a"] == pytest.approx(first, rel=0.06)
    assert found["b"] == pytest.approx(second, rel=0.06)
    assert found["zero"] == 0.0


def test_a_constant_without_rows_stays() -> None:
    assert searched({"a": 2.0}, lambda _path, _values: math.nan) == {"a": 2.0}
    assert searched({"a": 2.0}, lambda _path, _values: 0.5) == {"a": 2.0}


def test_constants_that_made_the_rows_are_found_again(tmp_path: Path, served: Make, write_served: Write) -> None:
    rows = rows_of(served)
    other = {"host_step": 0.004, START: 0.1}
    runs = runs_of(rows, STACK)
    values = np.exp(runs.logs(other)) * runs.measured
    made = [
        Case(row.id, 1, {**row.values, "measured_value": f"{value!r}".removeprefix("np.float64(").removesuffix(")")})
        for row, value in zip(rows, values, strict=True)
    ]
    drafting = served("m", workload="mixtral-8x7b", spec_decode="not stated", measured_value=100.0)
    write_served(tmp_path / "inference.csv", *made, drafting, served("x", software_stack="sglang"))
    write_served(tmp_path / "other.csv", served("o", measured_value=100.0))
    found = fit_inference(FIT, KNOWN, tmp_path)
    assert found.rows == len(rows)
    assert found.present == pytest.approx({"host_step": 8e-4, START: 0.035})
    assert found.values == pytest.approx(other, rel=0.06)
    before, after = found.errors["present"], found.errors["found"]
    assert list(before) == [
        f"{half} half, {part}" for half in ("fitted", "held-out") for part in ("all else", "first tokens")
    ]
    for name, row in after.items():
        assert row["evaluated"] == before[name]["evaluated"] > 5
        assert row["median_abs_error"] < 0.05 < before[name]["median_abs_error"]


def test_the_held_out_half_does_not_move_a_fit(tmp_path: Path, served: Make, write_served: Write) -> None:
    from cosim.validation.inference_known import in_fitted_half

    rows = rows_of(served)
    wrong = [row if in_fitted_half(row) else Case(row.id, 1, {**row.values, "measured_value": "7"}) for row in rows]
    write_served(tmp_path / "inference.csv", *rows)
    right = fit_inference(FIT, KNOWN, tmp_path)
    write_served(tmp_path / "inference.csv", *wrong)
    again = fit_inference(FIT, KNOWN, tmp_path)
    assert dict(again.values) == dict(right.values)
    held = again.errors["found"]["held-out half, all else"]["median_abs_error"]
    assert held > 0.9 > right.errors["found"]["held-out half, all else"]["median_abs_error"]


def test_too_few_rows_are_refused(tmp_path: Path, served: Make, write_served: Write) -> None:
    write_served(tmp_path / "inference.csv", *rows_of(served, 48))
    with pytest.raises(SpecError, match="vllm: has 48 rows: of fewer than 50 nothing is fitted"):
        fit_inference(FIT, KNOWN, tmp_path)
    write_served(tmp_path / "inference.csv", *rows_of(served, 50))
    many = Fit(name="vllm", stacks=("vllm",), constants=(*PATHS, "sum_start"))
    with pytest.raises(SpecError, match="has 50 rows for 4 constants") as refused:
        fit_inference(many, KNOWN, tmp_path)
    assert "one constant for each 20 rows" in str(refused.value)


def test_figures_of_rows_without_a_prediction_are_of_the_others(served: Make) -> None:
    found = figures(runs_of(rows_of(served, 4), STACK), {"rates.matmul": math.nan})
    assert found["all else"]["evaluated"] == 0
    assert figures(runs_of([], STACK), {})["first tokens"]["evaluated"] == 0
