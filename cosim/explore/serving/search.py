"""Search over deployments for serving: all of them in closed form, the front by simulation, the capacity of the best.

Every number of the closed form stands beside the one that the simulation of the same deployment gives. The best that
holds is the best by the objective of which the simulation keeps the limits: members of the front that it refuses are
passed over, and between the last refused and the first that holds the others are tried by halves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.explore.objectives import money_of
from cosim.explore.serving.capacity import Capacity, broken_by, capacity
from cosim.explore.serving.deployments import Ground, Machine, cells_of, levels_of, replicas_of, together_of
from cosim.explore.serving.front import SIGNS, Found, Part, best_of, found_of, front_of_users
from cosim.explore.serving.metrics import Limits
from cosim.explore.serving.pools import scored_apart
from cosim.explore.serving.scores import columns_of, scored_together
from cosim.explore.serving.search_file import ServingSearch
from cosim.explore.serving.simulated import WAVES, Requests, Seen, at_rate, cluster_of, in_loop, poisson_requests
from cosim.explore.serving.split_space import scored_split
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import CODES, LIMITS
from cosim.mapping.serving import load_serving, lower_serving
from cosim.overrides import Varied
from cosim.schema import validated
from cosim.workload.load import Workload, lower_workload

Progress = Callable[[int, int, str], None]


def silent(_done: int, _of: int, _what: str) -> None:
    """No progress."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A deployment by its index, what the simulation saw of it, and the limit that it broke there ("" for none)."""

    index: int
    seen: Seen
    broken: str


@dataclass(frozen=True)
class ServingResult:
    """What a search found."""

    study: ServingSearch
    ground: Ground
    machines: tuple[Machine, ...]
    found: Found
    front: NDArray[np.intp]
    """The most tokens/s of a chip first."""
    best: int | None
    """The best in closed form."""
    checked: tuple[Checked, ...]
    """Those that were simulated, the most tokens/s of a chip first."""
    holds: int | None
    """The best that keeps its limits in the simulation; None where none does or none was simulated."""
    capacity: Capacity | None
    """Of the one that holds, or where none does of the best."""
    closed_form_s: float
    simulation_s: float

    @property
    def limits(self) -> dict[str, float]:
        """Limits of time that are asked [s]."""
        return limits_of(self.study)

    @cached_property
    def findings(self) -> dict[str, Any]:
        """What was found as plain data: sizes, the best and why, the front, what limits cost, what came nearest."""
        from cosim.explore.serving.search_findings import serving_findings

        return serving_findings(self)

    def to_row(self, index: int | None = None) -> dict[str, Any]:
        """A deployment by its index as plain values; None is the best. Raises SpecError where nothing fits."""
        from cosim.explore.serving.search_findings import described

        place = self.best if index is None else index
        if place is None:
            raise SpecError("holds no deployment within the limits", field="search", hint="see findings['nearest']")
        return described(self.found, place)


def search_deployments(
    study: Mapping[str, Any], systems: Sequence[Varied[System]], model: Varied[Workload], progress: Progress
) -> ServingResult:
    """A search given as data on the systems and the model at hand. Raises SpecError."""
    asked = validated(ServingSearch, study)
    started = time.perf_counter()
    if model.arrays or any(system.arrays for system in systems):
        raise SpecError("is on one system and one workload", field="search", hint="no arrays: search one by one")
    every = [*systems, *(Varied(load_system(name)) for name in asked.space.systems or ())]
    ground = ground_of(asked, every[0], model)
    if ground.stack.policy == "static" and asked.check != "none":
        # Clients of a loop come back one by one, and find no batch that waits to be full.
        hint = f"{ground.stack.name} fills its batches before it runs them: check none has the closed form alone"
        raise SpecError("is not known of a static stack", field="check", value=asked.check, hint=hint)
    machines = machines_of(every, ground.chips)
    found = scored(asked, ground, machines, progress)
    front, best = front_of_users(found), best_of(found, asked.objective)
    if best is None and found.fits.any():
        hint = "its chip has no price" if asked.objective == "usd_per_million_tokens" else "it is not known here"
        raise SpecError("is unknown for this system", field="objective", value=asked.objective, hint=hint)
    timed = time.perf_counter()
    checked, holds = _checked(asked, ground, found, front, best, progress)
    limit = None
    if asked.capacity and asked.check != "none" and best is not None:
        progress(0, 0, "capacity")
        limit = capacity_of(asked, ground, found, best if holds is None else holds)
    ended = time.perf_counter()
    seconds = (timed - started, ended - timed)
    return ServingResult(asked, ground, tuple(machines), found, front, best, checked, holds, limit, *seconds)


def ground_of(study: ServingSearch, system: Varied[System], model: Varied[Workload]) -> Ground:
    """What the space stands on. Raises SpecError for a model or stack that cannot be served so."""
    network, stack = lower_workload(model), load_serving(study.stack)
    if network.network:
        hint = "a network of layers has no answers: 'cosim estimate prefill' has its rate"
        raise SpecError("is not served token by token", field="workload", value=network.name, hint=hint)
    chips = study.chips or int(np.max(lower_system(system).chips))
    cache = None if stack.kv_dtype is None else str(stack.kv_dtype)
    return Ground(network, float(study.prompt), float(study.output), chips, lower_serving(stack), cache)


def machines_of(systems: Sequence[Varied[System]], chips: int) -> list[Machine]:
    """Each system with as many nodes as hold the chips."""
    found = []
    for system in systems:
        node = float(lower_system(system).node_chips)
        grown = vary_system(system, {"nodes": max(int(np.ceil(chips / node)), 1)})
        spec = grown.spec
        found.append(Machine(spec.name, lower_system(grown), money_of(spec), spec.chip.confidence))
    return found


