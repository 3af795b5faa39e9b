"""A description of requests that tests change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.workload.requests.description import RequestPattern

PLAIN: dict[str, Any] = {
    "kind": "requests",
    "name": "made",
    "title": "made up",
    "source": "a test",
    "count": 1000,
    "arrivals": {"kind": "poisson", "rate": "10 Hz"},
    "prompt": {"kind": "uniform", "low": 100, "high": 300},
    "output": {"kind": "uniform", "low": 10, "high": 30},
}


@pytest.fixture(scope="session")
def pattern() -> Callable[..., RequestPattern]:
    """`pattern(field=value)`: 1,000 Poisson requests, with fields replaced, or left out where None."""

    def made(**changes: object) -> RequestPattern:
        fields = {name: value for name, value in {**PLAIN, **changes}.items() if value is not None}
        return RequestPattern.model_validate(fields)

    return made


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., Path]:
    """Writes the lines of a trace: `trace(name, line, ...)`."""

    def written(name: str, *lines: str) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return written
