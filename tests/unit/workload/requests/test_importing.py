"""Importing a trace: a table and a description that give the same requests, or nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.workload.requests.importing import FOLDER, Asked, import_requests
from cosim.workload.requests.load import load_requests
from cosim.workload.requests.stream import all_requests

Trace = Callable[..., Path]
CSV = ("arrival_s,prompt_tokens,output_tokens", "5,10,1", "7,30,3", "6,20,2", "9,40,4")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def left() -> list[Path]:
    return [path for path in Path().rglob("*") if path.is_file()]


def test_what_is_imported_is_found_by_its_name_and_gives_the_same_requests(trace: Trace) -> None:
    done = import_requests(trace("log.csv", *CSV), Asked())
    assert (done.description, done.table) == (FOLDER / "log.yaml", FOLDER / "log.parquet")
    assert (done.style, done.notes) == ("csv", ("the rows were not in order of arrival: sorted",))
    assert (done.summary.requests, done.summary.span_s, done.summary.rate) == (4, 4.0, 1.0)
    requests = all_requests(load_requests("log"), np.random.default_rng(0))
    assert requests.arrival_s.tolist() == [0.0, 1.0, 2.0, 4.0]
    assert requests.prompt_tokens.tolist() == [10, 20, 30, 40]


def test_shared_prefixes_survive(trace: Trace) -> None:
    row = {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [3, 4]}
    path = trace("m.jsonl", json.dumps(row), json.dumps({**row, "timestamp": 10, "hash_ids": [3, 5]}))
    done = import_requests(path, Asked(), "kept")
    assert done.summary.shared_prefix == 0.25
    requests = all_requests(load_requests("kept"), np.random.default_rng(0))
    assert requests.blocks is not None
    assert (requests.blocks.ids.tolist(), requests.prefix.tolist()) == ([3, 4, 3, 5], [0, 512])


def test_a_part_of_the_time_counts_from_its_start(trace: Trace) -> None:
    done = import_requests(trace("log.csv", *CSV), Asked(start_s=1.0, duration_s=2.0), "part.yaml")
    assert done.description == Path("part.yaml")
    requests = all_requests(load_requests("part.yaml"), np.random.default_rng(0))
    assert requests.arrival_s.tolist() == [0.0, 1.0]
    assert requests.prompt_tokens.tolist() == [20, 30]


def test_lengths_without_arrivals_are_drawn_in_pairs_at_a_rate(trace: Trace) -> None:
    path = trace("pairs.csv", "prompt_tokens,output_tokens", "10,1", "20,2")
    done = import_requests(path, Asked(rate=4.0))
    assert (done.summary.rate, done.summary.mean_prompt_tokens) == (None, 15.0)
    pattern = load_requests("pairs")
    assert pattern.count == 2
    many = all_requests(pattern.model_copy(update={"count": 2000}), np.random.default_rng(0))
    assert np.all(many.prompt_tokens == 10 * many.output_tokens)
    assert len(many) / many.arrival_s[-1] == pytest.approx(4.0, rel=0.1)


def test_servegen_is_drawn_by_seed_for_a_time(trace: Trace) -> None:
    trace(
        "x_lengths_quantiles.csv",
        "client,window_start_s,field,mean,q5,q99",
        "0,0,input_tokens,5,5,5",
        "0,0,output_tokens,5,5,5",
    )
    rows = ("0,0,0.1,1,Gamma,1,1", "1,0,0.05,1,Gamma,1,1")
    path = trace("x_rates.csv", "client,window_start_s,rate_req_s,cv,pattern,param1,param2", *rows)
    done = import_requests(path, Asked(duration_s=600.0, seed=3))
    assert done.summary.requests == 60
    assert "seed 3" in done.notes[0]
    assert "1 clients have no table of lengths: left out, about 33.3% of the requests" in done.notes[1]
    assert "seed 3" in load_requests("x_rates").source
    with pytest.raises(SpecError, match="rates over days"):
        import_requests(path, Asked(), "other")


@pytest.mark.parametrize(
    ("asked", "out", "said"),
    [
        (Asked("azure"), None, "looks like csv"),
        (Asked(rate=5.0), None, "beside arrivals"),
        (Asked(start_s=50.0), None, "has no request in this time"),
        (Asked(), "a/b", "neither a name nor a file"),
        (Asked(), ".hidden", "neither a name nor a file"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(trace: Trace, asked: Asked, out: str | None, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        import_requests(trace("log.csv", *CSV), asked, out)
    assert left() == []


def test_a_trace_without_arrivals_needs_a_rate_and_has_no_time(trace: Trace) -> None:
    path = trace("pairs.csv", "prompt_tokens,output_tokens", "10,1")
    with pytest.raises(SpecError, match="give --rate"):
        import_requests(path, Asked())
    with pytest.raises(SpecError, match="without arrivals"):
        import_requests(path, Asked(rate=1.0, duration_s=5.0))
    assert left() == []


def test_nothing_is_overwritten(trace: Trace) -> None:
    path = trace("log.csv", *CSV)
    import_requests(path, Asked())
    for name in ("log.yaml", "log.parquet"):
        with pytest.raises(SpecError, match="exists"):
            import_requests(path, Asked())
        (FOLDER / name).unlink()


def test_a_name_that_yaml_would_misread_stays_a_name(trace: Trace) -> None:
    done = import_requests(trace("log.csv", *CSV), Asked(), "123")
    assert load_requests(str(done.description)).name == "123"
