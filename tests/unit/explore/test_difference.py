"""Where a difference comes from: factors multiply to the ratio, parts add to the time, whatever is compared."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

import cosim
from cosim.engines.analytic import BREAKDOWN, evaluate
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.difference import COMPONENTS, HEADLINES, Difference, difference, mixed, players, shares
from cosim.explore.estimate import Estimate, estimate
from cosim.explore.findings import operator_rows
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.workload.load import load_model
from cosim.workload.model import Model

EXACT = 1e-9
# Tile machines, arrays and rooflines; one tier and two; with and without a cache; switch, mesh, torus and ring.
ROOFLINES = ("maia-200-4", "mtia-450-72", "openai-jalapeno-8")
SYSTEMS = ("dgx-h100", "mi300x-8gpu", "asic-8", "tpu-v5p-8", "tpu-v5p-64", "trn2-16", "m4-max-1", *ROOFLINES)
# Phase, model, nodes: dense, mixtures of experts, latent attention.
DEMANDS = (
    ("decode", "llama-3.1-8b", 1),
    ("prefill", "llama-3.1-8b", 1),
    ("decode", "gpt-oss-120b", 2),
    ("prefill", "mixtral-8x7b", 1),
    ("decode", "deepseek-v3", 4),
    ("train", "llama-3.1-8b", 4),
    ("train", "mixtral-8x7b", 4),
)
# What is changed: the component it belongs to, and where its number stands once it is lowered.
CHANGES = {
    "chip.memory.dram.bandwidth": ("dram", "chip.memory.dram.bandwidth"),
    "chip.memory.cache.bandwidth": ("cache", "chip.memory.cache.bandwidth"),
    "chip.memory.scratch.bandwidth": ("matrix", "chip.memory.scratch.bandwidth"),
    "chip.matrix.peak.bf16": ("matrix", "chip.matrix.peak.bf16"),
    "chip.vector.peak": ("vector", "chip.vector_peak"),
    "chip.special.peak": ("vector", "chip.special_peak"),
    "chip.links.scale_up.bandwidth": ("network", "chip.links.scale_up"),
    "tiers.0.latency": ("network", "tiers.0.latency"),
    "tiers.0.bandwidth": ("network", "tiers.0.bandwidth"),
    "chip.quality.matmul": ("quality", "chip.quality.matmul"),
    "chip.quality.memory": ("quality", "chip.quality.memory"),
    "chip.quality.collective": ("quality", "chip.quality.collective"),
    "chip.launch.gap": ("launch", "chip.launch.gap"),
    "chip.power.energy_per_byte.dram": ("power", "chip.power.energy_per_byte.dram"),
}
# One of each component that decides a step of a GPU.
MOVING = (
    "chip.memory.dram.bandwidth", "chip.memory.cache.bandwidth", "chip.matrix.peak.bf16", "chip.vector.peak",
    "chip.links.scale_up.bandwidth", "chip.quality.matmul", "chip.launch.gap",
)  # fmt: skip


@cache
def system(name: str) -> Varied[System]:
    return Varied(load_system(name))


@cache
def model(name: str) -> Varied[Model]:
    return Varied(load_model(name))


def made(
    phase: Any, name: str, workload: str, changes: Mapping[str, Any], plan: Mapping[str, Any], batch: int
) -> Estimate:
    """An estimate of a system with changes; without degrees in `plan` its best plan."""
    asked = {"global_batch" if phase == "train" else "batch": batch, "context": 1024}
    return estimate(phase, vary_system(system(name), changes), model(workload), plan, asked)


@cache
def best(phase: str, name: str, workload: str, nodes: int = 1, batch: int = 64) -> Estimate | None:
    """The best plan of a shipped system in its best format, None where nothing fits or no network is there."""
    spec = system(name).spec
    if nodes > 1 and len(spec.tiers) == spec.node_tier + 1:
        return None  # it has no network to another node
    try:
        return made(phase, name, workload, {"nodes": nodes}, {}, batch)
    except InfeasibleError:
        return None


def known(phase: str, name: str, workload: str, nodes: int = 1, batch: int = 64) -> Estimate:
    found = best(phase, name, workload, nodes, batch)
    assert found is not None
    return found


def given_plan(
    phase: str, name: str, changes: Mapping[str, Any] | None = None, batch: int = 64, **more: Any
) -> Estimate:
    """A dense model in bf16 on four ranks: nothing is left to a search."""
    return made(phase, name, "llama-3.1-8b", changes or {}, {"tensor_parallel": 4, "dtype": "bf16", **more}, batch)


def of(first: Estimate, second: Estimate) -> Difference:
    return difference(first, second, ("a", "b"))


@pytest.fixture
def no_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares most of the time where factors are not asked for."""
    monkeypatch.setattr("cosim.explore.difference.shares", lambda _a, _b: {})


