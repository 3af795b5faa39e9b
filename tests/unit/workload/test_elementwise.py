"""FLOP, exponentials and parameters of a transformer's elementwise kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from cosim.workload.elementwise import ACTIVATIONS, activation_work, norm_flop, norm_parameters
from cosim.workload.model import Model, ModelArrays

Lowered = Callable[..., ModelArrays]


def test_every_activation_that_a_description_may_name_has_its_work() -> None:
    assert set(ACTIVATIONS) == set(get_args(Model.model_fields["activation"].annotation))


def test_only_a_smooth_activation_takes_exponentials(lowered: Lowered) -> None:
    work = {name: activation_work(lowered(activation=name)) for name in ACTIVATIONS}
    assert {name: special for name, (_, special) in work.items()} == {"smooth": 1.0, "relu": 0.0, "squared_relu": 0.0}
    assert work["relu"][0] < work["squared_relu"][0] < work["smooth"][0]


def test_a_model_that_names_no_activation_has_a_smooth_one(lowered: Lowered) -> None:
    assert activation_work(lowered()) == activation_work(lowered(activation="smooth"))


@pytest.mark.parametrize(("norm", "each"), [("rms", 1), ("layer", 2)])
def test_a_layer_norm_owns_a_shift_beside_its_scale(lowered: Lowered, norm: str, each: int) -> None:
    assert norm_parameters(lowered(norm=norm, hidden=[64, 128])).tolist() == [each * 64.0, each * 128.0]


def test_a_layer_norm_takes_the_mean_off_too(lowered: Lowered) -> None:
    assert norm_flop(lowered(norm="layer")) > norm_flop(lowered(norm="rms"))
