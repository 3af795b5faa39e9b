"""ServeGen's tables: counts are kept, gaps have their shape, clients without lengths are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.workload.requests.servegen import ServeGen, gap_shares, generated, lengths_file

Trace = Callable[..., Path]
RATES = "client,window_start_s,rate_req_s,cv,pattern,param1,param2"
LENGTHS = "client,window_start_s,field,mean,q5,q50,q99"
# 60, 120 and 30 requests of client 0; 300 of client 1; 6 of client 2, whose lengths nobody knows.
ROWS = (
    "0,0,0.1,1,Gamma,1,1",
    "0,600,0.2,1,Gamma,1,1",
    "0,1200,0.05,1,Gamma,1,1",
    "1,600,0.5,3,Weibull,0.4,1",
    "2,600,0.01,1,Gamma,1,1",
)
TABLES = (
    "0,0,input_tokens,100,50,100,150",
    "0,0,output_tokens,20,20,20,20",
    "0,0,reason_ratio,0.5,0.1,0.5,0.9",
    "0,1200,input_tokens,1000,1000,1000,1000",
    "0,1200,output_tokens,7,7,7,7",
    "1,0,text_tokens,10,10,10,10",
    "1,0,image_tokens,1200,1200,1200,1200",
    "1,0,output_tokens,5,5,5,5",
    "2,0,output_tokens,5,5,5,5",
)


@pytest.fixture
def rates(trace: Trace) -> Path:
    trace("made_lengths_quantiles.csv", LENGTHS, *TABLES)
    return trace("made_rates.csv", RATES, *ROWS)


def drawn(path: Path, start: float, duration: float, seed: int = 0) -> ServeGen:
    return generated(path, np.random.default_rng(seed), start, duration)


def test_every_window_has_its_count(rates: Path) -> None:
    made = drawn(rates, 0.0, 1800.0)
    requests = made.requests
    assert np.bincount(requests.client).tolist() == [210, 300]
    own = requests.arrival_s[requests.client == 0]
    assert np.histogram(own, bins=[0, 600, 1200, 1800])[0].tolist() == [60, 120, 30]
    other = requests.arrival_s[requests.client == 1]
    assert (other.min() >= 600.0, other.max() < 1200.0) == (True, True)
    assert np.all(np.diff(requests.arrival_s) >= 0.0)
    assert (made.clients, made.without_lengths, made.lost_requests) == (2, 1, pytest.approx(6.0))


def test_lengths_are_those_of_the_window_that_began_last(rates: Path) -> None:
    requests = drawn(rates, 0.0, 1800.0).requests
    early = (requests.client == 0) & (requests.arrival_s < 1200.0)
    late = (requests.client == 0) & (requests.arrival_s >= 1200.0)
    assert requests.prompt_tokens[early].mean() == pytest.approx(100.0, rel=0.05)
    assert set(requests.output_tokens[early].tolist()) == {20}
    assert set(zip(requests.prompt_tokens[late].tolist(), requests.output_tokens[late].tolist(), strict=True)) == {
        (1000, 7)
    }
    # Text and images are one prompt.
    assert set(requests.prompt_tokens[requests.client == 1].tolist()) == {1210}


def test_arrivals_count_from_the_start_that_is_asked(rates: Path) -> None:
    part = drawn(rates, 900.0, 450.0).requests
    assert (part.arrival_s.min() >= 0.0, part.arrival_s.max() < 450.0) == (True, True)
    # Of 120 + 300 in the second half of one window, a quarter of 30 in the next.
    assert 100 < len(part) < 330
    assert np.sum(part.arrival_s > 300.0) < 30


def test_same_seed_same_bytes(rates: Path) -> None:
    first, again, other = (drawn(rates, 0.0, 1800.0, seed).requests.arrival_s.tobytes() for seed in (1, 1, 2))
    assert first == again != other


def test_packed_and_plain_tables_go_together(rates: Path, tmp_path: Path) -> None:
    import gzip

    packed = tmp_path / "made_rates.csv.gz"
    packed.write_bytes(gzip.compress(rates.read_bytes()))
    assert lengths_file(packed) == tmp_path / "made_lengths_quantiles.csv"
    assert len(drawn(packed, 0.0, 1800.0).requests) == 510


@given(st.sampled_from(["Gamma", "Weibull"]), st.floats(1e-6, 50), st.integers(1, 200), st.integers(0, 99))
def test_shares_of_gaps_are_shares(pattern: str, shape: float, count: int, seed: int) -> None:
    shares = gap_shares(np.random.default_rng(seed), pattern, shape, count)
    assert shares.shape == (count,)
    assert np.all(shares >= 0.0)
    assert shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("pattern", "shape", "cv"),
    # A gamma's is 1 / sqrt(k); a Weibull's of k = 2 is sqrt(4 / pi - 1).
    [("Gamma", 1.0, 1.0), ("Gamma", 0.25, 2.0), ("Gamma", 25.0, 0.2), ("Weibull", 1.0, 1.0), ("Weibull", 2.0, 0.5227)],
)
def test_gaps_vary_as_their_shape_says(pattern: str, shape: float, cv: float) -> None:
    shares = gap_shares(np.random.default_rng(0), pattern, shape, 100_000)
    assert shares.std() / shares.mean() == pytest.approx(cv, rel=0.03)


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        (("0,0,0.1,1,Gamma,1,1", "0,600,0.1,1,Pareto,1,1"), 3, "pattern: is not a known pattern"),
        (("0,0,0.1,1,Gamma,0,1",), 2, "param1: must be more than 0"),
        (("0,0,-1,1,Gamma,1,1",), 2, "rate_req_s: must be a number"),
        (("0,0,1e9,1,Gamma,1,1",), None, "are too many requests"),
        (("2,0,1,1,Gamma,1,1",), None, "has no request in this time"),
        (("0,9000,1,1,Gamma,1,1",), None, "has no request in this time"),
    ],
)
def test_wrong_rates_are_said(trace: Trace, rates: Path, rows: tuple[str, ...], line: int | None, said: str) -> None:
    assert rates.is_file()
    path = trace("made_rates.csv", RATES, *rows)
    with pytest.raises(SpecError) as caught:
        drawn(path, 0.0, 1800.0)
    assert said in str(caught.value)
    assert (caught.value.file, caught.value.line) == (path, line)


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        (LENGTHS, "0,0,input_tokens,100,50,40,150", "has quantiles that fall"),
        (LENGTHS, "0,0,input_tokens,many,50,60,150", "mean: must be a number"),
        ("client,window_start_s,field,mean", "0,0,input_tokens,5", "has no quantiles"),
    ],
)
def test_wrong_lengths_are_said(trace: Trace, rates: Path, head: str, row: str, said: str) -> None:
    path = trace("made_lengths_quantiles.csv", head, row)
    with pytest.raises(SpecError, match=said) as caught:
        drawn(rates, 0.0, 1800.0)
    assert (caught.value.file, caught.value.line) == (path, 2)


def test_rates_without_lengths_are_said(trace: Trace) -> None:
    for name in ("lone_rates.csv", "lone.csv"):
        with pytest.raises(SpecError, match="has no file of lengths beside it"):
            lengths_file(trace(name, RATES))