def value_of(name: str, path: str) -> float | None:
    """A number of a lowered system by path; None where the system has none."""
    node: Any = lower_system(system(name))
    for part in path.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        else:
            node = node[int(part)] if isinstance(node, tuple) else getattr(node, part)
        if node is None:
            return None
    return float(node)


def throttled(name: str, share: float, plan: Mapping[str, Any]) -> Estimate:
    """Prefill on a shipped system whose limit leaves `share` of what is above idle, at one voltage for all clocks."""
    power = system(name).spec.chip.power
    limit = power.idle.si + share * (power.limit.si - power.idle.si)
    return made("prefill", name, "llama-3.1-8b", {"chip.power.limit": limit, "chip.power.floor_voltage": 1.0}, plan, 8)


def assert_owed_to(found: Difference, component: str) -> None:
    """The whole ratio is the component's, every other factor is 1."""
    wanted = {**dict.fromkeys(COMPONENTS, 1.0), component: found.ratio}
    assert found.factors == pytest.approx(wanted, rel=EXACT)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Estimate, Estimate]:
    """Two systems of any kind on one demand, each with its own best plan at a batch of its own."""
    phase, workload, nodes = draw(st.sampled_from(DEMANDS))
    found = [
        best(phase, draw(st.sampled_from(SYSTEMS)), workload, nodes, draw(st.sampled_from([16, 64]))) for _ in range(2)
    ]
    assume(None not in found)
    return found[0], found[1]  # type: ignore[return-value]


@given(pair=pairs())
@settings(max_examples=7, deadline=None)
def test_factors_multiply_to_the_ratio_and_parts_add_to_the_time(pair: tuple[Estimate, Estimate]) -> None:
    first, second = pair
    found, one, two = of(first, second), first.to_row(), second.to_row()
    assert found.ratio == pytest.approx(two["tokens_per_s_per_chip"] / one["tokens_per_s_per_chip"], rel=EXACT)
    assert math.prod(found.factors.values()) == pytest.approx(found.ratio, rel=EXACT)
    assert all(math.isfinite(factor) and factor > 0.0 for factor in found.factors.values())
    assert sorted(part for name in found.factors for part in name.split(" + ")) == sorted(COMPONENTS)
    moved = sum(b - a for a, b in found.parts.values())
    assert moved == pytest.approx(two["time_s"] - one["time_s"], abs=EXACT * max(one["time_s"], two["time_s"]))
    assert tuple(found.parts) == BREAKDOWN
    assert {name: list(values) for name, values in found.headlines.items()} == {n: [one[n], two[n]] for n in HEADLINES}


@given(pair=pairs())
@settings(max_examples=4, deadline=None)
def test_swapping_the_two_inverts_every_factor_and_the_ratio(pair: tuple[Estimate, Estimate]) -> None:
    there, back = of(*pair), of(*reversed(pair))
    assert back.ratio == pytest.approx(1.0 / there.ratio, rel=EXACT)
    assert back.factors == pytest.approx({name: 1.0 / factor for name, factor in there.factors.items()}, rel=EXACT)
    assert back.parts == {name: values[::-1] for name, values in there.parts.items()}
    assert back.operators == {name: values[::-1] for name, values in there.operators.items()}


