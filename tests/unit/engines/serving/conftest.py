"""A table that is not even, chunks of requests, and a run that keeps its records and segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cosim.engines.serving.cluster import serve
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.result import ServingRun
from cosim.engines.serving.settings import Cluster
from cosim.engines.serving.table import StepTable

TOKENS = np.array([1.0, 8.0, 64.0, 512.0, 2048.0])
CONTEXTS = np.array([1.0, 40.0, 100.0, 700.0, 4000.0])


@pytest.fixture(scope="session")
def table() -> Callable[..., StepTable]:
    """A table: 5 ms of weights, a bend in every direction; `scale` makes all of it slower."""

    def made(scale: float = 1.0, **changes: Any) -> StepTable:
        bend = np.sqrt(CONTEXTS)[None, :] * 1e-6
        fields: dict[str, Any] = {
            "tokens": TOKENS,
            "contexts": CONTEXTS,
            "linear_s": scale * (5e-3 + np.maximum(TOKENS - 60.0, 0.0) * 2e-5),
            "head_s": scale * (1e-4 + TOKENS * 1e-6),
            "prefill_s": scale * (1e-5 + TOKENS[:, None] * CONTEXTS[None, :] * 1e-9 + bend),
            "decode_s": scale * (1e-5 + TOKENS[:, None] * CONTEXTS[None, :] * 4e-8 + bend),
            "draft_s": scale * (4e-4 + TOKENS * 1e-7),
            "host_step_s": 2e-4,
            "host_sequence_s": 1e-6,
            **changes,
        }
        return StepTable(**fields)

    return made


@pytest.fixture(scope="session")
def fixed() -> Callable[[float, float], StepTable]:
    """A table whose steps take so long, plus so much for each new token; nothing else takes time."""

    def made(step_s: float, token_s: float = 0.0) -> StepTable:
        tokens, contexts = np.array([1.0, 1e5]), np.array([1.0, 2.0])
        none = np.zeros((2, 2))
        return StepTable(tokens, contexts, step_s + token_s * tokens, np.zeros(2), none, none)

    return made


@pytest.fixture(scope="session")
def chunk() -> Callable[..., Chunk]:
    """Requests of given arrivals and lengths; a single number is that of all."""

    def made(arrival: Iterable[float], prompt: Any = 100, output: Any = 10, **more: Any) -> Chunk:
        arrivals = np.asarray(list(arrival), dtype=float)
        full = {name: np.broadcast_to(np.asarray(value), arrivals.shape) for name, value in more.items()}
        return Chunk(arrivals, np.broadcast_to(prompt, arrivals.shape), np.broadcast_to(output, arrivals.shape), **full)

    return made


@pytest.fixture(scope="session")
def poisson() -> Callable[..., Iterator[Chunk]]:
    """Poisson arrivals in chunks, lengths geometric around a mean, clients, classes and sessions."""

    def made(count: int, rate: float, seed: int = 0, prompt: int = 120, output: int = 30) -> Iterator[Chunk]:
        random = np.random.default_rng(seed)
        at = 0.0
        for start in range(0, count, 64):
            size = min(64, count - start)
            arrivals = at + np.cumsum(random.exponential(1.0 / rate, size))
            at = float(arrivals[-1])
            lengths = (np.minimum(random.geometric(1.0 / mean, size), 6 * mean) for mean in (prompt, output))
            yield Chunk(
                arrivals,
                *lengths,
                random.integers(0, 3, size),
                random.integers(0, 4, size),
                random.integers(-1, 6, size),
            )

    return made


@dataclass(frozen=True)
class Served:
    """Totals, records as rows by request, segments."""

    run: ServingRun
    records: np.ndarray[Any, np.dtype[np.float64]]
    segments: list[tuple[float, ...]]


@pytest.fixture(scope="session")
def served() -> Callable[..., Served]:
    """Runs a cluster with every check on."""

    def made(cluster: Cluster, chunks: Iterable[Chunk], seed: int = 0, **options: Any) -> Served:
        records: list[Any] = []
        segments: list[Any] = []
        random = np.random.default_rng(seed)
        run = serve(cluster, chunks, random, records=records.extend, segments=segments.extend, check=True, **options)
        rows = np.array(sorted(records), dtype=float).reshape(-1, 12)
        return Served(run, rows, segments)

    return made
