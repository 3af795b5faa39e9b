"""Rows of inference from the specification of their chips: other constants, the same world, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cosim.hardware.load import load_system
from cosim.validation.cases import Case
from cosim.validation.inference import answers
from cosim.validation.inference_left_out import left_out, specified

Make = Callable[..., Case]


def test_what_was_fitted_is_replaced_and_said() -> None:
    found = specified("dgx-h100")
    assert found.replaced == ("kernels", "quality", "real data", "collectives of node")
    assert not found.system.chip.is_fitted
    assert found.system.name == "dgx-h100"
    assert specified("dgx-h100") is found


def test_a_chip_of_which_nothing_was_fitted_stays() -> None:
    found = specified("tpu-v6e-pod")
    assert found.replaced == ()
    assert found.system == load_system("tpu-v6e-pod")


def test_rows_are_answered_on_what_is_left(served: Make) -> None:
    rows = [
        served("a"),
        served("b", measured_quantity="output_tokens_per_s", batch=64),
        served("c", num_accelerators=4, tp=4, workload="llama-3.1-70b"),
        served("n", system="nowhere"),
    ]
    stood, left = answers(rows), left_out(rows)
    for before, after in zip(stood[:3], left[:3], strict=True):
        assert before.predicted is not None
        assert after.predicted is not None
        assert after.predicted != before.predicted
        assert after.predicted == pytest.approx(before.predicted, rel=0.6)
        assert (after.measured, after.system) == (before.measured, before.system)
    assert left[3].reason == stood[3].reason
    # Answers of the chip as it stands are not touched by those of the chip left out.
    assert [each.predicted for each in answers(rows)] == [each.predicted for each in stood]


def test_rows_of_other_chips_are_answered_alike(served: Make) -> None:
    rows = [served("m", accelerator="apple-m2-ultra", system=""), served("t", accelerator="tpu-v6e", system="")]
    assert [each.predicted for each in left_out(rows)] == [each.predicted for each in answers(rows)]
