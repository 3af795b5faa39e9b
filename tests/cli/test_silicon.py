"""Silicon on the screen: components of a die, technology, the columns of an estimate, schemas of its files."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", ["a100-80gb-sxm", "h100-sxm", "asic-template", "asic-8"])
def test_show_lists_the_components_of_a_die_and_its_power(call: Call, name: str) -> None:
    code, out, _ = call("show", name)
    _, text, _ = call("show", name, "--json", "-")
    derived = {row["path"]: row for row in json.loads(text)["derived"]}
    parts = [path for path in derived if path.startswith("die.area.")]
    assert code == 0
    assert len(parts) == 11
    total = sum(float(derived[path]["value"].split()[0]) for path in parts)
    assert float(derived["die.area"]["value"].split()[0]) == pytest.approx(total, rel=1e-3)
    assert derived["power.tdp"]["note"].startswith("limit ")
    for path in (*parts, "die.area", "power.static", "power.tdp"):
        assert any(path in line and derived[path]["value"] in line for line in out.splitlines())


def test_show_says_why_an_area_is_unknown(call: Call) -> None:
    code, out, _ = call("show", "tpu-v5p")
    (line,) = [line for line in out.splitlines() if "die.area" in line and "unknown" in line]
    assert code == 0
    assert "no area is known of ICI" in line
    assert "power.tdp" not in out


def test_technology_is_listed_shown_and_described(call: Call) -> None:
    code, out, _ = call("list", "technology")
    assert code == 0
    assert out.splitlines()[0] == "technology (2)"
    assert "reticle 858 mm2" in out
    assert "TSMC N7" in out
    code, out, _ = call("show", "silicon", "--json", "-")
    content = json.loads(out)
    assert (code, content["kind"], content["name"]) == (0, "technology", "silicon")
    assert {"reticle", "vector_lane", "mac.tile.bf16", "memory.0.phy"} <= {row["path"] for row in content["data"]}
    assert call("list", "accelerators")[1].count("silicon") == 0


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("sweep", {"system", "cases", "axes", "constraints", "maximise", "search", "heat_map", "power", "silicon"}),
        ("technology", {"nodes", "mac", "sram", "memory", "links", "reticle", "leakage"}),
    ],
)
def test_the_schema_of_a_kind_names_its_fields(call: Call, kind: str, fields: set[str]) -> None:
    code, out, _ = call("schema", kind)
    assert code == 0
    assert fields <= set(json.loads(out)["properties"])


@pytest.mark.parametrize("name", ["asic-sweep", "asic-search"])
def test_the_shipped_sweeps_are_listed_and_shown(call: Call, name: str) -> None:
    _, listed, _ = call("list", "experiments", "--json", "-")
    item = next(item for item in json.loads(listed) if item["name"] == name)
    code, out, _ = call("show", name)
    assert (code, item["kind"]) == (0, "sweep")
    assert item["title"] in out
    assert "maximise" in out


@pytest.mark.parametrize(("system", "known"), [("dgx-h100", True), ("asic-8", True), ("tpu-v5p-8", False)])
def test_an_estimate_has_area_power_and_rate_per_area(call: Call, *, system: str, known: bool) -> None:
    asked = ("--workload", "llama-3.1-8b", "--set", "plan.tensor_parallel=8", "--set", "scenario.batch=64")
    code, out, _ = call("estimate", "decode", "--system", system, *asked, "--json", "-")
    row = json.loads(out)
    assert code == 0
    if known:
        assert row["tokens_per_s_per_mm2"] == pytest.approx(row["tokens_per_s_per_chip"] / row["area_mm2"])
        assert row["tdp_w"] > 300
    else:
        assert [row[name] for name in ("area_mm2", "tdp_w", "tokens_per_s_per_mm2")] == [None] * 3
