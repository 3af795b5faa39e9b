"""Search over deployments: more hardware never less, tighter limits never more, both figures, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import cosim
from cosim.errors import SpecError
from cosim.explore.serving import search
from cosim.explore.serving.deployments import Ground, Machine
from cosim.explore.serving.front import SIGNS, Found, best_of
from cosim.explore.serving.search import ServingResult, machines_of, scored, search_deployments, silent
from cosim.explore.serving.search_file import OBJECTIVES, ServingSearch
from cosim.explore.serving.simulated import Seen
from cosim.hardware.load import load_system
from cosim.overrides import Varied
from cosim.workload.load import load_workload

Search = Callable[..., ServingResult]
Study = Callable[..., ServingSearch]
Grounds = Callable[..., Ground]
Machines = Callable[..., Machine]
FEW = settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
"""Examples are searches: none is made smaller."""


def worth(found: Found, objective: str) -> float:
    """Of the best, less is better; inf where nothing fits."""
    best = best_of(found, objective)
    return np.inf if best is None else float(SIGNS[objective] * found.table[objective][best])


@FEW
@given(
    bandwidth=st.floats(1.0, 3.0),
    capacity=st.floats(1.0, 3.0),
    layout=st.sampled_from(["together", "apart"]),
    objective=st.sampled_from(["tokens_per_s_per_chip", "tokens_per_s_per_user"]),
)
def test_more_memory_or_bandwidth_never_has_less(
    study: Study,
    ground: Grounds,
    machine: Machines,
    bandwidth: float,
    capacity: float,
    layout: str,
    objective: str,
) -> None:
    # In a closed loop faster answers put more prompts in the way of each other: the first token has no limit here. More
    # sequences than an answer has steps are beyond what the steady state holds for.
    asked = study({"layout": layout, "max_sequences": [1, 8, 32, 64]}, ttft_limit=None)
    plain = worth(scored(asked, ground(), [machine(capacity=0.5)]), objective)
    wider = worth(scored(asked, ground(), [machine(bandwidth, 0.5)]), objective)
    larger = worth(scored(asked, ground(), [machine(capacity=0.5 * capacity)]), objective)
    assert wider <= plain + 1e-9 * abs(plain)
    assert larger <= plain + 1e-9 * abs(plain)


@FEW
@given(
    limits=st.tuples(st.floats(0.02, 1.0), st.floats(0.004, 0.05)),
    shares=st.tuples(st.floats(0.5, 1.0), st.floats(0.5, 1.0)),
    objective=st.sampled_from(["tokens_per_s_per_chip", "tokens_per_s_per_user", "usd_per_million_tokens"]),
)
def test_tighter_limits_never_have_a_better_best(
    study: Study,
    ground: Grounds,
    machine: Machines,
    limits: tuple[float, float],
    shares: tuple[float, float],
    objective: str,
) -> None:
    loose = study({"layout": "together"}, ttft_limit=limits[0], tpot_limit=limits[1])
    tight = study({"layout": "together"}, ttft_limit=limits[0] * shares[0], tpot_limit=limits[1] * shares[1])
    found = [worth(scored(each, ground(), [machine()]), objective) for each in (loose, tight)]
    assert found[0] <= found[1]


@FEW
@given(limit=st.floats(0.03, 1.0), share=st.floats(0.5, 1.0))
def test_nor_do_they_with_pools_apart(
    study: Study, ground: Grounds, machine: Machines, limit: float, share: float
) -> None:
    every = [study({"layout": "apart"}, ttft_limit=each) for each in (limit, limit * share)]
    found = [worth(scored(each, ground(), [machine()]), "tokens_per_s_per_chip") for each in every]
    assert found[0] <= found[1] * (1 - 1e-9) or found[0] == found[1]


def test_cells_and_layouts_do_not_know_of_each_other(study: Study, ground: Grounds, machine: Machines) -> None:
    both = study({"dtype": ["bf16", "fp8"]})
    whole = scored(both, ground(), [machine()])
    parts = [
        scored(study({"dtype": dtype, "layout": layout}), ground(), [machine()])
        for dtype in ("bf16", "fp8")
        for layout in ("together", "apart")
    ]
    assert len(whole) == sum(len(part) for part in parts)
    for name in ("tokens_per_s_per_chip", "ttft_s", "usd_per_million_tokens"):
        np.testing.assert_allclose(whole.table[name], np.concatenate([part.table[name] for part in parts]), rtol=1e-12)


def test_both_figures_stand_side_by_side(searched: Search) -> None:
    found = searched()
    assert found.best in {each.index for each in found.checked}
    assert found.holds is not None
    broken = {each.index: each.broken for each in found.checked}
    assert broken[found.holds] == ""
    table = found.found.table
    for each in found.checked:
        assert each.seen.requests >= 100
        # The front end alone takes that of every first token.
        assert each.seen.ttft_s["mean"] > float(found.ground.stack.request_start) > 0.0
        if not each.broken:
            assert each.seen.ttft_s["p90"] <= 0.5
            assert each.seen.tpot_s["p90"] <= 0.02
            # What holds is the best by the objective of all that hold.
            assert table["tokens_per_s_per_chip"][each.index] <= table["tokens_per_s_per_chip"][found.holds]
    rates = table["tokens_per_s_per_chip"][[each.index for each in found.checked]]
    assert rates.tolist() == sorted(rates.tolist(), reverse=True)
    assert found.capacity is not None
    assert found.capacity.rate > 0.5 * table["requests_per_s"][found.holds]


def test_the_same_search_finds_the_same(searched: Search, study: Study) -> None:
    again = search_deployments(
        study().model_dump(exclude_none=True),
        [Varied(load_system("dgx-h200"))],
        Varied(load_workload("llama-3.1-8b")),
        silent,
    )
    found = searched()
    assert again.checked == found.checked
    assert again.capacity == found.capacity
    assert again.front.tolist() == found.front.tolist()


def test_nothing_is_simulated_where_nobody_asks(searched: Search) -> None:
    found = searched(check="none")
    assert (found.checked, found.holds, found.capacity) == ((), None, None)
    assert found.best == searched().best


def test_arrivals_may_be_those_of_a_rate(searched: Search) -> None:
    found = searched(check="poisson", capacity=False, statistic="p50")
    assert found.capacity is None
    assert found.checked


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_its_best(searched: Search, objective: str) -> None:
    found = searched(objective=objective, check="none")
    assert found.best is not None
    fits = found.found.fits
    values = SIGNS[objective] * found.found.table[objective]
    assert values[found.best] == values[fits].min()


def test_where_nothing_fits_there_is_no_best(searched: Search) -> None:
    found = searched(tpot_limit=1e-5)
    assert (found.best, found.holds, found.capacity, len(found.front)) == (None, None, None, 0)
    with pytest.raises(SpecError, match="holds no deployment within the limits"):
        found.to_row()


def test_systems_are_given_as_many_chips(study: Study, ground: Grounds) -> None:
    machines = machines_of([Varied(load_system("dgx-h200")), Varied(load_system("gb200-nvl72"))], 16)
    assert [float(each.system.chips) for each in machines] == [16.0, 72.0]
    found = scored(study(chips=16), ground(study(chips=16)), machines)
    names = {found.cell_of(index).machine.name for index in np.flatnonzero(found.fits)}
    assert names == {"dgx-h200", "gb200-nvl72"}


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        (
            {"space": {"tensor": 3}},
            "llama-3.1-8b",
            "space: holds no legal deployment on 4 chips; most break tensor_par",
        ),
        ({"space": {"tensor": 8}}, "llama-3.1-8b", "space: holds no legal deployment on 4 chips; most break chips"),
        ({"stack": "vlm"}, "llama-3.1-8b", "nearest: vllm"),
        ({"space": {"systems": "dgx-h20"}}, "llama-3.1-8b", "nearest: dgx-h200"),
        ({}, "resnet-50", "workload: is not served token by token"),
        ({"prompt": 200_000}, "llama-3.1-8b", "most break positions"),
    ],
)
def test_what_cannot_be_searched(changes: dict[str, Any], model: str, words: str) -> None:
    asked = {"prompt": 1000, "output": 100, "chips": 4, **changes}
    with pytest.raises(SpecError, match=words):
        search_deployments(asked, [Varied(load_system("dgx-h200"))], Varied(load_workload(model)), silent)


STACK = """\
name: {policy}
title: a stack of its own
policy: {policy}
token_budget: {{value: 4096, unit: "", kind: estimated, source: x}}
max_sequences: {{value: 64, unit: "", kind: estimated, source: x}}
memory_share: {{value: 0.9, unit: "", kind: estimated, source: x}}
"""


def own_stack(folder: Path, policy: str) -> dict[str, Any]:
    """A search with a stack in a file."""
    path = folder / "own.yaml"
    path.write_text(STACK.format(policy=policy), encoding="utf-8")
    space = {"max_sequences": [4, 8], "dtype": "bf16", "pipeline": 1}
    return {"prompt": 1000, "output": 50, "chips": 2, "stack": str(path), "space": space, "capacity": False}


def test_prompts_may_go_first(tmp_path: Path) -> None:
    systems, model = [Varied(load_system("dgx-h200"))], Varied(load_workload("llama-3.1-8b"))
    found = search_deployments({**own_stack(tmp_path, "first"), "requests": 60}, systems, model, silent)
    layouts = {found.to_row(int(index))["layout"] for index in np.flatnonzero(found.found.fits)}
    assert layouts == {"together", "apart"}
    assert found.checked
    for each in found.checked:
        assert each.seen.requests_per_s == pytest.approx(found.found.table["requests_per_s"][each.index], rel=0.35)


def test_batches_may_run_to_their_end(tmp_path: Path) -> None:
    systems, model = [Varied(load_system("dgx-h200"))], Varied(load_workload("llama-3.1-8b"))
    asked = own_stack(tmp_path, "static")
    found = search_deployments({**asked, "check": "none"}, systems, model, silent)
    assert {found.to_row(index)["layout"] for index in range(len(found.found))} == {"together"}
    assert found.best is not None
    with pytest.raises(SpecError, match=r"check: is not known of a static stack .*check none"):
        search_deployments(asked, systems, model, silent)
    with pytest.raises(SpecError, match=r"space.layout: is not known of a static stack .*layout together"):
        search_deployments({**asked, "check": "none", "space": {"layout": "apart"}}, systems, model, silent)


def test_a_chip_without_a_price_has_no_cost() -> None:
    spec = load_system("dgx-h200")
    free = Varied(spec.model_copy(update={"chip": spec.chip.model_copy(update={"price": None})}))
    asked = {"prompt": 1000, "output": 100, "chips": 1, "objective": "usd_per_million_tokens"}
    with pytest.raises(SpecError, match=r"objective: is unknown for this system.*its chip has no price"):
        search_deployments(asked, [free], Varied(load_workload("llama-3.1-8b")), silent)


def test_the_python_name() -> None:
    h200, llama = cosim.system("dgx-h200"), cosim.workload("llama-3.1-8b")
    space = {"tensor": 1, "pipeline": 1, "max_sequences": [8, 16]}
    asked = {"prompt": 1000, "output": 100, "chips": 2, "space": space, "check": "none"}
    one, both = cosim.search_serving(h200, llama, **asked), cosim.search_serving([h200, h200], llama, **asked)
    assert one.to_row()["plan"] == both.to_row()["plan"]
    with pytest.raises(SpecError, match="unknown field"):
        cosim.search_serving(h200, llama, **asked, limit=3)
    with pytest.raises(SpecError, match="is on one system and one workload"):
        cosim.search_serving(h200.vary({"nodes": np.array([1.0, 2.0])}), llama, **asked)


def test_experts_are_searched_over_all_their_ranks() -> None:
    asked = {"prompt": 1000, "output": 100, "chips": 4, "space": {"max_sequences": [8, 32], "layout": "together"}}
    systems, model = [Varied(load_system("dgx-h200"))], Varied(load_workload("qwen3-30b-a3b"))
    found = search_deployments({**asked, "check": "none"}, systems, model, silent)
    table = found.found.table
    kinds = {tuple(row) for row in zip(table["tensor"], table["data"], table["expert"], strict=True)}
    assert {(1, 1, 1), (1, 4, 4), (2, 2, 4), (4, 1, 4), (4, 1, 1), (2, 1, 2)} <= kinds
    assert np.all(table["tensor"] * table["pipeline"] * table["data"] * table["replicas"] == 4)
    assert "expert" in found.to_row()


def test_a_32b_model_on_8_chips_is_searched_whole() -> None:
    asked = {"prompt": 4000, "output": 500, "chips": 8, "ttft_limit": "1 s", "tpot_limit": "30 ms", "check": "none"}
    systems, model = [Varied(load_system("dgx-h200"))], Varied(load_workload("qwen3-32b"))
    found = search_deployments(asked, systems, model, silent)
    assert len(found.found) > 3000
    assert found.best is not None
    row = found.to_row()
    assert row["ttft_s"] <= 1.0
    assert row["tpot_s"] <= 0.03
    # Time asks for a machine of its own: 'benchmarks/serving_search.py' prints it. This is far beyond it.
    assert found.closed_form_s < 10.0


def test_progress_says_the_size_first(study: Study, ground: Grounds, machine: Machines) -> None:
    said: list[tuple[int, int, str]] = []
    scored(study(), ground(), [machine()], lambda done, of, what: said.append((done, of, what)))
    assert said[0] == (0, 1, "6 legal replicas in 1 cells")
    assert said[-1] == (1, 1, "dgx-h200 bf16, cache bf16")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.6, 0.85, 1.0, 1.1])
@pytest.mark.parametrize("simulated", [2, 3, 5])
def test_the_best_that_holds_is_found_by_halves(
    study: Study,
    ground: Grounds,
    machine: Machines,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    simulated: int,
) -> None:
    asked = study({"max_sequences": list(range(1, 65))}, simulated=simulated)
    found = scored(asked, ground(), [machine()])
    front, best = search.front_of_users(found), best_of(found, asked.objective)
    rates = found.table["tokens_per_s_per_chip"]
    bound = rates[front].min() + share * (rates[front].max() - rates[front].min()) - 1e-9 * rates[front].max()
    asks: list[int] = []

    def made_up(_study: ServingSearch, _ground: Ground, _found: Found, index: int) -> search.Checked:
        asks.append(index)
        seen = Seen({"p90": 0.1}, {"p90": 0.1}, 1.0, kept_up=True, preemptions=0, requests=100)
        return search.Checked(index, seen, "tpot_limit" if rates[index] > bound else "")

    monkeypatch.setattr(search, "simulate", made_up)
    checked, holds = search._checked(asked, ground(), found, front, best, silent)
    assert len(asks) == len(set(asks)) == len(checked) <= simulated + np.log2(len(front)) + 1
    good = [index for index in front if rates[index] <= bound]
    tried = {each.index for each in checked if not each.broken}
    assert bool(tried) == bool(good)
    # Rates fall along the front, and its last member is always tried: the first that holds is the best of all.
    assert holds == max(good, key=lambda index: rates[index], default=None)


@pytest.mark.parametrize("budget", [1024, 4096])
def test_ranks_in_step_are_as_fast_by_simulation(budget: int) -> None:
    space = {"tensor": 1, "pipeline": 1, "data": 4, "expert": 4, "max_sequences": 16, "token_budget": budget}
    asked = {"prompt": 4000, "output": 200, "chips": 4, "space": {**space, "dtype": "fp8", "layout": "together"}}
    systems, model = [Varied(load_system("dgx-h200"))], Varied(load_workload("qwen3-30b-a3b"))
    found = search_deployments({**asked, "check": "closed_loop", "capacity": False}, systems, model, silent)
    (seen,) = (each.seen for each in found.checked)
    row = found.to_row()
    assert seen.requests_per_s == pytest.approx(row["requests_per_s"], rel=0.15)
    assert seen.tpot_s["mean"] == pytest.approx(row["tpot_s"], rel=0.12)
