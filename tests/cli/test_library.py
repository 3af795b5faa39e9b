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


@pytest.mark.parametrize("kind", ["chip", "system", "workload", "compare"])
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
