"""Errors: every fact that is known is in the message, and advice names things that exist."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import CosimError, InfeasibleError, SimulationError, SpecError, nearest

WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(problem=WORDS, file=st.none() | WORDS, line=st.none() | st.integers(1, 999), field=st.none() | WORDS, hint=WORDS)
def test_every_part_that_is_known_is_in_the_message(
    problem: str, file: str | None, line: int | None, field: str | None, hint: str
) -> None:
    message = str(SpecError(problem, file=file, line=line, field=field, value=17.25, hint=hint))
    assert message.endswith(f"{problem} (got 17.25); {hint}")
    assert (file is None) or message.startswith(file)
    assert (field is None) or f"{field}: {problem}" in message
    assert (file is None or line is None) or f"{file}:{line}: " in message
    assert "None" not in message


def test_message_reads_place_field_problem_value_hint() -> None:
    error = SpecError("wrong unit", file="a.yaml", line=7, field="memory.dram", value="3 TB", hint="write TB/s")
    assert str(error) == "a.yaml:7: memory.dram: wrong unit (got '3 TB'); write TB/s"


def test_message_of_a_problem_alone_is_the_problem() -> None:
    assert str(SpecError("is empty")) == "is empty"


def test_line_without_file_is_not_shown_as_a_place() -> None:
    assert str(SpecError("is empty", line=3)) == "is empty"


@pytest.mark.parametrize("value", ["x" * 10_000, list(range(5000)), {"k": "v" * 900}])
def test_long_values_are_cut_so_that_a_message_fits_on_a_screen(value: object) -> None:
    message = str(SpecError("is wrong", value=value, hint="look here"))
    shown = message.removeprefix("is wrong (got ").removesuffix("); look here")
    assert len(shown) == 80
    assert shown == f"{value!r}"[:77] + "..."


def test_a_value_that_just_fits_is_shown_whole() -> None:
    fits, one_more = "x" * 78, "x" * 79  # the quotes make 80 and 81
    assert str(SpecError("is wrong", value=fits)) == f"is wrong (got {fits!r})"
    assert str(SpecError("is wrong", value=one_more)).endswith("...)")


@pytest.mark.parametrize("value", [0, 0.0, "", False, []])
def test_values_that_are_false_are_still_shown(value: object) -> None:
    assert f"(got {value!r})" in str(SpecError("is wrong", value=value))


def test_at_fills_in_the_place_where_it_was_unknown() -> None:
    error = SpecError("is wrong", field="cores", value=-1, hint="at least 1").at(file="a.yaml", line=4)
    assert (error.file, error.line) == ("a.yaml", 4)
    assert str(error) == "a.yaml:4: cores: is wrong (got -1); at least 1"


def test_at_keeps_a_place_that_was_known() -> None:
    known = SpecError("is wrong", file="inner.yaml", line=4)
    assert str(known.at(file="outer.yaml", line=9)) == "inner.yaml:4: is wrong"


def test_at_leaves_the_first_error_as_it_was() -> None:
    first = SpecError("is wrong")
    first.at(file="a.yaml", line=4)
    assert first.file is None
    assert str(first) == "is wrong"


def test_a_wrong_input_is_also_a_value_error_and_a_cosim_error() -> None:
    error = SpecError("is wrong")
    assert isinstance(error, ValueError)
    assert isinstance(error, CosimError)


def test_infeasible_and_simulation_errors_are_not_taken_for_wrong_inputs() -> None:
    for error in (InfeasibleError("memory", "3 GB short"), SimulationError("stopped", clock_s=1.0, process="p")):
        assert isinstance(error, CosimError)
        assert not isinstance(error, SpecError)


def test_infeasible_says_limit_shortfall_and_way_out() -> None:
    error = InfeasibleError("memory", "12 GB short", "more chips")
    assert str(error) == "memory: 12 GB short; more chips"
    assert (error.limit, error.shortfall, error.hint) == ("memory", "12 GB short", "more chips")
    assert str(InfeasibleError("memory", "12 GB short")) == "memory: 12 GB short"


def test_simulation_error_says_when_and_who_waited() -> None:
    error = SimulationError("no event left", clock_s=0.001234567891, process="stage 3")
    assert str(error) == "no event left (clock 0.00123457 s, waiting: stage 3)"
    assert error.clock_s == 0.001234567891
    assert error.process == "stage 3"


@settings(max_examples=60, deadline=None)
@given(name=WORDS, known=st.sets(WORDS, max_size=10))
def test_nearest_names_only_what_is_known(name: str, known: set[str]) -> None:
    advice = nearest(name, known)
    if not known:
        assert advice == "none is known"
        return
    kind, _, listed = advice.partition(": ")
    assert kind in ("nearest", "known")
    assert set(listed.split(", ")) <= known


@settings(max_examples=60, deadline=None)
@given(known=st.sets(WORDS, min_size=1, max_size=10), data=st.data())
def test_nearest_puts_an_exact_name_first(known: set[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(known)))
    assert nearest(name, known).removeprefix("nearest: ").split(", ")[0] == name


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 8), data=st.data())
def test_nearest_finds_a_name_with_one_letter_dropped(position: int, data: st.DataObject) -> None:
    known = ["bandwidth", "capacity_of_all", "technology", "clock_of_matrix"]
    meant = data.draw(st.sampled_from(known))
    typed = meant[:position] + meant[position + 1 :]
    assert nearest(typed, known).startswith(f"nearest: {meant}")


@settings(max_examples=100, deadline=None)
@given(known=st.sets(WORDS, min_size=1, max_size=12), length=st.integers(2, 12), upper=st.booleans(), data=st.data())
def test_nearest_puts_names_that_start_with_what_was_typed_before_others(
    known: set[str], length: int, upper: bool, data: st.DataObject
) -> None:
    typed = data.draw(st.sampled_from(sorted(known)))[:length]
    starting = sorted((name for name in known if name.startswith(typed)), key=lambda name: (len(name), name))
    listed = nearest(typed.upper() if upper else typed, known).removeprefix("nearest: ").split(", ")
    if len(typed) > 1:
        assert listed[: len(starting)] == starting[:3]
    assert len(set(listed)) == len(listed)


def test_nearest_prefers_a_name_that_goes_on_over_one_that_looks_alike() -> None:
    chips = ["b100", "mi100", "h100-sxm", "h100-pcie", "h100-nvl", "h200-sxm"]
    assert nearest("h100", chips) == "nearest: h100-nvl, h100-sxm, h100-pcie"
    assert nearest("H100", chips) == "nearest: h100-nvl, h100-sxm, h100-pcie"
    assert nearest("h200", chips) == "nearest: h200-sxm, h100-sxm, h100-nvl"
    assert nearest("h", chips).startswith("known: ")


def test_nearest_lists_what_is_known_when_nothing_is_close() -> None:
    assert nearest("zzz", ["beta", "alpha"]) == "known: alpha, beta"


def test_nearest_cuts_a_long_list_and_says_so() -> None:
    dozen = [f"{letter}{letter}" for letter in "abcdefghijkl"]
    assert nearest("0123456789", dozen) == "known: " + ", ".join(dozen)
    assert nearest("0123456789", [*dozen, "mm"]) == "known: " + ", ".join(dozen) + ", ..."


def test_nearest_names_at_most_three() -> None:
    assert nearest("core", [f"core{n}" for n in range(9)]).count("core") == 3


def test_nearest_takes_any_iterable_once() -> None:
    assert nearest("cors", iter(["cores", "clock"])).startswith("nearest: cores")


@pytest.mark.parametrize(
    "error",
    [
        SpecError("is wrong", file="a.yaml", line=3, field="x.y", value=[1], hint="write 2"),
        InfeasibleError("memory", "lacks 3 B", "use more chips"),
        SimulationError("stopped early", clock_s=1.5, process="stage 3"),
    ],
)
def test_an_error_crosses_a_process_border_whole(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
