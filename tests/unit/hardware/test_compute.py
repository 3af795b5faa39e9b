"""Compute engines: the kind decides which structure a description needs and may have."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cosim.dtypes import DTYPES
from cosim.errors import SpecError
from cosim.hardware.compute import (
    KernelConstants,
    MatrixEngine,
    RooflineEngine,
    SpecialEngine,
    SystolicArray,
    TileMachine,
    VectorEngine,
)
from cosim.schema import Frozen, validated

TILE = {"kind": "tile", "clock": "1.83 GHz", "rate": {"bf16": 4096}}
SYSTOLIC = {"kind": "systolic", "arrays": 4, "rows": 128, "columns": 128, "clock": "1.75 GHz", "rate": {"bf16": 2}}
ROOFLINE = {"kind": "roofline", "peak": {"bf16": "2 PFLOP/s"}}


class Holder(Frozen):
    matrix: MatrixEngine


def fault(matrix: dict[str, Any]) -> SpecError:
    """The error of one matrix engine."""
    with pytest.raises(SpecError) as caught:
        validated(Holder, {"matrix": matrix})
    return caught.value


@pytest.mark.parametrize(
    ("raw", "engine"), [(TILE, TileMachine), (SYSTOLIC, SystolicArray), (ROOFLINE, RooflineEngine)]
)
def test_the_kind_chooses_the_engine(raw: dict[str, Any], engine: type[Frozen]) -> None:
    assert type(validated(Holder, {"matrix": raw}).matrix) is engine


@pytest.mark.parametrize(("raw", "field"), [(TILE, "clock"), (TILE, "rate"), (SYSTOLIC, "rows"), (ROOFLINE, "peak")])
def test_a_primary_that_is_missing_is_named(raw: dict[str, Any], field: str) -> None:
    error = fault({key: value for key, value in raw.items() if key != field})
    assert (error.problem, error.field) == ("is missing", f"matrix.{field}")


def test_structure_of_another_kind_is_refused() -> None:
    for raw, field in ((TILE, "rows"), (ROOFLINE, "clock"), (ROOFLINE, "rate")):
        error = fault({**raw, field: 128})
        assert (error.problem, error.field) == ("unknown field", f"matrix.{field}")


def test_a_kind_that_nobody_models_is_refused() -> None:
    error = fault({**TILE, "kind": "optical"})
    assert error.field == "matrix"
    assert "'roofline'" in error.problem


def test_a_misspelt_field_is_told_the_nearest() -> None:
    assert str(fault({**SYSTOLIC, "colums": 128}).hint).startswith("nearest: columns")


@pytest.mark.parametrize("dtype", ["fp3", "FP8", "bfloat16"])
def test_rates_of_unknown_formats_are_refused_with_the_known_ones(dtype: str) -> None:
    error = fault({**TILE, "rate": {dtype: 1}})
    assert error.field == f"matrix.rate.{dtype}"
    assert all(repr(known) in error.problem for known in DTYPES)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rows": 127.5}, "matrix.rows"),
        ({"rows": 0}, "matrix.rows"),
        ({"clock": "1.75 s"}, "matrix.clock"),
        ({"clock": 0}, "matrix.clock"),
        ({"rate": {"bf16": "2 FLOP/s"}}, "matrix.rate.bf16"),
        ({"rate": {"bf16": -2}}, "matrix.rate.bf16"),
        ({"peak": {"bf16": "1 PFLOP"}}, "matrix.peak.bf16"),
        ({"dataflows": ["ws", "rs"]}, "matrix.dataflows.1"),
        ({"shadow_weights": "perhaps"}, "matrix.shadow_weights"),
    ],
)
def test_numbers_must_be_of_their_unit_and_range(change: dict[str, Any], field: str) -> None:
    assert fault({**SYSTOLIC, **change}).field == field


def test_a_systolic_array_is_weight_stationary_with_shadow_weights_unless_told() -> None:
    engine = validated(SystolicArray, SYSTOLIC)
    assert engine.dataflows == ("ws",)
    assert engine.shadow_weights is True
    assert engine.peak == {}


def test_vector_and_special_engines_may_be_a_rate_or_a_peak() -> None:
    assert validated(VectorEngine, {"rate": "256 FLOP/cycle", "clock": "2 GHz"}).peak is None
    assert validated(VectorEngine, {"peak": "60 TFLOP/s"}).rate is None
    special = validated(SpecialEngine, {"rate": "16 op/cycle", "clock": "2 GHz"})
    assert special.rate is not None
    assert special.rate.si == 16.0


def test_operations_and_flop_are_not_the_same_thing() -> None:
    for engine, raw in ((SpecialEngine, {"rate": "16 FLOP/cycle"}), (VectorEngine, {"rate": "16 op/cycle"})):
        with pytest.raises(SpecError, match="wrong unit"):
            validated(engine, raw)


def test_kernel_constants_name_the_data_they_were_fitted_on() -> None:
    assert KernelConstants(data="table of 2024").constants == {}
    with pytest.raises(SpecError, match="data: is missing"):
        validated(KernelConstants, {"constants": {"split_time": 3e-6}})


def test_engines_cannot_be_changed_after_they_were_read() -> None:
    engine = TypeAdapter(MatrixEngine).validate_python(TILE)
    with pytest.raises(ValidationError, match="frozen"):
        engine.clock = None
