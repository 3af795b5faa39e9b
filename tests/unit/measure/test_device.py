"""The device through a torch that notes the order of events, and the ways in which there is none."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from cosim.errors import SpecError
from cosim.measure import device as devices
from cosim.measure.device import TorchDevice, open_device
from cosim.measure.points import Copy, Launch, Matmul, Point
from cosim.measure.timing import UnableError, timed

Log = list[str]


class Stage:
    """A torch whose kernels, graphs and events write into `log`."""

    def __init__(self) -> None:
        self.log: Log = []
        self.torch = torch = MagicMock(__version__="2.9")
        torch.version = SimpleNamespace(cuda="12.8", hip=None)
        torch.cuda.is_available.return_value = True
        torch.cuda.get_device_capability.return_value = (9, 0)
        torch.cuda.get_device_properties.return_value = SimpleNamespace(
            name="Fake 9000", uuid="ab-cd", total_memory=80e9, multi_processor_count=132, L2_cache_size=50_000_000
        )
        torch.neg.side_effect = lambda *_, **__: self.log.append("kernel")
        torch.zeros.return_value.add_.side_effect = lambda *_: self.log.append("kernel")
        torch.zeros.return_value.amax.side_effect = lambda: self.log.append("flush")
        torch.cuda.CUDAGraph.return_value.replay.side_effect = lambda: self.log.append("graph")
        torch.cuda.Event.side_effect = lambda **_: MagicMock(
            record=lambda: self.log.append("event"), elapsed_time=lambda _: 5.0
        )

    def device(self) -> TorchDevice:
        return TorchDevice(self.torch)

    def fails(self, error: Exception) -> None:
        """Every product fails with `error`."""
        self.torch.matmul.side_effect = error
        self.torch._scaled_mm.side_effect = error


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A machine without the driver's tool."""
    monkeypatch.setattr("cosim.measure.device.shutil.which", lambda _: None)
    return Stage()


def test_a_graph_is_timed_after_an_untimed_one_and_cold_ones_after_a_flush(stage: Stage) -> None:
    for flush, between in ((0.0, []), (1e6, ["flush"])):
        loop = stage.device().loop(Copy(4096), 3, 2, flush)
        # Two copies once each, so that libraries have chosen; then three runs under capture.
        assert stage.log == ["kernel"] * 5
        assert loop.method == "graph"
        stage.log.clear()
        assert loop.seconds() == pytest.approx(5e-3)
        assert stage.log == ["graph", *between, "event", "graph", "event"]
        stage.log.clear()


def test_the_flush_is_as_large_as_it_was_asked_to_be(stage: Stage) -> None:
    stage.device().loop(Copy(4096, warm=False), 3, 2, 1e6)
    assert stage.torch.zeros.call_args.args == (250_000,)  # of 4 bytes


def test_copies_take_turns(stage: Stage) -> None:
    stage.device().loop(Copy(4096), 5, 2, 0.0)
    sources = [call.args[0] for call in stage.torch.neg.call_args_list[2:]]
    first, second = sources[:2]
    assert sources == [first, second, first, second, first]


def test_without_graphs_runs_are_launched_one_by_one_and_the_row_says_so(stage: Stage) -> None:
    stage.torch.cuda.graph.side_effect = RuntimeError("not supported")
    loop = stage.device().loop(Copy(4096), 3, 1, 0.0)
    assert loop.method == "stream"
    stage.log.clear()
    loop.seconds()
    assert stage.log == [*["kernel"] * 3, "event", *["kernel"] * 3, "event"]
    with pytest.raises(UnableError, match="graphs are not possible: not supported"):
        stage.device().loop(Launch("graph_gap", 10), 10, 1, 0.0)


@pytest.mark.parametrize(
    ("what", "runs", "expected"),
    [
        ("lone_kernel", 1, ["event", "kernel", "event"]),
        ("stream_gap", 2, ["kernel", "kernel", "event", "kernel", "kernel", "event"]),
        ("graph_gap", 2, ["graph", "event", "graph", "event"]),
    ],
)
def test_launches(stage: Stage, what: str, runs: int, expected: Log) -> None:
    loop = stage.device().loop(Launch(what, runs), runs, 1, 0.0)
    stage.log.clear()
    loop.seconds()
    assert stage.log == expected


@pytest.mark.parametrize("point", [Copy(4096), Matmul("bf16", 16, 128, 128, warm=False)])
def test_a_point_is_timed_from_end_to_end(stage: Stage, point: Point) -> None:
    # Events are always 5 ms apart: the trial of 4 runs says 1.25 ms each, so 4 runs make a replay.
    assert timed(stage.device(), point, 50e6).seconds == pytest.approx(5e-3 / 4)


def test_what_a_device_refuses_is_a_reason_of_one_line(stage: Stage) -> None:
    stage.torch.neg.side_effect = RuntimeError("out of memory. Tried 3 TB\nsecond line")
    with pytest.raises(UnableError, match=r"^out of memory. Tried 3 TB$") as refused:
        stage.device().loop(Copy(4096), 3, 1, 0.0)
    assert not refused.value.lost


