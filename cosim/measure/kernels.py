"""Points as calls of PyTorch: operands made once, outputs too, so that a run is the kernels and nothing else.

`torch` is handed in: only `cosim.measure.device` imports it. Operands are drawn from a normal distribution: what
they hold sets how much power a product draws, and with it the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cosim.measure.points import Attention, Copy, Matmul, Point
from cosim.measure.timing import UnableError

Run = Callable[[], object]
PLAIN = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Formats of products without quantisation, as PyTorch calls them."""
EIGHT_BIT = ("float8_e4m3fn", "float8_e4m3fnuz")
"""What fp8 may be on a device: some matrix engines know only the second, which has no negative zero."""
UNANSWERED = {
    "int8": "the integer product of torch writes results of 32 bits, which these rows do not have",
    "int4": "torch has no product of 4-bit integers without block scales",
}
NO_QUANTISER = "torch has no single kernel that quantises activations to this format"


def runs_of(torch: Any, where: Any, point: Point, copies: int, eight_bit: str) -> list[Run]:  # noqa: ANN401  # torch
    """One call for each copy of the operands of `point` on device `where`; `eight_bit` is what fp8 is there."""
    if isinstance(point, Matmul):
        # fp32 products would otherwise run as tf32 where the user's environment allows it.
        torch.set_float32_matmul_precision("high" if point.dtype == "tf32" else "highest")
        return [_matmul(torch, where, point, eight_bit) for _ in range(copies)]
    if isinstance(point, Attention):
        return [_attention(torch, where, point) for _ in range(copies)]
    if isinstance(point, Copy):
        return [_copy(torch, where, point) for _ in range(copies)]
    return [_launch(torch, where) for _ in range(copies)]


def _matmul(torch: Any, where: Any, point: Matmul, eight_bit: str) -> Run:  # noqa: ANN401  # torch
    m, n, k = point.m, point.n, point.k
    wide = getattr(torch, PLAIN.get(point.dtype, "bfloat16"))
    a = torch.randn(m, k, device=where, dtype=wide)
    b = torch.randn(n, k, device=where, dtype=wide)
    c = torch.empty(m, n, device=where, dtype=wide)
    if point.dtype in PLAIN:
        return lambda: torch.matmul(a, b.t(), out=c)
    narrow = getattr(torch, eight_bit)
    weights = b.to(narrow)
    rounded = torch.empty(m, k, device=where, dtype=narrow)
    scale = torch.ones((), device=where)

    def run() -> None:
        # One kernel reads 16 bits and writes 8. A scale of 1 leaves out a multiplication, no byte.
        rounded.copy_(a)
        torch._scaled_mm(  # noqa: SLF001  # the only door to 8-bit products
            rounded, weights.t(), scale_a=scale, scale_b=scale, out_dtype=wide, use_fast_accum=True, out=c
        )

    return run


def _attention(torch: Any, where: Any, point: Attention) -> Run:  # noqa: ANN401  # torch
    dtype = getattr(torch, PLAIN[point.dtype])
    kernel = torch.nn.functional.scaled_dot_product_attention
    grouped: dict[str, bool] = {}
    if point.heads != point.kv_heads:
        if "enable_gqa" not in (kernel.__doc__ or ""):
            raise UnableError(f"torch {torch.__version__} has no grouped heads in its attention (enable_gqa, from 2.5)")
        grouped = {"enable_gqa": True}
    query = torch.randn(point.batch, point.heads, point.query_len, point.head_dim, device=where, dtype=dtype)
    shape = (point.batch, point.kv_heads, point.context_len, point.head_dim)
    keys, values = (torch.randn(*shape, device=where, dtype=dtype) for _ in range(2))
    # torch counts a causal mask from the first key on; one query at the end of its context sees all of it.
    causal = point.query_len > 1

    def run() -> object:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            return kernel(query, keys, values, is_causal=causal, **grouped)

    return run


def _copy(torch: Any, where: Any, point: Copy) -> Run:  # noqa: ANN401  # torch
    """Negation: `copy_` between tensors of one format may go to a copy engine, which is no kernel."""
    source = torch.randn(point.size // 2, device=where, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return lambda: torch.neg(source, out=target)


def _launch(torch: Any, where: Any) -> Run:  # noqa: ANN401  # torch
    one = torch.zeros(1, device=where)
    return lambda: one.add_(1.0)
