"""The list of assumptions: every number of every description, none without its source."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from cosim import library
from cosim.datum import UNSOURCED, Datum
from cosim.explore.assumptions import assumptions, data_of, derived_of, layer_text, model_facts
from cosim.explore.experiment import Compare
from cosim.explore.run import Inputs
from cosim.hardware.load import load_chip
from cosim.overrides import Varied, vary
from cosim.workload.load import load_model, load_workload
from cosim.workload.model import Model

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


def count_data(node: object) -> int:
    """Data below a description, counted by walking what pydantic dumps."""
    if isinstance(node, Datum):
        return 1
    if isinstance(node, BaseModel):
        return sum(count_data(getattr(node, name)) for name in type(node).model_fields if name != "sources")
    values: Iterator[object] = iter(
        node.values() if isinstance(node, dict) else node if isinstance(node, tuple) else ()
    )
    return sum(count_data(value) for value in values)


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_every_number_of_a_chip_is_listed_once_with_a_source(name: str) -> None:
    chip = load_chip(name)
    listed = list(data_of(chip))
    assert len(listed) == count_data(chip) > 25
    assert len({item["path"] for item in listed}) == len(listed)
    assert all(item["source"] and item["source"] != UNSOURCED for item in listed)
    assert {item["kind"] for item in listed} <= {"datasheet", "measured", "derived", "estimated", "given"}


def test_a_datum_is_listed_as_people_read_it() -> None:
    listed = {item["path"]: item for item in data_of(load_chip("h100-sxm"), "chip")}
    assert listed["chip.cores"]["value"] == "132"
    assert (listed["chip.matrix.clock"]["value"], listed["chip.matrix.clock"]["kind"]) == ("1.83 GHz", "derived")
    assert listed["chip.matrix.clock"]["note"]


def test_the_range_of_an_estimate_is_listed_with_it() -> None:
    ranged = [item for item in data_of(load_chip("asic-template")) if " to " in item["value"]]
    assert "quality.matmul" in {item["path"] for item in ranged}


def test_what_a_user_sets_is_listed_as_given_without_a_source() -> None:
    mine = vary(Varied(load_chip("h100-sxm")), {"power.limit": "650 W"}).spec
    (item,) = (item for item in data_of(mine) if item["path"] == "power.limit")
    assert (item["value"], item["kind"], item["source"]) == ("650 W", "given", UNSOURCED)


def test_a_study_lists_its_systems_its_model_and_its_own_choices(inputs: Inputs, study: Compare) -> None:
    listed = assumptions(inputs.systems, inputs.every_model, study)
    assert list(listed) == ["dgx-h100", "mi300x-8gpu", "llama-3.1-8b", "study"]
    for name, varied in inputs.systems.items():
        assert len(listed[name]) == count_data(varied.spec)
        assert any(item["path"].startswith("tiers.node.") for item in listed[name])
    chosen = {item["path"]: (item["value"], item["source"]) for item in listed["study"]}
    assert (
        chosen.items()
        >= {
            "equal_quality.matmul": ("0.75", "ours"),
            "equal_quality.attention": ("0.5", "ours"),
            "equal_quality.memory": ("0.82", "ours"),
            "equal_quality.collective": ("0.8", "ours"),
        }.items()
    )


MODELS = sorted(name for name, path in library.names("workloads").items() if path.parent.name == "models")
NETWORKS = sorted(name for name, path in library.names("workloads").items() if path.parent.name == "networks")


@pytest.mark.parametrize("name", MODELS)
def test_every_dimension_of_a_model_is_a_fact_with_its_source(name: str) -> None:
    model = load_model(name)
    facts = {item["path"]: item for item in model_facts(model)}
    for dimension in ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab"):
        assert facts[dimension]["value"] == str(getattr(model, dimension))
    assert all(item["source"] for item in facts.values())
    assert not {"name", "title", "source"} & set(facts)
    given = {n for n in Model.model_fields if getattr(model, n) is not None} - {"name", "title", "source"}
    assert set(facts) == given


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_a_network_is_a_fact_with_its_source(name: str) -> None:
    network = load_workload(name)
    facts = {item["path"]: item for item in model_facts(network)}
    assert {f"layers.{layer.name}" for layer in network.layers} <= set(facts)
    assert all(item["source"] for item in facts.values())
    assert facts["input"]["value"] == network.input
    assert "an item counts as one token" in facts["input"]["note"]


def test_a_layer_is_told_by_its_kind_and_what_differs_from_the_defaults() -> None:
    layers = {layer.name: layer for layer in load_workload("resnet-50").layers}
    assert layer_text(layers["stem"]) == "conv height 224 kernel 7 stride 2 inputs 3 outputs 64 norm True"
    assert layer_text(layers["stage3_add"]) == "add count 6 rows 196 width 1024"


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_ridge_points_are_peaks_over_bandwidth(name: str) -> None:
    rows = {item["path"]: item["value"] for item in derived_of(load_chip(name))}
    scale = {"GB/s": 1e9, "TB/s": 1e12, "PB/s": 1e15, "GFLOP/s": 1e9, "TFLOP/s": 1e12, "PFLOP/s": 1e15}

    def number(path: str) -> float:
        value, unit = rows[path].split()
        return float(value.replace(",", "")) * scale[unit]

    ridges = {path.removeprefix("ridge."): rows[path] for path in rows if path.startswith("ridge.")}
    assert set(ridges) == {path.removeprefix("matrix.peak.") for path in rows if path.startswith("matrix.peak.")}
    for dtype, shown in ridges.items():
        ridge = number(f"matrix.peak.{dtype}") / number("memory.dram.bandwidth")
        assert float(shown.split()[0].replace(",", "")) == pytest.approx(ridge, rel=1e-3)  # four digits are shown


def test_power_by_area_is_known_where_the_area_is() -> None:
    rows = {item["path"]: item["value"] for item in derived_of(load_chip("h100-sxm"))}
    assert rows["power.per_area"] == "0.86 W/mm2"  # 700 W over 814 mm2
    chip = load_chip("h100-sxm")
    unknown = chip.model_copy(update={"die": chip.die.model_copy(update={"area": None})})
    assert {item["path"]: item["value"] for item in derived_of(unknown)}["power.per_area"] == "unknown"
