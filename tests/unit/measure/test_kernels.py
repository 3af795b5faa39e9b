"""Points as calls: what a run calls, on a torch that only notes it, and what it computes where torch is installed."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from cosim.measure.kernels import EIGHT_BIT, runs_of
from cosim.measure.points import Attention, Copy, Launch, Matmul, Point
from cosim.measure.timing import UnableError

DECODE = Attention("bf16", "decode", 2, 1, 64, 8, 2, 64)
PREFILL = Attention("bf16", "prefill", 2, 32, 32, 8, 8, 64)
POINTS = (
    Matmul("bf16", 32, 48, 64),
    Matmul("fp8", 32, 48, 64),
    Matmul("tf32", 32, 48, 64),
    DECODE,
    PREFILL,
    Copy(4096),
    Launch("graph_gap", 10),
)
each_point = pytest.mark.parametrize("point", POINTS, ids=lambda point: point.tail)


@pytest.fixture
def noted() -> MagicMock:
    """A torch that notes what is called."""
    torch = MagicMock(__version__="2.9")
    torch.nn.functional.scaled_dot_product_attention.__doc__ = "(query, key, value, enable_gqa=False)"
    torch.randn.side_effect = lambda *_, **__: MagicMock()
    torch.empty.side_effect = lambda *_, **__: MagicMock()
    return torch


def runs(torch: Any, point: Point, copies: int = 1) -> list[Any]:
    return runs_of(torch, "cpu", point, copies, EIGHT_BIT[0])


@each_point
def test_nothing_is_made_while_a_point_runs(noted: MagicMock, point: Point) -> None:
    (run,) = runs(noted, point)
    makers = (noted.randn, noted.empty, noted.zeros, noted.ones, noted.empty_like)
    before = [maker.call_count for maker in makers]
    run()
    assert [maker.call_count for maker in makers] == before


@each_point
def test_every_copy_has_its_own_operands(noted: MagicMock, point: Point) -> None:
    one = len(runs(noted, point)), noted.randn.call_count + noted.zeros.call_count
    noted.randn.reset_mock()
    noted.zeros.reset_mock()
    assert (len(runs(noted, point, 5)), noted.randn.call_count + noted.zeros.call_count) == (5, 5 * one[1])


def test_an_8_bit_product_is_two_kernels_and_has_its_weights_quantised_before(noted: MagicMock) -> None:
    (run,) = runs(noted, Matmul("fp8", 32, 48, 64))
    rounded = noted._scaled_mm
    assert rounded.call_count == noted.matmul.call_count == 0
    run()
    (activations, _), words = rounded.call_args
    activations.copy_.assert_called_once()
    assert (rounded.call_count, noted.matmul.call_count) == (1, 0)
    assert words["out_dtype"] is noted.bfloat16
    assert words["use_fast_accum"] is True
    assert words["scale_a"] is words["scale_b"]


@pytest.mark.parametrize(
    ("dtype", "held", "precision"),
    [
        ("bf16", "bfloat16", "highest"),
        ("fp16", "float16", "highest"),
        ("fp32", "float32", "highest"),
        ("tf32", "float32", "high"),
        ("fp64", "float64", "highest"),
    ],
)
def test_formats_as_torch_calls_them(noted: MagicMock, dtype: str, held: str, precision: str) -> None:
    (run,) = runs(noted, Matmul(dtype, 32, 48, 64))
    run()
    noted.set_float32_matmul_precision.assert_called_once_with(precision)
    assert {call.kwargs["dtype"] for call in noted.randn.call_args_list} == {getattr(noted, held)}
    assert [call.args for call in noted.randn.call_args_list] == [(32, 64), (48, 64)]  # B by its columns
    assert noted.matmul.call_count == 1


def test_one_query_sees_its_whole_context_and_many_see_what_is_before_them(noted: MagicMock) -> None:
    kernel = noted.nn.functional.scaled_dot_product_attention
    runs(noted, DECODE)[0]()
    assert kernel.call_args.kwargs == {"is_causal": False, "enable_gqa": True}
    assert [call.args for call in noted.randn.call_args_list] == [(2, 8, 1, 64), (2, 2, 64, 64), (2, 2, 64, 64)]
    runs(noted, PREFILL)[0]()
    assert kernel.call_args.kwargs == {"is_causal": True}
    noted.nn.attention.sdpa_kernel.assert_called_with(noted.nn.attention.SDPBackend.FLASH_ATTENTION)


def test_grouped_heads_need_a_torch_that_knows_them(noted: MagicMock) -> None:
    noted.nn.functional.scaled_dot_product_attention.__doc__ = "(query, key, value)"
    assert runs(noted, PREFILL)
    with pytest.raises(UnableError, match=r"torch 2.9 has no grouped heads"):
        runs(noted, DECODE)


def test_a_copy_reads_and_writes_its_size_in_one_kernel(noted: MagicMock) -> None:
    (run,) = runs(noted, Copy(4096))
    noted.randn.assert_called_once_with(2048, device="cpu", dtype=noted.bfloat16)
    run()
    noted.neg.assert_called_once()


@pytest.mark.filterwarnings("ignore:Failed to initialize NumPy")
def test_what_a_run_computes_where_torch_is_installed() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    made: list[Any] = []
    real = torch.randn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
        (product,) = runs(torch, Matmul("bf16", 32, 48, 64))
        a, b = made
        assert torch.allclose(product().float(), a.float() @ b.float().t(), atol=0.3)
        made.clear()
        (copy,) = runs(torch, Copy(4096))
        assert torch.equal(copy(), -made[0])
        made.clear()
        (decode,) = runs(torch, DECODE)
        query, keys, values = (each.float() for each in made)
        scores = torch.einsum("bhqd,bhcd->bhqc", query, keys.repeat_interleave(4, 1)) / 64**0.5
        expected = scores.softmax(-1) @ values.repeat_interleave(4, 1)
        assert torch.allclose(decode().float(), expected, atol=0.05)
        for point in (Matmul("fp8", 32, 48, 64), PREFILL, Launch("lone_kernel", 1)):
            for run in runs(torch, point, 2):
                run()
