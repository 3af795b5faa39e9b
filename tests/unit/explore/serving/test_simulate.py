"""One deployment under requests: same seed same figures, more replicas never slower, energy and money, front end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.explore.serving.deployed import Deployed
from cosim.explore.serving.metrics import Limits, metrics_row
from cosim.explore.serving.records import Served, where
from cosim.explore.serving.simulate import Outcome, simulate
from cosim.schema import validated
from cosim.workload.requests.description import Joint, RequestPattern

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Ready = Callable[..., Deployed]
Pattern = Callable[..., RequestPattern]


def run(made: Deployed, requests: RequestPattern, **fields: Any) -> Outcome:
    limits = fields.pop("limits", Limits())
    return simulate(made, requests, limits, np.random.SeedSequence(3), **fields)


def test_the_same_seed_gives_the_same_run(ready: Ready, pattern: Pattern) -> None:
    made, requests = ready(replicas=2, routing="power_of_two"), pattern()
    first, again = run(made, requests), run(made, requests)
    assert first.row == pytest.approx(again.row, nan_ok=True)
    assert first.segments == again.segments
    once = np.random.SeedSequence(3)
    assert [simulate(made, requests, Limits(), once).row["ttft_s.mean"] for _ in range(2)] == [
        first.row["ttft_s.mean"]
    ] * 2
    other = simulate(made, requests, Limits(), np.random.SeedSequence(4))
    assert other.row["ttft_s.mean"] != first.row["ttft_s.mean"]


def test_deployments_see_the_same_requests(ready: Ready, pattern: Pattern) -> None:
    arrivals: list[list[float]] = []
    for made in (ready(), ready(replicas=3, routing="random"), ready(prefill={"replicas": 1})):
        taken: list[Served] = []
        run(made, pattern(), taken=taken.append)
        found = np.concatenate([part.arrival_s for part in taken])
        arrivals.append(np.sort(found).tolist())
    assert arrivals[0] == arrivals[1] == arrivals[2]


@pytest.mark.parametrize("fields", [{}, {"scheduler": {"batching": "prefill_first"}}, {"prefill": {"replicas": 1}}])
def test_figures_are_those_of_the_records(ready: Ready, pattern: Pattern, fields: dict[str, Any]) -> None:
    taken: list[Served] = []
    limits = Limits(ttft_limit_s=0.09, tpot_limit_s=0.009)
    outcome = run(ready(**fields), pattern(rate=15.0), taken=taken.append, limits=limits)
    whole = taken[0]
    assert len(taken) == 1
    expected = metrics_row(whole, limits)
    for name in ("ttft_s.p99", "tpot_s.p50", "e2e_s.mean", "queueing_s.p90", "output_tokens_per_s", "good_share"):
        assert outcome.row[name] == pytest.approx(expected[name]), name
    assert outcome.row["finished"] == len(whole) == 200
    # Every gap between tokens is in one of the answers: their sum is the time after the first tokens.
    if not fields:
        gaps = float((whole.finished_s - whole.first_token_s).sum()) / float((whole.output_tokens - 1).sum())
        assert outcome.row["itl_s.mean"] == pytest.approx(gaps)


def test_more_replicas_are_never_slower(ready: Ready, pattern: Pattern) -> None:
    requests = pattern(300, rate=60.0, prompt=1024)
    rows = [run(ready(replicas=count, routing="least_loaded"), requests).row for count in (1, 2, 4)]
    for name in ("ttft_s.mean", "e2e_s.mean", "e2e_s.p99", "mean_batch"):
        assert rows[0][name] >= rows[1][name] >= rows[2][name], name
    assert rows[0]["power_w"] > rows[2]["power_w"]
    assert rows[0]["tokens_per_j_facility"] > rows[2]["tokens_per_j_facility"]
    assert rows[0]["usd_per_million_tokens"] < rows[2]["usd_per_million_tokens"]


def test_the_front_end_is_in_every_latency_but_the_time_per_token(ready: Ready, pattern: Pattern) -> None:
    made = ready()
    bare = run(replace(made, start_s=0.0), pattern()).row
    late = run(replace(made, start_s=0.25), pattern()).row
    for name in ("ttft_s.p50", "e2e_s.p50", "queueing_s.mean"):
        assert late[name] == pytest.approx(bare[name] + 0.25)
    assert late["tpot_s.p50"] == pytest.approx(bare["tpot_s.p50"])


def test_a_closed_loop_waits_for_the_front_end(ready: Ready, pattern: Pattern) -> None:
    one = pattern(20, arrivals={"kind": "closed", "concurrency": 1})
    bare = run(replace(ready(), start_s=0.0), one).row
    late = run(replace(ready(), start_s=0.25), one).row
    # One user: each request takes its own time, and the front end's.
    assert late["makespan_s"] == pytest.approx(bare["makespan_s"] + 19 * 0.25)
    assert late["e2e_s.mean"] == pytest.approx(bare["e2e_s.mean"] + 0.25)


def test_power_lies_between_idle_and_the_limit(ready: Ready, pattern: Pattern) -> None:
    made = ready()
    idle = float(made.pool.case.system.chip.power.idle)
    calm, busy = (run(made, pattern(100, rate=rate)).row["power_w"] for rate in (0.2, 30.0))
    assert idle < calm < busy <= float(made.pool.case.system.chip.power.limit) * 1.01


def test_money_by_hand(ready: Ready, pattern: Pattern) -> None:
    made = ready()
    row = run(made, pattern()).row
    chip, facility = made.system.chip, made.system.facility
    assert chip.price is not None
    seconds = facility.lifetime_years.si * 365.25 * 86400.0
    rate = 200 * 32 / row["makespan_s"]
    assert row["energy_j"] == pytest.approx(row["power_w"] * row["makespan_s"])
    assert row["tokens_per_s_per_chip"] == row["output_tokens_per_s_per_chip"]
    assert row["tokens_per_s_per_user"] == pytest.approx(1.0 / row["tpot_s.mean"])
    capital = chip.price.si / seconds / rate
    energy = facility.energy_price.si / row["tokens_per_j_facility"]
    assert row["usd_per_million_tokens"] == pytest.approx(1e6 * (capital + energy))
    watts = row["power_w"] + float(made.pool.case.system.server_power)
    assert 1.0 / row["tokens_per_j_facility"] == pytest.approx(watts * float(made.pool.case.system.pue) / rate)


def test_what_is_unknown_is_not_a_number(ready: Ready, pattern: Pattern) -> None:
    asic = run(ready(system="asic-8", plan={"tensor_parallel": 1}), pattern()).row
    assert np.isnan(asic["usd_per_million_tokens"])
    assert asic["power_w"] > 0.0


def test_a_model_that_drafts_takes_energy(ready: Ready, pattern: Pattern) -> None:
    fields = {"workload": "llama-3.1-70b", "plan": {"tensor_parallel": 4, "dtype": "bf16"}}
    drafts = {"acceptance": 0.7, "drafts": 2}
    looked_up = run(ready(**fields, speculation=drafts), pattern()).row
    made = run(ready(**fields, speculation={"draft": "llama-3.1-8b", **drafts}), pattern()).row
    assert 0.0 < made["tokens_per_j_facility"] < looked_up["tokens_per_j_facility"]
    assert made["kv_occupancy"] > looked_up["kv_occupancy"]


def test_drafts_that_are_accepted_shorten_answers(ready: Ready, pattern: Pattern) -> None:
    plain = run(ready(), pattern()).row
    drafted = run(ready(speculation={"acceptance": 0.9, "drafts": 3}), pattern()).row
    assert drafted["tpot_s.mean"] < 0.6 * plain["tpot_s.mean"]
    # An answer of 32 tokens in steps of up to 4.
    assert drafted["e2e_s.mean"] < plain["e2e_s.mean"]
    # A sequence's time between tokens is its time for a token, drafts or not.
    for row in (plain, drafted):
        assert row["itl_s.mean"] == pytest.approx(row["tpot_s.mean"], rel=0.1)


def test_shared_prompts_hit_the_cache(ready: Ready, pattern: Pattern) -> None:
    requests = pattern(system_prompts={"share": 1.0, "tokens": 512})
    cold = run(ready(prefix_tokens=16), requests).row
    warm = run(ready(prefix_tokens=16, scheduler={"prefix_cache": True}), requests).row
    assert cold["hit_rate"] == 0.0
    # All but the first few find 512 of 768 tokens.
    assert 0.6 < warm["hit_rate"] <= 2 / 3
    assert warm["ttft_s.mean"] < cold["ttft_s.mean"]


def test_the_warm_up_is_served_and_not_counted(ready: Ready, pattern: Pattern) -> None:
    taken: list[Served] = []
    row = run(ready(), pattern(), warm_up_s=20.0, taken=taken.append).row
    late = where(taken[0], taken[0].arrival_s >= 20.0)
    assert (row["finished"], row["counted"]) == (200, len(late))
    assert row["ttft_s.p50"] == pytest.approx(metrics_row(late)["ttft_s.p50"])
    with pytest.raises(SpecError, match="warm_up: leaves no request to count"):
        run(ready(), pattern(), warm_up_s=1e6)


def test_requests_that_can_never_be_served_are_counted(ready: Ready, pattern: Pattern) -> None:
    rows = validated(Joint, {"rows": [[100, 10], [5000, 10]]})
    mixed = pattern().model_copy(update={"joint": rows, "prompt": None, "output": None})
    row = run(ready(scheduler={"max_context": 2000}), mixed).row
    assert row["requests"] == 200
    assert row["finished"] + row["refused"] == 200
    assert 60 < row["refused"] < 140
    # Who is refused has no answer within any limit.
    assert row["good_share"] <= row["finished"] / 200
    with pytest.raises(SpecError, match=r"none of 200 can be served .200 by max_context"):
        run(ready(scheduler={"max_context": 20}), pattern())


def test_a_short_cache_is_full_and_preempts(ready: Ready, pattern: Pattern) -> None:
    requests = pattern(rate=50.0, output=200)
    roomy = run(ready(), requests).row
    tight = run(ready(scheduler={"kv_blocks": 200}), requests).row
    assert tight["preemptions"] > roomy["preemptions"] == 0
    assert 0.5 < tight["kv_occupancy"] <= tight["most_kv_occupancy"] <= 1.0
    assert tight["e2e_s.mean"] > roomy["e2e_s.mean"]


def test_figures_of_two_pools_are_of_the_one_that_decodes(ready: Ready, pattern: Pattern) -> None:
    made = ready(replicas=2, prefill={"replicas": 1})
    outcome = run(made, pattern(rate=20.0))
    row = outcome.row
    assert (row["chips"], row["transfers"], row["mean_replicas"]) == (3.0, 200, 3.0)
    assert row["mean_replicas_decoding"] == pytest.approx(2.0)
    assert {segment[-1] for segment in outcome.segments} == {0, 1, 2}
    assert max(outcome.series["busy"]) <= 2.0 + 1e-9


def test_chips_that_scaling_pays_for(ready: Ready, pattern: Pattern) -> None:
    scale = {"measure": "queue", "target": 1, "most": 4, "interval": "2 s", "start": "1 s"}
    row = run(ready(autoscale=scale), pattern(400, rate=60.0, prompt=4000)).row
    assert 1.0 < row["chips"] < 4.0
    assert row["chips"] == row["mean_replicas"]


def test_failures_send_requests_again(ready: Ready, pattern: Pattern) -> None:
    made = ready(replicas=2, failures={"mean_up": "5 s", "mean_repair": "1 s"})
    row = run(made, pattern()).row
    assert row["failures"] > 0
    assert row["finished"] == 200
    assert row["resent"] > 0
