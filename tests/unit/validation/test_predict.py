"""Predictions of measured cases: order, batching, warm and cold, and the reasons of rows without an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.load import load_chip
from cosim.hardware.lower import lower_chip
from cosim.validation.cases import Case
from cosim.validation.predict import Prediction, predict

SIZES = st.sampled_from([1, 16, 100, 128, 512, 4096])


def matmul(**values: object) -> Case:
    """A matmul case of one square product on an H100 unless told."""
    given_ = {"accelerator": "h100-sxm", "dtype": "bf16", "m": 4096, "n": 4096, "k": 4096, "measured_s": 1e-3} | values
    return Case("c", 2, {name: str(value) for name, value in given_.items()})


def systolic(**values: object) -> Case:
    given_ = {"M": 8, "N": 8, "K": 8, "rows": 8, "cols": 8, "dataflow": "os", "cycles": 30} | values
    return Case("c", 2, {name: str(value) for name, value in given_.items()})


def seconds(case: Case) -> float:
    (answer,) = predict("matmul", [case])
    assert answer.predicted is not None
    return answer.predicted


@pytest.mark.parametrize(
    ("dataflow", "by_hand"),
    [
        ("os", 2 * 3 * (16 + 32 + 50 - 2) - 1),  # ceil(20/16) x ceil(70/32) folds of R + C + K - 2
        ("ws", 4 * 3 * (2 * 16 + 32 + 20 - 2) - 1),  # ceil(50/16) x ceil(70/32) folds of 2R + C + M - 2
        ("is", 4 * 1 * (2 * 16 + 32 + 70 - 2) - 1),  # ceil(50/16) x ceil(20/32) folds of 2R + C + N - 2
    ],
)
def test_cycles_of_an_array_by_hand(dataflow: str, by_hand: int) -> None:
    case = systolic(M=20, N=70, K=50, rows=16, cols=32, dataflow=dataflow, cycles=7)
    assert predict("systolic", [case]) == [Prediction(case, float(by_hand), 7.0, (dataflow,))]


@settings(max_examples=25, deadline=None)
@given(cases=st.lists(st.tuples(SIZES, SIZES, SIZES, st.sampled_from(["bf16", "fp8"]), st.booleans()), max_size=6))
def test_rows_together_are_answered_as_each_alone_and_in_order(
    cases: list[tuple[int, int, int, str, bool]],
) -> None:
    rows = [matmul(m=m, n=n, k=k, dtype=dtype, warm=int(warm)) for m, n, k, dtype, warm in cases]
    together = predict("matmul", rows)
    assert [answer.case for answer in together] == rows
    assert [answer.predicted for answer in together] == pytest.approx([seconds(row) for row in rows], rel=1e-12)


def test_a_large_product_takes_at_least_its_flop_at_the_peak_and_its_launch() -> None:
    chip = lower_chip(load_chip("h100-sxm"))
    floor = 2 * 4096.0**3 / float(chip.matrix.peak["bf16"]) + float(chip.launch.gap + chip.launch.latency)
    assert floor < seconds(matmul()) < 2.5 * floor


def test_operands_in_the_cache_are_never_slower_than_operands_in_memory() -> None:
    for m in (1, 16, 128, 4096):
        assert seconds(matmul(m=m, warm=1)) <= seconds(matmul(m=m, warm=0))
    # A of 8,192 x 1,024 in 2 B is 17 MB, C and five copies of 64 columns of weights 2 MB: the cache holds them from
    # the round before, and saves 6 us on their way from memory.
    warm, cold = (seconds(matmul(m=8192, n=64, k=1024, warm=warm)) for warm in (1, 0))
    assert warm < 0.75 * cold
    # Weights of 17 MB are other ones in every round; only A and C of 16 rows are found in the cache.
    warm, cold = (seconds(matmul(m=16, n=8192, k=1024, warm=warm)) for warm in (1, 0))
    assert 0.95 * cold < warm < cold


def test_a_row_that_does_not_say_is_warm() -> None:
    assert seconds(matmul(m=16)) == seconds(matmul(m=16, warm=1)) == seconds(matmul(m=16, warm=""))


def test_a_batch_of_products_takes_longer_and_no_batch_is_one() -> None:
    assert seconds(matmul(batch="")) == seconds(matmul(batch=1)) == seconds(matmul())
    assert seconds(matmul(batch=8)) > 4.0 * seconds(matmul())


def test_eight_bits_are_faster_for_large_products_and_pay_for_their_quantiser_on_small_ones() -> None:
    assert seconds(matmul(dtype="fp8")) < seconds(matmul())
    small = {"m": 1, "n": 128, "k": 128}
    assert seconds(matmul(dtype="fp8", **small)) > seconds(matmul(**small))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"accelerator": "h100"}, "accelerator h100 is not in the library"),
        ({"accelerator": "dgx-h100"}, "accelerator dgx-h100 is not in the library"),
        ({"accelerator": ""}, "accelerator  is not in the library"),
        ({"dtype": "fp99"}, "unknown dtype fp99"),
        ({"dtype": "nvfp4"}, "h100-sxm has no matrix rate in nvfp4"),
        ({"m": ""}, "one of m, n, k, batch is unknown or impossible"),
        ({"n": 0}, "one of m, n, k, batch is unknown or impossible"),
        ({"k": -4096}, "one of m, n, k, batch is unknown or impossible"),
        ({"k": "nan"}, "one of m, n, k, batch is unknown or impossible"),
        ({"measured_s": "fast"}, "measured_s is unknown or impossible"),
        ({"measured_s": 0}, "measured_s is unknown or impossible"),
    ],
)
def test_a_matmul_that_cannot_be_answered_says_why_and_leaves_the_others_alone(
    values: dict[str, object], reason: str
) -> None:
    before, bad, after = predict("matmul", [matmul(m=16), matmul(**values), matmul()])
    assert (bad.predicted, bad.reason) == (None, reason)
    alone = [seconds(matmul(m=16)), seconds(matmul())]
    assert [before.predicted, after.predicted] == pytest.approx(alone, rel=1e-12)
    assert before.reason == after.reason == ""


@pytest.mark.parametrize(
    "values", [{"M": ""}, {"N": "many"}, {"K": 0}, {"rows": -1}, {"dataflow": "xs"}, {"dataflow": ""}, {"cycles": ""}]
)
def test_an_array_that_cannot_be_answered_says_why(values: dict[str, object]) -> None:
    good, bad = predict("systolic", [systolic(), systolic(**values)])
    assert (good.predicted, good.measured) == (8.0 + 8.0 + 8.0 - 2.0 - 1.0, 30.0)
    assert (bad.predicted, bad.reason) == (None, "a dimension, the dataflow or the cycles are unknown")


def test_groups_are_the_chip_and_format_or_the_dataflow() -> None:
    assert predict("matmul", [matmul(dtype="fp8")])[0].group == ("h100-sxm", "fp8")
    assert predict("systolic", [systolic()])[0].group == ("os",)


def test_nothing_is_predicted_from_nothing() -> None:
    assert predict("matmul", []) == []
    assert predict("systolic", []) == []


def test_served_runs_are_grouped_by_source_chip_and_model() -> None:
    given_ = {
        "workload": "llama-3.1-8b",
        "accelerator": "h100-sxm",
        "num_accelerators": 1,
        "tp": 1,
        "batch": 4,
        "batch_kind": "static_batch",
        "input_len": 100,
        "output_len": 20,
        "measured_quantity": "e2e_s",
        "measured_value": 0.2,
        "source": "lab",
    }
    rows = [
        Case("a", 2, {name: str(value) for name, value in given_.items()}),
        Case("b", 3, {name: str(value) for name, value in {**given_, "workload": "no-model"}.items()}),
    ]
    first, second = predict("inference", rows)
    assert first.group == ("lab", "h100-sxm", "llama-3.1-8b")
    assert first.predicted is not None
    assert (first.measured, first.reason) == (0.2, "")
    assert (second.predicted, second.reason) == (None, "workload no-model is not in the library")
    keyed = [Case(row.id, row.line, {**row.values, "source_key": "bench"}) for row in rows]
    assert {row.group[0] for row in predict("inference", keyed)} == {"bench"}


def test_inference_rows_say_what_was_completed() -> None:
    said = {"accelerator": "h100-sxm", "system": "dgx-h100", "workload": "llama-3.1-8b", "num_accelerators": "1"}
    said |= {"tp": "1", "software_stack": "vllm", "weights_dtype": "bf16", "kv_dtype": "bf16", "mode": "static"}
    said |= {"batch": "8", "input_len": "512", "output_len": "64", "measured_quantity": "e2e_s", "measured_value": "1"}
    whole, open_ = (predict("inference", [Case("c", 2, {**said, **more})])[0] for more in ({}, {"system": ""}))
    assert whole.completed == ()
    assert open_.completed is not None
    assert [each.split()[0] for each in open_.completed] == ["system"]
