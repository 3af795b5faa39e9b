"""The library as lists and details."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.explore.catalogue import details, listing, schema_of

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


@pytest.mark.parametrize("kind", sorted(library.FOLDERS))
def test_a_list_has_every_item_of_its_kind_with_a_title(kind: str) -> None:
    items = listing(kind)
    assert [item["name"] for item in items] == list(library.names(kind))
    assert all(item["title"] and not item["title"].startswith("unreadable") for item in items)


def test_libraries_of_kernels_are_listed_and_shown_with_the_chips_they_were_fitted_on() -> None:
    items = {item["name"]: item for item in listing("kernels")}
    assert items["nvidia-hopper"]["fitted on"] == "h100-sxm"
    assert items["generic-tile"]["fitted on"] == "no chip"
    shown = details("nvidia-hopper")
    rows = {row["path"]: row for row in shown["data"]}
    assert (shown["kind"], shown["title"]) == ("kernel", items["nvidia-hopper"]["title"])
    assert sum(path.startswith("constants.") for path in rows) == items["nvidia-hopper"]["constants"]
    assert rows["constants.step_cycles"]["kind"] == "measured"
    assert details(str(library.find("kernels", "nvidia-hopper")))["data"] == shown["data"]
    assert "fitted_on" in schema_of("kernels")["properties"]


def test_the_main_numbers_of_a_list_are_the_published_ones() -> None:
    chips = {item["name"]: item for item in listing("accelerators")}
    # NVIDIA prints 989.4 TFLOP/s, 80 GB, 3.35 TB/s and 700 W; the pins times their rate give 3.347 TB/s.
    assert chips["h100-sxm"]["bf16"] == "989.4 TFLOP/s"
    assert chips["h100-sxm"]["dram"].startswith("80 GB at 3.3")
    assert chips["h100-sxm"]["power"] == "700 W"
    models = {item["name"]: item for item in listing("workloads")}
    assert (models["llama-3.1-8b"]["parameters"], models["llama-3.1-8b"]["layers"]) == ("8.03 B", 32)
    systems = {item["name"]: item for item in listing("systems")}
    assert (systems["dgx-h100"]["chip"], systems["dgx-h100"]["chips"]) == ("h100-sxm", "8")


def test_an_item_that_cannot_be_read_is_listed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "broken.yaml").write_text("name: broken\nlayers: many\n", encoding="utf-8")
    monkeypatch.setenv("COSIM_PATH", str(tmp_path))
    items = {item["name"]: item for item in listing("workloads")}
    assert items["broken"]["title"].startswith("unreadable: ")
    assert "broken.yaml" in items["broken"]["title"]
    assert items["llama-3.1-8b"]["layers"] == 32


@pytest.mark.parametrize(
    ("name", "kind"),
    [("dgx-h100", "system"), ("h100-sxm", "accelerator"), ("llama-3.1-8b", "workload"), ("gpu-vs-asic", "experiment")],
)
def test_details_are_found_by_name_whatever_the_kind(name: str, kind: str) -> None:
    content = details(name)
    assert (content["kind"], content["name"]) == (kind, name)
    assert content["title"]
    assert len(content["data"]) > 5
    for row in content["data"] + content["derived"]:
        assert set(row) == {"path", "value", "kind", "source", "note"}
        assert row["source"]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("systems", "dgx-h100", "system"),
        ("accelerators", "tpu-v5p", "accelerator"),
        ("workloads", "qwen3-32b", "workload"),
        ("experiments", "gpu-vs-asic", "experiment"),
    ],
)
def test_a_file_is_shown_as_what_it_holds(kind: str, name: str, said: str) -> None:
    by_file = details(str(library.find(kind, name)))
    assert by_file["kind"] == said
    assert by_file["data"] == details(name)["data"]


def test_every_published_total_of_a_shipped_chip_holds_or_is_declared() -> None:
    for name in library.names("accelerators"):
        for check in details(name)["checks"]:
            deviation = abs(float(check["deviation"].rstrip("%"))) / 100
            assert (deviation <= 0.02 and check["verdict"] == "holds") or check["verdict"].startswith("declared: ")


def test_a_system_shows_the_checks_and_derived_values_of_its_chip() -> None:
    system, chip = details("dgx-h100"), details("h100-sxm")
    assert system["checks"] == chip["checks"]
    assert system["derived"] == chip["derived"]
    assert {row["path"].removeprefix("chip.") for row in system["data"]} > {row["path"] for row in chip["data"]}


def test_a_workload_shows_what_follows_from_its_graph() -> None:
    derived = {row["path"]: row["value"] for row in details("llama-3.1-8b")["derived"]}
    assert derived["parameters"] == "8,030,261,248"  # as counted on the published checkpoint
    # Keys and values: 2 x 32 layers x 8 heads x 128 x 2 B = 131,072 B a token.
    assert derived["kv_cache_per_token.bf16"] == "131.1 kB"


def test_unknown_names_and_kinds_are_told_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"nothing in the library has this name.*nearest: .*h100"):
        details("dgx-h10")
    with pytest.raises(SpecError, match="no such file"):
        details("none.yaml")
    with pytest.raises(SpecError, match=r"unknown kind of file.*nearest: system"):
        schema_of("sytem")


@pytest.mark.parametrize("kind", ["chip", "system", "workload", "plan", "scenario", "compare"])
def test_a_schema_describes_an_object_and_forbids_what_it_does_not_know(kind: str) -> None:
    schema = schema_of(kind)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert len(schema["properties"]) >= 5


def test_the_schema_of_a_study_requires_what_has_no_default() -> None:
    schema = schema_of("compare")
    assert set(schema["properties"]) - set(schema["required"]) == {"decode", "max_batch", "max_chips", "training"}
    assert schema["properties"]["kind"]["const"] == "compare"
