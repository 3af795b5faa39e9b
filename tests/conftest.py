"""A small study that runs once for all tests of runs, pages and commands, and the command line as a function."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cosim import documents, library
from cosim.cli.main import main
from cosim.documents import Document
from cosim.explore.run import run_study
from cosim.explore.store import read_run
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.measure.points import Launch, Matmul, Point
from cosim.measure.timing import Facts, UnableError
from cosim.overrides import Varied
from cosim.records import array
from cosim.report.page import report_run
from cosim.timing.algorithms import ALGORITHMS
from cosim.validation.cases import Case

# Examples are drawn anew on a developer's machine and are the same ones wherever a change is accepted. None has a limit
# of time: a busy machine is no fault of what is tested, and speed is measured apart, by `make bench`.
settings.register_profile("anew", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "anew")

STUDY = """\
kind: compare
question: Which of two GPUs serves a small model?
systems: [dgx-h100, mi300x-8gpu]
workload: llama-3.1-8b
scenario: {input: 32768, output: 1024}
decode: {tpot_limits: [20 ms]}
prefill: {ttft_limit: 10 s}
precisions: [bf16]
equal_quality:
  {matmul: 0.75, attention: 0.5, memory: 0.82, collective: 0.8, launch_gap: 2 us, collective_start: 5 us, source: ours}
