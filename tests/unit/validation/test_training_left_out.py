"""Chips from their specification alone: what is replaced, what stays, and that nothing fitted is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from cosim.datum import Datum
from cosim.hardware.load import load_chip, load_collectives, load_kernels, load_system
from cosim.validation import training_left_out as module
from cosim.validation.cases import Case
from cosim.validation.training import answers
from cosim.validation.training_known import Fit, known
from cosim.validation.training_left_out import (
    COLLECTIVES,
    KERNELS,
    NEW_CHIP,
    is_measured,
    left_out,
    others_real_data,
    unfitted,
)

FITTED = ("dgx-a100", "dgx-h100", "dgx-b200", "gb200-nvl72", "trn1.32xlarge", "mi300x-8gpu")
UNFITTED = ("tpu-v6e-pod", "tpu-v7x-pod", "asic-8", "mi325x-8gpu")
CLASSES = ("matmul", "attention", "memory", "collective")


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, read in (("load_chip", load_chip), ("load_kernels", load_kernels)):
            patch.setattr(module, name, functools.cache(read))
        yield


@pytest.fixture(scope="module")
def fits() -> tuple[Fit, ...]:
    return known().fits


@functools.cache
def system(name: str) -> module.System:
    return load_system(name)


@pytest.mark.parametrize("name", FITTED)
def test_nothing_that_was_fitted_is_left(name: str, fits: tuple[Fit, ...]) -> None:
    found = unfitted(system(name), fits)
    chip, new = found.system.chip, load_chip(NEW_CHIP).quality
    assert found.replaced
    for each in CLASSES:
        assert getattr(chip.quality, each).kind != "measured"
    if "kernels" in found.replaced:
        assert chip.quality == new
        assert chip.calibration is not None
        assert chip.calibration.constants == load_kernels(KERNELS).constants
        assert not chip.is_fitted
    assert not any(is_measured(tier.constants) for tier in found.system.tiers)
    assert all(tier.efficiency is None or tier.efficiency.kind != "measured" for tier in found.system.tiers)


@pytest.mark.parametrize("name", FITTED)
def test_the_specification_stays(name: str, fits: tuple[Fit, ...]) -> None:
    before, after = system(name), unfitted(system(name), fits).system
    kept = ("name", "cores", "matrix", "vector", "special", "memory", "links", "die", "launch", "collective_cores")
    for field in kept:
        assert getattr(after.chip, field) == getattr(before.chip, field)
    assert after.chip.power.energy_per_flop == before.chip.power.energy_per_flop
    for old, new in zip(before.tiers, after.tiers, strict=True):
        assert (new.size, new.kind, new.link, new.bandwidth) == (old.size, old.kind, old.link, old.bandwidth)


@pytest.mark.parametrize("name", UNFITTED)
def test_a_chip_without_fitted_constants_is_left_as_it_is(name: str, fits: tuple[Fit, ...]) -> None:
    found = unfitted(system(name), fits)
    assert found.replaced == ()
    assert found.system == system(name)


@pytest.mark.parametrize("name", FITTED)
def test_what_is_left_has_nothing_more_to_leave_out(name: str, fits: tuple[Fit, ...]) -> None:
    once = unfitted(system(name), fits).system
    again = unfitted(once, ())
    assert again.replaced == ()
    assert again.system == once


def test_what_was_replaced_is_said(fits: tuple[Fit, ...]) -> None:
    assert unfitted(system("dgx-h100"), fits).replaced == ("kernels", "quality", "real data", "collectives of node")
    assert unfitted(system("dgx-a100"), fits).replaced == ("kernels", "quality", "collectives of node")
    assert unfitted(system("trn1.32xlarge"), fits).replaced == ("quality",)


def test_real_data_is_that_of_the_other_generation(fits: tuple[Fit, ...]) -> None:
    hopper, blackwell = (load_chip(name) for name in ("h100-sxm", "b200-sxm"))
    assert others_real_data(hopper, fits) == blackwell.power.real_data
    assert others_real_data(blackwell, fits) == hopper.power.real_data
    assert others_real_data(load_chip("gb200"), fits) == hopper.power.real_data
    assert others_real_data(load_chip("h100-96gb-hbm2e"), fits) == blackwell.power.real_data
    assert others_real_data(load_chip("trainium1"), fits) is None
    # That of the A100 is lent, not fitted: it stays.
    assert others_real_data(load_chip("a100-80gb-sxm"), fits) is None
    assert others_real_data(hopper, ()) is None
    assert unfitted(system("dgx-h100"), ()).system.chip.power == system("dgx-h100").chip.power


def test_collectives_are_generic_where_theirs_were_measured(fits: tuple[Fit, ...]) -> None:
    first, *others = unfitted(system("dgx-h100"), fits).system.tiers
    assert first.collectives == COLLECTIVES["scale_up"]
    assert first.constants.protocols == load_collectives("generic-fabric").protocols
    # NCCL between nodes is as its tuning table has it: nothing of it was fitted.
    assert [tier.collectives for tier in others] == [tier.collectives for tier in system("dgx-h100").tiers[1:]]


def test_a_library_is_measured_if_any_number_is() -> None:
    generic = load_collectives("generic-fabric")
    assert not is_measured(generic)
    assert is_measured(load_collectives("nccl-nvlink4"))
    share = Datum(value=1.0, kind="measured", source="test")
    assert is_measured(generic.model_copy(update={"copy_share": share}))


def test_rows_are_answered_on_what_is_left(step: Callable[..., Case], fits: tuple[Fit, ...]) -> None:
    rows = [step("a"), step("b", tp=4, system="", global_batch=8), step("c", system="nowhere")]
    fitted, without = answers(rows), left_out(rows, fits)
    for one, other in zip(fitted[:2], without[:2], strict=True):
        assert one.predicted is not None
        assert other.predicted is not None
        # Another chip, but no other world.
        assert other.predicted != one.predicted
        assert other.predicted == pytest.approx(one.predicted, rel=0.5)
    assert "nowhere" in without[2].reason
    # Answers of the chip as it stands are not touched by those of the chip left out.
    assert [each.predicted for each in answers(rows)] == [each.predicted for each in fitted]
