"""`cosim calibrate` on the command line: what it prints and writes, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosim.hardware.load import load_chip
from cosim.hardware.lower import lower_chip
from cosim.records import array
from cosim.validation.kernels import matmul_kernel

Call = Callable[..., tuple[int, str, str]]
CHIP = "tpu-v5p"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of a TPU whose kernels are worse than the library says."""
    known = lower_chip(load_chip(CHIP), {"quality.matmul": array(0.5), "launch.latency": array(3e-6)})
    random = np.random.default_rng(1)
    m, n, k = np.rint(np.exp(random.uniform(np.log(16.0), np.log(16384.0), (3, 80))))
    times = matmul_kernel({"m": m, "n": n, "k": k, "batch": np.ones(80)}, known, "bf16", warm=True).time
    lines = [f"{CHIP},bf16,{m[i]:.0f},{n[i]:.0f},{k[i]:.0f},{float(times[i])!r}" for i in range(80)]
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("\n".join(["accelerator,dtype,m,n,k,measured_s", *lines]) + "\n", encoding="utf-8")
    return path


def test_a_fit_is_printed_and_written_and_the_chip_can_be_used(call: Call, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.yaml"
    code, text, _ = call("calibrate", CHIP, "--kind", "matmul", "--cases", rows, "--out", out)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == f"{CHIP}: 80 rows of matmul"
    assert [line.split()[:2] for line in lines[2:4]] == [["fitted", "40"], ["held", "out"]]
    assert "quality.matmul" in text
    assert lines[-1] == f"written: {out}"
    code, shown, _ = call("show", out)
    assert code == 0
    assert "measured" in next(line for line in shown.splitlines() if "quality.matmul " in line)
    code, again, _ = call("validate", "--kind", "matmul", "--cases", rows)
    assert (code, "80 of 80" in again) == (0, True)


def test_without_out_the_file_is_shown(call: Call, rows: Path) -> None:
    code, text, _ = call("calibrate", CHIP, "--kind", "matmul", "--cases", rows)
    assert code == 0
    assert f'base: "{CHIP}"' in text


def test_json_has_values_and_both_halves(call: Call, rows: Path) -> None:
    code, text, _ = call("calibrate", CHIP, "--kind", "matmul", "--cases", rows, "--json", "-")
    found = json.loads(text)
    assert code == 0
    assert found["values"]["quality.matmul"] == pytest.approx(0.5, rel=0.1)
    assert {found["fitted"]["rows"], found["held_out"]["rows"]} == {40}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-chip", "--kind", "matmul"), "no accelerator has this name"),
        ((CHIP, "--kind", "training"), "cannot be calibrated"),
        (("h200-sxm", "--kind", "matmul"), "kept out of every fit"),
        (("mi300x", "--kind", "matmul"), "has no rows of this accelerator"),
        ((CHIP, "--kind", "attention"), "lacks a column"),
        ((CHIP, "--kind", "matmul", "--out", "chip.txt"), "is no description"),
    ],
)
def test_bad_input_is_one_message(
    call: Call, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("calibrate", *arguments, "--cases", rows)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bad_row_is_named_by_its_line(call: Call, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(rows.read_text(encoding="utf-8") + f"{CHIP},bf16,0,1,1,1e-6\n", encoding="utf-8")
    code, _, err = call("calibrate", CHIP, "--kind", "matmul", "--cases", path)
    assert code == 2
    assert "82" in err
