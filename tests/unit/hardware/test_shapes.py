"""Shapes that optical switches can give a torus, and how a shape may be set."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.shapes import legal_shapes, torus_shapes
from cosim.hardware.system import Tier
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.records import array
from cosim.schema import validated

CONSTANTS = {"protocols": {"bulk": {"start": "1 us", "hop": "1 us", "share": 1}}}
PROTOCOL = ProtocolArrays("bulk", array(1e-6), array(1e-6), array(1.0))
GB = 1e9


def tier(**more: Any) -> Tier:
    own = {"name": "pod", "kind": "torus", "shape": [4, 4, 4], "link": "ici", "constants": CONSTANTS}
    return validated(Tier, {**own, "wrap_from": 4, "optical": True, **more})


def arrays(units: float) -> TierArrays:
    return TierArrays("pod", "torus", "ici", array(units), array(540 * GB), (PROTOCOL,), ("ring",), shape=(4, 4, 4))


@given(units=st.integers(1, 5000), block=st.integers(1, 6), dimensions=st.integers(1, 3))
def test_shapes_are_every_legal_one_once(units: int, block: int, dimensions: int) -> None:
    found = list(legal_shapes(units, block, dimensions))
    assert len(set(found)) == len(found)
    for shape in found:
        assert math.prod(shape) == units
        assert list(shape) == sorted(shape)
        assert all(length % block == 0 for length in shape) or max(shape) <= block
    if units % block**dimensions == 0:
        assert any(all(length % block == 0 for length in shape) for shape in found)


@pytest.mark.parametrize(
    ("units", "shapes"),
    [
        (8, [(2, 2, 2), (1, 2, 4)]),
        (16, [(2, 2, 4), (1, 4, 4)]),
        (64, [(4, 4, 4)]),
        (128, [(4, 4, 8)]),
        (512, [(8, 8, 8), (4, 8, 16), (4, 4, 32)]),
        (5, []),
        (96, []),  # one block and a half
    ],
)
def test_slices_of_cubes_best_first(units: int, shapes: list[tuple[int, ...]]) -> None:
    assert [found.shape for found in torus_shapes(tier(), arrays(units), 1.0)] == shapes


def test_bisection_and_steps_of_a_slice() -> None:
    best, _, worst = torus_shapes(tier(), arrays(512.0), 1.0)
    assert (best.closes, best.bisection, best.steps) == (True, 2 * 64 * 90 * GB, 12.0)
    assert (worst.bisection, worst.steps) == (2 * 16 * 90 * GB, 2.0 + 2.0 + 16.0)
    (small, flat) = torus_shapes(tier(), arrays(512.0), 1.0, units=8.0)
    assert (small.closes, small.bisection, flat.steps) == (False, 4 * 90 * GB, 1.0 + 3.0)


@given(cubes=st.integers(1, 300))
def test_best_first(cubes: int) -> None:
    found = torus_shapes(tier(), arrays(64.0 * cubes), 1.0)
    assert [-each.bisection for each in found] == sorted(-each.bisection for each in found)
    assert found
    assert all(each.closes for each in found)


def test_only_an_optical_torus_has_a_choice() -> None:
    assert torus_shapes(tier(optical=False), arrays(64.0), 1.0) == ()
    assert torus_shapes(tier(), arrays(64.5), 1.0) == ()


@pytest.mark.parametrize("text", ["8x8x16", "[8,8,16]", "[8, 8, 16]"])
def test_a_shape_may_be_set_as_text(text: str) -> None:
    cubes = vary_system(Varied(load_system("tpu-v5p-64")), {"tiers.cube.shape": text, "tiers.cube.size": 1024})
    assert cubes.spec.tiers[0].shape == (8, 8, 16)


@pytest.mark.parametrize("text", ["8x8y16", "x", "8..8", "-4x4", "4x4.5", "[4", "8 x 8"])
def test_a_text_that_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is a list") as caught:
        vary_system(Varied(load_system("tpu-v5p-64")), {"tiers.cube.shape": text})
    assert caught.value.field == "system.tiers.cube.shape"
