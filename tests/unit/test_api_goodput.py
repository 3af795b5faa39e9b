"""`cosim.simulate_goodput`: the same run as on the command line, from Python."""

from __future__ import annotations

import pytest

import cosim

PLAN = cosim.Strategy(tensor_parallel=2, data_parallel=4, recompute="full")


def test_a_run_from_an_estimate() -> None:
    step = cosim.estimate_training(cosim.system("dgx-h100"), cosim.workload("llama-3.1-8b"), PLAN, global_batch=16)
    answer = cosim.simulate_goodput(step, steps=1e6, changes={"components.gpu.mtbf": "5000 h"}, seeds=5, seed=7)
    assert len(answer.runs) == 5
    assert answer.to_row()["seed"] == 7
    rooted = {"reliability.components.gpu.mtbf": 5000.0 * 3600.0}
    again = cosim.simulate_goodput(step, steps=1e6, changes=rooted, seeds=5, seed=7)
    assert again.to_row() == answer.to_row()
    slow = cosim.simulate_goodput(step, steps=1e6, stragglers={0: 1.5}, seeds=5)
    assert slow.to_row()["lost_s"]["stragglers"] > 0.0
    with pytest.raises(cosim.SpecError, match="give one of the two"):
        cosim.simulate_goodput(step)
