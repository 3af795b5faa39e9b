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
from cosim.mapping.serving import Serving, lower_serving
from cosim.mapping.software import load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.load import load_model
from cosim.workload.model import lower_model
from cosim.workload.work import Work

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


STACK = {
    "name": "plain",
    "title": "Plain",
    "policy": "chunked",
    "token_budget": 2048,
    "max_sequences": 256,
    "memory_share": 0.9,
}
"""Serving software of which nothing is fitted: kernels and host of the chip."""


@pytest.fixture(scope="session")
def serving(case_of: Callable[..., Case]) -> Callable[..., Case]:
    """A case of phase serve on a plain stack; plan fields by their own names, of the stack by "stack.host_step".

    A point has arrays of one number.
    """

    def build(model: str = "llama-3.1-8b", system: str = "dgx-h100", work: Work | None = None, **fields: Any) -> Case:
        own = {name.removeprefix("stack."): value for name, value in fields.items() if name.startswith("stack.")}
        rest = {name: value for name, value in fields.items() if not name.startswith("stack.")}
        changes = {name if "." in name else f"plan.{name}": value for name, value in rest.items()}
        plain = lower_serving(Serving.model_validate({**STACK, "policy": own.pop("policy", "chunked")}))
        changed = {name: value if isinstance(value, bool) else array(value) for name, value in own.items()}
        case = case_of("serve", system, model, **changes)
        return replace(case, work=work, stack=replace(plain, **changed))

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
