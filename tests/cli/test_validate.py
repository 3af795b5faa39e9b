"""`cosim validate`: tables and JSON of the errors, and bad case files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]
HEAD = "id,M,N,K,rows,cols,dataflow,cycles"


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two answered rows, 50 % too low and right, and one without its cycles."""
    path = tmp_path / "cases.csv"
    path.write_text(f"{HEAD}\na,8,8,19,8,8,os,64\nb,8,8,19,8,8,os,32\nc,8,8,19,8,8,os,\n", encoding="utf-8")
    return path


def test_a_file_of_cases_is_answered_with_its_errors_and_its_reasons(call: Call, cases: Path) -> None:
    code, out, err = call("validate", "--kind", "systolic", "--cases", cases)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "systolic: 2 of 3 cases answered"
    # Sizes 50 % and 0: median and mean 25 %, 90 % at 45 %; the median of -50 % and 0 is -25 %.
    assert out.splitlines()[2].split() == ["all", "2", "25.0%", "25.0%", "45.0%", "-25.0%"]
    assert "skipped 1: a dimension, the dataflow or the cycles are unknown" in out


def test_a_suite_is_grouped_by_a_column(call: Call) -> None:
    code, out, _ = call("validate", "--suite", "systolic", "--group", "dataflow")
    assert code == 0
    groups = {line.split()[0]: line.split()[2:] for line in out.splitlines()[2:6]}
    assert groups == {name: ["0.0%"] * 4 for name in ("all", "ws", "os", "is")}
    assert "skipped" not in out