@pytest.mark.parametrize("name", ["dgx-h100", "mtia-450-72"])
def test_a_system_against_itself_gives_one_everywhere(name: str) -> None:
    own = known("decode", name, "llama-3.1-8b")
    found = of(own, own)
    assert found.ratio == 1.0
    assert_owed_to(found, "plan")
    assert all(a == b for a, b in (*found.parts.values(), *found.operators.values(), *found.headlines.values()))


def test_every_pair_of_shipped_kinds_has_all_its_mixtures() -> None:
    wrong = []
    for a, b in itertools.combinations(("dgx-h100", "asic-8", "tpu-v5p-8", *ROOFLINES), 2):
        first, second = (known("decode", name, "llama-3.1-8b") for name in (a, b))
        factors = shares(first.case, second.case)
        ratio = second.to_row()["tokens_per_s_per_chip"] / first.to_row()["tokens_per_s_per_chip"]
        if not math.isclose(math.prod(factors.values()), ratio, rel_tol=EXACT):
            wrong.append((a, b, factors))
    assert wrong == []


@given(
    name=st.sampled_from([name for name in SYSTEMS if name not in ("m4-max-1", "maia-200-4", "openai-jalapeno-8")]),
    phase=st.sampled_from(["decode", "prefill", "train"]),
    path=st.sampled_from(sorted(CHANGES)),
    factor=st.floats(0.3, 1.0),
)
@settings(max_examples=5, deadline=None)
def test_a_change_of_one_component_is_owed_to_it_alone(name: str, phase: str, path: str, factor: float) -> None:
    component, place = CHANGES[path]
    before = value_of(name, place)
    if before is None:
        reject()
    found = of(given_plan(phase, name), given_plan(phase, name, {path: factor * before}))
    assert_owed_to(found, component)


@pytest.mark.parametrize("path", MOVING)
def test_a_change_of_one_component_moves_its_factor(path: str) -> None:
    component, place = CHANGES[path]
    before = value_of("dgx-h100", place)
    assert before is not None
    phase = "prefill" if path in ("chip.matrix.peak.bf16", "chip.quality.matmul") else "decode"
    found = of(given_plan(phase, "dgx-h100"), given_plan(phase, "dgx-h100", {path: 0.05 * before}))
    assert found.factors[component] > 1.0001 if path == "chip.launch.gap" else found.factors[component] < 0.9999
    assert_owed_to(found, component)


@pytest.mark.parametrize(
    ("batch", "plan"), [(4, {}), (256, {"pipeline_parallel": 2, "micro_batches": 2, "dtype": "fp8"})]
)
def test_batch_and_plan_are_a_component(batch: int, plan: dict[str, Any]) -> None:
    found = of(given_plan("decode", "dgx-h100"), given_plan("decode", "dgx-h100", batch=batch, **plan))
    assert found.ratio != pytest.approx(1.0, rel=0.01)
    assert_owed_to(found, "plan")


def test_a_power_limit_is_a_component() -> None:
    found = of(*(throttled("dgx-h100", share, {"tensor_parallel": 8}) for share in (0.2, 0.1)))
    assert found.ratio == pytest.approx(0.5, rel=EXACT)  # half the power above idle, half the speed
    assert_owed_to(found, "power")


