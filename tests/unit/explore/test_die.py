"""Silicon as columns and facts: the chip's own overrides count, unknown is NaN with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import cosim
from cosim.explore.die import chip_of, die_columns, die_facts
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.silicon.area import die_area
from cosim.silicon.power import design_power
from cosim.silicon.technology import load_technology

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


def die_area_of(name: str) -> float:
    return float(die_columns(Varied(load_chip(name)))["area_mm2"])


def test_a_system_gives_its_chip_with_the_chips_own_overrides() -> None:
    rows = np.array([64.0, 128.0])
    varied = vary_system(
        Varied(load_system("asic-8")), {"chip.matrix.rows": rows, "nodes": np.array([1.0, 2.0]), "chip.cores": 10}
    )
    chip = chip_of(varied)
    assert {path: values.tolist() for path, values in chip.arrays.items()} == {"matrix.rows": [64.0, 128.0]}
    assert chip.spec.cores is not None
    assert chip.spec.cores.si == 10
    small, large = die_columns(chip)["area_mm2"]
    assert small < large < float(die_columns(Varied(load_chip("asic-template")))["area_mm2"])


def test_columns_are_area_and_the_power_it_needs() -> None:
    chip, technology = Varied(load_chip("h100-sxm")), load_technology()
    found, area = die_columns(chip), die_area(Varied(load_chip("h100-sxm")), load_technology()).total
    assert float(found["area_mm2"]) == float(area)
    assert float(found["tdp_w"]) == float(design_power(chip, area, technology))


def test_facts_list_every_component_the_sum_and_the_power() -> None:
    facts = {row["path"]: row for row in die_facts(load_chip("a100-80gb-sxm"))}
    parts = [float(row["value"].split()[0]) for path, row in facts.items() if path.startswith("die.area.")]
    assert len(parts) == 11
    assert float(facts["die.area"]["value"].split()[0]) == pytest.approx(sum(parts), rel=1e-3)
    assert facts["die.area"]["note"] == "published 826 mm2: +0.1%"
    assert facts["power.static"]["value"] == "99.4 W"
    assert facts["power.tdp"]["value"] == "359 W"
    assert facts["power.tdp"]["note"] == "limit 400 W: -10.2%"
    assert {row["kind"] for row in facts.values()} == {"derived"}


def test_a_chip_without_a_published_area_has_no_comparison() -> None:
    facts = {row["path"]: row for row in die_facts(load_chip("asic-template"))}
    assert facts["die.area"]["note"] == ""


@pytest.mark.parametrize(("name", "reason"), [("tpu-v5p", "ICI"), ("maia-200", "peaks only"), ("mi300x", "N6 (IOD)")])
def test_an_unknown_die_is_one_fact_with_its_reason(name: str, reason: str) -> None:
    (fact,) = die_facts(load_chip(name))
    assert (fact["path"], fact["value"]) == ("die.area", "unknown")
    assert reason in fact["note"]
    assert all(np.isnan(values) for values in die_columns(Varied(load_chip(name))).values())


def test_rows_of_a_comparison_have_the_area_and_power_of_their_chip(small_run: Path) -> None:
    rows = pq.read_table(small_run / "results.parquet").to_pylist()
    h100 = [row for row in rows if row["system"] == "dgx-h100"]
    other = [row for row in rows if row["system"] == "mi300x-8gpu"]
    assert {round(row["area_mm2"], 6) for row in h100} == {round(die_area_of("h100-sxm"), 6)}
    assert {row[name] for row in other for name in ("area_mm2", "tdp_w", "tokens_per_s_per_mm2")} == {None}
    for row in h100:
        if row["feasible"]:
            assert row["tokens_per_s_per_mm2"] == pytest.approx(row["tokens_per_s_per_chip"] / row["area_mm2"])


def test_an_estimate_of_many_designs_has_an_area_a_design() -> None:
    rows = np.array([32.0, 64.0, 128.0])
    asic = cosim.system("asic-8").vary({"chip.matrix.rows": rows})
    found = cosim.estimate_decode(asic, cosim.workload("llama-3.1-8b"), {"tensor_parallel": 8}, batch=8)
    table = found.table()
    assert (np.diff(table["area_mm2"]) > 0.0).all()
    assert (np.diff(table["tdp_w"]) > 0.0).all()
    assert table["tokens_per_s_per_mm2"] == pytest.approx(table["tokens_per_s_per_chip"] / table["area_mm2"])
