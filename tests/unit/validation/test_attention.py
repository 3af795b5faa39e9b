"""Predictions of attention kernels: order, batching, windows and masks, and the reasons of rows without an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.hardware.lower import lower_chip
from cosim.validation.attention import answers
from cosim.validation.cases import Case
from cosim.validation.predict import predict
from cosim.validation.run import validate

CHIPS = ("h100-sxm", "a100-80gb-sxm", "l40s", "mi300x", "tpu-v5p", "asic-template", "maia-200")
ROW = {
    "accelerator": "h100-sxm",
    "dtype": "bf16",
    "kv_dtype": "bf16",
    "phase": "prefill",
    "batch": 4,
    "query_len": 4096,
    "context_len": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "window": 0,
    "causal": 1,
    "measured_s": 1e-3,
}


def row(**values: object) -> Case:
    return Case("c", 2, {name: str(value) for name, value in (ROW | values).items()})


def decode(**values: object) -> Case:
    return row(**({"phase": "decode", "batch": 64, "query_len": 1} | values))


def seconds(case: Case) -> float:
    ((time, reason),) = answers([case])
    assert (time is not None, reason) == (True, "")
    return time or 0.0


CASES = st.builds(
    lambda make, chip, batch, context, window, kv: make(
        accelerator=chip,
        batch=batch,
        context_len=context,
        window=window,
        kv_dtype=kv,
        **({} if make is decode else {"query_len": context}),
    ),
    st.sampled_from((row, decode)),
    st.sampled_from(CHIPS),
    st.sampled_from((1, 7, 64)),
    st.sampled_from((16, 1000, 8192)),
    st.sampled_from((0, 128)),
    st.sampled_from(("bf16", "fp8")),
)


@settings(max_examples=30, deadline=None)
@given(cases=st.lists(CASES, max_size=6))
def test_rows_together_are_answered_as_each_alone_and_in_order(cases: list[Case]) -> None:
    together = [time for time, _ in answers(cases)]
    assert together == pytest.approx([seconds(case) for case in cases], rel=1e-12)


@pytest.mark.parametrize("chip", CHIPS)
def test_no_kernel_beats_the_roofline_and_its_launch(chip: str) -> None:
    arrays = lower_chip(load_chip(chip))
    launch = float(arrays.launch.gap + arrays.launch.latency)
    # Half of the pairs under the mask, two products of two FLOP a pair and element.
    flop = 4 * 4 * 32 * 128 * 4096 * 4097 / 2
    peak = max(float(np.max(value)) for value in arrays.matrix.peak.values())
    assert seconds(row(accelerator=chip)) >= flop / peak + launch
    cache = 64 * 4096 * 8 * 128 * 2 * 2
    assert seconds(decode(accelerator=chip)) >= cache / float(arrays.memory["dram"].bandwidth) + launch


def test_a_window_and_a_mask_spare_work_and_a_narrow_cache_spares_bytes() -> None:
    assert seconds(row(window=512)) < seconds(row()) < seconds(row(causal=0))
    assert seconds(decode(window=512)) < seconds(decode())
    assert seconds(decode(kv_dtype="fp8")) < seconds(decode())
    # A window as long as the context is none, and a cache that no row names is one of 16 bits.
    assert seconds(row(window=4096)) == seconds(row()) == seconds(row(window="", kv_dtype=""))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"accelerator": "h100-sxn"}, "accelerator h100-sxn is not in the library"),
        ({"phase": "train"}, "unknown phase train"),
        ({"kv_dtype": "bf15"}, "unknown kv_dtype bf15"),
        ({"query_len": 4097}, "query_len is more than context_len"),
        ({"heads": ""}, "is unknown or impossible"),
        ({"heads": 0}, "is unknown or impossible"),
        ({"batch": 1e13}, "is unknown or impossible"),
        ({"measured_s": -1}, "is unknown or impossible"),
    ],
)
def test_a_row_without_an_answer_says_why_and_leaves_the_others(values: dict[str, object], reason: str) -> None:
    first, bad, last = predict("attention", [row(), row(**values), decode()])
    assert bad.predicted is None
    assert reason in bad.reason
    assert (first.predicted, last.predicted) == (seconds(row()), seconds(decode()))
    assert first.group == ("h100-sxm", "prefill", "bf16", "bf16")


def test_a_file_is_validated_by_group(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    lines = [",".join(["id", *ROW])]
    for index, case in enumerate((row(), decode(), decode(accelerator="l40s"), row(accelerator="no-chip"))):
        lines.append(",".join([f"r{index}", *(case.values[name] for name in ROW)]))
    file.write_text("# a note\n" + "\n".join(lines) + "\n")
    found = validate("attention", file, group="accelerator")
    assert (found["cases"], found["evaluated"], len(found["skipped"])) == (4, 3, 1)
    assert set(found["groups"]) == {"h100-sxm", "l40s"}
    assert [each["id"] for each in found["rows"]] == ["r0", "r1", "r2"]


def test_a_file_that_lacks_a_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("id,accelerator,dtype,phase,batch\nr,h100-sxm,bf16,decode,1\n")
    with pytest.raises(SpecError, match="lacks a column that kind attention needs"):
        validate("attention", file)
