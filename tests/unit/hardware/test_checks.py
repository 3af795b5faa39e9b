"""Checks at load: totals against primaries within 2 %, declared deviations, doubled data, whole systems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.hardware.checks import TOLERANCE, Check, chip_checks
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip, load_system

CHIPS = sorted(library.names("accelerators"))
SHIPPING = ["h100-sxm", "mi300x", "tpu-v5p"]
Write = Callable[[str, str], str]


def fault(load: Callable[[str], object], name: str) -> SpecError:
    """The error of loading `name`."""
    with pytest.raises(SpecError) as caught:
        load(name)
    return caught.value


@pytest.mark.parametrize("name", CHIPS)
def test_every_named_check_of_every_shipped_chip_passes(name: str) -> None:
    checks = chip_checks(load_chip(name))
    assert [check.name for check in checks if not check.passes] == []
    assert len({check.name for check in checks}) == len(checks)


@pytest.mark.parametrize("name", SHIPPING)
def test_every_chip_that_is_sold_is_checked_against_peak_memory_and_links(name: str) -> None:
    names = {check.name for check in chip_checks(load_chip(name))}
    assert {"peak.bf16", "bandwidth.dram", "links.scale_up"} <= names


def test_checks_carry_the_published_and_the_derived_total(h100: Chip) -> None:
    check = {check.name: check for check in chip_checks(h100)}["bandwidth.dram"]
    assert check.published == 3.35e12
    assert check.derived == pytest.approx(5 * 1024 * 5.23e9 / 8)  # stacks x pins x rate of a pin
    assert check.deviation == pytest.approx(3.3472e12 / 3.35e12 - 1.0)
    assert {check.name.split(".")[0]: check.unit for check in chip_checks(h100)} == {
        "peak": "FLOP/s",
        "bandwidth": "B/s",
        "links": "B/s",
    }
    assert check.reason is None


@settings(max_examples=60, deadline=None)
@given(deviation=st.floats(-0.5, 0.5).filter(lambda d: abs(abs(d) - TOLERANCE) > 1e-9), published=st.floats(1e6, 1e18))
def test_a_check_passes_within_two_percent_or_with_a_reason(deviation: float, published: float) -> None:
    check = Check("peak.bf16", published, published * (1.0 + deviation), "FLOP/s", None)
    assert check.deviation == pytest.approx(deviation, abs=1e-9)
    assert check.passes == (-0.02 <= deviation <= 0.02)
    assert Check("peak.bf16", published, published * (1.0 + deviation), "FLOP/s", "two clocks").passes


def with_peak(published: str, deviations: str = "") -> str:
    """The template with one published total; its bf16 peak is 20 x 2 x 128 x 128 x 2 x 1.75 GHz = 2.2938 PFLOP/s."""
    return f"base: asic-template\npublished:\n  peak:\n    bf16: {published}\n{deviations}"


@pytest.mark.parametrize(
    ("published", "passes"), [("2.29 PFLOP/s", True), ("2.26 PFLOP/s", True), ("2.2 PFLOP/s", False)]
)
def test_a_published_total_holds_within_two_percent(write: Write, published: str, passes: bool) -> None:
    name = write("a.yaml", with_peak(published))
    if passes:
        assert len(chip_checks(load_chip(name))) == 1
        return
    error = fault(load_chip, name)
    assert (str(error.file), error.field, error.line) == (name, "published.peak.bf16", 4)
    assert error.problem == "published 2.2 PFLOP/s, but the primaries give 2.294 PFLOP/s (+4.3%)"
    assert "published.deviations: {peak.bf16: ...}" in str(error.hint)


def test_a_declared_deviation_is_let_through_with_its_reason(write: Write) -> None:
    text = with_peak("2 PFLOP/s", "  deviations: {peak.bf16: capped product}\n")
    (check,) = chip_checks(load_chip(write("a.yaml", text)))
    assert check.reason == "capped product"
    assert check.deviation == pytest.approx(20 * 2 * 128 * 128 * 2 * 1.75e9 / 2e15 - 1.0)


def test_a_deviation_of_another_total_does_not_help(write: Write) -> None:
    text = with_peak("2 PFLOP/s", "    fp8: 4.587 PFLOP/s\n  deviations: {peak.fp8: capped product}\n")
    assert fault(load_chip, write("a.yaml", text)).field == "published.peak.bf16"


def test_a_deviation_of_a_total_that_is_not_published_is_refused(write: Write) -> None:
    name = write("a.yaml", with_peak("2.29 PFLOP/s", "  deviations:\n    peak.bf61: capped product\n"))
    error = fault(load_chip, name)
    assert error.problem == "declares the deviation of a total that is not published"
    assert (str(error.file), error.line, error.hint) == (name, 6, "known: peak.bf16")


@pytest.mark.parametrize(
    ("published", "field", "problem"),
    [
        ("peak: {int4: 1 PFLOP/s}", "peak.int4", "has a published peak but no rate"),
        ("bandwidth: {hbm: 7 TB/s}", "bandwidth.hbm", "is the bandwidth of a level that the chip has not"),
        ("links: {nvlink: 900 GB/s}", "links.nvlink", "is the total of a link that the chip has not"),
    ],
)
def test_a_total_of_what_the_chip_has_not_is_refused(write: Write, published: str, field: str, problem: str) -> None:
    error = fault(load_chip, write("a.yaml", f"base: asic-template\npublished: {{{published}}}\n"))
    assert (error.field, error.problem) == (f"published.{field}", problem)


@pytest.mark.parametrize(
    ("extra", "field", "line"),
    [
        ("memory:\n  dram:\n    bandwidth: 7 TB/s\n", "memory.dram.bandwidth", 4),
        ("memory:\n  dram: {capacity: 200 GB}\n", "memory.dram.capacity", 3),
        ("memory:\n  scratch: {bandwidth: 30 TB/s}\n", "memory.scratch.bandwidth", 3),
        ("links:\n  scale_up:\n    bandwidth: 800 GB/s\n", "links.scale_up.bandwidth", 4),
        ("matrix:\n  peak:\n    bf16: 2.29 PFLOP/s\n", "matrix.peak.bf16", 4),
    ],
)
def test_a_derived_value_beside_its_primaries_is_refused(write: Write, extra: str, field: str, line: int) -> None:
    name = write("a.yaml", f"base: asic-template\n{extra}")
    error = fault(load_chip, name)
    assert error.problem == "is given together with the primaries that it derives from"
    assert (str(error.file), error.field, error.line) == (name, field, line)


@pytest.mark.parametrize(("reserved", "fits"), [("215.9 GB", True), ("216 GB", False), ("300 GB", False)])
def test_the_runtime_cannot_keep_all_of_the_memory(write: Write, reserved: str, fits: bool) -> None:
    name = write("a.yaml", f"base: asic-template\nmemory:\n  dram:\n    reserved: {reserved}\n")  # of 6 x 36 GB
    if fits:
        assert load_chip(name).memory["dram"].reserved is not None
        return
    error = fault(load_chip, name)
    assert error.problem == f"reserves {reserved} of 216 GB"
    assert (str(error.file), error.line, error.field) == (name, 4, "memory.dram.reserved")


def test_a_chip_known_by_its_peaks_may_give_them(peaks_only: Chip) -> None:
    (check,) = chip_checks(peaks_only)
    assert (check.name, check.deviation) == ("bandwidth.dram", 0.0)


def shipped_text(name: str) -> str:
    """The file of a shipped system."""
    return Path(library.find("systems", name)).read_text(encoding="utf-8")


LIBRARY = "collectives: torus-ici"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("shape: [2, 2, 2]", "shape: [2, 2, 3]", "tier 'slice' has shape [2, 2, 3], which makes 12 and not size 8"),
        ("shape: [2, 2, 2]", "shape: [2, 4]", "tier 'slice' has 2 dimensions for the 6 links of a chip"),
        ("shape: [2, 2, 2]", "shape: []", "tier 'slice' is a torus without a shape"),
        ("link: scale_up", "link: nvlink", "names link 'nvlink', which tpu-v5p has not"),
        ("kind: torus", "kind: mesh", "tier 'slice' is a mesh with a shape"),
        (
            LIBRARY,
            f"{LIBRARY}\n    constants: {{algorithms: [ring, in_network]}}",
            "is a torus, which has no switch",
        ),
        (LIBRARY, f"{LIBRARY}\n    constants: {{algorithms: []}}", "has no algorithm"),
    ],
)
def test_a_tier_that_cannot_be_is_refused_at_its_line(write: Write, old: str, new: str, problem: str) -> None:
    text = shipped_text("tpu-v5p-8").replace(old, new)
    error = fault(load_system, write("a.yaml", text))
    assert problem in error.problem
    assert error.field == "tiers.0"
    assert error.line == 1 + text.splitlines().index("  - name: slice")


def test_in_network_reduction_with_both_its_numbers_is_taken(write: Write) -> None:
    own = "{algorithms: [ring, in_network], in_network_share: 0.9, in_network_start: 20 us}"
    fabric = "collectives: generic-fabric"
    text = shipped_text("asic-8").replace(fabric, f"{fabric}\n    constants: {own}")
    constants = load_system(write("a.yaml", text)).tiers[0].constants
    assert constants.in_network_share is not None
    assert constants.in_network_share.si == 0.9
    assert list(constants.protocols) == ["bulk"]  # the library's, beside what the tier says itself


def test_an_unknown_link_of_the_second_tier_is_told_there(write: Write) -> None:
    text = shipped_text("dgx-h100").replace("link: scale_out", "link: ethernet")
    assert fault(load_system, write("a.yaml", text)).field == "tiers.1"


def test_a_system_without_tiers_is_refused(write: Write) -> None:
    none = fault(load_system, write("a.yaml", "base: dgx-h100\ntiers: []\n"))
    assert (none.problem, none.line) == ("a system needs at least one tier", 2)


def with_third(text: str, size: str = "") -> str:
    """The system with a tier beyond its last one."""
    return text.replace(
        "server:\n", f"  - {{name: x, kind: ring, {size}link: scale_out, collectives: generic-network}}\nserver:\n"
    )


def test_a_third_tier_asks_the_second_for_its_size(write: Write) -> None:
    error = fault(load_system, write("b.yaml", with_third(shipped_text("dgx-h100"))))
    assert (error.field, error.problem) == ("tiers.1", "tier 'cluster' has no size")
    sized = shipped_text("dgx-h100").replace("  - name: cluster\n", "  - name: cluster\n    size: 32\n")
    assert len(load_system(write("c.yaml", with_third(sized))).tiers) == 3


def test_more_nodes_than_the_tiers_join_are_refused_with_both_numbers(write: Write) -> None:
    sized = shipped_text("dgx-h100").replace("  - name: cluster\n", "  - name: cluster\n    size: 4\n")
    name = write("d.yaml", sized)
    assert load_system(name).chips == 8
    error = fault(load_system, write("e.yaml", f"base: {name}\nnodes: 5\n"))
    assert (error.field, error.problem) == ("nodes", "asks for 5 nodes")
    assert "join 4 nodes at most (cluster 4)" in str(error.hint)


def test_nodes_are_units_of_a_tier_that_is_there(write: Write) -> None:
    error = fault(load_system, write("f.yaml", "base: dgx-h100\nnodes_are: nod\n"))
    assert (error.field, error.problem) == ("nodes_are", "names tier 'nod', which is not there")
    assert "node" in str(error.hint)
