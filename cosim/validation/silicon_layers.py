"""Matrix products of one layer of a model, weighted by their time: sum of predicted over sum of measured.

An error over shapes counts a small product as much as a large one; a layer counts seconds. A product that the table
does not hold is named and left out of both sums. Routed experts are grouped kernels and are not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from cosim.hardware.lower import ChipArrays
from cosim.mapping.device import DeviceMatmul
from cosim.mapping.plan import Plan, lower_plan
from cosim.mapping.shard import shard
from cosim.overrides import Varied
from cosim.records import array
from cosim.validation.silicon import Suite, kernel, taken
from cosim.validation.silicon_tables import Shapes
from cosim.workload.graph import decode_graph, prefill_graph
from cosim.workload.load import load_model
from cosim.workload.model import lower_model

MODELS = ("llama-3.1-70b", "deepseek-v3")
TENSOR = (1, 8)
ROWS = {"prefill": 8192, "decode": 64}


def layers(suite: Suite) -> list[dict[str, Any]]:
    """One row a chip, format, model, tensor degree and phase; error is None where the table holds no product."""
    return [
        {
            "accelerator": target.name,
            "fit": target.fit,
            "dtype": shapes.dtype,
            "workload": model,
            "tensor_parallel": tensor,
            "phase": phase,
            "rows": ROWS[phase],
            **_weighed(shapes, target.chip, products(model, tensor, phase, shapes.dtype)),
        }
        for target, shapes in suite.tables
        if shapes.kind == "matmul"
        for model in MODELS
        for tensor in TENSOR
        for phase in ROWS
    ]


@cache
def products(model: str, tensor: int, phase: str, dtype: str) -> tuple[DeviceMatmul, ...]:
    """The products of one layer on one of `tensor` ranks that run in `dtype`, experts that tokens chose apart."""
    arrays, rows, one = lower_model(Varied(load_model(model))), array(ROWS[phase]), array(1.0)
    graph = prefill_graph(arrays, one, rows) if phase == "prefill" else decode_graph(arrays, rows, one)
    device = shard(graph, lower_plan(Varied(Plan(tensor_parallel=tensor, dtype=dtype))))
    layer = [op for op in device.matmuls if op.group in ("layer", "moe") and not op.routed]
    return tuple(op for op in layer if op.dtype == dtype)


def _weighed(shapes: Shapes, chip: ChipArrays, ops: tuple[DeviceMatmul, ...]) -> dict[str, Any]:
    """Predicted and measured seconds of the products that the table holds, and the names of those that it lacks."""
    found = [(op, place) for op in ops for place in _place(shapes, op)]
    held = taken(shapes, np.array([place for _, place in found], dtype=np.intp))
    count = np.array([float(op.count) for op, _ in found])
    predicted = float(np.sum(count * kernel(held, chip).time)) if found else None
    measured = float(np.sum(count * held.measured)) if found else None
    named = {op.name for op, _ in found}
    return {
        "predicted_s": predicted,
        "measured_s": measured,
        "error": None if predicted is None or measured is None else predicted / measured - 1.0,
        "products": len(found),
        "lacks": [_text(op) for op in ops if op.name not in named],
    }


def _place(shapes: Shapes, op: DeviceMatmul) -> Iterator[int]:
    """Where the table holds a product; a batch of products it never does."""
    if float(op.batch) == 1.0:
        same = [shapes.dims[name] == float(size) for name, size in (("m", op.m), ("n", op.n), ("k", op.k))]
        yield from np.flatnonzero(np.all(same, axis=0)).tolist()


def _text(op: DeviceMatmul) -> str:
    batch = f"{float(op.batch):.0f} of " if float(op.batch) != 1.0 else ""
    return f"{op.name} {batch}{float(op.m):.0f}x{float(op.n):.0f}x{float(op.k):.0f}"
