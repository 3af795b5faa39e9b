"""The way of a cache: inside a node faster than outside, bytes of the pool that holds more, what is said by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cosim.errors import SpecError
from cosim.explore.serving.deployed import Deployed

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
