"""What rows of measured inference name, read once: workloads, systems, serving software. Thousands of rows ask."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.system import System
from cosim.mapping.serving import Serving, ServingArrays, load_serving, lower_serving
from cosim.overrides import Varied
from cosim.validation.row_system import CannotAnswerError, names_of
from cosim.workload.load import Workload, load_workload, lower_workload
from cosim.workload.model import ModelArrays


def named_model(name: str) -> ModelArrays:
    """A workload of the library. Raises CannotAnswerError for one that is not there."""
    if name not in names_of("workloads"):
        raise CannotAnswerError(f"workload {name or '(blank)'} is not in the library")
    return lowered(name)


def named_stack(name: str) -> Serving:
    """A serving stack of the library. Raises CannotAnswerError for one that is not there or cannot be read."""
    if name not in names_of("serving"):
        raise CannotAnswerError(f"serving stack {name} is not in the library")
    return _serving(name)


@lru_cache(maxsize=256)
def lowered(name: str) -> ModelArrays:
    """A workload as arrays, without its name: models of one structure make one batch. Raises SpecError."""
    return replace(lower_workload(Varied(workload(name))), name="")


@lru_cache(maxsize=256)
def workload(name: str) -> Workload:
    """A workload as its file says. Raises SpecError."""
    return load_workload(name)


@lru_cache(maxsize=512)
def system(name: str) -> System:
    """A system as its file says. Raises SpecError."""
    return load_system(name)


@lru_cache(maxsize=64)
def stack_arrays(name: str) -> ServingArrays:
    """A serving stack as arrays. Raises CannotAnswerError."""
    return lower_serving(_serving(name))


@lru_cache(maxsize=64)
def _serving(name: str) -> Serving:
    try:
        return load_serving(name)
    except SpecError as error:
        raise CannotAnswerError(str(error)) from None
