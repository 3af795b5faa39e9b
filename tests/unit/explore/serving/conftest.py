"""Served requests that tests make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from cosim.engines.serving.settings import Cluster, Pool, Scheduler
from cosim.engines.serving.table import StepTable
from cosim.explore.serving.deployed import Changes, Deployed, deployed
from cosim.explore.serving.deployments import Ground, Machine
from cosim.explore.serving.records import Served, served_of
from cosim.explore.serving.search import ServingResult, ground_of, machines_of, search_deployments
from cosim.explore.serving.search_file import ServingSearch
from cosim.explore.serving.serve_file import INLINE, Deployment
from cosim.hardware.load import load_system
from cosim.overrides import Varied
from cosim.records import array
from cosim.schema import validated
from cosim.workload.load import load_workload
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


ASKED: dict[str, Any] = {
    "prompt": 1000,
    "output": 100,
    "chips": 4,
    "ttft_limit": 0.5,
    "tpot_limit": 0.02,
    "space": {"max_sequences": [1, 8, 32, 64, 128], "token_budget": [1024, 4096], "dtype": "bf16"},
    "requests": 100,
    "simulated": 3,
}
SYSTEM, MODEL = "dgx-h200", "llama-3.1-8b"


@pytest.fixture(scope="session")
def study() -> Callable[..., ServingSearch]:
    """A search over few deployments; fields and, in `space`, dimensions are changed by name."""

    def made(space: dict[str, Any] | None = None, **changes: Any) -> ServingSearch:
        return ServingSearch.model_validate({**ASKED, **changes, "space": {**ASKED["space"], **(space or {})}})

    return made


@pytest.fixture(scope="session")
def ground(study: Callable[..., ServingSearch]) -> Callable[..., Ground]:
    """What such a search of a model stands on."""

    def made(asked: ServingSearch | None = None, model: str = MODEL) -> Ground:
        return ground_of(asked or study(), Varied(load_system(SYSTEM)), Varied(load_workload(model)))

    return made


@pytest.fixture(scope="session")
def machine() -> Callable[..., Machine]:
    """The system; its memory is so many times as fast, or as large."""

    def made(bandwidth: float = 1.0, capacity: float = 1.0, chips: int = 4) -> Machine:
        (found,) = machines_of([Varied(load_system(SYSTEM))], chips)
        chip = found.system.chip
        dram = chip.memory["dram"]
        dram = replace(
            dram,
            bandwidth=dram.bandwidth * bandwidth,
            capacity=dram.capacity * capacity,
            shown=dram.shown * capacity,
        )
        chip = replace(chip, memory={**chip.memory, "dram": dram})
        return replace(found, system=replace(found.system, chip=chip))

    return made


@pytest.fixture(scope="session")
def searched(study: Callable[..., ServingSearch]) -> Callable[..., ServingResult]:
    """What such a search finds, each asked once."""

    @lru_cache(maxsize=32)
    def kept(text: str) -> ServingResult:
        asked = ServingSearch.model_validate_json(text).model_dump(exclude_none=True)
        systems = [Varied(load_system(SYSTEM))]
        return search_deployments(asked, systems, Varied(load_workload(MODEL)), lambda _done, _of, _what: None)

    def made(space: dict[str, Any] | None = None, **changes: Any) -> ServingResult:
        return kept(study(space, **changes).model_dump_json())

    return made


@pytest.fixture(scope="session")
def even_cluster() -> Callable[..., Cluster]:
    """Replicas with steps of 10 ms and 20 us for each new token, whatever the context; `scale` makes them slower."""

    def made(scale: float = 1.0, replicas: int = 1, most: int = 8) -> Cluster:
        tokens, contexts = array([1.0, 4096.0]), array([1.0, 8192.0])
        nothing = np.zeros((2, 2))
        table = StepTable(tokens, contexts, scale * (10e-3 + 20e-6 * tokens), array([0.0, 0.0]), nothing, nothing)
        return Cluster(Pool(table, Scheduler(kv_blocks=10_000, max_sequences=most), replicas))

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
