"""Chips left out one at a time: rows of inference from a chip's specification, with no constant fitted on it.

What is replaced, and by what, is that of `cosim.validation.training_left_out`; constants of stacks stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cosim.hardware.load import load_system
from cosim.hardware.system import System
from cosim.validation.cases import Case as Row
from cosim.validation.inference import Answer, answers
from cosim.validation.training_known import known
from cosim.validation.training_left_out import Unfitted, unfitted


def left_out(rows: Sequence[Row]) -> list[Answer]:
    """Answers to rows, every system from the specification of its chip alone."""
    return answers(rows, _system)


@lru_cache(maxsize=256)
def specified(name: str) -> Unfitted:
    """A system of the library from the specification of its chip, and what was replaced. Raises SpecError."""
    return unfitted(load_system(name), known().fits)


def _system(name: str) -> System:
    return specified(name).system
