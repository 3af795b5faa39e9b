"""Every row of a ranking comes out again when the command that is printed with it is run."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cosim import library
from cosim.explore.run import run_study
from cosim.explore.store import read_run
from cosim.report.page import report_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
Row = dict[str, Any]
# GPUs, two kinds of systolic arrays, a chip that is known by its roofline; a dense model and a mixture of experts.
STUDY = """\
kind: compare
question: Which of these serves and trains best?
systems: [dgx-h100, tpu-v5p-8, asic-8, openai-jalapeno-8, mi300x-8gpu]
workload: [llama-3.1-8b, deepseek-v3]
max_chips: 32
scenario: {input: 1024, output: 256}
decode: {tpot_limits: [10 ms, 100 ms]}
prefill: {ttft_limit: 4 s}
precisions: [native, bf16]
equal_quality:
  {matmul: 0.75, attention: 0.5, memory: 0.82, collective: 0.8, launch_gap: 2 us, collective_start: 5 us, source: ours}
max_batch: 24
training:
  systems: [dgx-h100, tpu-v5p-64, asic-8]
  chips: 64
  runs:
    - {workload: llama-3.1-8b, global_batch: 64, length: 2048}
    - {workload: mixtral-8x7b, global_batch: 64, length: 2048}
"""
CHANGES = {"system.chip.power.limit": "600 W", "workload.max_positions": 8192, "scenario.output": 128}
SAME = ("time_s", "tokens_per_s_per_chip", "memory_bytes.total", "energy_j")


def entries(content: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    """Where an entry stands and the entry, of all rankings; those without a winner too."""
    for finding in (*content["findings"], *content["training"]):
        for entry in finding["entries"]:
            yield f"{finding['goal']}, {finding['precision']}: {entry['system']}", entry


def again(call: Call, command: str, folder: Path) -> Row:
    """The row that a printed command makes."""
    program, *words = shlex.split(command)
    assert program == "cosim"
    code, _, err = call(*words, "--json", folder / "row.json")
    assert (code, err) == (0, ""), command
    row: Row = json.loads((folder / "row.json").read_text(encoding="utf-8"))
    return row


def not_made_again(call: Call, content: dict[str, Any], folder: Path) -> list[str]:
    """Rows of which the printed command gives another number or another plan, each with both."""
    wrong = []
    for where, entry in entries(content):
        row = entry["row"]
        if row is None:
            continue
        made = again(call, entry["command"], folder)
        chosen = [name for name in row if name.startswith(("plan.", "scenario.")) and row[name] is not None]
        if row["phase"] == "train":
            chosen.remove("plan.micro_batches")  # it follows from the others
        wrong += [f"{where} {n}: {made[n]}, not {row[n]}" for n in SAME if made[n] != pytest.approx(row[n], rel=1e-9)]
        wrong += [f"{where} {n}: {made[n]}, not {row[n]}" for n in (*chosen, "chips") if made[n] != row[n]]
        # Nothing is left to a search or a default.
        # How large a sample is, is not known in a study.
        taken = set(made["defaults"]) - {"scenario.bytes_per_sample"}
        if (made["plans_tried"], made["system_chips"], taken) != (0, row["chips"], {"phase"}):
            wrong.append(f"{where}: {made['plans_tried']} plans, {made['system_chips']} chips, {made['defaults']}")
    return wrong


def printed(page: str) -> list[str]:
    """Commands of the page in order, as a reader copies them."""
    blocks = re.findall(r"<details><summary>The same rows.*?</summary><pre>(.*?)</pre></details>", page, re.DOTALL)
    return [line for block in blocks for line in html.unescape(block).splitlines()]


def commands(*groups: list[Row]) -> list[str]:
    """Commands of these findings, best first."""
    rows = [entry for findings in groups for finding in findings for entry in finding["entries"]]
    return [entry["command"] for entry in rows if entry["row"] is not None]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the study with its overrides, page included."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "mine.yaml").write_text(STUDY, encoding="utf-8")
    return run_study(
        str(folder / "mine.yaml"),
        folder / "run",
        overrides=CHANGES,
        progress=lambda _done, _of, _what: None,
        report=report_run,
    )


def test_the_study_has_something_of_everything(ran: Path) -> None:
    rows = [entry["row"] for _, entry in entries(read_run(ran)) if entry["row"] is not None]
    assert {row["phase"] for row in rows} == {"decode", "prefill", "train"}
    assert {row["workload"] for row in rows} == {"llama-3.1-8b", "deepseek-v3", "mixtral-8x7b"}
    assert {row["plan.dtype"] for row in rows} >= {"bf16", "fp8", "int8", "mxfp4"}
    assert len({row["system"] for row in rows}) == 6
    assert {row["chips"] for row in rows if row["workload"] == "deepseek-v3"} >= {8, 16}
    assert any(row["plan.expert_parallel"] > 1 for row in rows if row["phase"] == "train")
    assert any(row["plan.pipeline_parallel"] > 1 for row in rows)


def test_every_row_of_a_study_is_made_again_by_its_command(ran: Path, call: Call, tmp_path: Path) -> None:
    content = read_run(ran)
    assert [where for where, entry in entries(content) if ("command" in entry) != (entry["row"] is not None)] == []
    for command in commands(content["findings"], content["training"]):
        assert "--set 'system.chip.power.limit=600 W' --set workload.max_positions=8192 " in command
        assert "scenario.output" not in command  # a length of requests is a context and a capacity of a step
    assert not_made_again(call, content, tmp_path) == []


def test_the_commands_of_a_page_are_those_of_its_rankings_in_their_order(ran: Path) -> None:
    content, page = read_run(ran), (ran / "report.html").read_text(encoding="utf-8")
    assert printed(page) == commands(content["training"], content["findings"])
    assert "&#39;system.chip.power.limit=600 W&#39;" in page


@pytest.mark.slow
def test_every_row_of_the_shipped_study_is_made_again_by_its_command(
    shipped_run: Any, call: Call, tmp_path: Path
) -> None:
    content = read_run(shipped_run.folder)
    assert len(commands(content["findings"], content["training"])) > 200
    assert not_made_again(call, content, tmp_path) == []


@pytest.mark.slow
def test_every_command_of_the_shipped_study_stands_on_its_page(shipped_run: Any) -> None:
    content, page = read_run(shipped_run.folder), (shipped_run.folder / "report.html").read_text(encoding="utf-8")
    assert printed(page) == commands(content["training"], content["findings"])


def test_a_workload_of_a_file_is_asked_for_by_its_file(
    study_text: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The user's own model under the name of a shipped one, with half its layers.
    monkeypatch.chdir(tmp_path)
    shipped = "llama-3.1-8b"
    model = library.find("workloads", shipped).read_text(encoding="utf-8")
    Path("mine").mkdir()
    Path("mine/small.yaml").write_text(model.replace("layers: 32", "layers: 16"), encoding="utf-8")
    study = study_text.replace(f"workload: {shipped}", "workload: mine/small.yaml").replace(
        "max_batch: 16", "max_batch: 1"
    )
    training = (
        "training: {systems: [dgx-h100], chips: 8, runs: [{workload: mine/small.yaml, global_batch: 8, length: 512}]}"
    )
    Path("mine.yaml").write_text(f"{study}{training}\n", encoding="utf-8")
    folder = run_study("mine.yaml", Path("run"), overrides={}, progress=lambda *_: None, report=lambda out: out)
    assert not_made_again(call, read_run(folder), tmp_path) == []
