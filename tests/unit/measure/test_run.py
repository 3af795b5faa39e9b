"""A grid on a device: every point once through kills and refusals, and files that validation reads."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosim
from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.hardware.lower import lower_chip
from cosim.measure.grid import KINDS, points
from cosim.measure.points import Copy, Matmul, id_of
from cosim.measure.run import Request, differences, measure
from cosim.measure.timing import Facts, UnableError
from cosim.validation.run import validate

TESTS = Path(__file__).parents[2]
QUICK = Request("h100-sxm", grid="quick")
COPIES = Request("h100-sxm", kinds=("copy",), grid="quick")


def go(request: Request, out: Path, device: Any, *, resume: bool = False) -> dict[str, Any]:
    return measure(request, out, lambda: device, resume=resume, today="2026-01-31", progress=lambda *_: None)


def table(path: Path) -> list[dict[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


class Killed:
    """Ends a run when a device has made so many loops."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, loops: int) -> None:
        if loops >= self.after:
            raise KeyboardInterrupt


@settings(deadline=None, max_examples=12)
@given(cuts=st.lists(st.integers(0, 25), max_size=3))
def test_a_run_that_is_killed_and_taken_up_measures_nothing_twice_and_ends_as_one_that_was_not(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], fake_device: Any
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    whole = fake_device()
    go(COPIES, folder / "whole", whole)
    measured = []
    for cut in cuts:
        left = 2 * (len(whole.loops) // 2 - len(measured))  # a copy takes two loops, the second one measures
        device = fake_device(before_loop=Killed(cut))
        with pytest.raises(KeyboardInterrupt) if cut < left else contextlib.nullcontext():
            go(COPIES, folder / "cut", device, resume=True)
        measured += [loop[0] for loop in device.loops[1::2]]
    last = fake_device()
    go(COPIES, folder / "cut", last, resume=True)
    measured += [loop[0] for loop in last.loops[1::2]]
    assert measured == points("copy", "quick", ())
    assert (folder / "cut/copy.csv").read_bytes() == (folder / "whole/copy.csv").read_bytes()


def test_every_kind_is_written_with_its_head_and_its_columns(tmp_path: Path, fake_device: Any) -> None:
    device = fake_device()
    found = go(QUICK, tmp_path / "out", device)
    for kind in KINDS:
        text = (tmp_path / f"out/{kind}.csv").read_text(encoding="utf-8").splitlines()
        head = " ".join(line for line in text if line.startswith("#"))
        for said in ("Fake 9000", "torch 2.9", "driver 550.1", "1980 MHz", "700 W", "2026-01-31", "method", "warm"):
            assert said in head, (kind, said)
        rows = table(tmp_path / f"out/{kind}.csv")
        assert [row["id"] for row in rows] == [id_of(point, "h100-sxm") for point in points(kind, "quick", ("bf16",))]
        assert found["kinds"][kind]["rows"] == found["kinds"][kind]["measured"] == len(rows)
        assert {row["accelerator"] for row in rows} == {"h100-sxm"}
        assert {row["source"] for row in rows} == {"cosim measure on Fake 9000"}
    assert (found["skipped"], found["differs"]) == ([], [])
    assert json.dumps(found)


def test_a_row_is_the_devices_time(tmp_path: Path, fake_device: Any) -> None:
    device = fake_device(drift=lambda n: 1.25 if n < 3 else 1.0)  # the first of five rounds is slow
    go(Request("h100-sxm", kinds=("matmul",), grid="quick", states=("cold",)), tmp_path / "out", device)
    rows = table(tmp_path / "out/matmul.csv")
    (row,) = (row for row in rows if (row["m"], row["n"], row["k"]) == ("16", "1024", "8192"))
    point = Matmul("bf16", 16, 1024, 8192, warm=False)
    assert float(row["measured_s"]) == pytest.approx(device.seconds_of(point), rel=1e-5)
    assert (row["spread"], row["method"], row["warm"], row["batch"]) == ("1.25", "graph", "0", "1")
    # 2 us + 134.2 us + 17.1 us, a quarter more in the trial: 26 runs make 5 ms; three replays in each of five rounds
    assert row["repeats"] == str(26 * 15)


@pytest.mark.parametrize("kind", ["matmul", "attention"])
def test_validation_answers_every_row(tmp_path: Path, kind: str, fake_device: Any) -> None:
    go(Request("h100-sxm", kinds=(kind,), dtypes=("bf16", "fp16"), grid="quick"), tmp_path / "out", fake_device())
    found = validate(kind, tmp_path / f"out/{kind}.csv", group="warm")
    assert (found["skipped"], found["evaluated"]) == ([], found["cases"])
    assert set(found["groups"]) == ({"0", "1"} if kind == "matmul" else {"0"})


def test_formats_that_the_device_lacks_are_told_of_once(tmp_path: Path, fake_device: Any) -> None:
    request = Request("h100-sxm", kinds=("matmul", "attention"), dtypes=("fp8", "bf16"), grid="quick")
    for _ in range(2):
        found = go(request, tmp_path / "out", fake_device(without={"fp8": "no fp8 here"}), resume=True)
    assert found["skipped"] == [
        {"kind": kind, "id": f"{kind} fp8", "reason": "no fp8 here"} for kind in ("matmul", "attention")
    ]
    text = (tmp_path / "out/matmul.csv").read_text(encoding="utf-8")
    assert text.count("# skipped matmul fp8: no fp8 here\n") == 1
    assert {row["dtype"] for row in table(tmp_path / "out/matmul.csv")} == {"bf16"}
    assert found["kinds"]["matmul"]["measured"] == 0


def test_a_point_that_cannot_be_measured_is_noted_and_not_tried_again(tmp_path: Path, fake_device: Any) -> None:
    device = fake_device(refuses={Copy(2**20).tail: UnableError("out of memory\nby far")})
    found = go(COPIES, tmp_path / "out", device)
    name = id_of(Copy(2**20), "h100-sxm")
    assert found["skipped"] == [{"kind": "copy", "id": name, "reason": "out of memory by far"}]
    assert found["kinds"]["copy"]["rows"] == 9
    again = fake_device()
    assert go(COPIES, tmp_path / "out", again, resume=True)["skipped"] == found["skipped"]
    assert again.loops == []


def test_a_lost_device_ends_the_run_and_the_next_one_passes_the_point_by(tmp_path: Path, fake_device: Any) -> None:
    device = fake_device(refuses={Copy(2**20).tail: UnableError("illegal address", lost=True)})
    with pytest.raises(SpecError, match=r"answers no more: illegal address .*--resume"):
        go(COPIES, tmp_path / "out", device)
    found = go(COPIES, tmp_path / "out", fake_device(), resume=True)
    assert found["kinds"]["copy"]["rows"] == 9
    assert [skip["reason"] for skip in found["skipped"]] == ["illegal address"]


def test_where_nobody_knows_the_cache_only_warm_rows_are_measured(tmp_path: Path, fake_device: Any) -> None:
    request = Request("maia-200", kinds=("copy",), grid="quick")  # its description has no cache
    found = go(request, tmp_path / "out", fake_device(facts=Facts("Fake", "2.9")))
    assert {row["warm"] for row in table(tmp_path / "out/copy.csv")} == {"1"}
    assert {skip["reason"].split(",")[0] for skip in found["skipped"]} == {"the size of the last cache is unknown"}


def test_the_larger_cache_of_device_and_description_is_emptied(tmp_path: Path, fake_device: Any) -> None:
    # An MI300X tells of 4 MiB; the library knows of 256 MB beyond.
    device = fake_device(facts=Facts("Fake", "2.9", cache_bytes=4e6))
    go(Request("mi300x", kinds=("copy",), grid="quick", states=("cold",)), tmp_path / "out", device)
    assert {flush for *_, flush in device.loops} == {512e6}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": "standard"}, "grid: differs"),
        ({"dtypes": ("bf16", "fp8")}, "dtype: differs"),
        ({"kinds": ("copy", "launch")}, "kind: differs"),
        ({"states": ("warm",)}, "cache: differs"),
        ({"accelerator": "h200-sxm"}, "accelerator: differs"),
    ],
)
def test_other_settings_are_not_taken_up(tmp_path: Path, change: dict[str, Any], said: str, fake_device: Any) -> None:
    go(COPIES, tmp_path / "out", fake_device())
    before = (tmp_path / "out/copy.csv").read_bytes()
    other = Request(**{"accelerator": "h100-sxm", "kinds": ("copy",), "grid": "quick", **change})
    with pytest.raises(SpecError, match=said):
        go(other, tmp_path / "out", fake_device(), resume=True)
    with pytest.raises(SpecError, match="device: differs"):
        go(COPIES, tmp_path / "out", fake_device(facts=Facts("Other", "2.9")), resume=True)
    assert (tmp_path / "out/copy.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accelerator": "h100-sx"}, "nearest: h100-sxm"),
        ({"kinds": ("matmull",)}, "--kind: is not known .*nearest: matmul"),
        ({"dtypes": ("bf61",)}, "--dtype: is not known .*nearest: bf16"),
        ({"grid": "quik"}, "--grid: is not known .*nearest: quick"),
        ({"states": ("hot",)}, "--cache: is not known"),
    ],
)
def test_a_bad_name_is_told_before_the_device_is_asked(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    def asked() -> Any:
        raise AssertionError

    with pytest.raises(SpecError, match=said):
        measure(
            Request(**{"accelerator": "h100-sxm", **change}),
            tmp_path / "out",
            asked,
            resume=False,
            today="",
            progress=lambda *_: None,
        )
    assert not (tmp_path / "out").exists()


def test_a_chip_file_gives_its_name_to_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_device: Any
) -> None:
    folder = tmp_path / "accelerators"
    folder.mkdir()
    (folder / "my-gpu.yaml").write_text("base: h100-sxm\nname: my-gpu\ntitle: Mine\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    request = Request("accelerators/my-gpu.yaml", kinds=("matmul",), grid="quick")
    assert go(request, tmp_path / "out", fake_device())["accelerator"] == "my-gpu"
    assert validate("matmul", tmp_path / "out/matmul.csv")["skipped"] == []


def test_a_device_unlike_its_description_is_told_of() -> None:
    chip = lower_chip(load_chip("h100-sxm"))
    assert differences(chip, Facts("x", "2.9", memory_bytes=84.9e9, cores=132)) == []
    assert differences(chip, Facts("x", "2.9")) == []  # unknown is no difference
    assert differences(chip, Facts("x", "2.9", memory_bytes=141e9, cores=114)) == [
        "cores: h100-sxm has 132, the device 114",
        "memory: h100-sxm has 80 GB, the device 141 GB",
    ]


def test_progress_counts_what_is_left(tmp_path: Path, fake_device: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(COPIES, tmp_path / "out", fake_device(before_loop=Killed(6)))
    shown: list[tuple[int, int, str]] = []

    def show(done: int, total: int, what: str) -> None:
        shown.append((done, total, what))

    measure(COPIES, tmp_path / "out", fake_device, resume=True, today="2026-01-31", progress=show)
    assert [(done, total) for done, total, _ in shown] == [(done, 7) for done in range(8)]
    assert shown[0][2] == id_of(points("copy", "quick", ())[3], "h100-sxm")


CHILD = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("devices", sys.argv[1])
devices = importlib.util.module_from_spec(spec)
sys.modules["devices"] = devices
spec.loader.exec_module(devices)
from cosim.measure.run import Request, measure
def kill(loops):
    if loops == 9:
        os.kill(os.getpid(), signal.SIGKILL)
device = devices.FakeDevice(before_loop=kill)
measure(Request("h100-sxm", kinds=("copy",), grid="quick"), Path(sys.argv[2]), lambda: device,
        resume=False, today="2026-01-31", progress=lambda *_: None)
"""


def test_a_process_that_is_killed_loses_no_row(tmp_path: Path, fake_device: Any) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(cosim.__file__).parents[1])}
    arguments = [sys.executable, "-c", CHILD, str(TESTS / "conftest.py"), str(tmp_path / "out")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    rows = table(tmp_path / "out/copy.csv")
    assert len(rows) == 4  # two loops each; the fifth was at its second
    device = fake_device()
    go(COPIES, tmp_path / "out", device, resume=True)
    assert len(device.loops) == 2 * 6
    go(COPIES, tmp_path / "whole", fake_device())
    assert (tmp_path / "out/copy.csv").read_bytes() == (tmp_path / "whole/copy.csv").read_bytes()
