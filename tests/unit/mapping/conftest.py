"""Models, plans, scenarios and training software that the mapping tests share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from cosim.mapping.plan import Plan, PlanArrays, Scenario, ScenarioArrays, lower_plan, lower_scenario
from cosim.mapping.software import SoftwareArrays, load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.schema import validated
from cosim.workload.load import load_model
from cosim.workload.model import Model, ModelArrays, lower_model


@pytest.fixture(scope="session")
def model_of() -> Callable[..., ModelArrays]:
    """A shipped model with some dimensions changed, all at once."""
    described = functools.cache(lambda name: load_model(name).model_dump(exclude_none=True))

    def build(name: str = "llama-3.1-70b", **changes: Any) -> ModelArrays:
        return lower_model(Varied(validated(Model, {**described(name), **changes})))

    return build


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., PlanArrays]:
    """A plan with some fields changed."""

    def build(**changes: Any) -> PlanArrays:
        return lower_plan(vary(Varied(Plan()), changes))

    return build


@pytest.fixture(scope="session")
def scenario_of() -> Callable[..., ScenarioArrays]:
    """A scenario with some fields changed."""

    def build(**changes: Any) -> ScenarioArrays:
        return lower_scenario(vary(Varied(Scenario()), changes))

    return build


@pytest.fixture(scope="session")
def software_of() -> Callable[..., SoftwareArrays]:
    """A shipped training software with some arrays or choices changed."""
    lowered = functools.cache(lambda name: lower_software(load_software(name)))

    def build(name: str = "megatron", **changes: Any) -> SoftwareArrays:
        numbers = {key: value if isinstance(value, bool) else array(value) for key, value in changes.items()}
        return dataclasses.replace(lowered(name), **numbers)

    return build