def test_a_device_that_answers_no_more_is_lost(stage: Stage) -> None:
    stage.torch.neg.side_effect = RuntimeError("illegal address")
    stage.torch.cuda.synchronize.side_effect = RuntimeError("illegal address")
    with pytest.raises(UnableError) as refused:
        stage.device().loop(Copy(4096), 3, 1, 0.0)
    assert refused.value.lost
    stage.fails(RuntimeError("illegal address"))
    with pytest.raises(SpecError, match="answers no more after a product in bf16"):
        stage.device().lacks("matmul", "bf16")


def test_a_device_may_be_lost_in_a_replay(stage: Stage) -> None:
    loop = stage.device().loop(Copy(4096), 3, 1, 0.0)
    stage.torch.cuda.synchronize.side_effect = RuntimeError("gone")
    with pytest.raises(UnableError) as refused:
        loop.seconds()
    assert refused.value.lost


@pytest.mark.parametrize(
    ("kind", "dtype", "reason"),
    [
        ("matmul", "bf16", ""),
        ("matmul", "tf32", ""),
        ("matmul", "fp8", ""),
        ("matmul", "int8", "32 bits"),
        ("matmul", "int4", "4-bit"),
        ("matmul", "nvfp4", "no single kernel that quantises"),
        ("attention", "bf16", ""),
        ("attention", "fp8", "bf16 and fp16"),
    ],
)
def test_formats(stage: Stage, kind: str, dtype: str, reason: str) -> None:
    found = stage.device().lacks(kind, dtype)
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("error", [RuntimeError("no kernel\nfor it"), ValueError("no kernel"), TypeError("no kernel")])
def test_a_format_whose_product_fails_is_lacking(stage: Stage, error: Exception) -> None:
    stage.fails(error)
    assert "no kernel" in stage.device().lacks("matmul", "fp8")
    assert "\n" not in stage.device().lacks("matmul", "fp8")


def test_an_old_device_runs_no_tf32(stage: Stage) -> None:
    stage.torch.cuda.get_device_capability.return_value = (7, 0)
    assert "would run fp32" in stage.device().lacks("matmul", "tf32")
    assert stage.device().lacks("matmul", "fp32") == ""


def test_the_8_bit_format_that_runs_is_kept(stage: Stage) -> None:
    device = stage.device()
    narrow: list[Any] = []

    def product(activations: Any, *_: Any, **__: Any) -> None:
        del activations
        held = stage.torch.empty.call_args.kwargs["dtype"]
        narrow.append(held)
        if held is stage.torch.float8_e4m3fn:
            raise RuntimeError("not this one")

    stage.torch._scaled_mm.side_effect = product
    assert device.lacks("matmul", "fp8") == ""
    assert device.lacks("matmul", "bf16") == ""
    narrow.clear()
    device.loop(Matmul("fp8", 16, 128, 128), 1, 1, 0.0)
    assert set(narrow) == {stage.torch.float8_e4m3fnuz}


def test_facts_without_and_with_the_tool_of_the_driver(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = stage.device().facts
    assert (facts.name, facts.torch, facts.driver, facts.clock) == ("Fake 9000", "2.9", "", "")
    assert (facts.cache_bytes, facts.memory_bytes, facts.cores) == (50e6, 80e9, 132)
    said = "GPU-00-11, 550.1, 1410 MHz, 400.00 W\nGPU-ab-cd, 550.1, 1980 MHz, 700.00 W\n"
    monkeypatch.setattr("cosim.measure.device.shutil.which", lambda _: "tool")
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    facts = stage.device().facts
    assert (facts.driver, facts.clock, facts.power_limit) == ("550.1", "1980 MHz", "700.00 W")


@pytest.mark.parametrize(
    ("uuid", "said", "clock"),
    [
        ("", "GPU-1, 5, 1 MHz, 7 W", "1 MHz"),  # alone
        ("", "GPU-1, 5, 1 MHz, 7 W\nGPU-2, 5, 2 MHz, 7 W", ""),  # which of the two is not known
        ("2", "GPU-1, 5, 1 MHz, 7 W\nGPU-2, 5, 2 MHz, 7 W", "2 MHz"),
        ("2", "no devices were found", ""),
        ("2", "", ""),
    ],
)
def test_the_row_of_the_driver_that_is_ours(monkeypatch: pytest.MonkeyPatch, uuid: str, said: str, clock: str) -> None:
    monkeypatch.setattr("cosim.measure.device.shutil.which", lambda _: "tool")
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    assert devices._driver(uuid)[1] == clock


def test_a_tool_that_hangs_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.measure.device.shutil.which", lambda _: "tool")
    monkeypatch.setattr(devices.subprocess, "run", MagicMock(side_effect=subprocess.TimeoutExpired("tool", 20)))
    assert devices._driver("2") == ("", "", "")


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SpecError, match=r"needs the extra: pip install 'cosim\[gpu\]'"):
        open_device()


@pytest.mark.parametrize(("cuda", "said"), [(None, "for the CPU alone"), ("12.8", "no device answers")])
def test_torch_without_a_device(stage: Stage, monkeypatch: pytest.MonkeyPatch, cuda: str | None, said: str) -> None:
    stage.torch.cuda.is_available.return_value = False
    stage.torch.version.cuda = cuda
    monkeypatch.setitem(sys.modules, "torch", stage.torch)
    with pytest.raises(SpecError, match=rf"torch 2.9 finds no device: .*{said}"):
        open_device()


def test_the_device_of_torch_is_opened(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", stage.torch)
    assert open_device().facts.name == "Fake 9000"
