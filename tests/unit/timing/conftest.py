"""Shipped chips and systems, lowered to arrays."""

from __future__ import annotations

import pytest

from cosim.hardware.load import load_chip, load_system
from cosim.hardware.lower import ChipArrays, SystemArrays, lower_chip, lower_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied


@pytest.fixture(scope="session")
def h100() -> ChipArrays:
    return lower_chip(load_chip("h100-sxm"))


@pytest.fixture(scope="session")
def mi300x() -> ChipArrays:
    return lower_chip(load_chip("mi300x"))


@pytest.fixture(scope="session")
def tpu() -> ChipArrays:
    return lower_chip(load_chip("tpu-v5p"))


@pytest.fixture(scope="session")
def asic() -> ChipArrays:
    return lower_chip(load_chip("asic-template"))


@pytest.fixture(scope="session")
def two_h100_nodes() -> SystemArrays:
    return lower_system(vary_system(Varied(load_system("dgx-h100")), {"nodes": 2}))


@pytest.fixture(scope="session")
def mi300x_node() -> SystemArrays:
    return lower_system(Varied(load_system("mi300x-8gpu")))


@pytest.fixture(scope="session")
def tpu_slice() -> SystemArrays:
    return lower_system(Varied(load_system("tpu-v5p-8")))
