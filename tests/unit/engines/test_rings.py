"""The longest way through 1F1B: never longer than the events take, and no more than a little shorter."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.rings import Line, longest_way
from cosim.engines.train_events import StepSchedule, run_training
from cosim.mapping.stages import stages
from cosim.records import array

PASS = st.integers(40, 160).map(lambda number: number / 100.0)
PASSES = st.tuples(PASS, PASS, PASS, PASS)
HOP = st.sampled_from([0.0, 0.01, 0.05, 0.2])
DEEP = st.integers(1, 10)
MICRO = st.integers(1, 40)


def line_of(forward: tuple[float, ...], back: tuple[float, ...], layers: int, pipeline: int, hop: float) -> Line:
    """Stages that take these seconds by class, with equal transfers."""
    stage = stages(array(layers), array(pipeline))
    return Line(stage, np.array(forward)[:, None], np.array(back)[:, None], array(2.0 * hop), array(2.0 * hop))


def closed(line: Line, micro: int) -> float:
    return float(longest_way(line, array(micro))[0])


def events(line: Line, micro: int, hop: float) -> float:
    """The same with nothing around the passes."""
    counts = line.stage.count[:, 0].astype(int)
    nothing = (0.0,) * int(counts.sum())

    def along(values: np.ndarray) -> tuple[float, ...]:
        return tuple(np.repeat(values[:, 0], counts).tolist())

    around = dict.fromkeys(("gather_s", "reduce_s", "optimizer_s"), nothing)
    times = {"forward_s": along(line.forward), "backward_s": along(line.backward), "transfer_s": (hop,) * len(nothing)}
    rest = {"layers": (1,) * len(nothing), "pieces": 1, "cores": 0.0, "overlap": True, "host_s": 0.0}
    return run_training(StepSchedule(**times, **around, **rest, micro_batches=micro)).time_s


@settings(max_examples=150, deadline=None)
@given(forward=PASSES, back=PASSES, more=st.integers(0, 30), pipeline=DEEP, micro=MICRO, hop=HOP)
def test_a_way_is_never_longer_than_the_events_take(
    forward: tuple[float, ...], back: tuple[float, ...], more: int, pipeline: int, micro: int, hop: float
) -> None:
    line = line_of(forward, back, pipeline + more, pipeline, hop)
    found, true = closed(line, micro), events(line, micro, hop)
    assert found <= true * (1.0 + 1e-9)
    # Passes that differ up to four times, both kinds for themselves: far more than a model's stages do.
    assert found >= 0.96 * true


@settings(max_examples=100, deadline=None)
@given(first=PASS, last=PASS, ratio=st.sampled_from([0.5, 1.0, 2.0, 3.0]), pipeline=DEEP, micro=MICRO)
def test_embedding_and_head_that_are_longer_or_shorter_are_exact(
    first: float, last: float, ratio: float, pipeline: int, micro: int
) -> None:
    forward = (first, 1.0, 1.0, last)
    line = line_of(forward, tuple(ratio * each for each in forward), 4 * pipeline, pipeline, 0.0)
    assert closed(line, micro) == pytest.approx(events(line, micro, 0.0), rel=1e-9)


def test_most_pipelines_are_exact_and_hardly_any_is_a_percent_short() -> None:
    rng, errors = np.random.default_rng(5), []
    for _ in range(300):
        pipeline, micro, hop = int(rng.integers(1, 10)), int(rng.integers(1, 40)), float(rng.choice([0.0, 0.01, 0.05]))
        forward = tuple(rng.uniform(0.7, 1.3, 4).tolist())
        back = tuple(float(each * rng.uniform(1.8, 2.2)) for each in forward)
        line = line_of(forward, back, pipeline + int(rng.integers(0, 3 * pipeline)), pipeline, hop)
        errors.append(1.0 - closed(line, micro) / events(line, micro, hop))
    assert statistics.median(errors) < 1e-9
    assert np.mean(np.array(errors) < 1e-3) > 0.93
    assert np.quantile(errors, 0.99) < 0.01


def test_a_first_stage_that_is_a_little_slower_by_hand() -> None:
    # Two stages of 1 + 1 and 0.9 + 0.9: the first begins to hand on at 1 s and has its first gradient at 1 + 1.8 s, 0.8
    # later than its second pass ends. So again at the end: 10 micro-batches of 2 s, twice 0.8 s.
    line = line_of((1.0, 1.0, 1.0, 0.9), (1.0, 1.0, 1.0, 0.9), 2, 2, 0.0)
    assert closed(line, 10) == pytest.approx(10 * 2.0 + 2 * 0.8)
    # Two micro-batches: both go ahead, the last stage runs 0.9 s four times behind the first pass, and one is left.
    assert closed(line, 2) == pytest.approx(1.0 + 4 * 0.9 + 1.0)


def test_points_together_are_what_each_is_alone() -> None:
    rng = np.random.default_rng(7)
    depth, micro = rng.integers(1, 9, 50).astype(float), rng.integers(1, 20, 50).astype(float)
    stage = stages(array(16.0) + 0.0 * depth, depth)
    forward, back = rng.uniform(0.8, 1.2, (4, 50)), rng.uniform(1.6, 2.4, (4, 50))
    hop = rng.uniform(0.0, 0.1, 50)
    together = longest_way(Line(stage, forward, back, hop, 1.5 * hop), micro)
    for index in range(50):
        one = Line(
            stages(array(16.0), array(depth[index])),
            forward[:, index : index + 1],
            back[:, index : index + 1],
            hop[index : index + 1],
            1.5 * hop[index : index + 1],
        )
        assert together[index] == pytest.approx(float(longest_way(one, micro[index : index + 1])[0]), rel=1e-12)
