"""`cosim measure`: files, table and JSON on a device with its own clock, and every way in which it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
QUICK = ("--accelerator", "h100-sxm", "--grid", "quick")
COPIES = (*QUICK, "--kind", "copy")
TORCH = importlib.util.find_spec("torch") is not None


def test_tables_are_written_and_told_of(call: Call, tmp_path: Path, own_device: Any) -> None:
    out = tmp_path / "h100"
    code, shown, err = call("measure", out, *QUICK)
    assert code == 0
    lines = shown.splitlines()
    assert lines[0] == "h100-sxm: Fake 9000, torch 2.9"
    assert lines[1].split() == ["table", "rows", "now", "skipped", "spread"]
    counts = {Path(line.split()[0]).name: line.split()[1:] for line in lines[2:]}
    assert counts == {
        "matmul.csv": ["40", "40", "0", "1.000"],
        "attention.csv": ["9", "9", "0", "1.000"],
        "copy.csv": ["10", "10", "0", "1.000"],
        "launch.csv": ["3", "3", "0", "1.000"],
    }
    assert {path.name for path in out.iterdir()} == {*counts, "measure.json"}
    assert err.startswith("[0/40] mm-h100-sxm-bf16-1x1024x1024-warm\n")
    assert "[3/3] launch.csv" in err
    assert own_device.loops


def test_what_is_measured_is_validated(call: Call, tmp_path: Path, own_device: Any) -> None:
    assert call("measure", tmp_path / "out", *QUICK, "--kind", "matmul", "--kind", "attention")[0] == 0
    assert own_device.loops
    for kind, rows in (("matmul", 40), ("attention", 9)):
        code, out, _ = call("validate", "--kind", kind, "--cases", tmp_path / f"out/{kind}.csv")
        assert code == 0
        assert out.splitlines()[0] == f"{kind}: {rows} of {rows} cases answered"


def test_json_has_the_device_and_what_was_skipped(call: Call, tmp_path: Path, own_device: Any) -> None:
    own_device.without = {"nvfp4": "no such product"}
    formats = ("--dtype", "nvfp4", "--dtype", "bf16", "--dtype", "bf16")
    arguments = (*QUICK, "--kind", "matmul", "--cache", "warm", *formats)
    code, out, _ = call("measure", tmp_path / "out", *arguments, "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert found["device"]["driver"] == "550.1"
    assert found["kinds"]["matmul"]["rows"] == 20
    assert found["skipped"] == [{"kind": "matmul", "id": "matmul nvfp4", "reason": "no such product"}]
    assert "skipped 1 of matmul: no such product" in call("measure", tmp_path / "two", *arguments)[1]


def test_a_device_unlike_its_chip_is_told_of(call: Call, tmp_path: Path, own_device: Any) -> None:
    _, out, _ = call(
        "measure", tmp_path / "out", "--accelerator", "a100-80gb-sxm", "--grid", "quick", "--kind", "launch"
    )
    assert own_device.loops
    said = "the chip's description: cores: a100-80gb-sxm has 108, the device 132"
    assert f"differs from {said}" in out
    assert said in (tmp_path / "out/launch.csv").read_text(encoding="utf-8")


def test_a_run_that_was_stopped_is_taken_up(call: Call, tmp_path: Path, own_device: Any) -> None:
    def stop(loops: int) -> None:
        if loops == 7:
            raise KeyboardInterrupt

    own_device.before_loop = stop
    code, _, err = call("measure", tmp_path / "out", *COPIES)
    assert code != 0
    assert "Traceback" not in err
    refused = call("measure", tmp_path / "out", *COPIES)
    assert (refused[0], refused[1]) == (2, "")
    assert "out: exists; --resume takes up what was measured" in refused[2]
    own_device.before_loop = lambda _: None
    own_device.loops.clear()
    code, out, _ = call("measure", tmp_path / "out", *COPIES, "--resume")
    assert code == 0
    assert out.splitlines()[2].split()[1:4] == ["10", "7", "0"]
    assert len(own_device.loops) == 14
    other = call("measure", tmp_path / "out", *QUICK, "--kind", "launch", "--resume")
    assert (other[0], other[1]) == (2, "")
    assert "kind: differs from the measurements that are there (got ['launch'])" in other[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--accelerator", "h100-smx"), "no accelerator has this name (got 'h100-smx'); nearest: h100-sxm"),
        (("--accelerator", "none.yaml"), "none.yaml: no such file"),
        ((*QUICK, "--kind", "matmull"), "--kind: is not known (got 'matmull'); nearest: matmul"),
        ((*QUICK, "--dtype", "bf61"), "--dtype: is not known (got 'bf61'); nearest: bf16"),
        (("--accelerator", "h100-sxm", "--grid", "qick"), "--grid: is not known (got 'qick'); nearest: quick"),
        ((*QUICK, "--cache", "wram"), "--cache: is not known (got 'wram'); nearest: warm"),
    ],
)
def test_bad_input_is_one_message_before_anything_is_made(
    refused: Callable[[tuple[str, ...]], str], tmp_path: Path, own_device: Any, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(("measure", "out", *arguments))
    assert own_device.loops == []
    assert not (tmp_path / "out").exists()


def test_without_torch_the_extra_is_named(
    refused: Callable[[tuple[str, ...]], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "needs the extra: pip install 'cosim[gpu]'" in refused(("measure", "out", *QUICK))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not TORCH, reason="torch is not installed")
def test_torch_without_a_device_says_so(refused: Callable[[tuple[str, ...]], str], tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a device")
    assert f"torch {torch.__version__} finds no device" in refused(("measure", "out", *QUICK))
    assert not (tmp_path / "out").exists()
