"""ServeGen's tables to requests: rates of clients over windows of time, quantiles of their lengths.

A window's rate is a count over its width. Its requests are that many, and the gaps between them are gamma or Weibull of
the shape that was fitted to it, scaled to fill the window: the count is kept whatever the shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosim.errors import SpecError
from cosim.records import Array, array
from cosim.workload.requests import quantiles
from cosim.workload.requests.records import Int, Requests, by_arrival, joined, requests_of
from cosim.workload.requests.trace_lines import Place, Row, number, rows, whole

WINDOW_S = 600.0
"""Width of a window of rates: part of the format."""
MOST = 20_000_000
"""Requests that are made at once, in memory."""
_PATTERNS = ("Gamma", "Weibull")
_OUTPUT = "output_tokens"


@dataclass(frozen=True, slots=True)
class Window:
    """One client in one window."""

    client: int
    start_s: float
    rate: float
    pattern: str
    shape: float


@dataclass(frozen=True, slots=True)
class ServeGen:
    """What was made, and what was left out because its lengths are unknown."""

    requests: Requests
    clients: int
    without_lengths: int
    """Clients that ask in the window and have no table of lengths."""
    lost_requests: float
    """Requests of those clients."""


Tables = dict[int, dict[float, dict[str, tuple[Array, Array]]]]
"""Quantile lines by client, start of the window, field."""


def generated(path: Path, generator: np.random.Generator, start_s: float, duration_s: float) -> ServeGen:
    """Requests of all clients from `start_s` on for `duration_s`; arrivals count from `start_s`. Raises SpecError.

    `path` is the file of rates; the quantiles of lengths lie beside it.
    """
    tables = _tables(lengths_file(path))
    stop = start_s + duration_s
    asked = [each for each in _windows(path) if each.start_s < stop and each.start_s + WINDOW_S > start_s]
    total = sum(each.rate for each in asked) * WINDOW_S
    if total > MOST:
        hint = f"at most {MOST:,}: choose a shorter duration"
        raise SpecError("are too many requests", file=path, value=f"{total:,.0f}", hint=hint)
    known = [each for each in asked if each.client in tables]
    # A client draws from its own stream: the others do not change it.
    children = dict(
        zip(sorted({w.client for w in known}), generator.spawn(len({w.client for w in known})), strict=True)
    )
    parts = [_of_window(each, tables[each.client], children[each.client], start_s, stop) for each in known]
    parts = [part for part in parts if len(part)]
    if not parts:
        hint = "choose another start or duration"
        raise SpecError("has no request in this time", file=path, value=f"{start_s:g} s to {stop:g} s", hint=hint)
    lost = [each for each in asked if each.client not in tables]
    clients = len({each.client for each in known})
    missing = sum(each.rate for each in lost) * WINDOW_S
    return ServeGen(by_arrival(joined(parts)), clients, len({each.client for each in lost}), missing)


def lengths_file(path: Path) -> Path:
    """The quantiles that belong to a file of rates. Raises SpecError."""
    for tail in ("", ".gz"):
        name = path.name.removesuffix(".gz").removesuffix("_rates.csv") + "_lengths_quantiles.csv" + tail
        if path.name.removesuffix(".gz").endswith("_rates.csv") and path.with_name(name).is_file():
            return path.with_name(name)
    hint = "X_rates.csv is read with X_lengths_quantiles.csv"
    raise SpecError("has no file of lengths beside it", file=path, hint=hint)


def gap_shares(generator: np.random.Generator, pattern: str, shape: float, count: int) -> Array:
    """`count` gaps of a gamma or Weibull distribution of this shape, as shares of their sum, (count,).

    Drawn as logarithms: shapes near zero give gaps below the smallest number.
    """
    if pattern == "Gamma":
        # X of shape k is Y U^(1/k) with Y of shape k + 1.
        logs = np.log(generator.standard_gamma(shape + 1.0, count)) + np.log1p(-generator.random(count)) / shape
    else:
        logs = np.log(generator.standard_exponential(count)) / shape
    gaps = np.exp(logs - logs.max())
    return array(gaps / gaps.sum())


def _windows(path: Path) -> Iterator[Window]:
    for place, row in rows(path, as_json=False):
        pattern = str(row.get("pattern")).strip()
        if pattern not in _PATTERNS:
            raise place.fault("is not a known pattern of arrivals", "pattern", pattern, ", ".join(_PATTERNS))
        start, rate = number(row, "window_start_s", place, 0.0), number(row, "rate_req_s", place, 0.0)
        shape = number(row, "param1", place, 0.0)
        if shape == 0.0:
            raise place.fault("must be more than 0", "param1", row.get("param1"))
        yield Window(whole(row, "client", place, 0), start, rate, pattern, shape)


def _tables(path: Path) -> Tables:
    found: Tables = defaultdict(lambda: defaultdict(dict))
    for place, row in rows(path, as_json=False):
        name = str(row.get("field"))
        if name.endswith("_tokens"):
            client, start = whole(row, "client", place, 0), number(row, "window_start_s", place, 0.0)
            found[client][start][name] = _lines(row, place)
    usable = {
        client: {start: fields for start, fields in windows.items() if _OUTPUT in fields and len(fields) > 1}
        for client, windows in found.items()
    }
    return {client: windows for client, windows in usable.items() if windows}


def _lines(row: Row, place: Place) -> tuple[Array, Array]:
    """Shares and values from columns q5 .. q99, closed by the mean."""
    marks = sorted((int(name[1:]), name) for name in row if name[:1] == "q" and name[1:].isdigit())
    if not marks or marks[-1][0] >= 100:
        raise place.fault("has no quantiles such as q5 and q99", hint="columns q1 .. q99")
    values = array([number(row, name, place, 0.0) for _, name in marks])
    if np.any(values[1:] < values[:-1]):
        raise place.fault("has quantiles that fall", marks[-1][1], values.tolist())
    shares = array([mark for mark, _ in marks]) / 100.0
    return quantiles.closed_table(shares, values, number(row, "mean", place, 0.0))


def _of_window(
    window: Window,
    tables: dict[float, dict[str, tuple[Array, Array]]],
    generator: np.random.Generator,
    start_s: float,
    stop_s: float,
) -> Requests:
    """Requests of a client in a window, those inside [start_s, stop_s)."""
    count = round(window.rate * WINDOW_S)
    gaps = gap_shares(generator, window.pattern, window.shape, count + 1)
    arrival = window.start_s + np.minimum(np.cumsum(gaps)[:-1], 1.0) * WINDOW_S
    fields = tables[_latest(tables, window.start_s)]
    prompt = np.zeros(count)
    for name, (shares, values) in fields.items():
        if name != _OUTPUT:
            prompt += quantiles.table(generator.random(count), shares, values)
    output = quantiles.tokens(quantiles.table(generator.random(count), *fields[_OUTPUT]))
    inside = (arrival >= start_s) & (arrival < stop_s)
    kept: tuple[Int, Int] = (quantiles.tokens(prompt)[inside], output[inside])
    return requests_of(arrival[inside] - start_s, *kept, client=window.client)


def _latest(tables: dict[float, dict[str, tuple[Array, Array]]], start_s: float) -> float:
    """The window of lengths that holds at a time: the last that began, or the first of all."""
    begun = [start for start in tables if start <= start_s]
    return max(begun) if begun else min(tables)
