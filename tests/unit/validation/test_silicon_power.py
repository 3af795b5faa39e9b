"""Watts of kernels by hand, at both times, and only where tables have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosim.records import array
from cosim.timing.energy import kernel_energy
from cosim.validation.silicon import answer, kernel
from cosim.validation.silicon_power import compared, powers, watts
from cosim.validation.silicon_tables import read_tables

Write = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
ROW: dict[str, object] = {"batch_size": 64, "step": 8191, "latency": 0.5, "power": 600.0}


def test_watts_are_energy_over_time_and_idle_and_nothing_caps_them(write_kernels: Write) -> None:
    (target, _), *_ = answer(root=write_kernels("b200_sxm", "a/1", "decode", [ROW])).tables
    idle, limit = float(target.chip.power.idle), float(target.chip.power.limit)
    found = watts(array([1.0, 4.0, 0.0]), array([0.01, 1e-3, 1.0]), target)
    assert found.tolist() == pytest.approx([100.0 + idle, 4000.0 + idle, idle])
    assert found[1] > limit


def test_the_errors_are_of_the_watts_at_the_predicted_and_at_the_measured_time(write_kernels: Write) -> None:
    root = write_kernels("b200_sxm", "a/1", "decode", [ROW])
    suite = answer(root=root)
    (row,) = powers(suite, root)
    target, shapes = suite.tables[0]
    cost = kernel(shapes, target.chip)
    energy = float(kernel_energy(cost.cost, target.chip, "bf16")[0])
    idle = float(target.chip.power.idle)
    assert row["bias"] == pytest.approx((energy / float(cost.time[0]) + idle) / 600.0 - 1.0)
    assert row["at_measured_time"]["bias"] == pytest.approx((energy / 0.5e-3 + idle) / 600.0 - 1.0)
    assert (row["accelerator"], row["phase"], row["dtype"], row["kv_dtype"]) == ("b200-sxm", "decode", "bf16", "bf16")
    assert row["measured_w"] == {"least": 600.0, "median": 600.0, "most": 600.0}


def test_only_stacks_with_watts_are_asked_at_their_own_times(write_kernels: Write) -> None:
    write_kernels("b200_sxm", "a/1", "decode", [{**ROW, "power": None, "latency": 5.0}])
    root = write_kernels("b200_sxm", "b/1", "decode", [ROW])
    suite = answer(root=root)
    (row,) = powers(suite, root)
    (alone,) = read_tables(root, "b200_sxm", "decode", powered=True).shapes
    assert row == compared(suite.tables[0][0], alone)
    assert alone.measured.tolist() == [0.5e-3]


def test_more_bytes_draw_more_energy_at_one_time(write_kernels: Write) -> None:
    rows = [{**ROW, "step": step} for step in (1023, 4095, 16383)]
    root = write_kernels("b200_sxm", "a/1", "decode", rows)
    target, shapes = answer(root=root).tables[0]
    energy = kernel_energy(kernel(shapes, target.chip).cost, target.chip, "bf16")
    assert np.all(np.diff(energy) > 0.0)


def test_tables_without_watts_have_no_rows(write_kernels: Write) -> None:
    root = write_kernels("b200_sxm", "a/1", "decode", [{**ROW, "power": None}])
    assert powers(answer(root=root), root) == []
    root = write_kernels("b200_sxm", "a/1", "matmul", [{}])
    assert powers(answer("matmul", root=root), root) == []
