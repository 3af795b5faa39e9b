"""Samples from storage: a bound on a step, the same in both engines, along the points, and no bound where unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import BREAKDOWN, Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.loading import loading
from cosim.engines.train_events import simulate_training
from cosim.engines.training import with_micro_batches
from cosim.errors import SpecError

Train = Callable[..., Case]
CALM = {"system.chip.power.limit": 1e6, "system.chip.collective_cores": 1e-9}
SIZE, STORAGE = "scenario.bytes_per_sample", "system.server.storage"


def case_of(train: Train, **fields: Any) -> Case:
    return with_micro_batches(train(**{"software": "megatron", **CALM, **fields}))


def run(train: Train, **fields: Any) -> Estimates:
    return evaluate(case_of(train, **fields))


def test_time_to_read_by_hand(train: Train) -> None:
    # Sixteen chips of eight a node: two nodes. Sixteen sequences of 1 GB over 2 x 4 GB/s.
    fields = {"pipeline_parallel": 2, "data_parallel": 2, SIZE: 1e9, STORAGE: 4e9}
    assert loading(case_of(train, **fields)) == pytest.approx(2.0)
    # Four chips take one node, which reads with all it has.
    assert loading(case_of(train, **{SIZE: 1e9, STORAGE: 4e9})) == pytest.approx(4.0)


@settings(max_examples=15, deadline=None)
@given(
    times=st.floats(0.01, 10.0),
    pipeline=st.sampled_from([1, 2, 3]),
    data=st.sampled_from([1, 2]),
    schedule=st.sampled_from(["1f1b", "gpipe"]),
)
def test_a_step_is_the_longer_of_both_in_both_engines(
    train: Train, times: float, pipeline: int, data: int, schedule: str
) -> None:
    fields: dict[str, Any] = {"pipeline_parallel": pipeline, "data_parallel": data, "schedule": schedule}
    plain = run(train, **fields)
    step = float(plain.time[0])
    nodes = np.ceil(4 * pipeline * data / 8)
    bound = case_of(train, **fields, **{SIZE: times * step * nodes * 1e9 / 16, STORAGE: 1e9})
    result = evaluate(bound)
    assert result.time[0] == pytest.approx(step * max(times, 1.0), rel=1e-9)
    assert sum(float(result.breakdown[name][0]) for name in BREAKDOWN) == pytest.approx(float(result.time[0]), rel=1e-9)
    for name in set(BREAKDOWN) - {"data_loading"}:
        assert result.breakdown[name][0] == plain.breakdown[name][0]
    events = simulate_training(bound)
    assert events.time_s == pytest.approx(float(result.time[0]), rel=5e-3)
    assert sum(span.resource == "storage" for span in events.spans) == 1


def test_an_unknown_size_is_no_bound_and_no_stream(train: Train) -> None:
    case = case_of(train)
    assert loading(case) == 0.0
    assert evaluate(case).breakdown["data_loading"][0] == 0.0
    assert not [span for span in simulate_training(case).spans if span.resource == "storage"]


def test_sizes_and_storage_are_numbers_along_the_points(train: Train) -> None:
    sizes, rates = np.array([1e6, 1e9, 4e9]), np.array([1e9, 2e9, 1e9])
    together = run(train, **{SIZE: sizes, STORAGE: rates})
    for index in range(3):
        alone = run(train, **{SIZE: float(sizes[index]), STORAGE: float(rates[index])})
        assert together.time[index] == alone.time[0]
        assert together.energy[index] == pytest.approx(alone.energy[0], rel=1e-12)
    assert together.time[1] == pytest.approx(16 * 1e9 / 2e9)


def test_a_chip_that_waits_draws_what_it_draws_idle(train: Train) -> None:
    plain, slow = run(train), run(train, **{SIZE: 10e9, STORAGE: 1e9})
    case = case_of(train)
    waited = slow.time[0] - plain.time[0]
    idle = float(case.system.chip.power.idle) * 4.0
    assert slow.energy[0] - plain.energy[0] == pytest.approx(waited * idle, rel=1e-9)
    assert slow.clock[0] == plain.clock[0]


def test_a_system_without_storage_is_refused(train: Train) -> None:
    with pytest.raises(SpecError, match=r"needs the bandwidth of storage.*give server.storage"):
        run(train, **{SIZE: 1e6})
