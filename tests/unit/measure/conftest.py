"""Chips are read once for all tests of measuring: a run reads its chip anew each time."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from cosim.hardware.load import load_chip


@pytest.fixture(scope="module", autouse=True)
def _read_chips_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosim.measure.run.load_chip", functools.cache(load_chip))
        yield
