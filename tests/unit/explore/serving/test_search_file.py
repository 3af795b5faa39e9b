"""The section of a search: what may be left out, and one message for what it may not hold."""

from __future__ import annotations

from typing import Any

import pytest

from cosim.errors import SpecError
from cosim.explore.serving.search_file import OBJECTIVES, ServingSearch
from cosim.schema import validated

LEAST: dict[str, Any] = {"prompt": 4000, "output": 500}


def read(**more: Any) -> ServingSearch:
    return validated(ServingSearch, {**LEAST, **more})


def test_what_is_left_out_is_everything() -> None:
    found = read()
    assert (found.ttft_limit, found.tpot_limit, found.chips) == (None, None, None)
    assert (found.objective, found.statistic, found.check) == ("tokens_per_s_per_chip", "p90", "closed_loop")
    assert found.space.layout == ("together", "apart")
    others = {name: getattr(found.space, name) for name in type(found.space).model_fields if name != "layout"}
    assert set(others.values()) == {None}
    assert read(space={"tensor": "all", "max_sequences": "all"}) == found


def test_limits_may_have_units_and_one_value_is_a_list() -> None:
    found = read(ttft_limit="1 s", tpot_limit="30 ms", space={"tensor": 2, "layout": "apart", "dtype": "fp8"})
    assert (found.ttft_limit, found.tpot_limit) == (1.0, 0.03)
    assert (found.space.tensor, found.space.layout, found.space.dtype) == ((2,), ("apart",), ("fp8",))


@pytest.mark.parametrize("word", OBJECTIVES)
def test_every_objective_is_known(word: str) -> None:
    assert read(objective=word).objective == word


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ({"ttft": 1}, "ttft", "unknown field .*nearest: ttft_limit"),
        ({"space": {"tensr": 8}}, "space.tensr", "unknown field .*nearest: tensor"),
        ({"space": {"tensor": []}}, "space.tensor", "lists nothing"),
        ({"space": {"tensor": 0}}, "space.tensor", "greater than or equal to 1"),
        ({"space": {"tensor": [2, 2]}}, "space.tensor", "is listed twice"),
        ({"space": {"layout": "disaggregated"}}, "space.layout", "is none of the names .*apart"),
        ({"space": {"dtype": "fp9"}}, "space.dtype", "fp8"),
        ({"objective": "tokens_per_chip"}, "objective", "is none of the names .*tokens_per_s_per_chip"),
        ({"statistic": "p80"}, "statistic", "is none of the names .*nearest: p90"),
        ({"check": "loop"}, "check", "is none of the names .*closed_loop"),
        ({"ttft_limit": 0}, "ttft_limit", "greater than 0"),
        ({"prompt": 0}, "prompt", "greater than or equal to 1"),
        ({"requests": 3}, "requests", "greater than or equal to 20"),
        ({"simulated": 1}, "simulated", "greater than or equal to 2"),
        ({"output": 1, "tpot_limit": 0.1}, "tpot_limit", "limits nothing .*no next one"),
    ],
)
def test_what_is_wrong_is_said(more: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        read(**more)
    assert field in str(caught.value)