@given(pair=pairs(), part=st.integers(0, len(COMPONENTS) - 1))
@settings(max_examples=4, deadline=None)
def test_a_machine_with_one_component_of_another_owes_everything_to_it(
    pair: tuple[Estimate, Estimate], part: int
) -> None:
    a, b = (one.case for one in pair)
    names = players(a, b)
    exchanged = names[part % len(names)]
    mixture = mixed(a, b, set(exchanged))
    one, two = (evaluate(mixed(a, b, chosen)) for chosen in (set[str](), set(exchanged)))
    ratio = (two.tokens / two.time / two.chips / (one.tokens / one.time / one.chips)).item()
    factors = shares(mixed(a, b, set()), mixture)
    changed = [name for name in factors if set(name.split(" + ")) & set(exchanged)]
    # Networks of different sizes are one player with the plan, whichever of the two was exchanged.
    assert math.prod(factors[name] for name in changed) == pytest.approx(ratio, rel=EXACT)
    assert [factors[name] for name in factors if name not in changed] == pytest.approx(
        [1.0] * (len(factors) - len(changed)), rel=EXACT
    )


@given(pair=pairs())
@settings(max_examples=12, deadline=None)
def test_a_mixture_of_nothing_is_the_first_and_of_everything_the_second(pair: tuple[Estimate, Estimate]) -> None:
    a, b = (one.case for one in pair)
    for chosen, whole in ((set[str](), a), (set(COMPONENTS), b)):
        assert evaluate(mixed(a, b, chosen)).time == pytest.approx(evaluate(whole).time, rel=1e-12)


def test_a_factor_is_the_mean_over_all_orders_of_exchange() -> None:
    a, b = (known("decode", name, "llama-3.1-8b").case for name in ("asic-8", "trn2-16"))
    names = players(a, b)
    assert len(names) == 7

    @cache
    def speed(chosen: frozenset[str]) -> float:
        result = evaluate(mixed(a, b, set(chosen)))
        return math.log((result.tokens / result.time / result.chips).item())

    sums = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        chosen: frozenset[str] = frozenset()
        for name in order:
            sums[name] += speed(chosen | set(name)) - speed(chosen)
            chosen |= set(name)
    by_hand = {" + ".join(name): math.exp(total / len(orders)) for name, total in sums.items()}
    assert shares(a, b) == pytest.approx(by_hand, rel=EXACT)


@pytest.mark.parametrize(
    ("first", "second", "dtypes", "joined"),
    [
        ("dgx-h100", "dgx-a100", ("bf16", "bf16"), "plan"),
        ("dgx-h100", "dgx-a100", ("fp8", "bf16"), "plan + matrix"),
        ("dgx-h100", "gb200-nvl72", ("fp8", "fp8"), "plan + network"),
        ("dgx-h100", "m4-max-1", ("fp16", "fp16"), "plan + network"),
        ("dgx-a100", "mtia-450-72", ("int8", "fp8"), "plan + matrix + network"),
    ],
)
def test_what_cannot_be_exchanged_alone_is_joined_to_the_plan(
    first: str, second: str, dtypes: tuple[str, str], joined: str
) -> None:
    a, b = (
        made("decode", name, "llama-3.1-8b", {}, {"dtype": dtype, "tensor_parallel": 1}, 4)
        for name, dtype in zip((first, second), dtypes, strict=True)
    )
    found = of(a, b)
    assert list(found.factors)[-1] == joined
    assert [name for name in found.factors if " + " in name] == ([joined] if "+" in joined else [])
    assert math.prod(found.factors.values()) == pytest.approx(found.ratio, rel=EXACT)


@pytest.mark.parametrize(
    ("first", "second"), [("dgx-h100", "mi300x-8gpu"), ("tpu-v5p-8", "trn2-16"), ("tpu-v5p-8", "dgx-h100")]
)
def test_factors_multiply_to_the_ratio_where_power_is_the_limit(first: str, second: str) -> None:
    found = of(throttled(first, 0.3, {}), throttled(second, 0.3, {}))
    assert max(found.parts["throttle"]) > 0.0
    assert math.prod(found.factors.values()) == pytest.approx(found.ratio, rel=EXACT)


