"""Chips whose area is known, read once, and the shipped technology."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.vary import vary_chip
from cosim.overrides import Varied
from cosim.silicon.technology import Technology, load_technology


@pytest.fixture(scope="session")
def technology() -> Technology:
    return load_technology()


@pytest.fixture(scope="session")
def chip() -> Callable[..., Varied[Chip]]:
    """The chip called so, with overrides by path."""
    read = functools.cache(load_chip)

    def _chip(name: str, changes: Mapping[str, Any] | None = None) -> Varied[Chip]:
        return vary_chip(Varied(read(name)), changes or {})

    return _chip
