"""Chip files that a calibration writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.hardware.lower import lower_chip
from cosim.records import array
from cosim.validation.calibrate import Fit
from cosim.validation.calibration_file import calibrated, chip_file, meaning, never_fitted
from cosim.validation.kernels import matmul_kernel

HEAD = "id,accelerator,dtype,m,n,k,batch,measured_s,warm"
ROWS = 80
# A chip without tiles has three knobs alone: its fits take a second.
ARRAY_CHIP = "tpu-v5p"
TRUTH = {"quality.matmul": 0.55, "launch.latency": 4e-6, "quality.memory": 0.6}


def table(path: Path, accelerator: str = ARRAY_CHIP, rows: int = ROWS) -> Path:
    """Products as a chip with other constants would take them."""
    known = lower_chip(load_chip(ARRAY_CHIP), {name: array(value) for name, value in TRUTH.items()})
    random = np.random.default_rng(5)
    m, n, k = np.rint(np.exp(random.uniform(np.log(16.0), np.log(16384.0), (3, rows))))
    times = matmul_kernel({"m": m, "n": n, "k": k, "batch": np.ones(rows)}, known, "bf16", warm=True).time
    lines = [
        f"r{i},{accelerator},bf16,{m[i]:.0f},{n[i]:.0f},{k[i]:.0f},1,{float(times[i])!r},1" for i in range(len(times))
    ]
    path.write_text("\n".join(["# a comment", HEAD, *lines]) + "\n", encoding="utf-8")
    return path


def fit(**values: float) -> Fit:
    return Fit(values, (), 40, array([0.1, 0.2]), array([0.3]))


def test_what_is_written_is_a_chip_with_the_fitted_values(tmp_path: Path) -> None:
    out = tmp_path / "ours.yaml"
    found = calibrated(ARRAY_CHIP, "matmul", table(tmp_path / "t.csv"), out=out)
    chip, base = load_chip(str(out)), load_chip(ARRAY_CHIP)
    assert (chip.name, found["rows"], found["file"]) == ("ours", ROWS, str(out))
    assert found["held_out"]["median_abs_error"] < 0.05
    for path, value in TRUTH.items():
        part, name = path.split(".")
        datum = getattr(getattr(chip, part), name)
        assert datum.si == pytest.approx(value, rel=0.1)
        assert datum.kind == "measured"
        assert "t.csv" in datum.source
    assert chip.quality.collective == base.quality.collective
    assert out.read_text(encoding="utf-8") == found["text"]


def test_without_out_nothing_is_written(tmp_path: Path) -> None:
    found = calibrated(ARRAY_CHIP, "matmul", table(tmp_path / "t.csv"))
    assert found["file"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert f'base: "{ARRAY_CHIP}"' in found["text"]


def test_a_file_of_ones_own_is_calibrated_on_the_rows_of_another_name(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: {ARRAY_CHIP}\nname: mine\n", encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "fitted.yaml"
    calibrated(str(mine), "matmul", table(tmp_path / "t.csv", "h200-sxm"), out=out, rows_of="h200-sxm")
    assert 'base: "../mine.yaml"' in out.read_text(encoding="utf-8")
    assert load_chip(str(out)).quality.matmul.si == pytest.approx(0.55, rel=0.1)


def test_constants_of_tiles_are_the_chips_own_and_say_where_they_come_from(tmp_path: Path) -> None:
    values = {"calibration.constants.step_cycles": 200.0, "quality.attention": 0.5, "launch.latency": 2e-6}
    text = chip_file(load_chip("h100-sxm"), "h100-sxm", "ours", fit(**values), "a table")
    path = tmp_path / "ours.yaml"
    path.write_text(text, encoding="utf-8")
    chip = load_chip(str(path))
    assert chip.calibration is not None
    # The H100 was fitted before: what its library says of that stays.
    assert chip.calibration.data.endswith("; a table")
    assert (chip.calibration.fitted_on, chip.calibration.library) == (("ours",), "nvidia-hopper")
    assert str(chip.calibration.held_out).endswith("; even rows: median 30.0%, 90th percentile 30.0%")
    own, lent = chip.calibration.constants["step_cycles"], chip.calibration.constants["cache_feed"]
    assert (own.si, own.kind, own.source) == (200.0, "measured", "a table")
    assert lent.kind == "estimated"
    assert (chip.launch.latency.si, chip.quality.attention.si) == (2e-6, 0.5)


@pytest.mark.parametrize("name", sorted(never_fitted()))
def test_the_held_out_chips_of_the_library_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="kept out of every fit"):
        calibrated(name, "matmul", tmp_path / "not read")
    with pytest.raises(SpecError, match="kept out of every fit"):
        calibrated("h100-sxm", "matmul", tmp_path / "not read", rows_of=name)


def test_the_held_out_chips_are_chips_of_the_library_that_nothing_was_fitted_on() -> None:
    for name, why in never_fitted().items():
        chip = load_chip(name)
        assert name in library.names("accelerators")
        assert why
        assert chip.calibration is None or name not in chip.calibration.fitted_on


@pytest.mark.parametrize(
    ("kind", "out", "rows_of", "message"),
    [
        ("training", None, None, "cannot be calibrated"),
        ("matmul", "there.yaml", None, "exists"),
        ("matmul", "new.txt", None, "is no description"),
        ("matmul", None, "mi300x", "has no rows of this accelerator"),
        ("matmul", "no folder/new.yaml", None, "cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, kind: str, out: str | None, rows_of: str | None, message: str
) -> None:
    (tmp_path / "there.yaml").write_text("mine", encoding="utf-8")
    path = table(tmp_path / "t.csv")
    with pytest.raises(SpecError, match=message):
        calibrated(ARRAY_CHIP, kind, path, out=None if out is None else tmp_path / out, rows_of=rows_of)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["t.csv", "there.yaml"]
    assert (tmp_path / "there.yaml").read_text(encoding="utf-8") == "mine"


def test_too_few_rows_carry_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="different rows to fit carry"):
        calibrated(ARRAY_CHIP, "matmul", table(tmp_path / "t.csv", rows=20), out=tmp_path / "o.yaml")
    assert not (tmp_path / "o.yaml").exists()


def test_constants_have_their_meaning_and_qualities_say_it_themselves() -> None:
    assert "K loop" in meaning("calibration.constants.step_cycles")
    assert meaning("quality.matmul") == ""
