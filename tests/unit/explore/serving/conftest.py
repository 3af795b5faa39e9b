"""Served requests, patterns of requests and deployments that tests make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cosim.explore.serving.deployed import Changes, Deployed, deployed
from cosim.explore.serving.records import Served, served_of
from cosim.explore.serving.serve_file import INLINE, Deployment
from cosim.schema import validated
from cosim.workload.requests.description import RequestPattern


@pytest.fixture(scope="session")
def served() -> Callable[..., Served]:
    """`served(count, column=values)`: one request a second, scheduled after 1 s, first token after 2, end after 12."""

    def made(count: int = 4, **changes: object) -> Served:
        arrival = np.arange(float(count))
        columns: dict[str, object] = {
            "request": np.arange(count),
            "arrival_s": arrival,
            "prompt_tokens": np.full(count, 100),
            "output_tokens": np.full(count, 11),
            "cached_tokens": np.full(count, 25),
            "client": np.zeros(count),
            "priority": np.zeros(count),
            "replica": np.zeros(count),
            "scheduled_s": arrival + 1.0,
            "first_token_s": arrival + 2.0,
            "finished_s": arrival + 12.0,
            "preemptions": np.zeros(count),
        }
        return served_of({**columns, **changes})

    return made


@pytest.fixture(scope="session")
def pattern() -> Callable[..., RequestPattern]:
    """`pattern(count, rate, prompt, output, **fields)`: requests of fixed lengths that come at random."""

    def made(
        count: int = 200, rate: float = 5.0, prompt: int = 256, output: int = 32, **fields: object
    ) -> RequestPattern:
        data = {
            "count": count,
            "arrivals": {"kind": "poisson", "rate": rate},
            "prompt": {"kind": "fixed", "tokens": prompt},
            "output": {"kind": "fixed", "tokens": output},
            **fields,
        }
        return validated(RequestPattern, {**INLINE, **data})

    return made


@pytest.fixture(scope="session")
def ready() -> Callable[..., Deployed]:
    """`ready(field=value)`: Llama 3.1 8B in bf16 on one H100, or what the fields say."""

    def made(*, changes: Changes | None = None, prefix_tokens: int | None = None, **fields: object) -> Deployed:
        usual = {"system": "dgx-h100", "workload": "llama-3.1-8b", "plan": {"tensor_parallel": 1, "dtype": "bf16"}}
        spec = validated(Deployment, {**usual, **fields})
        return deployed("mine", spec, changes or {}, prefix_tokens)

    return made
