"""The way of a cache: inside a node faster than outside, bytes of the pool that holds more, what is said by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cosim.errors import SpecError
from cosim.explore.serving import pools
from cosim.explore.serving.deployed import Deployed
from cosim.explore.serving.deployments import Cell
from cosim.explore.serving.search import ground_of, machines_of
from cosim.explore.serving.search_file import ServingSearch
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.placement import Placement
from cosim.overrides import Varied
from cosim.records import array
from cosim.timing.collective import all_gather
from cosim.workload.load import load_workload

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Ready = Callable[..., Deployed]
FP8 = {"tensor_parallel": 1, "dtype": "fp8", "kv_dtype": "bf16"}


def test_a_node_is_faster_inside(ready: Ready) -> None:
    inside = ready(prefill={"replicas": 2}, plan=FP8).cluster.transfer
    outside = ready(prefill={"replicas": 2}, plan=FP8, replicas=7, changes={"system": {"nodes": 2}}).cluster.transfer
    assert inside is not None
    assert outside is not None
    # NVLink and the network of a DGX H100: 450 and 50 GB/s a chip.
    assert 0.5 * 450e9 < inside.bandwidth <= 450e9
    assert 0.5 * 50e9 < outside.bandwidth <= 50e9
    assert inside.latency_s < outside.latency_s
    assert (inside.concurrent, outside.concurrent) == (1, 2)


def test_a_latent_is_sent_once_and_handed_on(ready: Ready) -> None:
    # 512 + 64 elements of one byte in 61 layers; eight ranks send an eighth each, and gather the whole of it.
    plan = {"tensor_parallel": 8, "dtype": "fp8", "kv_dtype": "fp8"}
    fields = {"system": "dgx-h200", "workload": "deepseek-v3", "changes": {"system": {"nodes": 2}}}
    found = ready(**fields, plan=plan, prefill={"replicas": 1}).cluster.transfer
    assert found is not None
    assert found.token_bytes == pytest.approx(576 * 61 / 8)
    system = lower_system(vary_system(Varied(load_system("dgx-h200")), {"nodes": 2}))
    size = array(576.0 * 61 * 4096)
    eight = Placement((array(8.0), array(1.0)), (array(1.0), array(1.0)))
    link = 4096 * found.token_bytes / 50e9
    handed = float(all_gather(size, eight, system).time)
    assert found.seconds(4096) > handed + link
    assert found.seconds(4096) == pytest.approx(handed + link, rel=0.15)
    # Every rank with a copy of its own would be seven times as long on the network.
    assert found.seconds(4096) < 0.5 * 576 * 61 * 4096 / 50e9


@pytest.mark.parametrize(("model", "tensor"), [("deepseek-v3", 8), ("llama-3.1-8b", 8), ("qwen3-30b-a3b", 8)])
def test_the_search_moves_caches_by_the_same_rule(ready: Ready, model: str, tensor: int) -> None:
    plan = {"tensor_parallel": tensor, "dtype": "fp8", "kv_dtype": "fp8"}
    nodes = {"system": {"nodes": 2}}
    own = ready(system="dgx-h200", workload=model, plan=plan, prefill={"replicas": 1}, changes=nodes).cluster.transfer
    assert own is not None
    systems, lowered = [Varied(load_system("dgx-h200"))], Varied(load_workload(model))
    ground = ground_of(ServingSearch(prompt=4096, output=100, chips=16), systems[0], lowered)
    (machine,) = machines_of(systems, 16)
    ranks = {"tensor": array(float(tensor)), "pipeline": array(1.0)}
    other = pools.transfer_of(Cell(machine, "fp8", None, "fp8"), ranks, ranks, ground)
    assert float(other.token_bytes) == pytest.approx(own.token_bytes)
    # One tells the bandwidth of a link at a large size, the other at that of the cache.
    assert float(other.seconds(4096.0)) == pytest.approx(own.seconds(4096), rel=0.1)


def test_every_chip_sends_what_it_holds(ready: Ready) -> None:
    wide = ready(prefill={"replicas": 1}, plan={**FP8, "tensor_parallel": 4}).cluster.transfer
    mixed = ready(prefill={"replicas": 1, "plan": {"tensor_parallel": 2}}, plan={**FP8, "tensor_parallel": 4})
    assert wide is not None
    assert mixed.cluster.transfer is not None
    assert wide.token_bytes == 131_072 / 4
    assert mixed.cluster.transfer.token_bytes == 131_072 / 2


def test_systems_apart_meet_at_the_slower_network(ready: Ready) -> None:
    found = ready(prefill={"system": "asic-8", "replicas": 1}, plan=FP8).cluster.transfer
    assert found is not None
    assert found.bandwidth <= 50e9


def test_what_is_said_by_hand_holds(ready: Ready) -> None:
    asked = {"latency": "1 ms", "bandwidth": "10 GB/s", "concurrent": 5}
    found = ready(prefill={"replicas": 1}, plan=FP8, transfer=asked).cluster.transfer
    assert found is not None
    assert (found.latency_s, found.bandwidth, found.concurrent) == (1e-3, 1e10, 5)
    assert found.seconds(1000) == pytest.approx(1e-3 + 1000 * 131_072 / 1e10)
    part = ready(prefill={"replicas": 1}, plan=FP8, transfer={"bandwidth": "10 GB/s"}).cluster.transfer
    assert part is not None
    assert 0.0 < part.latency_s < 1e-3


def test_a_system_without_a_network_between_nodes_says_so(ready: Ready) -> None:
    fields = {"system": "m3-ultra-1", "workload": "llama-3.1-8b", "prefill": {"system": "dgx-h100"}, "plan": {}}
    with pytest.raises(SpecError, match="transfer: has no way from prefill to decode"):
        ready(**fields)
    assert ready(**fields, transfer={"bandwidth": "1 GB/s", "latency": "1 ms"}).cluster.transfer is not None


def test_a_state_moves_whole_however_short_the_prompt(ready: Ready) -> None:
    fields = {"workload": "nemotron-3-nano-30b-a3b", "plan": FP8, "prefill": {}, "scheduler": {"swap": True}}
    made = ready(**fields)
    found, swap = made.cluster.transfer, made.pool.scheduler.swap
    assert found is not None
    assert swap is not None
    assert swap.held is not None
    assert found.held is not None
    assert found.held.state > 1e6
    # On one chip both move all of the sequence.
    assert found.held.bytes(100) == pytest.approx(swap.held.bytes(100), rel=1e-6)
    even = found.latency_s + 100 * found.token_bytes / found.bandwidth
    assert found.seconds(100) > 2.0 * even
    assert found.seconds(4096) == pytest.approx(found.latency_s + 4096 * found.token_bytes / found.bandwidth)


def test_windows_move_no_more_than_they_keep(ready: Ready) -> None:
    made = ready(workload="gpt-oss-20b", plan=FP8, prefill={})
    found = made.cluster.transfer
    assert found is not None
    assert found.held is not None
    assert 0.0 < found.held.far < found.held.near
    assert found.held.window > 0
    per_token = (found.seconds(60_000) - found.seconds(50_000)) / 10_000
    assert per_token < 0.7 * (found.seconds(100) - found.seconds(50)) / 50