def test_json_has_the_figures_and_every_row(call: Call, cases: Path) -> None:
    code, out, _ = call("validate", "--kind", "systolic", "--cases", cases, "--group", "id", "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert (found["cases"], found["evaluated"], found["median_abs_error"]) == (3, 2, 0.25)
    assert [row["id"] for row in found["rows"]] == ["a", "b"]
    assert [skip["id"] for skip in found["skipped"]] == ["c"]
    assert set(found["groups"]) == {"a", "b"}


def test_no_answered_row_is_no_error_but_no_figure(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text("accelerator,dtype,m,n,k,measured_s\nabacus,bf16,8,8,8,1\n", encoding="utf-8")
    code, out, _ = call("validate", "--kind", "matmul", "--cases", path)
    assert code == 0
    assert out.splitlines()[0] == "matmul: 0 of 1 cases answered"
    assert out.splitlines()[2].split() == ["all", "0", "-", "-", "-", "-"]
    assert "macro" not in out
    assert "skipped 1: accelerator abacus is not in the library" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to validate; give --kind and --cases, or --suite"),
        (("--kind", "matmul"), "nothing to validate"),
        (("--suite", "systolc"), "--suite: unknown suite (got 'systolc'); nearest: systolic"),
        (("--kind", "matmull", "--cases", "cases.csv"), "--kind: unknown kind of case"),
        (("--kind", "matmul", "--cases", "none.csv"), "none.csv: no such file"),
        (("--kind", "matmul", "--cases", "."), "cannot be read: Is a directory"),
        (("--kind", "matmul", "--cases", "cases.csv"), "cases.csv:1: accelerator: lacks a column"),
        (("--kind", "matmul", "--cases", "image.csv"), "image.csv: is not text"),
        (("--kind", "matmul", "--cases", "empty.csv"), "empty.csv: holds no rows"),
        (("--kind", "systolic", "--cases", "short.csv"), "short.csv:3: has 3 fields, not 8"),
        (("--kind", "systolic", "--cases", "cases.csv", "--group", "lab"), "--group: is no column of the file"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    call: Call,
    cases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cases.name == "cases.csv"
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "short.csv").write_text(f"{HEAD}\na,8,8,19,8,8,os,64\n1,2,3\n", encoding="utf-8")
    code, out, err = call("validate", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert said in err


TRAINING = """\
id,source,accelerator,system,software_stack,workload,num_accelerators,tp,pp,virtual_pp,sp,micro_batch,global_batch,\
seq_len,vocab,recompute,precision,measured_quantity,measured_value
step,paper,a100-80gb-sxm,dgx-a100,megatron-2022,megatron-22b,8,8,1,1,1,4,4,2048,51200,selective,fp16,seconds_per_step,1.10
rate,paper,a100-80gb-sxm,dgx-a100,megatron-2022,megatron-22b,8,8,1,1,1,4,4,2048,51200,selective,fp16,samples_per_s,3.636
tokens,lab,a100-80gb-sxm,dgx-a100,megatron-2022,gpt3-175b,64,8,8,3,0,1,64,2048,,full,fp16,tokens_per_s_per_chip,113.0
uneven,lab,a100-80gb-sxm,dgx-a100,megatron-2022,gpt3-175b,64,8,8,13,0,1,64,2048,,full,fp16,seconds_per_step,18.1
elsewhere,lab,abacus,abacus,megatron-2022,gpt3-175b,64,8,8,3,0,1,64,2048,,full,fp16,seconds_per_step,18.1
"""


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Three steps that are answered, one whose pieces leave layers over, one on an unknown system."""
    path = tmp_path / "training.csv"
    path.write_text(TRAINING, encoding="utf-8")
    return path


def test_measured_training_steps_are_answered_in_their_quantities(call: Call, training: Path) -> None:
    code, out, err = call("validate", "--kind", "training", "--cases", training, "--group", "source", "--json", "-")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["kind"], found["cases"], found["evaluated"]) == ("training", 5, 3)
    rows = {row["id"]: row for row in found["rows"]}
    assert rows["step"]["predicted"] == pytest.approx(1.10, rel=0.08)
    # 4 sequences a step; 64 sequences of 2048 tokens on 64 chips
    assert rows["rate"]["predicted"] == pytest.approx(4 / rows["step"]["predicted"], rel=1e-12)
    assert rows["tokens"]["predicted"] == pytest.approx(2048 / 18.13, rel=0.08)
    assert found["median_abs_error"] <= 0.08
    assert {name: group["evaluated"] for name, group in found["groups"].items()} == {"paper": 2, "lab": 1}
    assert found["skipped"] == [
        {"id": "uneven", "reason": "the plan is not legal here: virtual_pipeline"},
        {"id": "elsewhere", "reason": "system abacus is not in the library"},
    ]


def test_the_table_of_training_steps_says_why_rows_were_skipped(call: Call, training: Path) -> None:
    code, out, _ = call("validate", "--kind", "training", "--cases", training)
    assert code == 0
    assert out.splitlines()[0] == "training: 3 of 5 cases answered"
    assert "macro median" in out
    assert "skipped 1: the plan is not legal here: virtual_pipeline" in out
    assert "skipped 1: system abacus is not in the library" in out


def test_what_was_completed_is_in_every_row_and_counted(call: Call, training: Path) -> None:
    text = training.read_text(encoding="utf-8")
    # Of the first row the system is left open.
    training.write_text(text.replace("a100-80gb-sxm,dgx-a100", "a100-80gb-sxm,", 1), encoding="utf-8")
    _, out, _ = call("validate", "--kind", "training", "--cases", training, "--json", "-")
    rows = {row["id"]: row["completed"] for row in json.loads(out)["rows"]}
    assert any(each.startswith("system ") for each in rows["step"])
    assert not any(each.startswith("system ") for each in rows["rate"])
    filled = sum(bool(each) for each in rows.values())
    _, out, _ = call("validate", "--kind", "training", "--cases", training)
    assert f"completed {filled} of 3 rows answered" in out
    (system,) = (each for each in rows["step"] if each.startswith("system "))
    assert f"completed 1: {system}" in out


def test_rows_that_say_all_have_nothing_completed(call: Call, cases: Path) -> None:
    _, out, _ = call("validate", "--kind", "systolic", "--cases", cases)
    assert "completed" not in out


def test_a_table_of_steps_without_its_system_is_one_message(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("accelerator,num_accelerators,global_batch,seq_len,measured_value\nx,1,1,1,1\n", encoding="utf-8")
    code, out, err = call("validate", "--kind", "training", "--cases", path)
    assert (code, out) == (2, "")
    assert "steps.csv:1: system: lacks a column that kind training needs" in err


@pytest.fixture
def silicon(write_kernels: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of measured tables with one chip's products and attention."""
    write_kernels("h100_sxm", "a/1", "matmul", [{}, {"m": 8192}])
    root = write_kernels("h100_sxm", "a/1", "decode", [{}])
    package = root.parents[1]
    (package / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(package.parent)
    return root


@pytest.mark.usefixtures("silicon")
def test_silicon_prints_its_tables(call: Call) -> None:
    code, out, err = call("validate", "--suite", "silicon")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "silicon: 3 of 3 shapes asked"
    for title in ("Errors by group", "Fitted and never fitted", "Worst shapes, fitted, matmul"):
        assert f"\n{title}\n" in out
    assert "h100-sxm matmul bf16" in out
    assert "macro median" in out.splitlines()[-1]


@pytest.mark.usefixtures("silicon")
def test_silicon_is_limited_to_a_kind_grouped_and_asked_whole(call: Call) -> None:
    code, out, _ = call("validate", "--suite", "silicon", "--kind", "matmul", "--group", "m", "--all", "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["cases"], list(found["groups"])) == ("silicon", 2, ["64", "8192"])


@pytest.mark.usefixtures("silicon")
def test_a_page_is_written_beside_what_is_printed(call: Call, tmp_path: Path, cases: Path) -> None:
    page = tmp_path / "accuracy.md"
    assert call("validate", "--suite", "silicon", "--page", page)[0] == 0
    assert page.read_text(encoding="utf-8").startswith("# Accuracy: silicon\n")
    code, out, _ = call("validate", "--kind", "systolic", "--cases", cases, "--page", page, "--json", "-")
    assert (code, json.loads(out)["kind"]) == (0, "systolic")
    assert page.read_text(encoding="utf-8").startswith("# Accuracy: systolic\n")
    code, out, err = call("validate", "--suite", "systolic", "--page", tmp_path)
    assert (code, out) == (2, "")
    assert "--page: cannot be written" in err


def test_silicon_without_its_package_says_what_to_install(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.validation.silicon_files.find_spec", lambda _: None)
    code, out, err = call("validate", "--suite", "silicon")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "pip install 'cosim[silicon]'" in err


LOG = """\
request_id,arrival,input_len,output_len,ttft_s,tpot_s,e2e_s
a,0.0,512,8,0.1,0.01,0.2
b,,512,8,0.1,0.01,0.2
c,0.1,512,8,0.1,0.01,0.2
"""
HEADER = {
    "name": "mine",
    "accelerator": "h100-sxm",
    "system": "dgx-h100",
    "workload": "llama-3.1-8b",
    "num_accelerators": 2,
    "engine": "vLLM 0.19.0",
    "scheduler": {"max_num_partial_prefills": 2, "async_scheduling": True},
}


def test_a_request_log_tells_what_is_left_out_completed_and_not_modelled(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG, encoding="utf-8")
    path.with_name("log.header.json").write_text(json.dumps(HEADER), encoding="utf-8")
    code, out, err = call("validate", "--kind", "serving", "--cases", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "serving: 6 of 9 cases answered"
    assert "left out of the replay: 1 of 3 requests" in out
    assert "skipped 3: arrival is not a number from 0" in out
    assert "completed: data ranks 2 on 2 chips" in out
    assert "not modelled: scheduler.max_num_partial_prefills 2" in out
    assert "async_scheduling" not in out
