"""`cosim import requests`, and requests in `cosim list`, `show` and `schema`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.0000000,100,10
2023-11-16 18:17:05.0000000,300,20
"""


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "log.csv"
    path.write_text(AZURE, encoding="utf-8")
    return path


def test_an_import_says_what_it_found_and_can_be_shown(call: Call, log: Path) -> None:
    code, out, err = call("import", "requests", log)
    assert (code, err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert shown["format"] == "azure"
    assert (shown["requests"], shown["span_s"], shown["rate"]) == ("2", "2", "1")
    assert (shown["mean_prompt_tokens"], shown["shared_prefix"]) == ("200", "unknown")
    code, out, _ = call("show", "log")
    assert code == 0
    assert out.startswith("request log: 2 requests of log.csv")
    assert "log.parquet" in out
    assert "  log " in call("list", "requests")[1]


def test_json_has_the_same_numbers(call: Call, log: Path) -> None:
    code, out, _ = call("import", "requests", log, "--format", "csv", "--out", "mine", "--json", "-")
    content = json.loads(out)
    assert code == 0
    assert content["description"] == str(Path("workloads") / "requests" / "mine.yaml")
    assert (content["format"], content["requests"], content["notes"]) == ("csv", 2, [])
    assert content["shared_prefix"] is None


def test_a_part_of_the_time(call: Call, log: Path) -> None:
    row = json.loads(call("import", "requests", log, "--start", "1 s", "--duration", "1 min", "--json", "-")[1])
    assert (row["requests"], row["span_s"]) == (1, 1.0)


def test_pairs_at_a_rate_say_so(call: Call, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt_tokens,output_tokens\n5,6\n", encoding="utf-8")
    code, out, _ = call("import", "requests", "pairs.csv", "--rate", "2 Hz")
    assert (code, out.splitlines()[-1]) == (0, "note: no arrivals: lengths are drawn in pairs at --rate")
    shown = json.loads(call("show", "pairs", "--json", "-")[1])
    assert next(row for row in shown["data"] if row["path"] == "arrivals.rate")["value"] == "2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "models", "log.csv"), "cannot be imported"),
        (("import", "requests", "none.csv"), "none.csv: no such file"),
        (("import", "requests", "log.csv", "--format", "azur"), "--format: is not a format"),
        (("import", "requests", "log.csv", "--start", "1 GB"), "--start: wrong unit"),
        (("import", "requests", "log.csv", "--duration", "0 s"), "--duration: is out of range"),
        (("import", "requests", "log.csv", "--rate", "-1"), "--rate: is out of range"),
        (("import", "requests", "log.csv", "--seed", "-1"), "--seed: is below 0"),
        (("import", "requests", "log.csv", "--out", "a/b"), "--out: is neither a name nor a file"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    refused: Callable[[tuple[str, ...]], str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(arguments)


def test_a_broken_line_is_named_and_nothing_is_written(call: Call, log: Path, tmp_path: Path) -> None:
    log.write_text(AZURE + "2023-11-16 18:17:06.0,many,1\n", encoding="utf-8")
    code, out, err = call("import", "requests", "log.csv")
    assert (code, out) == (2, "")
    assert err.startswith("error: log.csv:4: ContextTokens: must be a number")
    assert {path.name for path in tmp_path.rglob("*")} == {"log.csv"}


def test_requests_have_a_schema_and_are_listed_with_their_arrivals(call: Call) -> None:
    schema = json.loads(call("schema", "requests")[1])
    assert {"arrivals", "prompt", "output", "sessions", "trace"} <= set(schema["properties"])
    items = {item["name"]: item for item in json.loads(call("list", "requests", "--json", "-")[1])}
    assert items["chat"]["arrivals"] == "gamma"
    assert not {"chat", "code"} & {item["name"] for item in json.loads(call("list", "workloads", "--json", "-")[1])}


def test_requests_are_no_workload_to_estimate(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: requests\nname: x\n", encoding="utf-8")
    code, _, err = call("estimate", "decode", "--system", "dgx-h100", "--workload", "mine.yaml")
    assert code == 2
    assert "kind" in err
