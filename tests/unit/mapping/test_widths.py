"""One format throughout: bytes of every tensor where software knows no mixed precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.mapping.device import DeviceGraph
from cosim.mapping.plan import PlanArrays
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.widths import element_bytes, one_format, widened
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.model import ModelArrays
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
SoftwareOf = Callable[..., SoftwareArrays]
Widen = Callable[..., tuple[DeviceGraph, DeviceGraph]]


@pytest.fixture(scope="session")
def widen(model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf) -> Widen:
    """The ops of GPT-3 on a rank before and after, on eager software."""

    def build(dtype: str = "fp32", *, mixed: bool = False) -> tuple[DeviceGraph, DeviceGraph]:
        plan, software = plan_of(dtype=dtype, tensor_parallel=2), software_of("pytorch-eager", mixed=mixed)
        graph = training_graph(model_of("gpt3-175b"), plan.micro_batch, array(512), fused=False)
        device = shard(graph, plan)
        return device, widened(device, graph, plan, software)

    return build


@pytest.mark.parametrize(
    ("dtype", "mixed", "size"),
    [("fp32", False, 4.0), ("tf32", False, 4.0), ("bf16", False, 2.0), ("fp8", False, 2.0), ("fp32", True, 2.0)],
)
def test_elements_are_as_wide_as_the_plan_where_nothing_is_mixed(
    plan_of: PlanOf, software_of: SoftwareOf, dtype: str, mixed: bool, size: float
) -> None:
    assert element_bytes(plan_of(dtype=dtype), software_of("pytorch-eager", mixed=mixed)) == size


@pytest.mark.parametrize(("dtype", "mixed"), [("bf16", False), ("fp32", True)])
def test_sixteen_bits_and_mixed_precision_stay_as_they_are(widen: Widen, dtype: str, mixed: bool) -> None:
    before, after = widen(dtype, mixed=mixed)
    assert after is before


def test_every_tensor_in_fp32_has_twice_the_bytes(widen: Widen) -> None:
    before, after = widen()
    for old, new in zip(before.vectors, after.vectors, strict=True):
        for name in ("read_bytes", "write_bytes", "weight_bytes", "gathered_bytes"):
            np.testing.assert_array_equal(getattr(new, name), 2.0 * getattr(old, name))
        assert (new.flop, new.special) == (old.flop, old.special)
    for coll, wide in zip(before.collectives, after.collectives, strict=True):
        np.testing.assert_array_equal(wide.size_bytes, 2.0 * coll.size_bytes)
    assert {op.dtype for op in after.matmuls} == {"fp32"}
    assert {op.output_bytes for op in after.matmuls} == {4.0}


def test_masks_and_fp32_numbers_that_are_kept_do_not_grow(widen: Widen) -> None:
    before, after = widen()
    grown = {
        new.name: float(np.max(new.size_bytes / old.size_bytes))
        for old, new in zip(before.saved, after.saved, strict=True)
    }
    assert grown["layer_input"] == grown["softmax"] == 2.0
    assert grown["residual_mask"] == grown["score_mask"] == grown["probabilities"] == 1.0


def test_products_in_fp32_take_the_vector_engine_where_the_matrix_engine_has_none(software_of: SoftwareOf) -> None:
    without, has = (lower_system(Varied(load_system(name))) for name in ("dgx-h100", "mi210-4gpu"))
    eager, mixed = software_of("pytorch-eager"), software_of("megatron")
    assert "fp32" not in without.chip.matrix.peak
    filled = one_format(without, eager).chip
    assert float(filled.matrix.peak["fp32"]) == float(filled.vector_peak)
    assert 6e13 < float(filled.vector_peak) < 7e13  # 67 TFLOP/s
    assert one_format(without, mixed) is without
    assert one_format(has, eager) is has
