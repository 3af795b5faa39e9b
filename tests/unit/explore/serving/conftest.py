"""Served requests that tests make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cosim.explore.serving.records import Served, served_of


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