def scored(study: ServingSearch, ground: Ground, machines: Sequence[Machine], progress: Progress = silent) -> Found:
    """Every legal deployment in closed form. Raises SpecError where there is none."""
    layouts = [name for name in study.space.layout if name == "together" or ground.stack.policy != "static"]
    if not layouts:
        hint = f"{ground.stack.name} forms batches and runs them to their end: layout together"
        asked = " and ".join(study.space.layout)
        raise SpecError("is not known of a static stack", field="space.layout", value=asked, hint=hint)
    cells, levels = cells_of(study.space, machines, ground), levels_of(study.space, ground)
    replicas = [replicas_of(cell, study.space, ground) for cell in cells]
    legal = sum(len(table["tensor"]) for table, _ in replicas)
    progress(0, len(cells), f"{legal:,} legal replicas in {len(cells)} cells")
    parts: list[Part] = []
    for place, (cell, (table, _)) in enumerate(zip(cells, replicas, strict=True)):
        for layout in layouts:
            if layout == "together":
                whole = together_of(table, levels, ground)
                scores = scored_together(cell, whole, ground, study)
            elif layout == "split":
                whole, scores = scored_split(cell, levels, ground, study)
            else:
                whole, scores = scored_apart(cell, table, levels, ground, study)
                whole = whole | {"token_budget": np.full(len(scores.code), float(ground.stack.token_budget))}
            parts.append(Part(place, layout, whole, scores, columns_of(cell, whole, scores, ground)))
        progress(place + 1, len(cells), f"{cell.machine.name} {cell.label}")
    if not parts or not sum(len(part.scores.code) for part in parts):
        raise _none_legal(ground, next((limit for _, limit in replicas if limit), "chips"))
    return found_of(cells, parts)


def limits_of(study: ServingSearch) -> dict[str, float]:
    """Limits of time that are asked [s]."""
    both = {"ttft_limit": study.ttft_limit, "tpot_limit": study.tpot_limit}
    return {name: bound for name, bound in both.items() if bound is not None}


def simulate(study: ServingSearch, ground: Ground, found: Found, index: int) -> Checked:
    """A deployment by events, at the load that the closed form gives it."""
    row = found.row(index)
    flying = int(row["concurrency"])
    count = max(study.requests, WAVES * flying)
    requests = _requests(ground, count, study.seed)
    cluster = cluster_of(found.cell_of(index), row, ground)
    if study.check == "poisson":
        seen = at_rate(cluster, requests, row["requests_per_s"], study.seed)
    else:
        seen = in_loop(cluster, requests, flying, study.seed)
    slow = broken_by(
        replace(seen, kept_up=seen.kept_up or study.check == "closed_loop"), _bounds(study), study.statistic
    )
    return Checked(index, seen, slow)


def capacity_of(study: ServingSearch, ground: Ground, found: Found, index: int) -> Capacity:
    """The largest rate of requests that a deployment serves within the limits."""
    row = found.row(index)
    count = max(study.requests, WAVES * int(row["concurrency"]))
    requests = _requests(ground, count, study.seed)
    cluster = cluster_of(found.cell_of(index), row, ground)
    return capacity(cluster, requests, _bounds(study), study.statistic, row["requests_per_s"], seed=study.seed)


def _requests(ground: Ground, count: int, seed: int) -> Requests:
    """Requests of the study, each of which passes the stack's front end."""
    stack = ground.stack
    start, steps = float(stack.request_start), float(stack.request_steps)
    return poisson_requests(ground.prompt, ground.output, count, seed, start, steps)


def _bounds(study: ServingSearch) -> Limits:
    return Limits(study.ttft_limit, study.tpot_limit)


def _checked(
    study: ServingSearch,
    ground: Ground,
    found: Found,
    front: NDArray[np.intp],
    best: int | None,
    progress: Progress,
) -> tuple[tuple[Checked, ...], int | None]:
    """Members of the front that were simulated, and the best that holds."""
    if study.check == "none" or best is None:
        return (), None
    # The best by another objective need not lie on the front.
    members = np.array([*front, *([] if best in front else [best])], dtype=np.intp)
    worth = SIGNS[study.objective] * found.table[study.objective][members]
    members = members[np.argsort(worth, kind="stable")]
    done: dict[int, Checked] = {}

    def held(place: int) -> bool:
        if place not in done:
            progress(len(done), 0, f"simulating front member {place + 1} of {len(members)}")
            done[place] = simulate(study, ground, found, int(members[place]))
        return not done[place].broken

    spread = np.unique(np.linspace(0, len(members) - 1, min(study.simulated, len(members))).round().astype(int))
    kept = [int(place) for place in spread if held(int(place))]
    first = kept[0] if kept else None
    if first is not None:
        low = max((place for place in done if place < first), default=-1)
        while first - low > 1:
            middle = (low + first) // 2
            low, first = (low, middle) if held(middle) else (middle, first)
    order = np.argsort([-found.table["tokens_per_s_per_chip"][each.index] for each in done.values()], kind="stable")
    every = tuple(done.values())
    return tuple(every[place] for place in order), None if first is None else int(members[first])


def _none_legal(ground: Ground, limit: str) -> SpecError:
    hint = f"most break {limit}: {LIMITS[CODES[limit]].hint}"
    return SpecError(f"holds no legal deployment on {ground.chips} chips", field="space", hint=hint)
