"""Products of a layer by their names and sizes, and errors weighted by time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.validation.silicon import answer
from cosim.validation.silicon_layers import layers, products

Write = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


def sizes(model: str, tensor: int, phase: str, dtype: str = "bf16") -> dict[str, tuple[float, ...]]:
    found = products(model, tensor, phase, dtype)
    return {op.name: tuple(float(size) for size in (op.m, op.n, op.k)) for op in found}


def one(root: Path, **same: Any) -> dict[str, Any]:
    """The row of a layer."""
    rows = [row for row in layers(answer("matmul", root=root)) if all(row[name] == same[name] for name in same)]
    assert len(rows) == 1
    return rows[0]


def test_the_layer_of_llama_by_hand() -> None:
    # 64 + 2 x 8 heads of 128, hidden 8,192, feed-forward 28,672 gated.
    assert sizes("llama-3.1-70b", 1, "prefill") == {
        "qkv": (8192.0, 10240.0, 8192.0),
        "attention_out": (8192.0, 8192.0, 8192.0),
        "ffn_in": (8192.0, 57344.0, 8192.0),
        "ffn_out": (8192.0, 8192.0, 28672.0),
    }
    assert sizes("llama-3.1-70b", 8, "decode")["ffn_out"] == (64.0, 8192.0, 3584.0)


def test_a_layer_of_experts_has_its_shared_expert_and_no_routed_or_dense_one() -> None:
    named = sizes("deepseek-v3", 1, "prefill")
    assert {"kv_down", "query_down", "query_up", "kv_up", "attention_out", "router", "shared_in"} <= set(named)
    assert not {"expert_in", "expert_out", "ffn_in", "ffn_out", "logits"} & set(named)
    assert named["shared_out"] == (8192.0, 7168.0, 2048.0)


def test_the_router_is_asked_in_its_own_format_alone() -> None:
    assert "router" in sizes("deepseek-v3", 1, "decode")
    assert "router" not in sizes("deepseek-v3", 1, "decode", "fp8")


def test_the_error_is_of_sums_over_products_that_the_table_holds(write_kernels: Write) -> None:
    rows: list[dict[str, object]] = [
        {"m": 8192, "n": 10240, "k": 8192, "latency": 2.0},
        {"m": 8192, "n": 8192, "k": 8192, "latency": 3.0},
        {"m": 64, "n": 1, "k": 1},
    ]
    root = write_kernels("h100_sxm", "a/1", "matmul", rows)
    held = one(root, workload="llama-3.1-70b", tensor_parallel=1, phase="prefill")
    predicted = {each.shapes.dims["n"][-1]: each.predicted.tolist() for each in answer(root=root).answered}
    ((_, first, second),) = predicted.values()
    assert held["measured_s"] == pytest.approx(5e-3)
    assert held["predicted_s"] == pytest.approx(first + second)
    assert held["error"] == pytest.approx((first + second) / 5e-3 - 1.0)
    assert held["lacks"] == ["ffn_in 8192x57344x8192", "ffn_out 8192x8192x28672"]
    assert (held["products"], held["accelerator"], held["fit"], held["dtype"]) == (2, "h100-sxm", "fitted", "bf16")


def test_a_table_that_holds_no_product_has_no_error_and_a_batch_is_never_held(write_kernels: Write) -> None:
    root = write_kernels("h100_sxm", "a/1", "matmul", [{"m": 64, "n": 512, "k": 128}])
    row = one(root, workload="deepseek-v3", tensor_parallel=1, phase="decode")
    assert (row["error"], row["predicted_s"], row["measured_s"], row["products"]) == (None, None, None, 0)
    assert "key_absorb 128 of 64x512x128" in row["lacks"]


def test_attention_tables_have_no_layers(write_kernels: Write) -> None:
    assert layers(answer(root=write_kernels("h100_sxm", "a/1", "decode", [{}]))) == []
