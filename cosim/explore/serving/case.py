"""From descriptions to one pool of replicas: its case of phase `serve`, its steps, its scheduler, and how many.

    replica   tensor x pipeline chips, times the ranks that share out experts beyond the tensor ranks
    replicas  data_parallel / those ranks, or as many as are asked for
    split     feed-forward layers on chips of their own beside those of attention: see `cosim.explore.serving.split`
    cache     what the stack's share of memory leaves beside weights and activations, in blocks
    drafter   a smaller model on the same chips, cut the same way: its weights, and its cache of every sequence

What is left open is completed by the stack and the chip, and told in `completed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosim.dtypes import bytes_per_element, is_wide
from cosim.engines.case import Case
from cosim.engines.served_memory import Room, room_of
from cosim.engines.served_split import Split
from cosim.engines.serving.layout import Held
from cosim.engines.serving.settings import Batching, Scheduler, Speculation, Swap
from cosim.engines.serving.steps import (
    LONG,
    StepEnergy,
    held_of,
    kv_layout,
    split_energy,
    split_table,
    step_energy,
    step_table,
)
from cosim.engines.serving.table import StepTable
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.explain import plan_text
from cosim.explore.serving.serve_file import N_GRAM, SchedulerSettings, ServingPlan, SpeculationSettings
from cosim.explore.serving.split import Beside, check_near, split_case
from cosim.explore.space import best_native
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.mapping.legal import LIMITS, divisibility, divisors
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.serving import Serving, ServingArrays, lower_serving
from cosim.overrides import Varied
from cosim.records import array, at
from cosim.units import format_si
from cosim.workload.load import Workload, lower_workload
from cosim.workload.model import ModelArrays
from cosim.workload.sides import Side

LONGEST = 131_072
"""Keys up to which steps are tabled; beyond them they go on as straight lines."""
LEAST_SEQUENCES = 8
"""Long sequences that a plan must have room for to be taken where none is given."""
BATCHINGS: dict[str, Batching] = {"chunked": "chunked", "first": "prefill_first", "static": "static"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One pool as asked: descriptions with their overrides, and numbers that go with them."""

    system: Varied[System]
    model: Varied[Workload]
    plan: ServingPlan
    stack: Serving
    scheduler: SchedulerSettings
    replicas: int | str | None = None
    expert_imbalance: float = 0.0
    speculation: SpeculationSettings | None = None
    draft: Varied[Workload] | None = None
    prefix_tokens: int | None = None
    """Tokens of a block by which requests name shared text; None: they name none."""
    beside: Beside | None = None
    """Chips of their own for the feed-forward layers."""
    taken: float = 0.0
    """Chips of the system that another pool has."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """A pool that can be simulated."""

    case: Case
    count: int
    table: StepTable
    energy: StepEnergy
    scheduler: Scheduler
    room: Room
    """Memory of the fullest chip at a cache of LONG tokens a sequence."""
    completed: Mapping[str, object]
    draft_energy: StepEnergy | None = None
    """Of the model that drafts, if one does."""
    split: Split | None = None
    """With feed-forward layers on chips of their own; `case` is then the attention side."""
    forward_energy: StepEnergy | None = None
    """Of these chips."""

    @property
    def own_chips(self) -> float:
        """Chips of one replica that are of its own system: all but those that do feed-forward layers alone."""
        return float(self.case.plan.chips)

    @property
    def forward_chips(self) -> float:
        """Chips of one replica that do feed-forward layers alone."""
        return 0.0 if self.split is None else float(self.split.feed_forward.plan.chips)

    @property
    def chips(self) -> float:
        """Chips of one replica."""
        return self.own_chips + self.forward_chips

    @property
    def token_bytes(self) -> float:
        """Cache of a token on the fullest chip [B], of sequences of LONG tokens."""
        return float(self.room.per_sequence) / LONG


def replicas_of(wanted: Wanted) -> Replicas:
    """The pool with its tables. Raises SpecError on bad input, InfeasibleError where it is not legal or has no room."""
    completed: dict[str, object] = {}
    system, model = lower_system(wanted.system), lower_workload(wanted.model)
    if model.network:
        hint = f"{model.name} is a network of layers: 'cosim estimate prefill' asks its time"
        raise SpecError("has no tokens to serve", field="workload", value=model.name, hint=hint)
    stack = _stack(wanted)
    plan = _formats(wanted, system, completed)
    case, split, count = _placed(wanted, plan, (system, model, stack), completed)
    scheduler = _scheduler(wanted, case, completed)
    most = max(scheduler.token_budget, scheduler.max_sequences * scheduler.verified)
    longest = min(int(model.max_positions), LONGEST)
    draft = _drafter(wanted, case)
    sizes = {"most_tokens": most, "most_context": longest}
    piece = scheduler.longest_piece
    if split is not None:
        energy, forward = split_energy(split, **sizes)
        table = split_table(split, **sizes, piece=piece)
        return Replicas(case, count, table, energy, scheduler, held(case), completed, None, split, forward)
    table = step_table(case, most_tokens=most, most_context=longest, piece=piece, draft=draft)
    energy = step_energy(case, **sizes)
    drafted = None if draft is None else step_energy(draft, **sizes)
    return Replicas(case, count, table, energy, scheduler, held(case, draft), completed, drafted)


def held(case: Case, draft: Case | None = None) -> Room:
    """What takes how much of the fullest chip of a replica, leaves (), with sequences of LONG tokens.

    A model that drafts adds weights and cache; one of the two models works at a time.
    """
    return at(room_of(case, array(LONG), draft), 0)


def _drafter(wanted: Wanted, case: Case) -> Case | None:
    """The model that drafts as a replica on the same chips; a dense one has no experts to share out."""
    if wanted.draft is None:
        return None
    model = lower_workload(wanted.draft)
    plan = case.plan if model.is_moe else replace(case.plan, expert=array(1.0))
    return replace(case, model=model, plan=plan)


def _stack(wanted: Wanted) -> ServingArrays:
    """The stack with what the scheduler says otherwise."""
    stack, asked = lower_serving(wanted.stack), wanted.scheduler
    for name in ("token_budget", "max_sequences", "memory_share"):
        value = getattr(asked, name)
        changed: dict[str, Any] = {} if value is None else {name: array(value)}
        stack = replace(stack, **changed)
    return stack


def _formats(wanted: Wanted, system: SystemArrays, completed: dict[str, object]) -> dict[str, Any]:
    """Formats of products, weights and cache by their fields of a plan. Raises SpecError."""
    asked, peaks = wanted.plan, system.chip.matrix.peak
    dtype: str = asked.dtype or best_native(system.chip)
    weights: str | None = asked.weights_dtype
    if asked.dtype is None:
        completed["plan.dtype"] = dtype
    if dtype in wanted.stack.weight_only and weights is None:
        wide = next((name for name in ("bf16", "fp16", "fp32") if name in peaks), dtype)
        completed["plan.weights_dtype"] = f"{dtype}: the stack multiplies in {wide}"
        dtype, weights = wide, dtype
    if dtype not in peaks:
        hint = f"{system.chip.name} has {', '.join(peaks)}"
        raise SpecError("has no matrix rate", field="plan.dtype", value=dtype, hint=hint)
    cache: str | None = asked.kv_dtype
    if cache is None:
        narrow = not is_wide(weights or dtype) and bytes_per_element(weights or dtype) <= 1.0
        cache = str(wanted.stack.kv_dtype) if narrow and wanted.stack.kv_dtype else "bf16"
        completed["plan.kv_dtype"] = cache
    return {"dtype": dtype, "weights_dtype": weights, "kv_dtype": cache, "latent": asked.latent} | {
        "algorithm": asked.algorithm
    }


def _placed(
    wanted: Wanted,
    formats: Mapping[str, Any],
    parts: tuple[SystemArrays, ModelArrays, ServingArrays],
    completed: dict[str, object],
) -> tuple[Case, Split | None, int]:
    """The case of one replica, both sides of a split one, how many there are. Raises SpecError, InfeasibleError."""
    asked = wanted.plan
    if wanted.beside is not None:
        check_near(asked, None if wanted.draft is None else wanted.draft.spec.name)
    degrees = (asked.tensor_parallel, asked.pipeline_parallel, asked.expert_parallel, asked.data_parallel)
    if all(degree is None for degree in degrees):
        tensor = _least_tensor(wanted, formats, parts)
        completed["plan.tensor_parallel"] = tensor
    else:
        tensor = asked.tensor_parallel or 1
    if asked.micro_batches is None and asked.pipeline_parallel not in (None, 1):
        completed["plan.micro_batches"] = asked.pipeline_parallel
    expert = asked.expert_parallel or 1
    ranks = max(expert // tensor, 1) if wanted.beside is None else asked.data_parallel or 1
    case = _case(wanted, formats, parts, tensor, ranks)
    _check(case, wanted, held(case, _drafter(wanted, case)))
    split = None if wanted.beside is None else split_case(case, wanted.beside, completed)
    return case if split is None else split.attention, split, _count(wanted, case, split, ranks, completed)


def _case(
    wanted: Wanted,
    formats: Mapping[str, Any],
    parts: tuple[SystemArrays, ModelArrays, ServingArrays],
    tensor: int,
    ranks: int,
) -> Case:
    """One replica: `ranks` of them run in step where they share out experts."""
    system, model, stack = parts
    asked = wanted.plan
    stages = asked.pipeline_parallel or 1
    beside = wanted.beside
    # Every stage always has one micro-batch in hand, as engines run them.
    micro = (asked.micro_batches or stages) if beside is None else beside.asked.micro_batches
    plan = Plan(
        tensor_parallel=tensor,
        pipeline_parallel=stages,
        data_parallel=ranks,
        expert_parallel=asked.expert_parallel or 1,
        micro_batches=micro,
        **formats,
    )
    scenario = Scenario(batch=ranks * micro, context=1, expert_imbalance=wanted.expert_imbalance)
    side: Side = "whole" if beside is None else "attention"
    lowered = lower_plan(Varied(plan)), lower_scenario(Varied(scenario))
    return Case("serve", system, model, *lowered, stack=stack, side=side)


def _check(case: Case, wanted: Wanted, found: Room) -> None:
    """Raises InfeasibleError for a plan that does not divide, a model that drafts too, or has no room for a cache."""
    draft = _drafter(wanted, case)
    for each in (case,) if draft is None else (draft, case):
        verdict = divisibility(each.plan, each.scenario, each.model, each.system.chips, each.phase, each.side)
        text = f"{each.model.name} on {each.system.name}, {plan_text(each, 0)}"
        code = int(verdict.code)
        if code:
            limit, lacks = LIMITS[code], f"{float(verdict.shortfall):.4g}"
            raise InfeasibleError(limit.name, f"{text}, {limit.says.format(lacks)}", limit.hint)
    blocks, layout = kv_layout(case, wanted.scheduler.block_tokens, draft)
    if blocks >= layout.blocks(1, wanted.scheduler.block_tokens):
        return
    hint = "use more tensor parallelism, a narrower plan.dtype, a smaller scheduler.token_budget or a larger "
    raise InfeasibleError(
        "memory", f"{text}, leaves no room for a cache: {memory_text(found)}", f"{hint}scheduler.memory_share"
    )


def memory_text(found: Room) -> str:
    """What takes how much of the fullest chip, in words."""
    most, one = float(found.most), float(found.per_sequence)
    parts = {name: float(getattr(found, name)) for name in ("weights", "activations", "other")}
    rest = float(found.share) * (most - sum(parts.values()))
    shown = ", ".join(f"{name} {format_si(value, 'B', 3)}" for name, value in parts.items())
    ends = f"lacks {format_si(-rest, 'B', 3)}" if rest < 0.0 else f"{format_si(rest, 'B', 3)} are left"
    sequence = f"a sequence of {LONG:,.0f} tokens takes {format_si(one, 'B', 3)}"
    return f"{shown} of the {format_si(most, 'B', 3)} that the stack may take; {ends}, {sequence}"


def _least_tensor(
    wanted: Wanted, formats: Mapping[str, Any], parts: tuple[SystemArrays, ModelArrays, ServingArrays]
) -> int:
    """The least tensor degree inside a node that has room; raises InfeasibleError, of the largest that is legal."""
    system, model, _ = parts
    legal = [
        degree
        for degree in divisors(int(system.node_chips))
        if not divisibility(
            (case := _case(wanted, formats, parts, degree, 1)).plan,
            case.scenario,
            model,
            system.chips,
            "serve",
            case.side,
        ).code
    ]
    for degree in legal:
        found = held(case := _case(wanted, formats, parts, degree, 1), _drafter(wanted, case))
        if float(found.sequences) >= LEAST_SEQUENCES:
            return degree
    return legal[-1] if legal else 1


def _count(wanted: Wanted, case: Case, split: Split | None, ranks: int, completed: dict[str, object]) -> int:
    """Replicas of the pool. Raises SpecError for a number that is said twice, does not divide or finds no chips."""
    beside = wanted.beside
    chips = float(case.plan.chips if split is None or beside is None or not beside.together else split.chips)
    have = float(case.system.chips)
    data = wanted.plan.data_parallel
    most = (have - wanted.taken) // chips
    if split is not None and beside is not None and not beside.together:
        far = split.feed_forward
        most = min(most, float(far.system.chips) // float(far.plan.chips))
    if wanted.replicas == "all":
        if most < 1:
            says = f"leaves no replica: of {have:g} chips {wanted.taken:g} only prefill, and one takes {chips:g}"
            raise SpecError(says, field="replicas", value="all", hint="use a larger system, or fewer prefill.replicas")
        return int(most)
    if isinstance(wanted.replicas, int):
        if data is not None and data > ranks:
            hint = "replicas or plan.data_parallel says how many there are"
            raise SpecError("is said twice", field="replicas", value=wanted.replicas, hint=hint)
        count = wanted.replicas
    else:
        if data is not None and data % ranks:
            hint = f"experts are shared out over {ranks} ranks of a replica"
            raise SpecError("leaves ranks over", field="plan.data_parallel", value=data, hint=hint)
        count = 1 if data is None else data // ranks
        if data is None:
            completed["replicas"] = 1
    if have // chips >= count > most + wanted.taken // chips and split is not None:
        far = split.feed_forward
        says = f"of {float(far.plan.chips):g} chips for feed-forward are more than {far.system.name} has"
        hint = f"it has {float(far.system.chips):g}: set system.nodes, or another feed_forward.system"
        raise SpecError(says, field="replicas", value=count, hint=hint)
    if count * chips > have:
        nodes = int(np.ceil(count * chips / float(case.system.node_chips)))
        says = f"of {chips:g} chips are more than the {have:g} of {case.system.name}"
        raise SpecError(says, field="replicas", value=count, hint=f"set system.nodes={nodes}")
    return count


def _scheduler(wanted: Wanted, case: Case, completed: dict[str, object]) -> Scheduler:
    """The scheduler of one replica: the stack's, as far as nothing else is said. Raises SpecError."""
    asked, stack, ranks = wanted.scheduler, case.stack, int(case.plan.data)
    if stack is None:
        raise SpecError("is missing", field="stack")
    draft = _drafter(wanted, case)
    blocks, layout = kv_layout(case, asked.block_tokens, draft)
    blocks = blocks if asked.kv_blocks is None else min(blocks, asked.kv_blocks * layout.unit)
    batching = asked.batching or BATCHINGS[stack.policy]
    drafts = wanted.speculation
    speculation = None
    if drafts is not None:
        speculation = Speculation(drafts.chances, expected=drafts.expected, n_gram=drafts.draft == N_GRAM)
    prefix = 0
    if asked.prefix_cache:
        prefix = asked.prefix_tokens or wanted.prefix_tokens or asked.block_tokens
    budget, most = int(stack.token_budget) * ranks, int(stack.max_sequences) * ranks
    verified = 1 if speculation is None else 1 + speculation.drafts
    if asked.max_sequences is None and batching == "chunked" and most * verified > budget:
        # Drafts of all that the stack would hold do not fit into a step.
        most = max(budget // verified, 1)
    for name, taken in (("token_budget", budget), ("max_sequences", most)):
        if getattr(asked, name) is None:
            completed[f"scheduler.{name}"] = taken // ranks
    return Scheduler(
        kv_blocks=blocks,
        batching=batching,
        policy=asked.policy,
        token_budget=budget,
        max_sequences=most,
        block_tokens=asked.block_tokens,
        watermark=asked.watermark,
        swap=_swap(case, held_of(case, draft)) if asked.swap else None,
        prefix_tokens=prefix,
        ageing_s=asked.ageing,
        output_weight=asked.output_weight,
        max_context=asked.max_context or int(case.model.max_positions),
        speculation=speculation,
        layout=layout,
        piece_tokens=int(stack.token_budget) if ranks > 1 else 0,
        reserve=asked.reserve or ("whole" if stack.reserves_whole else "grown"),
    )


def _swap(case: Case, own: Held) -> Swap:
    """The way to the host's memory: bytes of a sequence on a chip over the link of a chip. Raises SpecError."""
    chip = case.system.chip
    level = chip.memory.get("host")
    bandwidth = chip.links.get("host") if level is None else level.bandwidth
    if bandwidth is None:
        hint = f"{chip.name} does not say how fast it reaches its host: give links.host"
        raise SpecError("needs a link to the host", field="scheduler.swap", hint=hint)
    return Swap(own.bytes(LONG) / LONG, float(bandwidth), own)