def test_an_algorithm_that_one_network_has_is_exchanged_with_the_network() -> None:
    switched = given_plan("decode", "dgx-h100", **{"algorithm.all_reduce": "in_network"})
    found = of(switched, given_plan("decode", "mi300x-8gpu"))
    assert "plan + network" in found.factors
    assert math.prod(found.factors.values()) == pytest.approx(found.ratio, rel=EXACT)


@pytest.mark.usefixtures("no_mixtures")
@pytest.mark.parametrize(("phase", "workload"), [("decode", "mixtral-8x7b"), ("train", "llama-3.1-8b")])
def test_an_operator_takes_its_count_times_its_time(phase: str, workload: str) -> None:
    pair = [known(phase, name, workload, 4) for name in ("dgx-h100", "asic-8")]
    found = of(*pair)
    for side, one in enumerate(pair):
        wanted = dict.fromkeys(found.operators, 0.0)
        for op in operator_rows(one.case):
            wanted[op["name"]] += op["count"] * op["time_s"]
        assert {name: values[side] for name, values in found.operators.items()} == pytest.approx(wanted, rel=1e-12)


@pytest.mark.usefixtures("no_mixtures")
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_operators_of_one_stage_add_to_what_it_computes(phase: str) -> None:
    found = of(given_plan(phase, "dgx-h100"), given_plan(phase, "asic-8"))
    for side in (0, 1):
        computed = sum(found.parts[name][side] for name in ("matmul", "attention", "vector"))
        assert sum(values[side] for values in found.operators.values()) == pytest.approx(computed, rel=EXACT)


@pytest.mark.usefixtures("no_mixtures")
def test_an_operator_that_one_of_the_two_has_takes_no_time_in_the_other() -> None:
    forms = [{"latent": "absorbed"}, {"latent": "expanded"}]
    found = of(*(made("decode", "dgx-h100", "deepseek-v3", {"nodes": 4}, form, 64) for form in forms))
    assert [name for name, (one, two) in found.operators.items() if one and not two]
    assert [name for name, (one, two) in found.operators.items() if two and not one]


def test_only_points_of_one_phase_and_workload_are_compared() -> None:
    decode = given_plan("decode", "dgx-h100")
    with pytest.raises(SpecError, match="needs one phase and workload") as told:
        of(decode, given_plan("prefill", "dgx-h100"))
    assert "decode of llama-3.1-8b and prefill of llama-3.1-8b" in str(told.value)
    with pytest.raises(SpecError, match="needs one phase and workload"):
        of(decode, known("decode", "dgx-h100", "mixtral-8x7b"))


def test_arrays_of_points_are_not_compared() -> None:
    one, many = (given_plan("decode", "dgx-h100", {"chip.launch.gap": gaps}) for gaps in (1e-6, np.array([1e-6, 2e-6])))
    for pair in ((one, many), (many, one)):
        with pytest.raises(SpecError, match="is between two points"):
            of(*pair)


def test_the_interface_in_python_is_the_same_and_plain_data() -> None:
    handle, llama = cosim.system("dgx-h100"), cosim.workload("llama-3.1-8b")
    pair = [cosim.estimate_decode(handle, llama, {"tensor_parallel": 4}, batch=batch) for batch in (16, 64)]
    found = cosim.diff(*pair, labels=("few", "many"))
    assert found == difference(*pair, ("few", "many"))
    content = found.as_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert set(content) == {"a", "b", "asked", "headlines", "breakdown_s", "operators_s", "factors", "ratio"}
    assert content["breakdown_s"]["matmul"] == list(found.parts["matmul"])


@pytest.mark.usefixtures("no_mixtures")
def test_what_is_unknown_is_unknown() -> None:
    found = of(known("train", "dgx-h100", "llama-3.1-8b", 4), known("train", "mi300x-8gpu", "llama-3.1-8b", 4))
    assert found.headlines["tokens_per_s_per_user"] == (None, None)
    assert found.headlines["area_mm2"][1] is None
