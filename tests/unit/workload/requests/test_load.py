"""Descriptions by name: the shipped ones hold what they say, files beside them are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.lengths import Quantiles
from cosim.workload.requests.load import load_requests
from cosim.workload.requests.stream import all_requests

SHIPPED = sorted(library.names("requests"))
HEAD = "kind: requests\nname: mine\ntitle: mine\nsource: ours\n"
MEANS = {"chat": (1154.7, 211.1), "code": (2047.8, 27.9), "summarisation": (2588.1, 291.4)}
"""Mean prompt and output of the traces that the tables were made of."""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_description_gives_its_requests(name: str) -> None:
    pattern = load_requests(name)
    assert (pattern.name, bool(pattern.source)) == (name, True)
    requests = all_requests(pattern, np.random.default_rng(0))
    assert len(requests) == pattern.count
    # What servers of today take.
    assert (requests.prompt_tokens + requests.output_tokens).max() < 200_000


@pytest.mark.parametrize("name", sorted(MEANS))
def test_tables_of_quantiles_keep_the_means_of_their_traces(name: str) -> None:
    pattern = load_requests(name)
    for length, mean in zip((pattern.prompt, pattern.output), MEANS[name], strict=True):
        assert isinstance(length, Quantiles)
        shares, values = length.lines
        assert len(shares) <= 40
        assert np.trapezoid(values, shares) == pytest.approx(mean, rel=0.03)


def test_a_description_names_files_beside_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "trace: {file: mine.parquet}\n", encoding="utf-8")
    assert (
        load_requests(str(path)).trace
        == RequestPattern.model_validate(
            {
                "kind": "requests",
                "name": "m",
                "title": "m",
                "source": "s",
                "trace": {"file": str(tmp_path / "mine.parquet")},
            }
        ).trace
    )
    joint = "count: 5\narrivals: {kind: poisson, rate: 1 Hz}\njoint: {file: sub/pairs.parquet}\n"
    path.write_text(HEAD + joint, encoding="utf-8")
    found = load_requests(str(path)).joint
    assert found is not None
    assert found.file == str(tmp_path / "sub" / "pairs.parquet")
    whole = tmp_path / "elsewhere.parquet"
    path.write_text(HEAD + f"trace: {{file: {whole}}}\n", encoding="utf-8")
    trace = load_requests(str(path)).trace
    assert trace is not None
    assert trace.file == str(whole)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("kind: network\nname: x\n", 1, "is not requests"),
        ("name: x\n", None, "is not requests"),
        (HEAD + "count: 5\narrivals:\n  kind: gamma\n  rate: 5 Hz\n  cv: wild\n", 9, "arrivals.cv"),
        (HEAD + "count: 5\nprompt:\n  kind: fixed\n  tokns: 5\n", 8, "prompt.tokns: unknown field"),
    ],
)
def test_a_wrong_file_is_said_with_its_line(tmp_path: Path, text: str, line: int | None, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_requests(str(path))
    assert (caught.value.file, caught.value.line) == (path, line)
    assert said in str(caught.value)


def test_an_unknown_name_gets_advice() -> None:
    with pytest.raises(SpecError, match="no description of requests has this name") as caught:
        load_requests("chatt")
    assert "chat" in str(caught.value.hint)
