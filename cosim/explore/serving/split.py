"""The feed-forward side of a replica that is split: its chips, its degrees, the way of the tokens, whether it has room.

chips     tensor x data of either side; one system that holds both has them in one node where they fit into it
degrees   left open: the least number of chips in a node whose share has room, of experts or of the width
room      share x memory - weights - activations of the tokens of all ranks of attention in a full step
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cosim.engines.case import Case
from cosim.engines.served_memory import Room, room_beside
from cosim.engines.served_split import Split, split_of
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.serving.serve_file import FeedForward, ServingPlan
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.mapping.legal import LIMITS, Verdict, divisibility, divisors
from cosim.overrides import Varied
from cosim.records import Array, array, at
from cosim.units import format_si
from cosim.workload.model import ModelArrays


@dataclass(frozen=True, slots=True)
class Beside:
    """Chips for the feed-forward layers as asked; `together`: chips of the system that does attention."""

    system: Varied[System]
    asked: FeedForward
    together: bool


def split_case(near: Case, beside: Beside, completed: dict[str, object]) -> Split:
    """The replica whose attention `near` does. Raises SpecError, InfeasibleError where the other side is not legal.

    `completed` is told the degrees that were left open.
    """
    if not splits(near.model):
        hint = "attention and feed-forward work side by side on one input: they stay on one chip"
        raise SpecError("is not split", field="feed_forward", value=near.model.name, hint=hint)
    system = lower_system(beside.system)
    asked, dtype = beside.asked.plan, near.plan.dtype
    if dtype not in system.chip.matrix.peak:
        hint = f"{system.chip.name} has {', '.join(system.chip.matrix.peak)}"
        raise SpecError("has no matrix rate on this side", field="feed_forward.system", value=dtype, hint=hint)
    if all(degree is None for degree in (asked.tensor_parallel, asked.data_parallel, asked.expert_parallel)):
        split = _least(near, beside, system)
        for name, degree in _degrees(split.feed_forward).items():
            completed[f"feed_forward.plan.{name}_parallel"] = degree
    else:
        tensor, expert = asked.tensor_parallel or 1, asked.expert_parallel or 1
        data = asked.data_parallel or max(expert // tensor, 1)
        split = _split(near, beside, system, (tensor, data, expert))
    _check(split)
    return split


def check_near(asked: ServingPlan, draft: str | None) -> None:
    """Raises SpecError for what a replica cannot have whose feed-forward layers lie on chips of their own.

    `draft`: name of a model that drafts, if any.
    """
    for name in ("expert_parallel", "pipeline_parallel", "micro_batches"):
        value = getattr(asked, name)
        if value not in (None, 1):
            other = "feed_forward.micro_batches" if name == "micro_batches" else f"feed_forward.plan.{name}"
            hint = "both sides hold every layer" if name == "pipeline_parallel" else f"give {other}"
            raise SpecError("is not one of the attention side", field=f"plan.{name}", value=value, hint=hint)
    if draft is not None:
        hint = "drafts by n_gram cost no chips"
        raise SpecError("drafts on neither side", field="speculation.draft", value=draft, hint=hint)


def splits(model: ModelArrays) -> bool:
    """Whether feed-forward layers follow attention: side by side both share an input, and one sum over ranks."""
    return not model.parallel_norms


def full_step_tokens(near: Case) -> Array:
    """Tokens of all ranks of attention in a full step."""
    budget = array(1.0) if near.stack is None else near.stack.token_budget
    return near.plan.data * budget


def room_of_forward(split: Split) -> Room:
    """What takes how much of the fullest chip of the feed-forward side, leaves ()."""
    return at(room_beside(split.feed_forward, full_step_tokens(split.attention)), 0)


def _degrees(far: Case) -> dict[str, int]:
    plan = far.plan
    return {"tensor": int(plan.tensor), "data": int(plan.data), "expert": int(plan.expert)}


def _split(near: Case, beside: Beside, system: SystemArrays, degrees: tuple[int, int, int]) -> Split:
    """Both sides with tensor, data and expert degrees of the feed-forward side."""
    tensor, data, expert = (array(float(degree)) for degree in degrees)
    micro = array(float(beside.asked.micro_batches))
    plan = replace(near.plan, tensor=tensor, data=data, expert=expert)
    scenario = replace(near.scenario, batch=data * micro)
    far = replace(near, system=system, plan=plan, scenario=scenario)
    chips = float(near.plan.chips + tensor * data)
    inside = beside.together and chips <= float(near.system.node_chips)
    return split_of(near, far, micro, array(float(inside)))


def _least(near: Case, beside: Beside, system: SystemArrays) -> Split:
    """On the least number of chips of a node that has room; of none that has, the largest that is legal."""
    found: Split | None = None
    for count in divisors(int(system.node_chips)):
        degrees = (1, count, count) if near.model.is_moe else (count, 1, 1)
        split = _split(near, beside, system, degrees)
        if _limits(split).code:
            continue
        found = split
        if float(room_of_forward(split).left) > 0.0:
            break
    return _split(near, beside, system, (1, 1, 1)) if found is None else found


def _limits(split: Split) -> Verdict:
    """Limits of the degrees of the feed-forward side."""
    far = split.feed_forward
    return divisibility(far.plan, far.scenario, far.model, far.system.chips, far.phase, far.side)


def _check(split: Split) -> None:
    """Raises InfeasibleError for degrees that do not divide, or weights that have no room."""
    far = split.feed_forward
    shown = ", ".join(f"{name} {degree}" for name, degree in _degrees(far).items() if degree > 1) or "one chip"
    text = f"the feed-forward side of {far.model.name} on {far.system.name}, {shown}"
    verdict = _limits(split)
    if verdict.code:
        limit, lacks = LIMITS[int(verdict.code)], f"{float(verdict.shortfall):.4g}"
        raise InfeasibleError(limit.name, f"{text}, {limit.says.format(lacks)}", limit.hint)
    held = room_of_forward(split)
    if float(held.left) >= 0.0:
        return
    parts = {name: float(getattr(held, name)) for name in ("weights", "activations", "other")}
    named = ", ".join(f"{name} {format_si(value, 'B', 3)}" for name, value in parts.items())
    short, most = format_si(-float(held.left), "B", 3), format_si(float(held.most), "B", 3)
    hint = "use more chips in feed_forward.plan, a narrower plan.dtype or a smaller scheduler.token_budget"
    raise InfeasibleError("memory", f"{text}, has no room: {named} of {most}; lacks {short}", hint)
