"""Fits of kernel constants: known ones are found again, held-out rows are never seen, what rows lack is said."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.lower import lower_chip
from cosim.records import Array, array
from cosim.validation.calibrate import ROWS_PER_CONSTANT, Fit, Rows, _fitted, calibrate, grouped
from cosim.validation.cases import Case
from cosim.validation.kernels import attention_kernel, matmul_kernel
from cosim.validation.knobs import CONSTANT, Knob

# A chip without tiles has three knobs only: fits of it take a second.
ARRAY_CHIP = "tpu-v5p"
TRUTH = {"quality.matmul": 0.55, "launch.latency": 4e-6, "quality.memory": 0.6}
TABLE = 80


@functools.cache
def chip(name: str = ARRAY_CHIP) -> Chip:
    return load_chip(name)


def sizes(rows: int, least: float = 16.0, most: float = 16384.0) -> dict[str, Array]:
    """Products of all sizes: thin ones wait for memory, large ones for arithmetic, small ones for the launch."""
    random = np.random.default_rng(3)
    m, n, k = np.rint(np.exp(random.uniform(np.log(least), np.log(most), (3, rows))))
    # The best measured rate bounds the quality of kernels: some products must be as large as tables have them.
    m[:4], n[:4], k[:4] = most - np.arange(m[:4].size), most, most
    return {"m": m, "n": n, "k": k, "batch": np.ones(rows)}


def table(dims: dict[str, Array], measured: Array, dtype: str = "bf16", **more: str) -> list[Case]:
    """Rows of a CSV, numbered from its second line."""
    columns = {name: column.tolist() for name, column in dims.items()} | {"measured_s": measured.tolist()}
    return [
        Case(
            f"row-{place}",
            place + 2,
            {"dtype": dtype, **more, **{name: repr(column[place]) for name, column in columns.items()}},
        )
        for place in range(measured.size)
    ]


@functools.cache
def products(rows: int = TABLE, dtype: str = "bf16") -> tuple[Case, ...]:
    """Products timed by the model itself on a chip with other constants."""
    known = lower_chip(chip(), {path: array(value) for path, value in TRUTH.items()})
    dims = sizes(rows)
    return tuple(table(dims, matmul_kernel(dims, known, dtype, warm=True).time, dtype))


@functools.cache
def fit() -> Fit:
    return calibrate(chip(), "matmul", products())


def changed(cases: Sequence[Case], start: int, change: Callable[[float], float]) -> list[Case]:
    """Every second row from `start` with another time."""
    out = list(cases)
    for place in range(start, len(out), 2):
        values = out[place].values
        out[place] = Case(
            out[place].id, out[place].line, {**values, "measured_s": repr(change(float(values["measured_s"])))}
        )
    return out


def test_known_constants_are_found_again_and_hold_on_rows_that_were_not_fitted() -> None:
    found = fit()
    assert found.undetermined == ()
    assert dict(found.values) == pytest.approx(TRUTH, rel=0.05)
    assert (found.fitted_rows, found.fitted.size, found.held_out.size) == (TABLE // 2, TABLE // 2, TABLE // 2)
    assert np.max(found.held_out) < 0.05
    # The chip as it is written is far off.
    before = matmul_kernel(sizes(TABLE), lower_chip(chip()), "bf16", warm=True).time
    truth = array([float(case.values["measured_s"]) for case in products()])
    assert np.median(np.abs(before / truth - 1.0)) > 0.2


def test_the_same_rows_give_the_same_constants_to_the_last_bit() -> None:
    again = calibrate(chip(), "matmul", products())
    assert again.values == fit().values
    assert again.held_out.tolist() == fit().held_out.tolist()


def test_even_rows_are_never_seen() -> None:
    # Times a thousand times as long, and so fast that they would be the best rate of all.
    for factor in (1e3, 1e-3):
        spoilt = calibrate(chip(), "matmul", changed(products(), 1, lambda time, by=factor: time * by))
        assert spoilt.values == fit().values
        assert spoilt.fitted.tolist() == fit().fitted.tolist()
        assert np.min(spoilt.held_out) > 0.9


def test_odd_rows_are_what_is_fitted() -> None:
    slower = calibrate(chip(), "matmul", changed(products(), 0, lambda time: 1.5 * time))
    assert slower.values["launch.latency"] > 1.3 * fit().values["launch.latency"]
    assert slower.values["quality.matmul"] < 0.75 * fit().values["quality.matmul"]


def test_a_few_odd_kernels_do_not_pull_the_fit() -> None:
    rows = list(products())
    for place in (10, 40):
        values = rows[place].values
        times = repr(1e3 * float(values["measured_s"]))
        rows[place] = Case("odd", rows[place].line, {**values, "measured_s": times})
    assert dict(calibrate(chip(), "matmul", rows).values) == pytest.approx(TRUTH, rel=0.05)


def test_halves_are_taken_of_every_group_that_is_costed_together() -> None:
    # Formats in turn: of each the first row is fitted, the second is held out.
    wide = products()
    dims = sizes(TABLE)
    known = lower_chip(
        chip(), {path: array(value) for path, value in {**TRUTH, "quality.matmul_formats.int8": 0.4}.items()}
    )
    narrow = table(dims, matmul_kernel(dims, known, "int8", warm=True).time, "int8")
    mixed = [case for pair in zip(wide, narrow, strict=True) for case in pair]
    found = calibrate(chip(), "matmul", mixed)
    # The wide constants are those without the narrow rows; the narrow quality comes after them.
    assert {path: found.values[path] for path in TRUTH} == fit().values
    assert found.values["quality.matmul_formats.int8"] == pytest.approx(0.4, rel=0.05)
    assert found.fitted_rows == TABLE


def test_rows_of_a_narrow_format_alone_give_its_quality_alone() -> None:
    dims = sizes(40)
    known = lower_chip(chip("h100-sxm"), {"quality.matmul_formats.fp8": array(0.45)})
    rows = table(dims, matmul_kernel(dims, known, "fp8", warm=True).time, "fp8")
    found = calibrate(chip("h100-sxm"), "matmul", rows)
    # No quality is above the best measured rate, and every measured time has the kernel that quantises in it.
    assert dict(found.values) == pytest.approx({"quality.matmul_formats.fp8": 0.45}, rel=0.05)
    assert np.max(found.held_out) < 0.05


@pytest.mark.parametrize("rows", [2, 2 * ROWS_PER_CONSTANT * 3 - 2])
def test_too_few_rows_are_refused_and_told_how_many_are_enough(rows: int) -> None:
    with pytest.raises(SpecError) as caught:
        calibrate(chip(), "matmul", products()[:rows])
    half = rows // 2
    assert caught.value.problem == f"{half} different rows to fit carry {half // 10} constants, not 3"
    assert caught.value.field == "quality.matmul, launch.latency, quality.memory"
    assert caught.value.hint == "half of the rows are held out; 60 rows are enough"


def test_just_enough_rows_are_fitted() -> None:
    assert calibrate(chip(), "matmul", products()[: 2 * ROWS_PER_CONSTANT * 3]).fitted_rows == 30


def test_constants_that_rows_do_not_determine_are_named_and_keep_their_value() -> None:
    # Large products: arithmetic is all that is seen.
    dims = sizes(TABLE, least=8192.0)
    known = lower_chip(chip(), {path: array(value) for path, value in TRUTH.items()})
    rows = table(dims, matmul_kernel(dims, known, "bf16", warm=True).time)
    found = calibrate(chip(), "matmul", rows)
    assert set(found.undetermined) == {"launch.latency", "quality.memory"}
    assert dict(found.values) == pytest.approx({"quality.matmul": TRUTH["quality.matmul"]}, rel=0.02)
    assert np.max(found.held_out) < 0.05


def test_constants_of_tiles_are_found_again() -> None:
    # Two of the seven, at the truth of the others.
    paths = {f"{CONSTANT}step_cycles": 220.0, f"{CONSTANT}cache_feed": 0.3}
    dims = sizes(40, most=4096.0)
    known = lower_chip(chip("h100-sxm"), {path: array(value) for path, value in paths.items()})
    rows = Rows(dims, matmul_kernel(dims, known, "bf16", warm=True).time, "bf16")
    knobs = [Knob(path, value * 1.9, value / 3.0, value * 3.0) for path, value in paths.items()]
    found, loose = _fitted(chip("h100-sxm"), knobs, [rows], {}, None)
    assert found == pytest.approx(paths, rel=0.05)
    assert loose == []


def heads(rows: int, *, decode: bool, seed: int = 4) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    batch, context = np.rint(np.exp(random.uniform(np.log(1.0), np.log([[64.0], [16384.0]]), (2, rows))))
    ones = np.ones(rows)
    query = ones if decode else context
    fixed = {"heads": 32.0 * ones, "kv_heads": 8.0 * ones, "head_dim": 128.0 * ones, "window": 0.0 * ones}
    return {"batch": batch, "query_len": query, "context_len": context, **fixed}


def test_attention_of_two_phases_is_fitted_together() -> None:
    truth = {"quality.attention": 0.35, "launch.latency": 6e-6, "quality.memory": 0.5}
    known = lower_chip(chip(), {path: array(value) for path, value in truth.items()})
    cases: list[Case] = []
    for phase in ("prefill", "decode"):
        dims = heads(TABLE // 2, decode=phase == "decode")
        times = attention_kernel(dims, known, phase, "bf16", causal=True).time
        cases += table(dims, times, phase=phase, kv_dtype="bf16")
    found = calibrate(chip(), "attention", cases)
    assert dict(found.values) == pytest.approx(truth, rel=0.05)
    assert np.max(found.held_out) < 0.05


def test_a_format_that_the_chip_lacks_is_refused() -> None:
    dims = sizes(TABLE)
    with pytest.raises(SpecError, match="has no matrix rate for a format of the rows"):
        calibrate(chip(), "matmul", table(dims, np.ones(TABLE), "fp16"))


@pytest.mark.parametrize(("column", "text"), [("m", ""), ("k", "-1"), ("measured_s", "0"), ("n", "many")])
@pytest.mark.parametrize("place", [4, 5])
def test_a_row_with_a_bad_number_is_told_by_its_line_whichever_half_it_is_in(
    column: str, text: str, place: int
) -> None:
    rows = list(products())
    rows[place] = Case("bad", rows[place].line, {**rows[place].values, column: text})
    with pytest.raises(SpecError, match="cannot be fitted") as caught:
        calibrate(chip(), "matmul", rows)
    assert (caught.value.line, caught.value.value) == (place + 2, "bad")


def test_rows_are_costed_together_where_they_share_format_phase_mask_and_warmth() -> None:
    dims = heads(6, decode=True)
    cases = table(dims, np.arange(1.0, 7.0), phase="decode", kv_dtype="bf16")
    marks = [{}, {"kv_dtype": " "}, {"kv_dtype": "fp8"}, {"causal": "0"}, {"warm": "0"}, {"phase": "prefill"}]
    cases = [Case(case.id, case.line, {**case.values, **mark}) for case, mark in zip(cases, marks, strict=True)]
    groups = grouped("attention", cases)
    # A blank format of the cache is 16 bits.
    assert [group.measured.tolist() for group in groups] == [[1.0, 2.0], [3.0], [4.0], [5.0], [6.0]]
    assert [group.kv_dtype for group in groups] == ["bf16", "fp8", "bf16", "bf16", "bf16"]
    assert [group.causal for group in groups] == [True, True, False, True, True]
    assert [group.warm for group in groups] == [True, True, True, False, True]
    assert groups[0].dims["window"].tolist() == [0.0, 0.0]


def test_a_batch_that_is_not_named_is_one_product() -> None:
    cases = table({name: column for name, column in sizes(2).items() if name != "batch"}, np.ones(2))
    assert grouped("matmul", cases)[0].dims["batch"].tolist() == [1.0, 1.0]


def test_progress_is_told_up_to_its_end() -> None:
    told: list[tuple[int, int]] = []
    calibrate(chip(), "matmul", products()[:60], lambda done, of: told.append((done, of)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({of for _, of in told}) == 1
