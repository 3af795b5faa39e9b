"""`cosim list`, `cosim show`, `cosim schema`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim import library

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]


def test_list_names_everything_by_kind(call: Call) -> None:
    code, out, err = call("list")
    assert (code, err) == (0, "")
    for kind in library.FOLDERS:
        assert f"{kind} ({len(library.names(kind))})" in out.splitlines()
        for name in library.names(kind):
            assert f"  {name} " in out


def test_list_of_one_kind_is_json_with_names(call: Call) -> None:
    code, out, _ = call("list", "systems", "--json", "-")
    items = json.loads(out)
    assert code == 0
    assert [item["name"] for item in items] == list(library.names("systems"))
    assert {item["kind"] for item in items} == {"systems"}
    assert next(item for item in items if item["name"] == "dgx-h100")["chip"] == "h100-sxm"


def test_json_in_a_file_leaves_the_screen_as_it_is(call: Call, tmp_path: Path) -> None:
    _, plain, _ = call("list", "workloads")
    code, out, _ = call("list", "workloads", "--json", tmp_path / "list.json")
    assert (code, out) == (0, plain)
    named = {item["name"] for item in json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))}
    assert named == set(library.names("workloads"))


def test_show_prints_every_number_with_kind_and_source(call: Call) -> None:
    code, out, _ = call("show", "h100-sxm")
    _, text, _ = call("show", "h100-sxm", "--json", "-")
    content = json.loads(text)
    assert code == 0
    assert out.startswith("accelerator h100-sxm: ")
    for row in content["data"] + content["derived"]:
        assert any(all(row[key] in line for key in ("path", "value", "kind", "source")) for line in out.splitlines())
    for check in content["checks"]:
        assert any(check["check"] in line and check["verdict"] in line for line in out.splitlines())


def test_show_takes_a_file(call: Call, study_file: Path) -> None:
    code, out, _ = call("show", study_file)
    assert code == 0
    assert "Which of two GPUs serves a small model?" in out


@pytest.mark.parametrize("kind", ["chip", "system", "workload", "software", "plan", "scenario", "compare", "train"])
def test_a_schema_is_json(call: Call, kind: str) -> None:
    code, out, _ = call("schema", kind)
    assert code == 0
    assert json.loads(out)["type"] == "object"
    assert json.loads(call("schema", kind, "--json", "-")[1]) == json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "chips"), "unknown kind of item (got 'chips')"),
        (("show", "dgx-h10"), "dgx-h100"),
        (("show", "none.yaml"), "none.yaml: no such file"),
        (("show", "megatrn"), "nearest: megatron"),
        (("list", "softwares"), "nearest: software"),
        (("schema", "training"), "nearest: train"),
        (("schema", "sytem"), "nearest: system"),
        (("list", "systems", "--json", "none/list.json"), "--json: cannot be written"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    refused: Callable[[tuple[str, ...]], str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(arguments)


def test_a_users_own_folder_comes_first(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "accelerators").mkdir()
    mine = "base: h100-sxm\nname: slow\ntitle: An H100 at half its power\npower: {limit: 350 W}\n"
    (tmp_path / "accelerators" / "slow.yaml").write_text(mine, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert "An H100 at half its power" in call("list", "accelerators")[1]
    shown = json.loads(call("show", "slow", "--json", "-")[1])
    assert next(row for row in shown["data"] if row["path"] == "power.limit")["value"] == "350 W"


# Training software and studies that train.


def test_software_is_listed_with_its_attention_and_what_its_host_costs(call: Call) -> None:
    code, out, err = call("list", "software")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"software ({len(library.names('software'))})"
    items = {item["name"]: item for item in json.loads(call("list", "software", "--json", "-")[1])}
    assert set(items) == set(library.names("software")) >= {"megatron", "megatron-2022"}
    assert {item["kind"] for item in items.values()} == {"software"}
    assert (items["megatron"]["attention"], items["megatron-2022"]["attention"]) == ("fused", "unfused")
    for name, item in items.items():
        shown = next(line for line in out.splitlines() if line.strip().startswith(f"{name} "))
        assert item["title"] in shown
        assert f"attention {item['attention']}, host per kernel {item['host per kernel']}" in shown


@pytest.mark.parametrize("name", ["megatron", "megatron-2022"])
def test_software_is_shown_whole(call: Call, name: str) -> None:
    code, out, _ = call("show", name)
    content = json.loads(call("show", name, "--json", "-")[1])
    assert code == 0
    assert out.splitlines()[0] == f"software {name}: {content['title']}"
    assert (content["kind"], content["derived"], content["checks"]) == ("software", [], [])
    paths = {row["path"]: row["value"] for row in content["data"]}
    assert {"gradient_bytes", "reduced_bytes", "optimizer_bytes", "host_kernel", "host_step"} <= set(paths)
    # 18 bytes a parameter with gradients in 32 bits, 16 in 16 bits: 2 of them the weight.
    assert paths["gradient_bytes"] == {"megatron": "4 B", "megatron-2022": "2 B"}[name]
    assert paths["optimizer_bytes"] == "12 B"
    for row in content["data"]:
        assert any(
            all(row[key] in line for key in ("path", "value", "kind", "source", "note")) for line in out.splitlines()
        )
        assert row["source"]


def test_software_in_a_file_is_shown_as_what_it_holds(call: Call, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    whole = library.find("software", "megatron").read_text(encoding="utf-8")
    mine.write_text(whole.replace("name: megatron\n", "name: mine\n"), encoding="utf-8")
    code, out, _ = call("show", mine)
    assert (code, out.splitlines()[0].startswith("software ")) == (0, True)
    assert "host_kernel" in out


def test_a_study_that_trains_is_listed_and_shown(call: Call) -> None:
    items = {item["name"]: item for item in json.loads(call("list", "experiments", "--json", "-")[1])}
    assert "pretraining" in items
    code, out, _ = call("show", "pretraining")
    assert code == 0
    assert out.startswith(f"experiment pretraining: {items['pretraining']['title']}")
    shown = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    assert {"kind", "chips", "runs", "systems", "software"} <= shown


def test_the_schema_of_a_study_that_trains_has_its_fields(call: Call) -> None:
    schema = json.loads(call("schema", "train")[1])
    assert {"kind", "question", "systems", "chips", "runs", "equal_quality"} <= set(schema["required"])
    assert {"precision", "software"} <= set(schema["properties"])
    assert set(schema["$defs"]["TrainingRun"]["required"]) == {"workload", "global_batch", "length"}
    software = json.loads(call("schema", "software")[1])
    assert {"attention", "gradient_bytes", "optimizer_bytes", "host_kernel", "host_step"} <= set(software["required"])
    assert software["properties"]["attention"]["enum"] == ["fused", "unfused"]
