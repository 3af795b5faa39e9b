"""One deployment under one stream of requests: simulated, counted as it goes, and what it is worth in one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.economics.price import Serving, cost_per_million_tokens
from cosim.engines.serving.cluster import serve
from cosim.engines.serving.replica import Segment
from cosim.engines.serving.result import Record, ServingRun
from cosim.errors import SpecError
from cosim.explore.serving.demand import chunks_of, loop_of
from cosim.explore.serving.deployed import Deployed, Side
from cosim.explore.serving.metrics import Limits
from cosim.explore.serving.power import Joules
from cosim.explore.serving.records import COLUMNS, Served, later, served_of
from cosim.explore.serving.series import KEPT, Series
from cosim.explore.serving.tally import Tally, of_histogram
from cosim.hardware.system import System
from cosim.records import array
from cosim.workload.requests.description import RequestPattern

Taken = Callable[[Served], None]
Progress = Callable[[int], None]
"""Told how many requests have been served."""
_AT = {name: index for index, name in enumerate(COLUMNS)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run gave: totals, one row, what happened over time, distributions, runs of steps from the start."""

    run: ServingRun
    row: dict[str, Any]
    series: dict[str, Any]
    distributions: dict[str, list[float]]
    segments: tuple[Segment, ...]


def simulate(
    deployed: Deployed,
    pattern: RequestPattern,
    limits: Limits,
    seed: np.random.SeedSequence,
    *,
    warm_up_s: float = 0.0,
    taken: Taken | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Serves all requests of `pattern` once. `taken` is given the records in chunks. Raises SpecError.

    Requests and replicas draw from generators of their own, so that deployments see the same requests.
    """
    # Children by number, whoever asked this sequence for some before.
    drawn, inside = (np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, part)) for part in (0, 1))
    counters = _Counters(deployed, limits, warm_up_s, taken, progress)
    run = serve(
        deployed.cluster,
        chunks_of(pattern, np.random.default_rng(drawn), deployed.cluster.entry.scheduler.prefix_tokens),
        np.random.default_rng(inside),
        closed_loop=loop_of(pattern, deployed.start_s),
        records=counters.records,
        segments=counters.segments,
    )
    if not run.finished:
        why = ", ".join(f"{count} by {reason}" for reason, count in run.refused.items())
        raise SpecError(f"none of {run.requests} can be served ({why or 'none came'})", field="requests")
    tally = counters.tally
    if not tally.count:
        raise SpecError("leaves no request to count", field="warm_up", value=warm_up_s)
    names = ("ttft_s", "tpot_s", "e2e_s")
    return Outcome(
        run,
        _row(deployed, run, counters),
        counters.series.drawn(run.makespan_s),
        {name: tally.distribution(name) for name in names},
        tuple(counters.kept),
    )


class _Counters:
    """Takes what the simulation hands out, chunk by chunk."""

    def __init__(
        self, deployed: Deployed, limits: Limits, warm_up_s: float, taken: Taken | None, progress: Progress | None
    ) -> None:
        self.deployed, self.taken, self.progress = deployed, taken, progress
        self.tally = Tally(limits, warm_up_s)
        entry = deployed.cluster.entry.scheduler
        drafts = deployed.cluster.pool.scheduler.speculation
        step_tokens = 1.0 if drafts is None else drafts.mean_tokens
        self.series = Series(pauses=entry.batching != "chunked", step_tokens=step_tokens)
        self.kept: list[Segment] = []
        scale = deployed.cluster.autoscale
        self.decoding = deployed.pool.count if scale is None else scale.most
        self.joules = [_joules(deployed, side) for side in deployed.sides]
        self.entry = len(deployed.pools) - 1

    def records(self, rows: list[Record]) -> None:
        """Records of served requests, with the front end's time on them."""
        columns = array(rows).T
        inside = served_of({name: columns[at] for name, at in _AT.items()})
        served = later(inside, self.deployed.start_s, self.deployed.start_steps)
        self.tally.add(served)
        for side, joules in zip(self.deployed.sides, self.joules, strict=True):
            if side.pool == self.entry:
                joules.add_prompts(served)
            if side.pool == 0:
                joules.add_answers(served)
        if self.taken is not None:
            self.taken(served)
        if self.progress is not None:
            self.progress(self.tally.served)

    def segments(self, rows: list[Segment]) -> None:
        """Runs of steps, each to its pool."""
        self.kept += rows[: KEPT - len(self.kept)]
        own, before = rows, list[Segment]()
        if self.deployed.prefill is not None:
            own = [row for row in rows if row[-1] < self.decoding]
            before = [row for row in rows if row[-1] >= self.decoding]
        self.series.add(own)
        for side, joules in zip(self.deployed.sides, self.joules, strict=True):
            joules.add_steps(own if side.pool == 0 else before)


def _joules(deployed: Deployed, side: Side) -> Joules:
    scheduler = deployed.pools[side.pool][0].scheduler
    speculation = scheduler.speculation
    mean = 1.0 if speculation is None else speculation.mean_tokens
    return Joules(side.energy, scheduler.verified, mean, side.draft_energy)


def _row(deployed: Deployed, run: ServingRun, counters: _Counters) -> dict[str, Any]:
    """All figures of a run by column name; what is not known is NaN."""
    rates, means = counters.tally.rates(), counters.series.means()
    latencies = counters.tally.percentiles()
    token_s = latencies["tpot_s.mean"]
    span = run.makespan_s
    before = 0 if deployed.prefill is None else deployed.prefill.count
    seconds = [run.replica_s - before * span, before * span]
    chip_s = sum(spent * pool.chips for spent, (pool, _) in zip(seconds, deployed.pools, strict=False))
    # Chips that autoscaling pays for on average.
    chips = chip_s / span if span > 0.0 else deployed.chips
    blocks = deployed.pool.scheduler.kv_blocks
    return {
        "requests": run.requests,
        "finished": run.finished,
        "counted": rates.counted,
        "refused": sum(run.refused.values()),
        "preemptions": run.preemptions,
        "resent": run.resent,
        "failures": run.failures,
        "transfers": run.transfers,
        "makespan_s": span,
        "chips": chips,
        **latencies,
        **{f"itl_s.{name}": value for name, value in of_histogram(counters.series.token_gaps).items()},
        "percentile_error": counters.tally.error,
        "requests_per_s": rates.requests_per_s,
        "output_tokens_per_s": rates.output_tokens_per_s,
        "total_tokens_per_s": rates.total_tokens_per_s,
        # A request that is refused keeps no limit.
        "good_share": rates.good_share * run.finished / max(run.finished + sum(run.refused.values()), 1),
        "good_requests_per_s": rates.good_requests_per_s,
        "good_tokens_per_s": rates.good_tokens_per_s,
        "output_tokens_per_s_per_chip": rates.output_tokens_per_s / chips,
        "good_tokens_per_s_per_chip": rates.good_tokens_per_s / chips,
        "tokens_per_s_per_chip": rates.output_tokens_per_s / chips,
        "tokens_per_s_per_user": 1.0 / token_s if token_s > 0.0 else float("nan"),
        "hit_rate": run.hit_rate,
        "mean_batch": means.batch,
        "mean_waiting": means.waiting,
        "kv_occupancy": means.blocks / blocks,
        "most_kv_occupancy": max(run.most_blocks[: counters.decoding]) / blocks,
        "utilisation": sum(run.busy_s) / run.replica_s if run.replica_s > 0.0 else float("nan"),
        "mean_replicas": run.replica_s / span if span > 0.0 else float("nan"),
        "mean_replicas_decoding": seconds[0] / span if span > 0.0 else float("nan"),
        **_money(deployed, run, counters.joules, seconds),
    }


def _money(deployed: Deployed, run: ServingRun, joules: list[Joules], seconds: list[float]) -> dict[str, Any]:
    """Energy and power of chips, tokens of a joule, cost of a million output tokens over the whole run."""
    nan, span, tokens = float("nan"), run.makespan_s, float(run.output_tokens)
    names = ("energy_j", "power_w", "tokens_per_j_chip", "tokens_per_j_facility", "usd_per_million_tokens")
    if not span > 0.0:
        return dict.fromkeys(names, nan)
    chip_j = facility_j = chip_s = 0.0
    usd: float | None = 0.0
    for each, side in zip(joules, deployed.sides, strict=True):
        spent = seconds[side.pool]
        own_s, own = spent * side.chips, each.total_j(spent)
        whole = (own + float(side.arrays.server_power) * own_s) * float(side.arrays.pue)
        cost = _cost(side.system, own_s / span, tokens / span, whole / tokens)
        usd = None if usd is None or cost is None else usd + cost
        chip_j, facility_j, chip_s = chip_j + own, facility_j + whole, chip_s + own_s
    found = (chip_j, chip_j / chip_s, tokens / chip_j, tokens / facility_j, nan if usd is None else usd)
    return dict(zip(names, found, strict=True))


def _cost(system: System, chips: float, tokens_per_s: float, energy_j: float) -> float | None:
    """What the chips and the energy of a pool cost, for a million output tokens of the deployment [USD]."""
    price = system.chip.price
    return cost_per_million_tokens(
        Serving(
            tokens_per_s=tokens_per_s / chips,
            energy_per_token_j=energy_j,
            price_usd=None if price is None else price.si,
            energy_price_usd_per_j=system.facility.energy_price.si,
            lifetime_years=system.facility.lifetime_years.si,
        )
    )
