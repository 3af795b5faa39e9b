"""Speed, printed: points of serving, training plans, spaces of strategies, products, flows, start-up, the library.

Run with `make bench`. Times are CPU seconds of one process on whatever machine this is, medians of five; of whole
studies wall seconds with all cores, once, figures and page included, and the memory of the largest process.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cosim
from cosim.hardware.lower import lower_chip, lower_system
from cosim.mapping.placement import placed
from cosim.records import array
from cosim.timing.collective import all_reduce
from cosim.timing.matmul import matmul_cost

POINTS = 20_000
PRODUCTS = 100_000
COLLECTIVES = 200_000
REPEATS = 5
ROOFLINE = "mi455x"
"""A chip known by its peaks alone: products without a search."""


def median_cpu_s(work: Callable[[], object]) -> float:
    """Median CPU seconds of `work`, after one run that is not counted."""
    work()
    spent = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def decode_points(name: str) -> float:
    """CPU seconds of 20,000 decode points of Llama-3.1-70B that vary chip and batch at once."""
    rng = np.random.default_rng(0)
    bandwidth = rng.uniform(2e12, 8e12, POINTS)
    clock = rng.uniform(1e9, 2e9, POINTS)
    system = cosim.system(name).vary({"chip.memory.dram.bandwidth": bandwidth, "chip.matrix.clock": clock})
    model = cosim.workload("llama-3.1-70b")
    batch = rng.integers(1, 257, POINTS).astype(float)
    plan = cosim.Strategy(tensor_parallel=8, dtype="fp8", kv_dtype="fp8")
    return median_cpu_s(lambda: cosim.estimate_decode(system, model, plan, batch=batch, context=4608))


def training_plans(name: str) -> float:
    """CPU seconds of 20,000 training plans of GPT-3 175B: degrees, micro-batch, pieces, ZeRO and recompute all vary."""
    rng = np.random.default_rng(2)
    plan = {
        "tensor_parallel": 2.0 ** rng.integers(0, 4, POINTS),
        "pipeline_parallel": 2.0 ** rng.integers(0, 6, POINTS),
        "data_parallel": 2.0 ** rng.integers(0, 6, POINTS),
        "micro_batch": 2.0 ** rng.integers(0, 3, POINTS),
        "virtual_pipeline": rng.choice([1.0, 1.0, 3.0], POINTS),
        "zero": rng.integers(0, 4, POINTS).astype(float),
        "sequence_parallel": True,
        "recompute": "full",
    }
    system, model = cosim.system(name, nodes=2048), cosim.workload("gpt3-175b")
    # Memory enough for every plan, so that all are timed.
    system = system.vary({"chip.memory.dram.stack_capacity": "1 TB"})
    return median_cpu_s(lambda: cosim.estimate_training(system, model, plan, global_batch=2048, context=2048))


def training_space(nodes: int, batch: int) -> dict[str, NDArray[np.float64]]:
    """Every product of degrees that fills A100 nodes with GPT-3 175B, micro-batches of 1 to 16, pieces, ZeRO stages.

    Most break a limit: stages that pieces do not divide, batches that micro-batches do not, memory.
    """
    chips = 8 * nodes
    powers = [2**power for power in range(chips.bit_length())]
    degrees = [
        (tensor, pipeline, context, chips // (tensor * pipeline * context))
        for tensor, pipeline, context in itertools.product(powers, repeat=3)
        if chips % (tensor * pipeline * context) == 0 and batch % (chips // (tensor * pipeline * context)) == 0
    ]
    pieces = [pieces for pieces in range(1, 97) if 96 % pieces == 0]
    points = np.array(list(itertools.product(range(len(degrees)), range(1, 17), pieces, range(4))), dtype=float)
    chosen = np.array(degrees, dtype=float)[points[:, 0].astype(int)]
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel")
    others = ("micro_batch", "virtual_pipeline", "zero")
    return {name: chosen[:, c] for c, name in enumerate(names)} | {
        name: points[:, 1 + c] for c, name in enumerate(others)
    }


def strategies(nodes: int, batch: int, *, fitting: bool = False) -> tuple[int, int, float]:
    """Strategies of GPT-3 175B on A100 nodes, those that break no limit, and CPU seconds of all of them.

    The space of `training_space` with and without recompute and sequence parallelism, and two ways to exchange context.
    `fitting` leaves out beforehand those that break a limit.
    """
    system, model = cosim.system("dgx-a100", nodes=nodes), cosim.workload("gpt3-175b")
    kinds = itertools.product(("none", "full"), (False, True), ("ring", "all_gather"))
    names = ("recompute", "sequence_parallel", "context_exchange")
    spaces = [(training_space(nodes, batch), dict(zip(names, kind, strict=True))) for kind in kinds]

    def fits(space: dict[str, NDArray[np.float64]], kind: dict[str, Any]) -> NDArray[np.intp]:
        plan = space | kind
        found = cosim.estimate_training(system, model, plan, global_batch=batch, context=2048)
        return np.flatnonzero(found.result.feasible)

    passed = [fits(*each) for each in spaces]
    if fitting:
        spaces = [
            ({name: values[rows] for name, values in space.items()}, kind)
            for (space, kind), rows in zip(spaces, passed, strict=True)
        ]
    total = sum(space["zero"].size for space, _ in spaces)
    return total, sum(rows.size for rows in passed), median_cpu_s(lambda: [fits(*each) for each in spaces])


def products(name: str) -> float:
    """CPU seconds of 100,000 different products through the tiling search of one chip."""
    rng = np.random.default_rng(1)
    m, n, k = (rng.integers(1, high, PRODUCTS).astype(float) * step for high, step in ((8192, 1), (256, 64), (256, 64)))
    chip = lower_chip(cosim.chip(name).spec)
    return median_cpu_s(lambda: matmul_cost(m, n, k, chip, "bf16"))


def collectives(name: str) -> float:
    """CPU seconds of 200,000 all-reduces on 128 nodes: bytes and ranks vary, every legal algorithm is asked."""
    rng = np.random.default_rng(3)
    machine = lower_system(cosim.system(name, nodes=128).varied)
    size = 2.0 ** rng.uniform(9, 32, COLLECTIVES)
    group = placed(array(2.0 ** rng.integers(1, 11, COLLECTIVES)), array(np.ones(COLLECTIVES)), machine.sizes)
    return median_cpu_s(lambda: all_reduce(size, group, machine))


def flows(op: str, nodes: int, degraded: dict[str, float], *, rails: bool = False) -> tuple[float, int]:
    """CPU seconds of a collective of 1 GB on all chips of H100 nodes as flows on links, once, and its flows."""
    system = cosim.system("dgx-h100", nodes=nodes).vary({"tiers.1.rails": rails})
    start = time.process_time()
    run = cosim.simulate_collective(system, op, 1e9, degraded=degraded)
    return time.process_time() - start, run.flows


def child_cpu_s(*command: str) -> float:
    """Median CPU seconds of a fresh process."""
    spent = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent)


def study(name: str) -> tuple[float, float]:
    """Wall seconds of a whole study in a fresh process, and the most memory of any process of it [GB]."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "cosim", "run", name, "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def main() -> None:
    for name, what, target in (
        ("asic-sweep", "112,500 designs x 2 models, one plan each", "< 10 s"),
        ("asic-search", "11,520 designs x 2 models, best plan and batch", "< 60 s"),
        ("gpu-vs-asic", "the review: 11 systems, serving and training", "< 30 s"),
    ):
        wall, memory = study(name)
        print(f"{f'{name}: {what}':<66}{wall:>6.1f} s wall, {memory:.2f} GB  {target}")
    print(f"{'what':<58}{'CPU s':>8}  target")
    for name in ("dgx-h100", "tpu-v5p-8", "asic-8"):
        spent = decode_points(name)
        print(f"{f'{POINTS:,} decode points, chip and batch vary, {name}':<58}{spent:>8.3f}  < 1 s")
    for name in ("dgx-a100", "dgx-h100", "asic-8"):
        spent = training_plans(name)
        print(f"{f'{POINTS:,} training plans of GPT-3 175B, {name}':<58}{spent:>8.3f}  < 1 s")
    for nodes, batch, fitting in ((8, 1536, False), (64, 1536, False), (64, 1536, True)):
        total, fit, spent = strategies(nodes, batch, fitting=fitting)
        what = f"{total:,} strategies, {fit:,} fit, {8 * nodes:,} A100, {total / spent:,.0f}/s"
        print(f"{what:<58}{spent:>8.3f}  {f'< {total / 200_000:.2f} s':<9}{fit / spent:,.0f}/s of those that fit")
    for name, target in (("h100-sxm", "< 1 s"), ("asic-template", "< 1 s"), (ROOFLINE, "< 0.1 s")):
        spent = products(name)
        print(f"{f'{PRODUCTS:,} different products, {name}':<58}{spent:>8.3f}  {target}")
    for name in ("dgx-h100", "trn2-ultraserver-64"):
        spent = collectives(name)
        print(f"{f'{COLLECTIVES:,} all-reduces in closed form, {name}':<58}{spent:>8.3f}  < 0.2 s")
    worse = {"cluster0.node3.chip5.up": 0.5}
    spent, number = flows("alltoall", 128, {})
    print(f"{f'all-to-all of 1,024 ranks on a fat tree, {number:,} flows':<58}{spent:>8.3f}  < 20 s")
    spent, number = flows("all_reduce", 2048, worse, rails=True)
    print(f"{f'all-reduce of 16,384 ranks on rails, a bad link, {number} flows':<58}{spent:>8.3f}  < 30 s")
    print(f"{'import cosim':<58}{child_cpu_s('-c', 'import cosim'):>8.3f}  < 0.7 s")
    print(f"{'cosim --help':<58}{child_cpu_s('-m', 'cosim', '--help'):>8.3f}  < 1.0 s")
    print(f"{'cosim list accelerators':<58}{child_cpu_s('-m', 'cosim', 'list', 'accelerators'):>8.3f}  < 1.5 s")


if __name__ == "__main__":
    main()
