"""Optimizers as data: what ships, what a file may say, and how a plan chooses one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.mapping.optimizers import load_optimizer, optimized, planned_software
from cosim.mapping.plan import Plan
from cosim.mapping.software import load_software, lower_software

SHIPPED = sorted(library.names("optimizers"))
STACKS = sorted(library.names("software"))
FORMATS = ("fp32", "bf16", "int8")
TENSORS = {"adam": 2, "adamw": 2, "lamb": 2, "sgd": 0, "sgd-momentum": 1, "adafactor": 0, "muon": 1}


def test_what_ships_keeps_as_many_tensors_as_its_algorithm_says() -> None:
    assert {name: load_optimizer(name).weights.tensors.si for name in SHIPPED} == TENSORS
    assert [name for name in SHIPPED if load_optimizer(name).weights.factored] == ["adafactor"]
    muon = load_optimizer("muon")
    assert muon.iterations is not None
    assert muon.others is not None
    assert (muon.iterations.si, muon.others.tensors.si) == (5.0, 2.0)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_cites_a_source_of_the_file(name: str) -> None:
    optimizer = load_optimizer(name)
    texts = {s.text + ("" if s.checked else " [unverified recollection]") for s in optimizer.sources.values()}
    rules = [rule for rule in (optimizer.weights, optimizer.others) if rule is not None]
    data = [datum for rule in rules for datum in (rule.tensors, rule.gradient_reads, rule.flop)]
    assert {datum.source for datum in (*data, *optimizer.state_bytes.values())} <= texts
    assert optimizer.name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_narrower_state_is_smaller(name: str) -> None:
    each = [load_optimizer(name).state_bytes[dtype].si for dtype in ("fp32", "bf16", "int8")]
    assert each[:2] == [4.0, 2.0]
    assert each[2] == 1.0 + 4.0 / 2048.0


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_with_its_own_optimizer_named_keeps_the_bytes_it_says(stack: str) -> None:
    software = load_software(stack)
    own = lower_software(software)
    named = optimized(software, software.optimizer)
    assert own.update is None
    assert named.update is not None
    assert (named.update.name, named.update.dtype) == (software.optimizer, software.optimizer_dtype)
    assert float(named.optimizer_bytes) == float(own.optimizer_bytes)


@given(name=st.sampled_from(SHIPPED), dtype=st.sampled_from(FORMATS), stack=st.sampled_from(STACKS))
def test_state_of_a_matrix_is_the_master_weight_and_the_tensors(name: str, dtype: str, stack: str) -> None:
    plan = Plan.model_validate({"software": stack, "optimizer": name, "optimizer_dtype": dtype})
    found, software = planned_software(plan), load_software(stack)
    assert software.master_bytes is not None
    each = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0 + 4.0 / 2048.0}[dtype]
    assert float(found.optimizer_bytes) == software.master_bytes.si + TENSORS[name] * each


def test_a_format_alone_is_that_of_the_stacks_own_optimizer() -> None:
    found = planned_software(Plan(optimizer_dtype="bf16"))
    assert found.update is not None
    assert (found.update.name, float(found.optimizer_bytes)) == ("adamw", 8.0)
    deepseek = planned_software(Plan(software="deepseek", optimizer="muon"))
    assert deepseek.update is not None
    assert (deepseek.update.dtype, float(deepseek.optimizer_bytes)) == ("bf16", 6.0)


def test_a_plan_that_asks_for_nothing_has_what_the_stack_says() -> None:
    assert planned_software(Plan(software="llm-foundry")) == lower_software(load_software("llm-foundry"))


def test_an_unknown_optimizer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="nearest: adafactor"):
        planned_software(Plan(optimizer="adafaktor"))


OWN = """\
base: adamw
name: own
title: Ours
weights:
  tensors: {value: 3, kind: given, source: our own}
"""


def test_a_file_of_ones_own_is_an_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    found = planned_software(Plan(optimizer=str(path)))
    assert found.update is not None
    assert (found.update.name, float(found.optimizer_bytes)) == ("own", 16.0)


def test_an_optimizer_without_bytes_of_a_format_says_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = "name: own\ntitle: Ours\nweights: {tensors: 1, gradient_reads: 2, flop: 6}\nstate_bytes: {fp32: 4 B}\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=r"optimizer_dtype.*own has fp32"):
        planned_software(Plan(optimizer=str(path), optimizer_dtype="int8"))


def test_a_stack_that_does_not_say_its_master_weight_keeps_its_own_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    software = load_software("megatron")
    unknown = software.model_copy(update={"master_bytes": None})
    assert optimized(unknown, None) == lower_software(software)
    with pytest.raises(SpecError, match=r"master_bytes.*is unknown"):
        optimized(unknown, "sgd")
    path.write_text(OWN.replace("value: 3", "value: 1.5"), encoding="utf-8")
    with pytest.raises(SpecError, match="whole number"):
        load_optimizer(str(path))
