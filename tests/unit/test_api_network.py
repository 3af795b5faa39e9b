"""`cosim.simulate_collective`: the network in Python."""

from __future__ import annotations

import numpy as np
import pytest

import cosim
from cosim.engines.network.simulate import Request

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


def test_all_chips_unless_told() -> None:
    system = cosim.system("dgx-h100", nodes=2)
    assert cosim.simulate_collective(system, "all_reduce", "64 MiB").outcomes[0].ranks == 16
    assert cosim.simulate_collective(system, "all_reduce", 64e6, 12).outcomes[0].ranks == 12
    assert cosim.simulate_collective(system, "all_reduce", 64e6, [0, 8]).outcomes[0].ranks == 2


def test_it_takes_what_the_command_takes() -> None:
    system = cosim.system("dgx-h100", nodes=2)
    run = cosim.simulate_collective(
        system,
        "all_reduce",
        64e6,
        [0, 8],
        algorithm="ring",
        degraded={"cluster0.node1.chip0.up": 0.5},
        stragglers={8: 1e-3},
        background=[(0, 8, 1e9)],
        beside=[Request("alltoall", 1e6, tuple(range(8)))],
    )
    assert len(run.outcomes) == 2
    assert run.outcomes[0].time_s > run.outcomes[0].closed_form_s + 1e-3


def test_arrays_of_points_are_refused() -> None:
    with pytest.raises(cosim.SpecError, match="is more than one point"):
        cosim.simulate_collective(cosim.system("dgx-h100", nodes=np.array([1.0, 2.0])), "all_reduce", 1e6)
