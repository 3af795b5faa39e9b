"""Stage classes of a pipeline, against a list of stages filled one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.stages import CLASSES, Stages, by_group, in_front, stages, summed_up
from cosim.records import array


def of(layers: int, pipeline: int) -> Stages:
    return stages(array(layers), array(pipeline))


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[int, int]:
    layers = draw(st.integers(1, 300))
    return layers, draw(st.integers(1, layers))


@settings(max_examples=60, deadline=None)
@given(drawn=pipelines())
def test_counts_sum_to_the_pipeline_degree(drawn: tuple[int, int]) -> None:
    stage = of(*drawn)
    assert float(stage.count.sum()) == drawn[1]
    assert stage.count.min() >= 0.0


@settings(max_examples=60, deadline=None)
@given(drawn=pipelines())
def test_every_layer_is_on_exactly_one_stage(drawn: tuple[int, int]) -> None:
    stage = of(*drawn)
    assert float((stage.count * stage.layers).sum()) == drawn[0]


@settings(max_examples=60, deadline=None)
@given(drawn=pipelines())
def test_there_is_one_embedding_and_one_head(drawn: tuple[int, int]) -> None:
    stage = of(*drawn)
    assert float((stage.count * stage.embeds).sum()) == 1.0
    assert float((stage.count * stage.heads).sum()) == 1.0


@settings(max_examples=60, deadline=None)
@given(drawn=pipelines())
def test_present_stages_differ_by_one_layer_at_most_and_have_one_at_least(drawn: tuple[int, int]) -> None:
    stage = of(*drawn)
    present = stage.layers[stage.count > 0.0]
    assert present.max() - present.min() <= 1.0
    assert present.min() >= 1.0


@settings(max_examples=60, deadline=None)
@given(drawn=pipelines())
def test_the_last_stage_never_has_more_layers_than_another(drawn: tuple[int, int]) -> None:
    stage = of(*drawn)
    head_at = CLASSES.index("last" if drawn[1] > 1 else "first")
    assert stage.layers[head_at, 0] == stage.layers[stage.count > 0.0].min()


@pytest.mark.parametrize(
    ("layers", "pipeline", "count", "per_stage"),
    [
        (80, 1, [1, 0, 0, 0], [80, 81, 80, 80]),  # one stage has all
        (80, 2, [1, 0, 0, 1], [40, 41, 40, 40]),
        (81, 2, [1, 0, 0, 1], [41, 41, 40, 40]),  # no middle: the first takes the odd one
        (80, 8, [1, 0, 6, 1], [10, 11, 10, 10]),
        (82, 8, [1, 2, 4, 1], [10, 11, 10, 10]),  # middle stages take what is left over
        (86, 8, [1, 6, 0, 1], [10, 11, 10, 10]),
        (87, 8, [1, 6, 0, 1], [11, 11, 10, 10]),  # then the first
        (126, 16, [1, 14, 0, 1], [7, 8, 7, 7]),  # 126 = 16 x 7 + 14
        (3, 3, [1, 0, 1, 1], [1, 2, 1, 1]),
    ],
)
def test_classes_by_hand(layers: int, pipeline: int, count: list[int], per_stage: list[int]) -> None:
    stage = of(layers, pipeline)
    assert stage.count[:, 0].tolist() == count
    assert stage.layers[:, 0].tolist() == per_stage


def test_one_stage_has_embedding_and_head_together() -> None:
    only, two = of(10, 1), of(10, 2)
    assert (only.embeds[0, 0], only.heads[0, 0]) == (1.0, 1.0)
    assert (two.embeds[0, 0], two.heads[0, 0], two.embeds[3, 0], two.heads[3, 0]) == (1.0, 0.0, 0.0, 1.0)


def test_points_are_the_last_axis_and_equal_the_single_results() -> None:
    layers, pipeline = np.array([80.0, 81.0, 126.0, 7.0]), np.array([1.0, 2.0, 16.0, 7.0])
    together = stages(layers, pipeline)
    for index in range(4):
        alone = stages(layers[index], pipeline[index])
        for name in ("count", "layers", "embeds", "heads"):
            np.testing.assert_array_equal(getattr(together, name)[:, index], getattr(alone, name)[:, 0])


def test_a_scalar_joins_an_array() -> None:
    assert stages(array(80.0), array([1.0, 4.0, 8.0])).count.shape == (4, 3)
    assert stages(array([80.0, 40.0]), array(4.0)).layers.shape == (4, 2)
    assert of(80, 4).count.shape == (4, 1)


def test_groups_run_where_they_belong() -> None:
    stage = of(82, 8)
    assert by_group(stage, "layer")[:, 0].tolist() == [10.0, 11.0, 10.0, 10.0]
    assert by_group(stage, "embed")[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert by_group(stage, "head")[:, 0].tolist() == [0.0, 0.0, 0.0, 1.0]
    with pytest.raises(KeyError, match="optimizer"):
        by_group(stage, "optimizer")


def filled_one_by_one(stage: Stages, dense: int) -> list[float]:
    """Dense layers of each class: stages in line, from the first on, take them until they are placed."""
    held: list[float] = []
    left = float(dense)
    for count, layers in zip(stage.count[:, 0], stage.layers[:, 0], strict=True):
        placed = 0.0
        for _ in range(int(count)):
            own = min(left, layers)
            placed, left = placed + own, left - own
        held.append(placed)
    assert left == 0.0
    return held


@settings(max_examples=80, deadline=None)
@given(drawn=pipelines(), share=st.floats(0.0, 1.0))
def test_dense_layers_fill_the_stages_from_the_first_on(drawn: tuple[int, int], share: float) -> None:
    layers, pipeline = drawn
    dense = int(share * layers)
    stage = stages(array(layers), array(pipeline), array(dense))
    np.testing.assert_allclose((stage.count * stage.dense)[:, 0], filled_one_by_one(stage, dense), atol=1e-9)
    # The same number of each stage of a class, none more than its layers.
    assert np.all(stage.dense <= stage.layers + 1e-12)
    assert stage.dense.min() >= 0.0


@pytest.mark.parametrize(
    ("pipeline", "dense", "per_stage"),
    [
        (1, 3, [3, 0, 0, 0]),
        (16, 3, [3, 0, 0, 0]),  # 61 = 16 x 3 + 13: the first stage has three layers
        (32, 3, [1, 2 / 29, 0, 0]),  # 61 = 32 + 29: one on the first, two on the 29 stages of two
        (2, 40, [31, 0, 0, 9]),  # 61 = 31 + 30
        (4, 61, [15, 16, 15, 15]),  # all of them: 61 = 4 x 15 + 1
        (4, 0, [0, 0, 0, 0]),
    ],
)
def test_dense_layers_of_deepseek_by_hand(pipeline: int, dense: int, per_stage: list[float]) -> None:
    stage = stages(array(61), array(pipeline), array(dense))
    present = stage.count[:, 0] > 0.0
    np.testing.assert_allclose(stage.dense[present, 0], np.array(per_stage)[present])


@settings(max_examples=60, deadline=None)
@given(drawn=pipelines(), share=st.floats(0.0, 1.0))
def test_every_layer_has_one_kind_of_feed_forward(drawn: tuple[int, int], share: float) -> None:
    layers, pipeline = drawn
    dense = int(share * layers)
    stage = stages(array(layers), array(pipeline), array(dense))
    np.testing.assert_allclose(by_group(stage, "dense") + by_group(stage, "moe"), by_group(stage, "layer"))
    assert float((stage.count * by_group(stage, "dense")).sum()) == pytest.approx(dense)
    assert float((stage.count * by_group(stage, "moe")).sum()) == pytest.approx(layers - dense)


def test_without_dense_layers_every_layer_may_be_routed() -> None:
    stage = of(82, 8)
    assert stage.dense.tolist() == np.zeros((4, 1)).tolist()
    assert by_group(stage, "moe").tolist() == by_group(stage, "layer").tolist()


def test_dense_layers_follow_the_points_axis() -> None:
    together = stages(array(61), array([1.0, 16.0, 32.0]), array([3.0, 0.0, 40.0]))
    for index, (pipeline, dense) in enumerate([(1, 3), (16, 0), (32, 40)]):
        alone = stages(array(61), array(pipeline), array(dense))
        np.testing.assert_array_equal(together.dense[:, index], alone.dense[:, 0])


@settings(max_examples=60, deadline=None)
@given(drawn=pipelines(), share=st.floats(0.0, 1.0))
def test_dense_layers_between_the_others_are_the_same_share_of_every_stage(
    drawn: tuple[int, int], share: float
) -> None:
    layers, pipeline = drawn
    dense = int(share * layers)
    stage = stages(array(layers), array(pipeline), array(dense), between=True)
    np.testing.assert_allclose(stage.dense, stage.layers * dense / layers)
    assert float((stage.count * stage.dense).sum()) == pytest.approx(dense)


def test_every_second_layer_dense_on_stages_of_twelve() -> None:
    stage = stages(array(48.0), array(4.0), array(24.0), between=True)
    assert by_group(stage, "dense")[:, 0].tolist() == [6.0, 6.5, 6.0, 6.0]  # no stage is of the second class here
    assert by_group(stage, "moe")[0, 0] == 6.0
    in_front = stages(array(48.0), array(4.0), array(24.0))
    assert in_front.dense[:, 0].tolist() == [12.0, 0.0, 6.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3), min_size=4, max_size=4))
def test_sums_over_classes_are_those_of_numpy_and_leave_their_input(rows: list[list[float]]) -> None:
    values = np.array(rows)
    kept = values.copy()
    np.testing.assert_array_equal(summed_up(values), np.cumsum(values, axis=0))
    np.testing.assert_array_equal(in_front(values), np.cumsum(values, axis=0) - values)
    np.testing.assert_array_equal(values, kept)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[int, int, int]:
    layers = draw(st.integers(2, 300))
    pipeline = draw(st.integers(2, max(layers // 2, 2)))
    return layers, pipeline, draw(st.integers(2, max((layers + 2) // pipeline, 2)))


@settings(max_examples=80, deadline=None)
@given(drawn=interleaved())
def test_pieces_that_do_not_divide_leave_ends_a_layer_for_embedding_and_head(drawn: tuple[int, int, int]) -> None:
    layers, pipeline, pieces = drawn
    stage, even = stages(array(layers), array(pipeline), virtual=array(pieces)), of(layers, pipeline)
    assert float((stage.count * stage.layers).sum()) == layers
    assert float(stage.count.sum()) == pipeline
    if layers % (pipeline * pieces) == 0:
        assert np.array_equal(stage.layers, even.layers)
        return
    places = (stage.layers + stage.embeds + stage.heads)[stage.count > 0.0]
    assert places.max() - places.min() <= 1.0


@pytest.mark.parametrize(
    ("layers", "pipeline", "pieces", "along"),
    [
        (126, 8, 8, [15, *[16] * 6, 15]),  # 128 places
        (126, 16, 4, [7, *[8] * 14, 7]),
        (94, 8, 3, [11, *[12] * 6, 11]),
        (61, 4, 4, [15, 16, 16, 14]),  # 63 places: the last stage has one fewer
        (70, 72, 1, [0, *[1] * 70, 0]),  # more stages than layers
        (96, 8, 3, [12] * 8),  # even: nothing changes
    ],
)
def test_uneven_pieces_by_hand(layers: int, pipeline: int, pieces: int, along: list[int]) -> None:
    stage = stages(array(layers), array(pipeline), virtual=array(pieces))
    found = [held for held, count in zip(stage.layers[:, 0], stage.count[:, 0], strict=True) for _ in range(int(count))]
    assert found == along
