"""`cosim diff`: two systems, two variants, two points of a run; what is printed, what is refused in one message."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.cli.screen import difference_text
from cosim.explore.difference import COMPONENTS, Difference
from cosim.explore.studies import run_experiment
from cosim.explore.sweep_findings import read_results

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[[tuple[str, ...]], str]
SYSTEMS = ("dgx-h100", "mi300x-8gpu")
LLAMA = ("--workload", "llama-3.1-8b")
BF16 = ("--set", "plan.dtype=bf16", "--set", "scenario.batch=16")
SWEEP = """\
kind: sweep
question: Which of a few designs?
system: asic-8
power: derived
axes:
  - {path: system.chip.memory.dram.stacks, values: [4, 6, 12]}
cases:
  - {workload: llama-3.1-8b, phase: decode, plan: {tensor_parallel: 8, dtype: fp8}, scenario: {batch: 64}}
  - {workload: mixtral-8x7b, phase: decode, plan: {tensor_parallel: 8, dtype: fp8}, scenario: {batch: 64}}
"""
RATES = ("tokens_per_s_per_chip", "tokens_per_s_per_user")
CRAFTED = Difference(
    labels=("old", "new"),
    asked=("scenario.batch=1", "scenario.batch=2"),
    headlines={"time_s": (0.002, 0.001), "area_mm2": (None, 800.0), "tdp_w": (700.0, None), "energy_j": (0.0, 1.0)},
    parts={"matmul": (0.001, 0.0009), "launch": (0.001, 0.0001), "vector": (0.0, 1e-6), "bubble": (0.0, 0.0)},
    operators={"qkv": (0.0, 0.0002), "old_one": (0.0004, 0.0)},
    factors={"dram": 1.25, "launch": 0.5, "quality": 1.0, "plan + matrix": 3.2},
    ratio=2.0,
)


def told(call: Call, *arguments: object) -> dict[str, Any]:
    """The JSON of a difference."""
    code, out, err = call("diff", *arguments, "--json", "-")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_results(folder).to_pylist()
    return rows


def section(text: str, title: str) -> list[list[str]]:
    """Cells of the table whose head starts with `title`, head left out."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    lines = next(block for block in blocks if block[0].startswith(title))
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:]]


