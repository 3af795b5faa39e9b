"""The network of a system as rows."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from cosim.explore.catalogue import varied_system
from cosim.explore.network import FINE_SIZES, SIZES, all_reduce_rows, counted, network_picture, network_rows
from cosim.hardware.lower import lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.placement import tensor_placement
from cosim.overrides import Varied
from cosim.records import array
from cosim.timing.algorithms import ALGORITHMS
from cosim.timing.collective import all_reduce

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
CUBE = {"tiers.cube.optical": True, "tiers.cube.wrap_from": 4, "tiers.cube.size": 512, "tiers.cube.shape": "8x8x8"}


def rows(name: str, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    return network_rows(varied_system(name, changes))


def test_tiers_have_numbers_and_words_of_their_kind() -> None:
    node, cluster = rows("dgx-h100", nodes=16, **{"tiers.cluster.radix": 64})["tiers"]
    assert (node["name"], node["joins"], node["node"], node["units"], node["bisection"]) == (
        "node",
        "8 chips",
        True,
        8,
        1.8e12,
    )
    assert (cluster["joins"], cluster["node"], cluster["radix"], cluster["switches"]) == ("16 nodes", False, 64, 6)
    assert (cluster["oversubscription"], cluster["rails"], cluster["shape"]) == (1.0, False, [])


@pytest.mark.parametrize("name", ["dgx-h100", "tpu-v5p-64", "l40s-8gpu-pcie4", "mi300x-8gpu", "m4-max-1", "dgx-v100"])
def test_rows_are_json_and_nothing_is_unknown_without_a_reason(name: str) -> None:
    content = rows(name, nodes=4 if name != "m4-max-1" else 1)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    for row in content["tiers"] + content["network"]:
        absent = {key for key, value in row.items() if value is None} - {"power", "price", "radix"}
        assert absent == set(row["unknown"])
        assert all(row["unknown"].values())
        for total in ("power", "price"):
            assert (row[total] is None) == bool({f"switch_{total}", f"cable_{total}"} & absent)


def test_all_reduces_are_those_of_the_one_cost_model() -> None:
    system = lower_system(varied_system("dgx-h100", {"nodes": 16}))
    found = all_reduce_rows(system, SIZES)
    assert [(row["tier"], row["chips"]) for row in found] == [("node", 8.0)] * 6 + [("cluster", 128.0)] * 6
    for row in found:
        group = tensor_placement(array(row["chips"]), system.sizes)
        cost = all_reduce(array(row["bytes"]), group, system)
        k = row["chips"]
        assert row["time_s"] == pytest.approx(float(cost.time), rel=1e-12)
        assert row["algorithm"] == ALGORITHMS[int(cost.algorithm)]
        assert row["bus_bandwidth"] == pytest.approx(row["bytes"] / row["time_s"] * 2 * (k - 1) / k)
    assert [(row["node"], row["system"]) for row in found[::6]] == [(True, False), (False, True)]


def test_measured_bus_bandwidth_of_a_node_of_eight() -> None:
    # All-reduce of 512 MiB on 8 H100 was measured at 445 GB/s; 1 GiB is no slower.
    row = rows("dgx-h100")["all_reduce"][-1]
    assert row["bytes"] == 2.0**30
    assert row["bus_bandwidth"] == pytest.approx(445e9, rel=0.1)
    assert row["algorithm"] == "in_network"


def test_tiers_of_one_unit_have_no_row_and_one_chip_has_none() -> None:
    assert {row["tier"] for row in rows("dgx-h100")["all_reduce"]} == {"node"}
    assert rows("dgx-h100")["all_reduce"][0]["system"]
    assert rows("m4-max-1")["all_reduce"] == []
    four = {row["tier"]: row["chips"] for row in rows("l40s-8gpu-pcie4", nodes=2)["all_reduce"]}
    assert four == {"pair": 2.0, "socket": 4.0, "host": 8.0, "cluster": 16.0}


def test_a_last_pod_that_is_not_full_counts_the_chips_that_are_there() -> None:
    spec = varied_system("dgx-h100").spec
    pod = spec.tiers[1].model_copy(update={"name": "pod"})
    pods = Varied(spec.model_copy(update={"tiers": (spec.tiers[0], pod, spec.tiers[1])}))
    found = network_rows(vary_system(pods, {"nodes": 33, "tiers.pod.size": 32}))
    assert {row["tier"]: row["chips"] for row in found["all_reduce"]} == {"node": 8.0, "pod": 256.0, "cluster": 264.0}
    assert [row["system"] for row in found["all_reduce"]][-1]
    assert found["network"][0]["chips"] == 264.0


def test_sizes_go_from_a_kibibyte_to_a_gibibyte() -> None:
    assert (SIZES[0], SIZES[-1]) == (FINE_SIZES[0], FINE_SIZES[-1]) == (2.0**10, 2.0**30)
    assert {b / a for a, b in itertools.pairwise(SIZES)} == {16.0}


def test_an_optical_torus_offers_its_other_shapes() -> None:
    found = rows("tpu-v5p-64", **CUBE)["shapes"]
    assert [row["shape"] for row in found] == [[8, 8, 8], [4, 8, 16], [4, 4, 32]]
    assert found[0]["bisection"] == pytest.approx(2 * 64 * 90e9)
    assert all(row["tier"] == "cube" and row["closes"] for row in found)
    assert rows("mi300x-8gpu")["shapes"] == []


@pytest.mark.parametrize(
    ("count", "name", "said"),
    [(1.0, "leaf", "1 leaf"), (64.0, "leaf", "64 leaves"), (2.0, "box", "2 boxes"), (1536.0, "tray", "1,536 trays")],
)
def test_units_are_counted_in_words(count: float, name: str, said: str) -> None:
    assert counted(count, name) == said


def test_a_picture_has_more_sizes_and_names() -> None:
    shown = network_picture(varied_system("dgx-h100"))
    assert (shown["name"], shown["chip"]) == ("dgx-h100", "h100-sxm")
    assert [row["bytes"] for row in shown["all_reduce"]] == list(FINE_SIZES)
