"""Figures of the suite silicon: the promised names, groups, regimes, spread and worst shapes; the real tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosim import validate
from cosim.errors import SpecError
from cosim.validation.silicon_files import PACKAGE
from cosim.validation.silicon_results import DISAGREE, validate_silicon
from cosim.validation.statistics import summary

Write = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
FIGURES = ("evaluated", "median_abs_error", "mean_abs_error", "p90_abs_error", "bias", "median_abs_log_error")


@pytest.fixture
def root(write_kernels: Write) -> Path:
    """Two chips, one fitted; products of two stacks, attention of one, watts of one chip."""
    sizes = [(1, 32, 32), (64, 4096, 4096), (8192, 8192, 8192)]
    for system in ("h100_sxm", "b200_sxm"):
        rows = [{"m": m, "n": n, "k": k} for m, n, k in sizes]
        write_kernels(system, "a/1", "matmul", [{**row, "latency": 0.01} for row in rows])
        write_kernels(system, "b/1", "matmul", [{**row, "latency": 0.03} for row in rows[:2]])
        watts = 500.0 if system == "b200_sxm" else None
        write_kernels(system, "a/1", "decode", [{"power": watts}, {"kv_cache_dtype": "fp8", "power": watts}])
    write_kernels("abacus", "a/1", "matmul", [{}])
    return write_kernels("h100_sxm", "c/1", "matmul", [{"gemm_dtype": "sq"}])


@pytest.fixture
def found(root: Path) -> dict[str, Any]:
    return validate_silicon(root=root)


def test_the_answer_is_json_with_the_promised_names(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    promised = {"kind", "cases", "skipped", "groups", "rows", "macro_median_abs_error", *FIGURES}
    assert promised <= set(found)
    assert (found["kind"], found["cases"], found["evaluated"], found["shapes"]) == ("silicon", 10, 10, 10)
    assert [(skip["id"], skip["rows"]) for skip in found["skipped"]] == [("abacus matmul", 1), ("h100_sxm matmul", 1)]


def test_rows_have_the_names_of_cases(found: dict[str, Any]) -> None:
    ids = [row["id"] for row in found["rows"]]
    assert ids[0] == "mm-b200-sxm-bf16-1x32x32"
    assert "at-h100-sxm-decode-b4-q1-c1024-h32-8-d128-w0-bf16-fp8" in ids
    assert len(set(ids)) == len(ids) == found["evaluated"]
    for row in found["rows"]:
        assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1.0)


def test_groups_are_chip_and_formats_with_their_regimes_and_spread(found: dict[str, Any]) -> None:
    assert list(found["groups"]) == [
        "b200-sxm matmul bf16",
        "b200-sxm decode bf16/bf16",
        "b200-sxm decode bf16/fp8",
        "h100-sxm matmul bf16",
        "h100-sxm decode bf16/bf16",
        "h100-sxm decode bf16/fp8",
    ]
    group = found["groups"]["h100-sxm matmul bf16"]
    assert (group["fit"], group["kind"], group["phase"], group["dtype"]) == ("fitted", "matmul", "", "bf16")
    # Two of three shapes were measured by both stacks, one three times as slow.
    assert group["spread"] == pytest.approx(3.0)
    assert found["groups"]["h100-sxm decode bf16/bf16"]["spread"] is None
    assert {name: row["evaluated"] for name, row in group["regimes"].items()} == {
        "launch": 1,
        "memory": 1,
        "compute": 1,
    }
    mine = [row for row in found["rows"] if row["id"].startswith("mm-h100")]
    figures = summary([row["predicted"] for row in mine], [row["measured"] for row in mine])
    assert {name: group[name] for name in figures} == figures


def test_fitted_and_never_fitted_chips_are_apart(found: dict[str, Any]) -> None:
    assert set(found["fits"]) == {"fitted", "never fitted"}
    names = ["matmul bf16", "decode bf16/bf16", "decode bf16/fp8"]
    for fit, chip in (("fitted", "h100-sxm"), ("never fitted", "b200-sxm")):
        assert sorted(found["fits"][fit]) == sorted(names)
        assert found["fits"][fit]["matmul bf16"]["accelerators"] == [chip]
        group = found["groups"][f"{chip} matmul bf16"]
        assert found["fits"][fit]["matmul bf16"]["median_abs_error"] == group["median_abs_error"]


def test_worst_is_farthest_by_ratio_with_what_bounds_it_and_its_spread(found: dict[str, Any]) -> None:
    assert list(found["worst"]) == [
        "fitted, attention",
        "fitted, matmul",
        "never fitted, attention",
        "never fitted, matmul",
    ]
    worst = found["worst"]["fitted, matmul"]
    ratios = [abs(np.log(row["predicted"] / row["measured"])) for row in worst]
    assert ratios == sorted(ratios, reverse=True)
    # 1.1 PFLOP that somebody measured at 10 us.
    assert worst[0]["id"] == "mm-h100-sxm-bf16-8192x8192x8192"
    assert (worst[0]["regime"], worst[0]["bound"], worst[0]["stacks"]) == ("compute", worst[0]["bound"], 1)
    assert {row["bound"] for row in worst} <= {"launch", "compute", "memory", "operands", "latency"}
    small = next(row for row in worst if row["id"].endswith("1x32x32"))
    assert (small["bound"], small["spread"], small["stacks"]) == ("launch", pytest.approx(3.0), 2)


def test_the_macro_median_weighs_chips_and_formats_alike(found: dict[str, Any]) -> None:
    medians = [group["median_abs_error"] for group in found["groups"].values()]
    assert found["macro_median_abs_error"] == pytest.approx(np.mean(medians))


def test_any_column_groups_and_numbers_are_by_size(root: Path) -> None:
    assert list(validate_silicon("matmul", group="k", root=root)["groups"]) == ["32", "4096", "8192"]
    assert list(validate_silicon(group="regime", root=root)["groups"]) != []
    assert set(validate_silicon(group="fit", root=root)["groups"]) == {"fitted", "never fitted"}
    by_phase = validate_silicon(group="phase", root=root)["groups"]
    assert {name: row["evaluated"] for name, row in by_phase.items()} == {"": 6, "decode": 4}
    mixed = validate_silicon(group="dtype", root=root)["groups"]["bf16"]
    assert "accelerator" not in mixed
    with pytest.raises(SpecError, match=r"--group: is no column of the tables.*nearest: dtype"):
        validate_silicon(group="dtyp", root=root)


def test_watts_and_layers_are_there_for_the_chips_that_have_them(found: dict[str, Any]) -> None:
    assert {row["accelerator"] for row in found["power"]} == {"b200-sxm"}
    assert {row["accelerator"] for row in found["layers"]} == {"b200-sxm", "h100-sxm"}


def test_tables_of_no_known_chip_have_no_figures(write_kernels: Write) -> None:
    root = write_kernels("abacus", "a/1", "matmul", [{}])
    found = validate_silicon(root=root)
    assert (found["cases"], found["evaluated"], found["rows"], found["groups"]) == (0, 0, [], {})
    assert found["median_abs_error"] is None
    assert found["worst"] == {}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_suite_reads_the_installed_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = root.parents[1]
    assert package.name == PACKAGE
    (package / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(package.parent)
    assert validate(suite="silicon") == validate_silicon(root=root)
    assert validate(suite="silicon", kind="attention")["cases"] == 4


def test_what_is_of_silicon_alone_and_what_it_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--all: is of the suite silicon alone"):
        validate(suite="systolic", every=True)
    with pytest.raises(SpecError, match="--cases: does not go with --suite silicon"):
        validate(suite="silicon", cases=tmp_path)
    with pytest.raises(SpecError, match=r"--suite: unknown suite.*nearest: silicon"):
        validate(suite="silicone")


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the measured tables (cosim[silicon]) are not installed")
def test_the_real_tables_are_answered_by_chip_and_format() -> None:
    found = validate(suite="silicon", kind="matmul")
    assert found["evaluated"] == found["cases"] >= 10_000
    assert {"h100-sxm matmul bf16", "l40s matmul fp8", "b200-sxm matmul nvfp4"} <= set(found["groups"])
    assert {found["groups"][f"{chip} matmul bf16"]["fit"] for chip in ("h100-sxm", "h200-sxm")} == {
        "fitted",
        "never fitted",
    }
    assert any("fp8_block" in skip["reason"] for skip in found["skipped"])
    assert all(1.0 <= (row["spread"] or 1.0) < 3.0 for row in found["groups"].values())


def test_a_bad_shape_is_explained_by_its_stacks_its_group_or_its_bounds(found: dict[str, Any]) -> None:
    worst = found["worst"]
    assert any(row["why"] == "stacks differ 3.0 times" for rows in worst.values() for row in rows)
    for rows in worst.values():
        for row in rows:
            if row["stacks"] > 1 and row["spread"] > DISAGREE:
                assert row["why"] == f"stacks differ {row['spread']:.1f} times"
            elif "group of" not in row["why"]:
                assert row["why"].startswith(f"{row['regime']}-bound by its sizes, {row['bound']}-bound in the model")
                assert row["why"].endswith("one stack measured it") == (row["stacks"] == 1)