@pytest.fixture
def no_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares most of the time where factors are not asked for."""
    monkeypatch.setattr("cosim.explore.difference.shares", lambda _a, _b: {})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a sweep of three designs in two cases; the last design has more stacks than edge."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "few.yaml").write_text(SWEEP, encoding="utf-8")
    return run_experiment(
        str(folder / "few.yaml"),
        folder / "run",
        overrides={},
        progress=lambda _done, _of, _what: None,
        report=lambda out: out,
        jobs=1,
    )


def test_two_systems_are_compared_on_the_screen_and_in_a_file(call: Call, tmp_path: Path) -> None:
    code, out, err = call("diff", *SYSTEMS, *LLAMA, *BF16, "--json", tmp_path / "diff.json")
    found = json.loads((tmp_path / "diff.json").read_text(encoding="utf-8"))
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"from a to b: tokens/s per chip x {found['ratio']:.3g}"
    assert f"their product is x {found['ratio']:.3g}" in out.splitlines()[-1]
    assert [line for line in COMPONENTS.values() if line not in out] == []
    assert (found["a"], found["b"]) == SYSTEMS
    assert math.prod(found["factors"].values()) == pytest.approx(found["ratio"], rel=1e-9)
    one, two = found["headlines"]["time_s"]
    assert sum(b - a for a, b in found["breakdown_s"].values()) == pytest.approx(two - one, rel=1e-9)


@pytest.mark.usefixtures("no_mixtures")
def test_the_phase_is_as_asked_and_decode_where_nothing_is_said(call: Call) -> None:
    for phase, asked in (("prefill", ("--phase", "prefill")), ("decode", ())):
        _, out, _ = call("estimate", phase, "--system", "dgx-h100", *LLAMA, "--json", "-")
        time_s = json.loads(out)["time_s"]
        assert told(call, "dgx-h100", "dgx-h100", *LLAMA, *asked)["headlines"]["time_s"] == [time_s, time_s]


@pytest.mark.usefixtures("no_mixtures")
@pytest.mark.parametrize("phase", ["decode", "train"])
def test_what_was_asked_is_said_as_it_is_set(call: Call, phase: str) -> None:
    found = told(call, *SYSTEMS, *LLAMA, "--phase", phase)
    for system, asked, time_s in zip(SYSTEMS, found["asked"], found["headlines"]["time_s"], strict=True):
        sets = [word for setting in asked.split() for word in ("--set", setting)]
        _, out, _ = call("estimate", phase, "--system", system, *LLAMA, *sets, "--json", "-")
        row = json.loads(out)
        assert (row["plans_tried"], row["time_s"]) == (0, pytest.approx(time_s, rel=1e-9))


@pytest.mark.usefixtures("no_mixtures")
@pytest.mark.parametrize(("phase", "settings"), [("decode", BF16), ("train", ("--set", "scenario.global_batch=64"))])
def test_seconds_of_operators_are_count_times_time_of_the_list_of_operators(
    call: Call, phase: str, settings: tuple[str, ...]
) -> None:
    found = told(call, *SYSTEMS, *LLAMA, *settings, "--phase", phase)["operators_s"]
    for side, system in enumerate(SYSTEMS):
        _, out, _ = call("estimate", phase, "--system", system, *LLAMA, *settings, "--ops", "--json", "-")
        wanted = dict.fromkeys(found, 0.0)
        for op in json.loads(out)["operators"]:
            wanted[op["name"]] += op["count"] * op["time_s"]
        assert {name: pair[side] for name, pair in found.items()} == pytest.approx(wanted, rel=1e-12)


def test_variants_of_a_system_are_compared(call: Call) -> None:
    common = ("--set", "plan.tensor_parallel=8", *BF16)
    more = "system.chip.memory.dram.bandwidth=6e12"
    found = told(call, "dgx-h100", "base", more, *LLAMA, *common)
    assert (found["a"], found["b"]) == ("base", more)
    assert found["factors"]["dram"] == pytest.approx(found["ratio"], rel=1e-9)
    assert found["ratio"] > 1.1
    back = told(call, "dgx-h100", more, "base", *LLAMA, *common)
    assert back["ratio"] == pytest.approx(1.0 / found["ratio"], rel=1e-9)


def test_a_variant_takes_several_changes_and_they_go_before_the_common_ones(call: Call) -> None:
    changes = "system.chip.launch.gap=10 us,scenario.batch=64"
    found = told(call, "dgx-h100", changes, "base", *LLAMA, "--set", "plan.tensor_parallel=8", *BF16)
    users = [8 * chip / user for chip, user in zip(*(found["headlines"][name] for name in RATES), strict=True)]
    assert users == pytest.approx([64, 16], rel=1e-9)
    assert found["factors"]["launch"] > 1.2
    assert found["factors"]["plan"] < 0.8
    rest = [factor for name, factor in found["factors"].items() if name not in ("launch", "plan")]
    assert rest == pytest.approx([1.0] * len(rest), rel=1e-9)


def test_base_against_base_is_no_difference(call: Call) -> None:
    found = told(call, "dgx-h100", "base", "base", *LLAMA)
    assert found["ratio"] == 1.0
    assert list(found["factors"].values()) == pytest.approx([1.0] * len(COMPONENTS), rel=1e-9)


@pytest.mark.usefixtures("no_mixtures")
def test_points_and_systems_of_a_comparison_are_compared(call: Call, small_run: Path, content: dict[str, Any]) -> None:
    entries = {entry["system"]: entry["row"] for entry in content["findings"][0]["entries"]}
    own = [
        row for row in rows_of(small_run) if row["feasible"] and row["quality"] == "own" and row["phase"] == "decode"
    ]
    found = told(call, small_run, *SYSTEMS)
    assert found["headlines"]["time_s"] == pytest.approx([entries[name]["time_s"] for name in SYSTEMS], rel=1e-9)
    ids = told(call, small_run, own[0]["point_id"], own[-1]["point_id"])
    assert (ids["a"], ids["b"]) == (str(own[0]["point_id"]), str(own[-1]["point_id"]))
    assert ids["headlines"]["time_s"] == pytest.approx([own[0]["time_s"], own[-1]["time_s"]], rel=1e-9)


def test_designs_of_a_sweep_are_compared_with_the_best_of_a_workload(call: Call, swept: Path) -> None:
    rows = rows_of(swept)
    for start, workload in ((0, "llama-3.1-8b"), (3, "mixtral-8x7b")):
        found = told(call, swept, start, workload)
        assert (found["a"], found["b"]) == (str(start), workload)
        assert found["headlines"]["time_s"] == pytest.approx([rows[start + at]["time_s"] for at in (0, 1)], rel=1e-9)
        assert found["factors"]["dram"] == pytest.approx(found["ratio"], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (SYSTEMS, "--workload: is missing"),
        (("nowhere", "0", "1"), "--workload: is missing"),
        (("dgx-h10", "mi300x-8gpu", *LLAMA), "no system has this name (got 'dgx-h10'); nearest: dgx-h100"),
        (("dgx-h100", "mi300x", *LLAMA), "no system has this name (got 'mi300x'); nearest: mi300x-8gpu"),
        ((*SYSTEMS, "--workload", "llama-3"), "no workload has this name (got 'llama-3')"),
        ((*SYSTEMS, *LLAMA, "--phase", "decod"), "unknown phase (got 'decod'); nearest: decode"),
        ((*SYSTEMS, *LLAMA, "--set", "scenario.batch"), "is not path=value (got 'scenario.batch')"),
        ((*SYSTEMS, *LLAMA, "--set", "scenario.bach=3"), "scenario.bach: unknown path"),
        ((*SYSTEMS, *LLAMA, "--set", "batch=3"), "batch: unknown path"),
        (("dgx-h100", "base", "scenario.batch", *LLAMA), "is not path=value (got 'scenario.batch')"),
        (("dgx-h100", "base", "scenario.batch=8,", *LLAMA), "is not path=value (got '')"),
        (("dgx-h100", "bas", "base", *LLAMA), "is not path=value (got 'bas')"),
        (("dgx-h100", "base", "=3", *LLAMA), "is not path=value (got '=3')"),
        (("dgx-h100", "base", "system.chip.cors=3", *LLAMA), "system.chip.cors: unknown path"),
        (("dgx-h100", "base", "scenario.batch=many", *LLAMA), "scenario.batch"),
        ((*SYSTEMS, *LLAMA, "--json", "nowhere/diff.json"), "nowhere/diff.json: --json: cannot be written"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_refused(refused: Refused, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(("diff", *arguments))


def test_what_does_not_fit_is_told_in_one_message(call: Call) -> None:
    code, out, err = call("diff", "gb200-nvl72", "dgx-h100", "--workload", "deepseek-v3")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("does not fit: memory")
    assert "dgx-h100: " in err


@pytest.mark.parametrize("sides", [("base", "scenario.context=4000000"), ("scenario.context=4000000", "base")])
def test_the_variant_that_does_not_fit_is_named(call: Call, sides: tuple[str, str]) -> None:
    code, out, err = call("diff", "dgx-h100", *sides, *LLAMA, "--set", "plan.tensor_parallel=1")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("does not fit: positions: scenario.context=4000000: ")
    assert "base" not in err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--phase", "decode"), ("--phase", "prefill"), ("--workload", "llama-3.1-8b"), ("--set", "scenario.batch=8")],
)
def test_a_run_has_its_own_phase_workload_and_settings(
    refused: Refused, small_run: Path, option: str, value: str
) -> None:
    said = refused(("diff", str(small_run), "dgx-h100", "mi300x-8gpu", option, value))
    assert f"{option}: belongs to systems" in said


def test_a_folder_without_a_run_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for beside in ((), LLAMA):
        said = refused(("diff", "empty", "0", "1", *beside))
        assert said.startswith("error: empty: is not a run folder (it has no run.json)")


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        ("compared", ("dgx-h100", "999999"), "is no point of the run (got '999999'); it has "),
        ("compared", ("dgx-h100", "dgx-h20"), "(got 'dgx-h20'); nearest: dgx-h100"),
        ("compared", ("dgx-h100", "asic-8"), "(got 'asic-8'); known: dgx-h100, mi300x-8gpu"),
        ("compared", ("dgx-h100", "base"), "(got 'base')"),
        ("compared", ("dgx-h100", ""), "(got '')"),
        ("swept", ("0", "6"), "is no point of the run (got '6'); it has 6 points, from 0"),
        ("swept", ("0", "2"), "is infeasible (got '2'); its limit: memory_edge"),
        ("swept", ("0", "3"), "needs one phase and workload (got 'decode of llama-3.1-8b and decode of mixtral-8x7b')"),
        ("swept", ("0", "mixtral"), "is no point of the sweep (got 'mixtral'); nearest: mixtral-8x7b"),
        ("swept", ("asic-8", "0"), "is no point of the sweep (got 'asic-8')"),
        ("swept", ("0", "²"), "(got '²')"),
        ("swept", ("0", "9" * 5000), "it has 6 points"),
    ],
    ids=[
        "no such id", "no such system", "system of another run", "no variants of a run", "no label",
        "no such design", "infeasible", "another workload", "no such workload", "a system of a sweep",
        "a digit that is no number", "a number of 5,000 digits",
    ],
)  # fmt: skip
def test_what_a_run_has_not_is_refused(
    refused: Refused, small_run: Path, swept: Path, kind: str, labels: tuple[str, str], said: str
) -> None:
    assert said in refused(("diff", str(small_run if kind == "compared" else swept), *labels))


def test_points_that_say_nothing_of_a_machine_are_refused(refused: Refused, small_run: Path) -> None:
    rows = rows_of(small_run)
    by_kind = {
        "is infeasible": next(row for row in rows if not row["feasible"] and row["quality"] == "own"),
        "was evaluated with other kernels": next(row for row in rows if row["feasible"] and row["quality"] == "equal"),
        "needs one phase and workload": next(
            row for row in rows if row["feasible"] and row["quality"] == "own" and row["phase"] == "prefill"
        ),
    }
    for said, row in by_kind.items():
        assert said in refused(("diff", str(small_run), "dgx-h100", str(row["point_id"])))


def test_a_folder_that_is_no_run_of_this_version_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for text, said in (('{"schema_version": 0}', "was written by another version"), ("{", "cannot be read as JSON")):
        (tmp_path / "old" / "run.json").write_text(text, encoding="utf-8")
        assert said in refused(("diff", "old", "0", "1"))


def test_the_text_has_headlines_with_their_ratio_and_names_what_is_unknown() -> None:
    text = difference_text(CRAFTED)
    assert text.splitlines()[:3] == [
        "from a to b: tokens/s per chip x 2",
        "  a  old: scenario.batch=1",
        "  b  new: scenario.batch=2",
    ]
    assert text.splitlines()[4].split() == ["a", "b", "b", "/", "a"]
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[5:9]}
    assert lines["time_s"] == ["0.002", "0.001", "x", "0.5"]
    assert lines["area_mm2"] == ["unknown", "800"]
    assert lines["tdp_w"] == ["700", "unknown"]
    assert lines["energy_j"] == ["0", "1"]


def test_the_text_has_what_moved_most_first_and_its_share_of_the_difference() -> None:
    text = difference_text(CRAFTED)
    assert section(text, "time of a step [ms]") == [
        ["launch", "1", "0.1", "-0.9", "90%"],
        ["matmul", "1", "0.9", "-0.1", "10%"],
        ["vector", "0", "0.001", "+0.001", "0%"],
    ]
    assert section(text, "operators, all layers [ms]") == [
        ["old_one", "0.4", "0", "-0.4", "200%"],
        ["qkv", "0", "0.2", "+0.2", "-100%"],
    ]


def test_the_text_says_components_in_words_strongest_first() -> None:
    lines = section(difference_text(CRAFTED), "what the machine's components bring")
    assert lines[:-1] == [
        [f"{COMPONENTS['plan']} + {COMPONENTS['matrix']}", "x 3.2"],
        [COMPONENTS["launch"], "x 0.5"],
        [COMPONENTS["dram"], "x 1.25"],
        [COMPONENTS["quality"], "x 1"],
    ]
    assert lines[-1][0].startswith("their product is x 2;")


def test_the_text_leaves_shares_of_nothing_out() -> None:
    same = Difference(("a", "b"), ("", ""), {}, {"matmul": (1e-3, 1e-3)}, {"qkv": (1e-3, 1e-3)}, {"plan": 1.0}, 1.0)
    assert section(difference_text(same), "time of a step [ms]") == [["matmul", "1", "1", "+0"]]
