"""A serving study read: what is ready and what is not, overrides, faults at their lines, requests beside the study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cosim import documents
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.serving.serve_file import Serve
from cosim.explore.serving.serve_findings import about_serve
from cosim.explore.serving.serve_inputs import Inputs, read_serve
from cosim.schema import validated

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
TEXT = """\
kind: serve
question: Which?
system: dgx-h100
workload: llama-3.1-8b
requests: mine.yaml
warm_up: 1 s
deployments:
  one: {scenario: {rate: 3 Hz}}
  big: {workload: llama-3.1-405b, plan: {tensor_parallel: 1}}
"""
REQUESTS = """\
kind: requests
name: mine
title: mine
source: a test
count: 30
arrivals: {kind: deterministic, rate: 1 Hz}
prompt: {kind: fixed, tokens: 70}
output: {kind: fixed, tokens: 3}
"""
Read = Callable[..., Inputs]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    (tmp_path / "mine.yaml").write_text(REQUESTS, encoding="utf-8")

    def made(text: str = TEXT, overrides: Mapping[str, Any] | None = None) -> Inputs:
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        document = documents.read(path)
        return read_serve(validated(Serve, document.data, document), overrides or {}, document)

    return made


def test_what_is_ready_and_what_is_not(read: Read, tmp_path: Path) -> None:
    found = read()
    assert list(found.ready) == ["one"]
    asked, error = found.infeasible["big"]
    assert (asked.workload, error.limit) == ("llama-3.1-405b", "memory")
    arrivals = found.patterns["one"].arrivals
    assert arrivals is not None
    assert arrivals.model_dump()["rate"] == 3.0
    assert found.files[:2] == (tmp_path / "study.yaml", tmp_path / "mine.yaml")
    assert len(found.files) == len(set(found.files))


def test_overrides_come_last(read: Read) -> None:
    changes = {"scenario.rate": "5 Hz", "limits.tpot": "20 ms", "workload.layers": 8, "plan.tensor_parallel": 2}
    found = read(overrides=changes)
    assert found.limits.tpot_limit_s == 0.02
    assert found.patterns["one"].arrivals.model_dump()["rate"] == 5.0  # type: ignore[union-attr]  # it has arrivals
    assert float(found.ready["one"].pool.case.model.layers) == 8.0
    assert found.ready["one"].pool.chips == 2.0


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("requests: mine.yaml", "requests: yours.yaml", None, "no such file"),
        ("rate: 3 Hz", "concurrency: 3", 8, r"scenario\.concurrency: is of a closed loop"),
        ("one: {", "one: {replicas: 99, ", 8, "replicas: of 1 chips"),
        ("workload: llama-3.1-8b", "workload: llama", 4, "workload: no workload"),
        ("question: Which?", "question: Which?\nrouting: prefix_aware", 3, "routing: needs a prefix cache"),
    ],
)
def test_faults_have_the_line_of_their_field(
    read: Read, tmp_path: Path, old: str, new: str, line: int | None, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as error:
        read(TEXT.replace(old, new))
    assert error.value.line == line
    assert error.value.file == (tmp_path / "study.yaml" if line else Path("yours.yaml"))


def test_a_study_of_which_nothing_fits_is_an_error(read: Read) -> None:
    with pytest.raises(InfeasibleError, match=r"llama-3.1-405b on dgx-h100"):
        read(TEXT.replace("  one: {scenario: {rate: 3 Hz}}\n", ""))


def test_fields_of_the_study_and_of_every_deployment_can_be_overridden(read: Read) -> None:
    text = TEXT.replace("one: {scenario", "one: {replicas: 3, scenario")
    own = {"seeds": "4", "seed": 7, "warm_up": "2 s", "replicas": "2", "routing": "least_loaded", "stack": "sglang"}
    found = read(text, own)
    assert (found.study.seeds, found.study.seed, found.study.warm_up) == (4, 7, 2.0)
    one = found.ready["one"]
    assert (one.pool.count, one.cluster.routing, one.asked.stack) == (2, "least_loaded", "sglang")
    assert read(text).ready["one"].pool.count == 3
    assert read(text, {"replicas": "all"}).ready["one"].pool.count == 8


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seeds", 0, "seeds"),
        ("replicas", "many", "replicas"),
        ("routing", "best", "routing"),
        ("seed.more", 3, "seed.more: unknown path"),
        (
            "sedes",
            3,
            "sedes: unknown path.* or is one of replicas, routing, stack, seeds, seed, warm_up; nearest: seeds",
        ),
        ("requests", "chat", "requests: unknown path"),
    ],
)
def test_fields_that_cannot_be_are_refused(read: Read, path: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(TEXT, {path: value})


def test_what_a_run_is_about(read: Read) -> None:
    found = read()
    part = {"refused": {}, "series": {"time_s": []}, "distributions": {}, "row": {}}
    rows = [{"deployment": "one", "row": "summary", "ttft_s.p50": 0.5}]
    about = about_serve(found, {"one": [part]}, rows)
    (one,) = about["deployments"]
    assert one["summary"] == rows[0]
    assert one["completed"]["plan.dtype"] == "fp8"
    assert about["infeasible"][0]["name"] == "big"
    assert about["requests_from"] == "mine.yaml"
    assert {"dgx-h100", "llama-3.1-8b", "vllm"} == set(about["assumptions"])
