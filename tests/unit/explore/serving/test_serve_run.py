"""A serving study to its run folder: rows, records and steps that agree, resume, overrides, faults before anything."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cosim.errors import InfeasibleError, SpecError
from cosim.explore.experiment import load_study
from cosim.explore.serving import serve_run
from cosim.explore.serving.serve_run import run_serve, seeds_of
from cosim.explore.store import read_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Run = Callable[..., Path]
TEXT = """\
kind: serve
question: Which?
system: dgx-h100
workload: llama-3.1-8b
plan: {tensor_parallel: 1, dtype: bf16}
requests:
  count: 120
  arrivals: {kind: poisson, rate: 10 Hz}
  prompt: {kind: fixed, tokens: 300}
  output: {kind: fixed, tokens: 20}
limits: {ttft: 500 ms}
seeds: 2
deployments:
  one: {}
  two: {replicas: 2}
  big: {workload: llama-3.1-405b}
"""


@pytest.fixture
def go(tmp_path: Path) -> Run:
    def made(text: str = TEXT, **fields: Any) -> Path:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        usual: dict[str, Any] = {
            "overrides": {},
            "resume": False,
            "progress": lambda *_: None,
            "report": lambda _: None,
        }
        return run_serve(load_study(str(tmp_path / "mine.yaml")), tmp_path / "out", **{**usual, **fields})

    return made


def content_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "requests.parquet").read_bytes()).hexdigest()


def test_rows_records_and_steps_agree(go: Run) -> None:
    told: list[tuple[int, int, str]] = []
    folder = go(progress=lambda *step: told.append(step))
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    assert [(row["deployment"], row["row"], row["seed"]) for row in rows] == [
        ("one", "seed", 0),
        ("one", "seed", 1),
        ("one", "summary", None),
        ("two", "seed", 0),
        ("two", "seed", 1),
        ("two", "summary", None),
        ("big", "summary", None),
    ]
    assert rows[2]["ttft_s.p50"] == pytest.approx((rows[0]["ttft_s.p50"] + rows[1]["ttft_s.p50"]) / 2)
    assert rows[2]["ttft_s.p50.low"] < rows[2]["ttft_s.p50"] < rows[2]["ttft_s.p50.high"]
    assert (rows[6]["feasible"], rows[6]["limit"], rows[6]["ttft_s.p50"]) == (False, "memory", None)
    records = pq.read_table(folder / "requests.parquet").to_pylist()
    assert len(records) == 480
    assert list(Counter((each["deployment"], each["seed"]) for each in records).values()) == [120] * 4
    own = [each for each in records if (each["deployment"], each["seed"]) == ("two", 1)]
    waits = [each["first_token_s"] - each["arrival_s"] for each in own]
    assert np.quantile(waits, 0.9) == pytest.approx(rows[4]["ttft_s.p90"])
    assert {each["replica"] for each in own} == {0, 1}
    steps = pq.read_table(folder / "segments.parquet").to_pydict()
    assert set(steps["deployment"]) == {"one", "two"}
    run = read_run(folder)
    assert (run["points"], run["feasible_points"], run["requests"], run["seeds"]) == (3, 2, 480, 2)
    assert [each["name"] for each in run["deployments"]] == ["one", "two"]
    assert run["infeasible"][0]["name"] == "big"
    assert {"dgx-h100", "llama-3.1-8b", "vllm"} <= set(run["assumptions"])
    assert any("llama-3.1-8b.yaml" in name for name in run["inputs"])
    counts = [done for done, total, _ in told if total]
    assert counts == sorted(counts)
    assert told[-3][:2] == (480, 480)


def test_deployments_see_the_same_requests_and_seeds_do_not(go: Run) -> None:
    records = pq.read_table(go() / "requests.parquet").to_pylist()

    def arrivals(name: str, seed: int) -> list[float]:
        return sorted(each["arrival_s"] for each in records if (each["deployment"], each["seed"]) == (name, seed))

    assert arrivals("one", 0) == arrivals("two", 0)
    assert arrivals("one", 0) != arrivals("one", 1)


def test_the_same_study_gives_the_same_bytes(go: Run) -> None:
    first, again = (content_hash(go()) for _ in range(2))
    assert first == again
    assert content_hash(go(TEXT.replace("seeds: 2", "seeds: 2\nseed: 5"))) != first


def test_a_seed_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = (load_study_text(tmp_path, count).experiment for count in (1, 3))
    first, same = seeds_of(few)[0], seeds_of(many)[0]  # type: ignore[arg-type]  # studies of serving
    assert np.array_equal(first.generate_state(4), same.generate_state(4))


def load_study_text(folder: Path, seeds: int) -> Any:
    path = folder / f"{seeds}.yaml"
    path.write_text(TEXT.replace("seeds: 2", f"seeds: {seeds}"), encoding="utf-8")
    return load_study(str(path))


def test_a_killed_run_goes_on(go: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content_hash(go())
    simulated, true = [0], serve_run.one_run

    def dies(*arguments: Any) -> Any:
        simulated[0] += 1
        if simulated[0] == 3:
            raise KeyboardInterrupt
        return true(*arguments)

    monkeypatch.setattr(serve_run, "one_run", dies)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert content_hash(go(resume=True)) == whole
    assert simulated[0] == 5  # two are taken up, the third and fourth simulated


def test_overrides_reach_every_deployment(go: Run) -> None:
    changes = {"scheduler.max_sequences": 8, "scenario.count": 30, "limits.ttft": "1 ms", "plan.dtype": "fp8"}
    rows = pq.read_table(go(overrides=changes) / "results.parquet").to_pylist()
    for row in rows[:-1]:
        assert (row["scheduler.max_sequences"], row["plan.dtype"], row["requests"]) == (8, "fp8", 30)
        assert row["good_share"] == 0.0


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("  two: {replicas: 2}", "  two: {replicas: 20}", 15, "replicas: of 1 chips"),
        ("dtype: bf16", "dtype: mxfp4", 5, r"plan\.dtype: has no matrix rate"),
        ("  one: {}", "  one: {stack: vlm}", 14, "stack: no serving software"),
        ("kind: fixed, tokens: 300", "kind: fixed, tokens: 0", 9, r"requests\.prompt\.tokens"),
        ("  one: {}", "  one: {scheduler: {token_budget: 10, max_sequences: 20}}", 14, "token_budget: is too small"),
    ],
)
def test_faults_have_their_line_and_leave_nothing(
    go: Run, tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as error:
        go(TEXT.replace(old, new))
    assert (error.value.file, error.value.line) == (tmp_path / "mine.yaml", line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]


def test_faults_of_overrides_have_no_line(go: Run) -> None:
    with pytest.raises(SpecError, match=r"scenario\.rat: unknown path; nearest: scenario\.rate") as error:
        go(overrides={"scenario.rat": 3})
    assert error.value.file is None
    with pytest.raises(SpecError, match="a path starts with one of"):
        go(overrides={"schedule.token_budget": 3})


def test_where_nothing_fits_the_first_says_why(go: Run, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="leaves no room for a cache"):
        go(TEXT.replace("workload: llama-3.1-8b", "workload: llama-3.1-405b"))
    assert not (tmp_path / "out").exists()


def test_a_search_has_the_limits_and_the_stack_of_the_study(go: Run) -> None:
    section = "search: {prompt: 300, output: 20, space: {layout: together, tensor: [1, 2]}, check: none%s}\n"
    own = read_run(go(TEXT + section % ", ttft_limit: 60 s"))["search"]
    shared = read_run(go("stack: sglang\n" + TEXT.replace("ttft: 500 ms", "ttft: 1 ms") + section % ""))["search"]
    assert shared["stack"] == "sglang"
    assert shared["feasible"] == 0
    assert own["feasible"] > 0


def test_a_search_stands_beside_the_deployments(go: Run) -> None:
    section = "search: {prompt: 300, output: 20, space: {layout: together, tensor: [1, 2]}, check: none}\n"
    run = read_run(go(TEXT + section))
    assert run["search"]["feasible"] > 0
    assert run["search"]["best"]["system"] == "dgx-h100"
    assert read_run(go())["search"] is None
    with pytest.raises(SpecError, match="a search is on the system and workload of the top"):
        go(
            section.join(TEXT.replace("system: dgx-h100\n", "").split("limits")[:1])
            + section
            + "deployments: {a: {system: dgx-h100}}\n"
        )
