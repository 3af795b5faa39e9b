"""Leave one generation out: a chip predicted by constants that never saw its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from cosim.hardware.load import load_chip
from cosim.hardware.lower import lower_chip
from cosim.records import Array, array
from cosim.validation import left_out as module
from cosim.validation.calibrate import Rows
from cosim.validation.kernels import matmul_kernel
from cosim.validation.knobs import CONSTANT, Knob
from cosim.validation.left_out import LeftOut, by_accelerator, figures, left_out

CHIPS = ("a100-80gb-sxm", "h100-sxm", "l40s")
SHARED = {f"{CONSTANT}step_cycles": 300.0, f"{CONSTANT}cache_feed": 0.6, "quality.matmul": 0.75}


def rows(name: str, values: Mapping[str, float], count: int = 24, dtype: str = "bf16") -> Rows:
    """Products as the chip with shared constants takes them."""
    chip = load_chip(name)
    arrays = {path: array(value) for path, value in values.items()}
    known = lower_chip(chip, {**arrays, "launch.latency": array(chip.launch.gap.si)})
    random = np.random.default_rng(7)
    m, n, k = np.rint(np.exp(random.uniform(np.log(16.0), np.log(8192.0), (3, count))))
    dims = {"m": m, "n": n, "k": k, "batch": np.ones(count)}
    return Rows(dims, matmul_kernel(dims, known, dtype, warm=True).time, dtype)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that knows the answer: what is tested is what goes in and comes out."""

    def searched(loss: object, knobs: Sequence[Knob], progress: object) -> Array:
        del loss, progress
        return array([np.log(SHARED.get(knob.path, knob.start)) for knob in knobs])

    monkeypatch.setattr(module, "searched", searched)


@pytest.fixture
def found(quick: None) -> dict[str, LeftOut]:
    del quick
    tables = {name: [rows(name, SHARED)] for name in CHIPS}
    return {each.accelerator: each for each in left_out(tables)}


def test_every_fitted_chip_is_left_out_once_and_never_fitted_on_itself(found: dict[str, LeftOut]) -> None:
    assert tuple(found) == CHIPS
    for name, each in found.items():
        assert set(each.fitted_on) == set(CHIPS) - {name}
        assert each.generation == load_chip(name).kernels


def test_start_up_of_a_lone_kernel_is_the_gap_and_never_fitted(found: dict[str, LeftOut]) -> None:
    for each in found.values():
        assert "launch.latency" not in each.values
        assert set(SHARED) <= set(each.values)
    # Constants that all chips share predict the one that was left out, but for those that were not given.
    assert float(np.median(np.abs(found["l40s"].ratios - 1.0))) < 0.1


@pytest.mark.usefixtures("quick")
def test_chips_without_a_fit_of_their_own_and_narrow_rows_do_not_count() -> None:
    tables = {name: [rows(name, {})] for name in CHIPS[:2]}
    tables["h200-sxm"] = [rows("h200-sxm", {})]
    tables["l40s"] = [rows("l40s", {}, dtype="fp8")]
    tables["no such chip"] = [rows("l40s", {})]
    assert [each.accelerator for each in left_out(tables)] == list(CHIPS[:2])


@pytest.mark.usefixtures("quick")
def test_one_generation_has_no_other() -> None:
    assert left_out({"h100-sxm": [rows("h100-sxm", {})]}) == []
    assert left_out({}) == []


@pytest.mark.usefixtures("quick")
def test_a_chips_own_table_changes_nothing_of_its_prediction() -> None:
    tables = {name: [rows(name, SHARED)] for name in CHIPS}
    slower = {**tables, "l40s": [rows("l40s", {**SHARED, "quality.matmul": 0.3})]}
    one, other = (next(e for e in left_out(t) if e.accelerator == "l40s") for t in (tables, slower))
    assert one.values == other.values
    np.testing.assert_allclose(
        one.ratios * tables["l40s"][0].measured, other.ratios * slower["l40s"][0].measured, rtol=1e-12
    )


def test_a_real_search_finds_what_two_chips_share() -> None:
    tables = {name: [rows(name, SHARED, count=60)] for name in CHIPS[1:]}
    knobs = [Knob(path, value * 1.5, value / 4.0, min(value * 4.0, 1.0e4)) for path, value in SHARED.items()]
    knobs[1] = Knob(knobs[1].path, 0.9, 0.2, 1.0)
    knobs[2] = Knob(knobs[2].path, 0.9, 0.2, 1.0)
    original = module._knobs
    try:
        module._knobs = lambda *_args, **_named: knobs
        (first, _) = left_out(tables)
    finally:
        module._knobs = original
    assert first.values["quality.matmul"] == pytest.approx(0.75, rel=0.05)


def test_figures_are_those_of_every_validation() -> None:
    one = LeftOut("h100-sxm", "nvidia-hopper", ("l40s",), {"quality.matmul": 0.7}, array([1.1, 0.9, 1.3]))
    (row,) = figures([one])
    assert (row["accelerator"], row["generation"], row["fitted_on"]) == ("h100-sxm", "nvidia-hopper", ["l40s"])
    assert row["values"] == {"quality.matmul": 0.7}
    assert (row["evaluated"], row["median_abs_error"]) == (3, pytest.approx(0.1))
    assert row["bias"] == pytest.approx(0.1)


def test_cases_become_tables_by_accelerator() -> None:
    from cosim.validation.cases import Case

    def case(place: int, accelerator: str, dtype: str) -> Case:
        values = {"accelerator": accelerator, "dtype": dtype, "m": "8", "n": "8", "k": "8", "measured_s": "1e-6"}
        return Case(f"r{place}", place, values)

    cases = [case(2, "h100-sxm", "bf16"), case(3, "l40s", "bf16"), case(4, "h100-sxm", "fp8")]
    tables = by_accelerator("matmul", cases)
    assert {name: [rows.dtype for rows in groups] for name, groups in tables.items()} == {
        "h100-sxm": ["bf16", "fp8"],
        "l40s": ["bf16"],
    }
