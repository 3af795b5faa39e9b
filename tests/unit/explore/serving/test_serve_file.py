"""The file of a serving study: what deployments share, requests in place, one message for every fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import documents
from cosim.errors import SpecError
from cosim.explore.serving.serve_file import Serve, SpeculationSettings
from cosim.schema import validated
from cosim.workload.requests.description import RequestPattern

SMALL: dict[str, Any] = {
    "kind": "serve",
    "question": "Which?",
    "system": "dgx-h100",
    "workload": "llama-3.1-8b",
    "requests": "chat",
}
INLINE = {
    "count": 5,
    "arrivals": {"kind": "poisson", "rate": "2 Hz"},
    "prompt": {"kind": "fixed", "tokens": 10},
    "output": {"kind": "fixed", "tokens": 10},
}


def study(**fields: Any) -> Serve:
    return validated(Serve, {**SMALL, **fields})


@settings(max_examples=40, deadline=None)
@given(
    shared=st.dictionaries(st.sampled_from(["token_budget", "max_sequences", "block_tokens"]), st.integers(1, 99)),
    own=st.dictionaries(st.sampled_from(["token_budget", "max_sequences", "block_tokens"]), st.integers(1, 99)),
)
def test_sections_are_merged_field_by_field(shared: dict[str, int], own: dict[str, int]) -> None:
    found = study(scheduler=shared, deployments={"a": {"scheduler": own}, "b": {}}).merged()
    for name, expected in (("a", {**shared, **own}), ("b", shared)):
        scheduler = found[name].scheduler
        assert {field: getattr(scheduler, field) for field in expected} == expected
        assert scheduler.model_fields_set == set(expected)


def test_a_study_without_deployments_is_one() -> None:
    (name, only), *others = study(replicas=2, stack="sglang").merged().items()
    assert (name, only.replicas, only.stack, others) == ("dgx-h100", 2, "sglang", [])


def test_a_deployment_has_its_own_system_and_drops_what_is_shared() -> None:
    fields = {"prefill": {"replicas": 2, "plan": {"dtype": "fp8"}}}
    found = study(**fields, deployments={"a": {"system": "asic-8"}, "b": {"prefill": None}}).merged()
    assert (found["a"].system, found["b"].system) == ("asic-8", "dgx-h100")
    assert found["a"].prefill is not None
    assert found["a"].prefill.plan.dtype == "fp8"
    assert found["b"].prefill is None


def test_requests_are_a_name_or_stand_in_place() -> None:
    assert study().requests == "chat"
    found = study(requests=INLINE).requests
    assert isinstance(found, RequestPattern)
    assert (found.count, found.name) == (5, "inline")


def test_times_and_rates_carry_units() -> None:
    found = study(
        limits={"ttft": "200 ms", "tpot": 0.03},
        warm_up="1 min",
        scenario={"rate": "3 Hz"},
        transfer={"bandwidth": "50 GB/s", "latency": "5 us"},
        autoscale={"measure": "queue", "target": 2, "most": 4, "interval": "30 s"},
        failures={"mean_up": "10 h", "mean_repair": "20 min"},
    )
    assert (found.limits.ttft, found.limits.tpot, found.limits.e2e) == (0.2, 0.03, None)
    assert (found.warm_up, found.scenario.rate, found.transfer.bandwidth) == (60.0, 3.0, 5e10)
    assert found.failures is not None
    assert found.failures.mean_up == 36_000.0


def test_acceptance_is_a_list_or_one_chance() -> None:
    assert SpeculationSettings(acceptance=(0.8, 0.5)).chances == (0.8, 0.5)
    assert SpeculationSettings(acceptance=0.6, drafts=3).chances == (0.6, 0.6, 0.6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"requests": 7}, "requests: says no requests"),
        ({"requests": {**INLINE, "count": 0}}, r"requests\.count: .*greater than or equal to 1"),
        ({"requests": {**INLINE, "prompt": {"kind": "fixd"}}}, r"requests\.prompt"),
        ({"system": None}, "system: is missing"),
        ({"workload": None, "deployments": {"a": {}}}, r"deployments\.a\.workload: is missing"),
        ({"replicas": 0}, "replicas"),
        ({"seeds": 0}, "seeds"),
        ({"routing": "rond_robin"}, "routing"),
        ({"scheduler": {"watermark": 1.0}}, r"scheduler\.watermark"),
        ({"scheduler": {"budget": 1}}, r"scheduler\.budget: unknown field"),
        ({"speculation": {"acceptance": 0.5}}, r"speculation\.drafts: does not go with acceptance"),
        ({"speculation": {"acceptance": [0.5], "drafts": 2}}, r"speculation\.drafts: does not go with acceptance"),
        ({"limits": {"ttft": "3 GB"}}, r"limits\.ttft"),
        ({"transfer": {"bandwidth": "3 s"}}, r"transfer\.bandwidth"),
    ],
)
def test_one_message_for_a_fault(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        study(**fields)


def test_a_fault_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (
        "kind: serve\nquestion: x\nsystem: a\nworkload: b\nrequests:\n  count: 3\n  prompt: {kind: fixed, tokens: 0}\n"
    )
    path.write_text(text, encoding="utf-8")
    document = documents.read(path)
    with pytest.raises(SpecError) as error:
        validated(Serve, document.data, document)
    assert (error.value.file, error.value.line) == (path, 7)
    assert error.value.field == "requests.prompt.tokens"
