"""Fits of training constants: made-up rows of known constants give them back; what is refused; halves kept apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.validation import training_fit as module
from cosim.validation.cases import Case
from cosim.validation.training_fit import changed, check_rows, fit_training, present_values, steps_of
from cosim.validation.training_known import Fit, Known, MeasuredFile

STACK = Fit(name="megatron-2022", stacks=("megatron-2022",), constants=("host_step",))
CHIP = Fit(name="h100-sxm", stacks=("megatron",), chips=("h100-sxm",), constants=("power.real_data",))
FILES = (MeasuredFile(file="training.csv", half="odd"), MeasuredFile(file="more.csv", half="groups"))
KNOWN = Known(files=FILES, fits=(STACK,), flags=(), sets=(), sweeps=())


Step = Callable[..., Case]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def rows(step: Step) -> list[Case]:
    """60 steps measured as the model has them with a host step of 0.4 s, or of 4 s where the fit may not look."""
    plain = [
        step(f"r{at}", tp=2, seq_len=1024, global_batch=8 * (1 + at % 5), micro_batch=1 + at % 2) for at in range(60)
    ]
    exact = steps_of("f", plain, [True] * 60)
    known, other = (exact.predicted({"host_step": seconds}) for seconds in (0.4, 4.0))
    values = np.where(np.arange(60) % 2 == 0, known, other)
    return [
        Case(row.id, row.line, {**row.values, "measured_value": repr(float(value))})
        for row, value in zip(plain, values, strict=True)
    ]


def test_constants_that_made_the_fitted_half_are_found_and_the_other_half_is_not_seen(
    rows: list[Case], write_steps: Write, tmp_path: Path
) -> None:
    write_steps(tmp_path / "training.csv", *rows)
    found = fit_training(STACK, KNOWN, tmp_path)
    assert found.rows == 60
    assert found.values["host_step"] == pytest.approx(0.4, rel=0.02)
    assert found.present == present_values(STACK)
    sides = found.errors["training.csv"]
    assert list(found.errors) == ["training.csv"]
    assert sides["fitted values"]["fitted half"]["median_abs_error"] < 0.005
    assert sides["fitted values"]["held-out half"]["median_abs_error"] > 0.05
    assert sides["present"]["fitted half"]["median_abs_error"] > 0.01
    assert all(half["evaluated"] == 30 for side in sides.values() for half in side.values())


def test_too_few_rows_are_refused(rows: list[Case], write_steps: Write, tmp_path: Path) -> None:
    write_steps(tmp_path / "training.csv", *rows[:40])
    with pytest.raises(SpecError, match="40 rows"):
        fit_training(STACK, KNOWN, tmp_path)


@given(st.integers(0, 400), st.integers(1, 6), st.booleans())
def test_one_constant_needs_thirty_rows_and_a_stack_fifty(
    count: int, constants: int, of_chip: bool
) -> None:  # a property
    fit = Fit(name="f", stacks=("s",), chips=("c",) if of_chip else (), constants=("host_step",) * constants)
    if count >= 30 * constants and (of_chip or count >= 50):
        check_rows(fit, count)
    else:
        with pytest.raises(SpecError, match="rows"):
            check_rows(fit, count)


def test_steps_have_one_time_whatever_was_measured(step: Step) -> None:
    tokens = {"measured_quantity": "tokens_per_s_per_chip", "measured_value": 4 * 2048 / 8 / 1.1}
    samples = {"measured_quantity": "samples_per_s", "measured_value": 4 / 1.1}
    found = steps_of(
        "f", [step(), step(**tokens), step(**samples), step(workload="nothing")], [True, False, True, True]
    )
    np.testing.assert_allclose(found.measured, 1.1)
    assert found.fitted.tolist() == [True, False, True]
    assert np.ptp(found.predicted()) == pytest.approx(0.0, abs=1e-9)


def test_a_row_without_a_legal_plan_has_no_logarithm(step: Step) -> None:
    # More stages than the 48 layers of the model.
    deep = step(pp=64, tp=1, num_accelerators=64, micro_batch=1, global_batch=64)
    found = steps_of("f", [step(), deep], [True, True])
    assert np.isinf(found.predicted()).tolist() == [False, True]
    assert found.logs(None, found.fitted).shape == (1,)
    assert found.logs(None, ~found.fitted).shape == (0,)


@settings(max_examples=10)
@given(st.floats(1.0, 8.0))
def test_a_slower_host_never_makes_a_step_faster(step: Step, factor: float) -> None:
    found = steps_of("f", [step()], [True])
    present = present_values(with_constants("host_kernel", "host_step"))
    slower = {path: value * factor for path, value in present.items()}
    assert found.predicted(slower)[0] >= found.predicted(present)[0]
    np.testing.assert_allclose(found.predicted(present), found.predicted())


def with_constants(*paths: str) -> Fit:
    return STACK.model_copy(update={"constants": paths})


def test_constants_are_set_by_path_on_stack_and_chip(step: Step) -> None:
    (case, _), *_ = steps_of("f", [step()], [True]).tables
    found = changed(case, {"rates.vector": 0.5, "host_step": 2.0, "power.real_data": 3.0, "quality.collective": 0.25})
    assert found.software is not None
    assert (float(found.software.vector_rate), float(found.software.host_step)) == (0.5, 2.0)
    assert (float(found.system.chip.power.real_data), float(found.system.chip.quality.collective)) == (3.0, 0.25)
    assert changed(case, {}) is case
    with pytest.raises(SpecError, match="neither"):
        changed(case, {"power.no_such": 1.0})
    with pytest.raises(SpecError, match="neither"):
        changed(case, {"rates.no_such": 1.0})


def test_present_values_are_those_of_the_files() -> None:
    (value,) = present_values(CHIP).values()
    assert value == module.load_chip("h100-sxm").power.real_data.si  # type: ignore[union-attr]  # stated there
    with pytest.raises(SpecError, match="megatron-2022: shard_copy"):
        present_values(with_constants("shard_copy"))
