"""`cosim show SYSTEM`: its network as text, as JSON and as a figure; numbers set; bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.cli.network_text import bytes_text

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[[tuple[str, ...]], str]


def line_of(out: str, start: str) -> list[str]:
    """Words of the first line after the heading of the network that starts so."""
    lines = out[out.index("\nnetwork ") :].splitlines()
    return next(line for line in lines if line.strip().startswith(start)).split()


def test_a_line_a_tier_and_one_for_all(call: Call) -> None:
    settings = ("--set", "system.nodes=16", "--set", "system.tiers.cluster.radix=64")
    code, out, err = call("show", "dgx-h100", *settings)
    assert (code, err) == (0, "")
    cluster, node, whole = (" ".join(line_of(out, start)) for start in ("cluster", "└─ node", "in all"))
    assert cluster.startswith("cluster fat tree 16 nodes 50 GB/s 64 1:1 6 3.2 TB/s 1 step, 4 wires")
    assert node.startswith("└─ node (node) switch, in 4 planes 8 chips 450 GB/s - 1:1 4 1.8 TB/s 1 step, 2 wires")
    assert whole.startswith("in all 128 chips 70 3.2 TB/s 1 step, 4 wires")
    assert " ".join(line_of(out, "node ")) == ("node not given: switch_power, cable_power, switch_price, cable_price")


def test_what_is_unknown_has_its_reason_below(call: Call) -> None:
    _, out, _ = call("show", "dgx-h100", "--set", "system.nodes=16")
    assert " ".join(line_of(out, "cluster  ")).startswith("cluster fat tree 16 nodes 50 GB/s - 1:1 unknown")
    reasons = next(line for line in out.splitlines() if line.strip().startswith("cluster") and ";" in line)
    assert "levels, switches, cables, links: radix is not given; not given: switch_power, " in reasons


def test_all_reduces_against_size_with_the_algorithm(call: Call) -> None:
    _, out, _ = call("show", "dgx-h100", "--set", "system.nodes=16")
    rows = json.loads(call("show", "dgx-h100", "--set", "system.nodes=16", "--json", "-")[1])["all_reduce"]
    assert "node, 8 chips" in out
    assert "cluster, 128 chips" in out
    for size, text in ((2.0**10, "1 KiB"), (2.0**30, "1 GiB")):
        shown = " ".join(line_of(out, text))
        for row in (row for row in rows if row["bytes"] == size):
            assert row["algorithm"] in shown
            assert (
                f"{row['bus_bandwidth'] / 1e9:.4g} GB/s" in shown or f"{row['bus_bandwidth'] / 1e6:.4g} MB/s" in shown
            )


def test_json_has_lists_of_objects(call: Call) -> None:
    content = json.loads(call("show", "tpu-v5p-64", "--set", "system.nodes=4", "--json", "-")[1])
    assert [tier["name"] for tier in content["tiers"]] == ["cube", "pod"]
    assert (content["tiers"][0]["bisection"], content["tiers"][0]["steps"]) == (2.88e12, 6.0)
    assert content["network"][0]["chips"] == 256.0
    assert content["tiers"][1]["switches"] is None
    assert content["tiers"][1]["unknown"]["switches"] == "radix is not given"
    assert {"data", "derived", "checks"} <= set(content)
    assert "tiers" not in json.loads(call("show", "h100-sxm", "--json", "-")[1])


@pytest.mark.parametrize("shape", ["8x8x16", "[8,8,16]"])
def test_a_torus_is_set_to_another_shape(call: Call, shape: str) -> None:
    optical = ("--set", "system.tiers.cube.optical=true", "--set", "system.tiers.cube.wrap_from=4")
    sized = ("--set", f"system.tiers.cube.shape={shape}", "--set", "system.tiers.cube.size=1024")
    code, out, _ = call("show", "tpu-v5p-64", *sized, *optical)
    assert code == 0
    assert "1,024 chips as 8x8x16" in out
    shapes = [" ".join(line_of(out, start)) for start in ("8x8x16", "4x4x64")]
    assert shapes == ["8x8x16 cube yes 11.52 TB/s 16 steps", "4x4x64 cube yes 2.88 TB/s 36 steps"]


def test_one_chip_has_nothing_to_reduce(call: Call) -> None:
    assert "one chip: there is nothing to reduce" in call("show", "m4-max-1")[1]


@pytest.mark.parametrize(("name", "head"), [("net.svg", b"<?xml"), ("net.PNG", b"\x89PNG")])
def test_a_figure_is_written_where_it_is_asked_for(call: Call, tmp_path: Path, name: str, head: bytes) -> None:
    code, out, _ = call("show", "mi300x-8gpu", "--figure", tmp_path / name)
    assert code == 0
    assert out == call("show", "mi300x-8gpu")[1]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    written = (tmp_path / name).read_bytes()
    assert written.startswith(head)
    if name.endswith("svg"):
        assert b"mesh of 8 chips" in written
    call("show", "mi300x-8gpu", "--figure", tmp_path / name)
    assert (tmp_path / name).read_bytes() == written


SHAPE = "tier 'cube' has shape [8, 8, 16], which makes 1024 and not size 64"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tpu-v5p-64", "--set", "system.tiers.cube.shape=8x8x16"), SHAPE),
        (("tpu-v5p-64", "--set", "system.tiers.cube.shape=8y8"), "is a list (got '8y8')"),
        (
            ("dgx-h100", "--set", "system.tiers.node.link=nvlink"),
            "tier 'node' names link 'nvlink', which h100-sxm has not",
        ),
        (
            ("dgx-h100", "--set", "system.nodes=9", "--set", "system.tiers.cluster.size=8"),
            "asks for 9 nodes; its tiers join 8",
        ),
        (("dgx-h100", "--set", "nodes=2"), "did you mean system.nodes?"),
        (("dgx-h100", "--set", "system.tiers.clutser.radix=64"), "unknown path"),
        (("dgx-h100", "--set", "plan.tensor_parallel=2"), "unknown path"),
        (("h100-sxm", "--set", "system.nodes=2"), "of which nothing can be set"),
        (("h100-sxm", "--figure", "h100.svg"), "only a system is drawn"),
        (("dgx-h100", "--figure", "net.pdf"), "end it in .svg or .png"),
        (("dgx-h100", "--figure", "none/net.svg"), "cannot be written"),
    ],
)
def test_bad_input_is_one_message_and_nothing_written(
    refused: Refused, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(("show", *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        (
            "{name: cube, kind: torus, size: 60, shape: [4, 4, 4]",
            "tier 'cube' has shape [4, 4, 4], which makes 64 and not size 60",
        ),
        ("{name: cube, kind: torus, size: 64", "tier 'cube' is a torus without a shape"),
        ("{name: box, kind: switch, size: 8, shape: [2, 4]", "tier 'box' is a switch with a shape"),
        ("{name: box, kind: hypercube_mesh, size: 6", "tier 'box' is a hypercube mesh of 6"),
    ],
)
def test_a_file_whose_tiers_cannot_be_names_tier_number_and_line(
    refused: Refused, tmp_path: Path, tier: str, said: str
) -> None:
    mine = tmp_path / "mine.yaml"
    text = f"base: tpu-v5p-64\nname: mine\ntiers:\n  - {tier}, link: scale_up, collectives: torus-ici}}\n"
    mine.write_text(text, encoding="utf-8")
    message = refused(("show", str(mine)))
    assert f"{mine}:4: " in message
    assert said in message


def test_sizes_read_as_powers_of_two() -> None:
    assert [bytes_text(2.0**power) for power in (9, 10, 14, 22, 30)] == ["512 B", "1 KiB", "16 KiB", "4 MiB", "1 GiB"]


def test_a_library_of_collectives_is_listed_and_shown(call: Call) -> None:
    items = {item["name"]: item for item in json.loads(call("list", "collectives", "--json", "-")[1])}
    assert items["torus-ici"]["algorithms"] == "ring, hierarchical"
    code, out, _ = call("show", "torus-ici")
    assert code == 0
    assert out.startswith("collective torus-ici: ")
    assert "protocols.bulk.hop" in out
