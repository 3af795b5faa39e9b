"""Cases on shipped systems and models, with overrides by path."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cosim.engines.case import Case, Phase
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.workload.load import load_model
from cosim.workload.model import lower_model

_system = functools.cache(lambda name: Varied(load_system(name)))
_model = functools.cache(lambda name: Varied(load_model(name)))
_software = functools.cache(lambda name: lower_software(load_software(name)))


@pytest.fixture(scope="session")
def case_of() -> Callable[..., Case]:
    """A case of Llama-3.1-8B in bf16, with changes by path: "system.nodes", "plan.dtype", "scenario.batch".

    Training has a `software`, whose arrays and choices change by "software.host_step".
    """

    def build(
        phase: Phase,
        system: str = "dgx-h100",
        model: str = "llama-3.1-8b",
        software: str = "megatron",
        **changes: Any,
    ) -> Case:
        below = {
            root: {path.removeprefix(root): value for path, value in changes.items() if path.startswith(root)}
            for root in ("system.", "workload.", "plan.", "scenario.", "software.")
        }
        return Case(
            phase,
            lower_system(vary_system(_system(system), below["system."])),
            lower_model(vary(_model(model), below["workload."])),
            lower_plan(vary(Varied(Plan()), below["plan."])),
            lower_scenario(vary(Varied(Scenario()), below["scenario."])),
            replace(_software(software), **below["software."]) if phase == "train" else None,
        )

    return build


@pytest.fixture(scope="session")
def train(case_of: Callable[..., Case]) -> Callable[..., Case]:
    """A training case of a small GPT on A100 nodes that hold anything; plan fields by their own names."""

    def build(software: str = "megatron-2022", model: str = "megatron-22b", **fields: Any) -> Case:
        plain = {name: value for name, value in fields.items() if "." in name}
        scenario = {name: fields[name] for name in ("context", "global_batch") if name in fields}
        plan = {name: value for name, value in fields.items() if "." not in name and name not in scenario}
        changes = {f"plan.{name}": value for name, value in plan.items()}
        changes |= {f"scenario.{name}": value for name, value in scenario.items()}
        roomy = {"system.nodes": 64, "system.chip.memory.dram.capacity": "100 TB"}
        small = {"workload.layers": 12, "plan.tensor_parallel": 4, "scenario.global_batch": 16}
        return case_of("train", "dgx-a100", model, software, **{**roomy, **small, **changes, **plain})

    return build
