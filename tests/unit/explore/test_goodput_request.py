"""A long run in words: overrides of every root, stragglers as they are typed."""

from __future__ import annotations

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.explore.goodput_asked import Asked
from cosim.explore.goodput_request import goodput_request, varied_reliability
from cosim.hardware.reliability import load_reliability

ASKED = Asked(steps=1000.0, seeds=2)
PLAN = {"plan.tensor_parallel": 2, "plan.data_parallel": 4, "scenario.global_batch": 16, "plan.recompute": "full"}


def test_each_root_reaches_its_part() -> None:
    changes = {**PLAN, "reliability.job_start": "1 h", "reliability.components.gpu.mtbf": "1000 h"}
    answer = goodput_request("dgx-h100", "llama-3.1-8b", ASKED, changes, stragglers=["3=1.25"])
    assert answer.run.restart_s > 3600.0
    assert answer.run.causes[0].rate == pytest.approx(8.0 / 3.6e6)
    assert dict(answer.run.stragglers.named) == {0: 1.25}
    assert answer.estimate.to_row()["plan.tensor_parallel"] == 2


@pytest.mark.parametrize("text", ["3", "=1.2", "3=", "chip=1.2", "3=slow", "3.5=1.2"])
def test_a_straggler_is_a_chip_and_a_factor(text: str) -> None:
    with pytest.raises(SpecError, match=r"straggler: is not CHIP=FACTOR"):
        goodput_request("dgx-h100", "llama-3.1-8b", ASKED, PLAN, stragglers=[text])


def test_paths_of_the_data_are_checked() -> None:
    assert varied_reliability("reliability", {}) == load_reliability()
    with pytest.raises(SpecError, match=r"reliability.components.gpu.mtbf"):
        varied_reliability("reliability", {"components.gpu.mtbff": "1 h"})
    with pytest.raises(SpecError, match="is an array"):
        varied_reliability("reliability", {"detection": np.array([1.0, 2.0])})
    with pytest.raises(SpecError, match="no technology has this name"):
        varied_reliability("reliabillity", {})
    with pytest.raises(SpecError):
        varied_reliability("silicon", {})