max_batch: 16
"""
Answer = tuple[int, str, str]
KERNELS: dict[str, tuple[str, dict[str, object]]] = {
    "matmul": ("gemm/{}/gemm_perf", {"gemm_dtype": "bfloat16", "m": 64, "n": 4096, "k": 4096}),
    "prefill": ("attention/{}/context_attention_perf", {"isl": 1024, "step": 0}),
    "decode": ("attention/{}/generation_attention_perf", {"isl": 1, "step": 1023}),
}
HEADS = {"batch_size": 4, "num_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
HEADS_FORMATS = {"attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16"}
SHIPPED: dict[Path, Document] = {}


@pytest.fixture(scope="session")
def study_text() -> str:
    """Two systems, one model, one limit and one precision. The long context makes some points infeasible."""
    return STUDY


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_run(study_file: Path) -> Path:
    """The run folder of the study. Tests read it and write elsewhere."""
    return run_study(
        str(study_file),
        study_file.parent / "run",
        overrides={},
        progress=lambda _done, _of, _what: None,
        report=report_run,
    )


@pytest.fixture(scope="session")
def content(small_run: Path) -> dict[str, Any]:
    """run.json of the study."""
    return read_run(small_run)


@pytest.fixture(scope="module")
def shipped_files_read_once() -> Iterator[None]:
    """Spares most of the time of commands and runs: parsing YAML. A user's files are read anew each time."""
    read = documents.read

    def _read(path: Path) -> Document:
        if library.shipped() not in path.parents:
            return read(path)
        if path not in SHIPPED:
            SHIPPED[path] = read(path)
        return SHIPPED[path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosim.documents.read", _read)
        yield


@pytest.fixture
def write_kernels(tmp_path: Path) -> Callable[..., Path]:
    """Writes a table of measured kernels of one stack as the package of tables has it; returns the root of tables.

    Rows name what differs from a plain kernel of 1 ms; a column that is None in all rows is not in the table.
    """
    root = tmp_path / "aiconfigurator_core" / "systems" / "data"

    def _write(system: str, stack: str, kind: str, rows: list[dict[str, object]]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        place, own = KERNELS[kind]
        plain = own if kind == "matmul" else {**own, **HEADS, **HEADS_FORMATS}
        full = [{"kernel_source": "default", "latency": 1.0, **plain, **row} for row in rows]
        names = {name: None for row in full for name in row if any(each.get(name) is not None for each in full)}
        path = root / system / f"{place.format(stack)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: [row.get(name) for row in full] for name in names}), path)
        return root

    return _write


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`cosim ARGUMENTS` in this process: exit code, standard output, standard error."""

    def _call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["cosim", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    return _call


@pytest.fixture
def refused(
    call: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[tuple[str, ...]], str]:
    """`cosim ARGUMENTS` in an empty folder, which must end in one message and exit code 2; returns the message."""

    def _refused(arguments: tuple[str, ...]) -> str:
        monkeypatch.chdir(tmp_path)
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        return err

    return _refused


@pytest.fixture(scope="session")
def network_on() -> Callable[..., SystemArrays]:
    """A system of tiers by keyword of `TierArrays`: 100 GB/s of which 80 % are reached, 3 us to start, 1 us a hop."""
    base = lower_system(Varied(load_system("dgx-h100")))
    plain: dict[str, Any] = {
        "kind": "switch",
        "link": "wire",
        "bandwidth": 100e9,
        "efficiency": 0.8,
        "protocols": (ProtocolArrays("bulk", array(3e-6), array(1e-6), array(1.0)),),
        "algorithms": ALGORITHMS,
        "copy_share": None,
        "send_share": 1.0,
        "in_network": 0.6,
        "in_network_start": 20e-6,
        "most": None,
    }

    def _tier(number: int, given: dict[str, Any]) -> TierArrays:
        fields = {"name": f"tier{number}", **plain, **given}
        if "shape" in fields:
            fields.setdefault("size", float(math.prod(fields["shape"])))
            fields.setdefault("closed", tuple(True for _ in fields["shape"]))
        numbers = {name: array(value) for name, value in fields.items() if isinstance(value, int | float)}
        kept = {name: value for name, value in (fields | numbers).items() if name != "rails"}
        return replace(base.tiers[0], **kept, rails=bool(fields.get("rails", False)))

    def _network(*tiers: dict[str, Any]) -> SystemArrays:
        made = tuple(_tier(number, given) for number, given in enumerate(tiers))
        chips = math.prod((tier.size for tier in made), start=array(1.0))
        return replace(base, name="made", tiers=made, chips=chips, node_chips=made[0].size, node_tier=0)

    return _network


@dataclass
class FakeDevice:
    """A device whose clock only it moves: 2 us a kernel, 2 TFLOP/s, 1 TB/s cold and 4 TB/s warm."""

    facts: Facts = field(
        default_factory=lambda: Facts("Fake 9000", "2.9", "550.1", "1980 MHz", "700 W", 50e6, 80e9, cores=132)
    )
    without: Mapping[str, str] = field(default_factory=dict)
    """Reason by format that it does not have."""
    refuses: Mapping[str, UnableError] = field(default_factory=dict)
    """Error by the tail of a point."""
    drift: Callable[[int], float] = lambda _: 1.0
    """Factor of the time of the n-th replay of a loop."""
    before_loop: Callable[[int], None] = lambda _: None
    """Called with the number of loops so far: where a test kills."""
    loops: list[tuple[Point, int, int, float]] = field(default_factory=list)

    def lacks(self, kind: str, dtype: str) -> str:
        return self.without.get(dtype, "") if kind in ("matmul", "attention") else ""

    def seconds_of(self, point: Point) -> float:
        """True time of one run."""
        flop = 2.0 * point.m * point.n * point.k if isinstance(point, Matmul) else 0.0
        return 2e-6 + flop / 2e12 + point.operand_bytes / (4e12 if point.warm else 1e12)

    def loop(self, point: Point, runs: int, copies: int, flush_bytes: float) -> FakeLoop:
        self.before_loop(len(self.loops))
        self.loops.append((point, runs, copies, flush_bytes))
        if point.tail in self.refuses:
            raise self.refuses[point.tail]
        alone = isinstance(point, Launch) and point.what != "graph_gap"
        return FakeLoop(runs * self.seconds_of(point), self.drift, "stream" if alone else "graph")


@dataclass
class FakeLoop:
    """Replays that take as long as they are told to."""

    replay_s: float
    drift: Callable[[int], float]
    method: str
    replays: int = 0

    def seconds(self) -> float:
        self.replays += 1
        return self.replay_s * self.drift(self.replays - 1)


@pytest.fixture(scope="session")
def fake_device() -> type[FakeDevice]:
    """The class, for devices with faults."""
    return FakeDevice


@pytest.fixture
def own_device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """What `cosim measure` finds on this machine."""
    device = FakeDevice()
    monkeypatch.setattr("cosim.measure.device.open_device", lambda: device)
    return device


STEP: dict[str, object] = {
    "id": "r",
    "source": "lab: table 1",
    "arch": "dense",
    "accelerator": "a100-80gb-sxm",
    "system": "dgx-a100",
    "software_stack": "megatron-2022",
    "workload": "megatron-22b",
    "num_accelerators": 8,
    "tp": 8,
    "pp": 1,
    "virtual_pp": 1,
    "cp": "",
    "ep": "",
    "dp": "",
    "zero": "",
    "sp": 1,
    "experts": "",
    "micro_batch": 4,
    "global_batch": 4,
    "seq_len": 2048,
    "vocab": 51200,
    "recompute": "selective",
    "precision": "fp16",
    "task": "pretrain",
    "measured_quantity": "seconds_per_step",
    "measured_value": 1.1,
    "notes": "",
    "split_group": "",
}
"""A measured training step that is quick to answer."""


@pytest.fixture(scope="session")
def step() -> Callable[..., Case]:
    """Makes a row of a file of measured training steps: `step(id, column=value, ...)`."""

    def made(name: str = "r", **values: object) -> Case:
        return Case(name, 1, {key: str(value) for key, value in {**STEP, "id": name, **values}.items()})

    return made


@pytest.fixture(scope="session")
def write_steps() -> Callable[..., Path]:
    """Writes rows as a file: `write_steps(path, row, ...)`."""

    def written(path: Path, *rows: Case) -> Path:
        lines = [",".join(STEP), *(",".join(row.values[name] for name in STEP) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return written


SERVED: dict[str, object] = {
    "id": "r",
    "source": "lab: table 1",
    "source_key": "lab",
    "accelerator": "h100-sxm",
    "system": "dgx-h100",
    "software_stack": "vllm",
    "workload": "llama-3.1-8b",
    "weights_dtype": "bf16",
    "kv_dtype": "",
    "num_accelerators": 1,
    "tp": 1,
    "pp": 1,
    "ep": "",
    "dp": 1,
    "batch": 16,
    "batch_kind": "max_concurrency",
    "offered_qps": "",
    "input_len": 1024,
    "output_len": 128,
    "mode": "server",
    "measured_quantity": "tpot_s",
    "measured_value": 0.01,
    "spec_decode": "no",
    "point_id": "",
    "notes": "",
}
"""A measured served point that is quick to answer."""


@pytest.fixture(scope="session")
def served() -> Callable[..., Case]:
    """Makes a row of a file of measured inference runs: `served(id, column=value, ...)`."""

    def made(name: str = "r", **values: object) -> Case:
        return Case(name, 1, {key: str(value) for key, value in {**SERVED, "id": name, **values}.items()})

    return made


@pytest.fixture(scope="session")
def write_served() -> Callable[..., Path]:
    """Writes rows as a file: `write_served(path, row, ...)`."""

    def written(path: Path, *rows: Case) -> Path:
        lines = [",".join(SERVED), *(",".join(row.values[name] for name in SERVED) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return written
