"""The table of steps of a replica, made by the same functions that cost a single step: one array call a term.

    linear   decodes of T tokens at one cached token, nothing drawn, less their attention
    head     the same with all T rows drawn, less the first
    decode   decodes of T at C cached tokens, less linear
    prefill  T tokens of prompts that see C keys on average, less linear: one piece, or where C is less than its own
             tokens give, as many whole prompts as see C

Ranks that share out experts beyond the tensor ranks run in step: it lasts as long as the busiest of them, which has a
whole prompt where there are fewer prompts than ranks. Its experts see the tokens of all ranks either way.

Every term is what a whole step takes more, so that pipelines, limits of power and kernels that no graph replays are in
it. The host's time is told apart. Tables rise: what a finer tiling makes a little faster at more tokens is levelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case, device_graph
from cosim.engines.served_memory import room_of
from cosim.engines.served_split import Split, split_step, way_joules
from cosim.engines.serving.layout import Held, Layout
from cosim.engines.serving.limited import Limited
from cosim.engines.serving.table import StepTable
from cosim.engines.serving.timed import (
    Timed,
    issue_seconds,
    loads_of,
    seconds_of,
    split_seconds_of,
    unissued,
    wide_case,
    without_host,
)
from cosim.engines.step import op_costs
from cosim.errors import SpecError
from cosim.records import Array, array, at, points
from cosim.workload.moe import repeats
from cosim.workload.work import Work

LONG = 4096.0
"""Cached tokens at which the cache of a block is taken: a window is then full."""
PARTS = 16
"""Parts that a block may have, so that whole numbers of them tell what is kept inside and past a window."""
LEAST_CONTEXT = 64.0
LEAST_TILE = 64.0
"""Rows of the smallest tiles of products, about."""
MANY, PIECE = 64.0, 2048.0
"""Decoding sequences of a rank, and most tokens of a prompt, whose attention's energy is taken for that of all.

So are kernels of such a step.
"""


def step_table(
    case: Case, *, most_tokens: int, most_context: int, piece: int | None = None, draft: Case | None = None
) -> StepTable:
    """Seconds of any step of up to `most_tokens` new tokens and `most_context` keys, of the replica that `case` is.

    `case` is of phase serve, one point, its stack given; `piece` the most tokens of one prompt in a step, None as many
    as there are; `draft` a smaller model that drafts on the same chips.
    """
    drafted = None if draft is None else partial(seconds_of, unissued(draft))
    timed = partial(seconds_of, unissued(case))
    made = _table(case, timed, (most_tokens, most_context, piece), drafted, _issues(case, partial(issue_seconds, case)))
    power, ranks = case.system.chip.power, float(case.plan.data)
    loads = partial(loads_of, unissued(case))
    linear, head, decode, prefill = _terms(loads, (ranks, float(piece or most_tokens)), made.tokens, made.contexts)
    limited = Limited(linear, head, prefill, decode, float(power.limit - power.idle), float(power.floor_voltage))
    return replace(made, limited=limited) if limited.holds else made


def _table(
    case: Case,
    timed: Timed,
    most: tuple[int, int, int | None],
    drafted: Timed | None,
    issues: tuple[float, float],
) -> StepTable:
    """A table of what `timed` says up to `most` tokens, keys and tokens of one prompt, with the host of `case`.

    `issues`: seconds to issue the kernels of a step with prompts, and of decodes alone.
    """
    tokens, contexts = _stairs(float(most[0])), _doubling(LEAST_CONTEXT, float(most[1]))
    contexts = np.concatenate([[1.0], contexts])
    ranks, piece = float(case.plan.data), float(most[2] or most[0])
    linear, head, decode, prefill = _terms(timed, (ranks, piece), tokens, contexts)
    stack = case.stack
    own = case.system.chip.launch.host_step
    step = own if stack is None or np.isnan(stack.host_step) else stack.host_step
    return StepTable(
        tokens=tokens,
        contexts=contexts,
        linear_s=linear,
        head_s=head,
        prefill_s=prefill,
        decode_s=decode,
        host_step_s=float(step),
        host_sequence_s=0.0 if stack is None else float(stack.host_sequence),
        host_hidden=stack is not None and stack.host_hidden,
        draft_s=None if drafted is None else _draft(drafted, (ranks, piece), tokens, contexts),
        issue_s=issues[0],
        issue_decode_s=issues[1],
        graph_tokens=0.0 if stack is None else float(stack.graph_tokens) * ranks,
        graph_decodes=stack is not None and stack.graph_decodes,
    )


def split_table(split: Split, *, most_tokens: int, most_context: int, piece: int | None = None) -> StepTable:
    """The table of a deployment whose attention and feed-forward lie on chips of their own: see `served_split`.

    The host is that of the attention side, which holds the scheduler.
    """
    case = split.attention
    timed = partial(split_seconds_of, split)
    issues = _issues(case, lambda work: split_step(split, work).issued)
    return _table(case, timed, (most_tokens, most_context, piece), None, issues)


def _issues(case: Case, issued: Callable[[Work], Array]) -> tuple[float, float]:
    """What `issued` says of a step with prompts, and of decodes alone [s]: hardly a kernel more or less by its size."""
    none, one, ranks = array(0.0), array(1.0), case.plan.data
    # Enough decodes that every micro-batch of a split replica has some.
    many, found = MANY * ranks, []
    for chunks in (ranks, none):
        work = Work(chunks, PIECE * one, none, many, LONG * one, many + chunks)
        found.append(float(np.ravel(issued(work))[0]))
    return found[0], found[1]


def kv_layout(case: Case, block_tokens: int, draft: Case | None = None) -> tuple[int, Layout]:
    """Blocks of the cache that a replica holds, 0 where its weights do not fit, and what a sequence takes of them.

    bytes = state + near tokens, past a window state + near window + far (tokens - window): lines through the bytes that
    `room` tells of a half and a whole window, and of two. A block is the part of `block_tokens` tokens that makes both
    near and far whole numbers. A model that drafts on the same chips adds to each. Raises SpecError for a model that
    keeps nothing.
    """
    model, held = case.model, held_of(case, draft)
    window, near, state = held.window, held.near, held.state
    left = max(float(at(room_of(case, array(LONG), draft).left, 0)), 0.0)
    if near > 0.0:
        parts = Fraction(held.far / near).limit_denominator(PARTS)
        each = near * block_tokens / parts.denominator
        # What is left of a difference is no state.
        kept = math.ceil(state / each - 1e-6)
        layout = Layout(max(kept, 0), parts.denominator, parts.numerator, window)
    elif state > 0.0:
        each, layout = state, Layout(1, 0, 0)
    else:
        raise SpecError("keeps no cache", field="model", value=model.name)
    return int(left // each) * int(case.plan.data), layout


def held_of(case: Case, draft: Case | None = None) -> Held:
    """Bytes of a sequence on the fullest chip, as lines through those of a half and a whole window, and of two."""
    model = case.model
    window = int(at(model.window, 0)) if model.has_window else 0
    length = float(window or LONG)
    lengths = (0.5 * length, length, 2.0 * length)
    half, full, double = (float(at(room_of(case, array(tokens), draft).per_sequence, 0)) for tokens in lengths)
    near = 2.0 * (full - half) / length
    return Held(max(full - near * length, 0.0), near, (double - full) / length, window)


def _terms(
    timed: Timed, shares: tuple[float, float], tokens: Array, contexts: Array
) -> tuple[Array, Array, Array, Array]:
    """linear [T], head [T], decode [T, C], prefill [T, C] of what `timed` tells: all rise; of ranks, linear + prefill.

    `shares`: ranks, and most tokens of one prompt. What a rank with a whole prompt takes longer than an even share
    falls where more prompts make up the tokens. Axes of `timed` in front of the points stay in front.
    """
    ranks, piece = shares
    zero, one = np.zeros_like(tokens), np.ones_like(tokens)
    # The busiest of several ranks has whole sequences.
    busy = np.ceil(tokens / ranks) * ranks
    none_drawn = Work(zero, zero, zero, busy, one, zero)
    linear = np.maximum.accumulate(timed(none_drawn, bare=True), axis=-1)
    drawn = timed(Work(zero, zero, zero, busy, one, busy)) - timed(none_drawn)
    head = np.maximum.accumulate(np.maximum(drawn, 0.0), axis=-1)
    rows, keys = (each.reshape(-1) for each in np.meshgrid(tokens, contexts, indexing="ij"))

    def on_grid(values: Array) -> Array:
        return values.reshape(*values.shape[:-1], tokens.size, contexts.size)

    many, none = np.ceil(rows / ranks) * ranks, np.zeros_like(rows)
    decode = timed(Work(none, none, none, many, keys, none))
    # Tokens of one prompt see half of it: of few keys there are several short prompts.
    each = np.minimum(np.minimum(rows, piece), 2.0 * np.maximum(keys, LEAST_CONTEXT) - 1.0)
    past = np.maximum(keys - (each + 1.0) / 2.0, 0.0)
    prompts = rows / each
    shared = Work(prompts, each, past, none, none, none)
    even = timed(shared)
    added = _risen(on_grid(even), linear)
    if ranks > 1.0:
        # Ranks without a prompt are no work: the experts have the tokens that there are.
        busiest = timed(replace(shared, chunks=np.maximum(prompts, ranks)), shared)
        longer = on_grid(np.maximum(busiest - even, 0.0))
        together = linear[..., None] + added + np.maximum.accumulate(longer, axis=-1)
        added = np.maximum.accumulate(together, axis=-2) - linear[..., None]
    return linear, head, _risen(on_grid(decode), linear), added


def _risen(whole: Array, linear: Array) -> Array:
    """What attention adds to `linear` [..., T], rising along both axes [..., T, C]."""
    added = np.maximum(whole - linear[..., None], 0.0)
    return np.maximum.accumulate(np.maximum.accumulate(added, axis=-2), axis=-1)


def _draft(timed: Timed, shares: tuple[float, float], tokens: Array, contexts: Array) -> Array:
    """Seconds in which a smaller model drafts one token for so many sequences, at a context of LONG [T]."""
    linear, head, decode, _ = _terms(timed, shares, tokens, contexts)
    at = int(np.argmin(np.abs(contexts - LONG)))
    return linear + head + decode[:, at]


def _stairs(most: float) -> Array:
    """Counts of tokens from 1 to `most`: those of `_doubling`, and the next one where products begin another tile.

    Between full tiles alone a line would be below every step of the stairs.
    """
    full = _doubling(1.0, most)
    found = np.unique(np.concatenate([full, full[full >= LEAST_TILE] + 1.0]))
    return found[found <= most]


def _doubling(least: float, most: float) -> Array:
    """Numbers from `least` to `most`: powers of two of it, and one between each two."""
    steps = np.arange(int(np.ceil(np.log2(max(most / least, 1.0)))) + 1)
    powers = least * 2.0**steps
    between = np.ceil(powers * 1.5)
    found = np.unique(np.concatenate([powers, between, [most]]))
    return found[found <= most]


@dataclass(frozen=True, slots=True)
class StepEnergy:
    """Joules of a step over all chips of a replica, beyond what they draw idle; `idle_w` is that.

    `linear_j` [T] all but attention and states over the new tokens of sequences, `head_j` [T] the rows drawn; these:
    `prefill_j` [C] a prompt token that sees so many keys on average, `decode_j` [C] a decoding sequence at a context.
    """

    tokens: Array
    contexts: Array
    linear_j: Array
    head_j: Array
    prefill_j: Array
    decode_j: Array
    idle_w: float


def step_energy(case: Case, *, most_tokens: int, most_context: int) -> StepEnergy:
    """Energy of any step of the replica that `case` is; arguments as those of `step_table`.

    Energy of attention is told by sequence and by token: what a kernel moves and multiplies grows with both.
    """
    tokens, contexts = _doubling(1.0, float(most_tokens)), _doubling(LEAST_CONTEXT, float(most_context))
    contexts = np.concatenate([[1.0], contexts])
    hostless, ranks = without_host(case), float(case.plan.data)
    zero, one = np.zeros_like(tokens), np.ones_like(tokens)
    busy = np.ceil(tokens / ranks) * ranks
    bare = Work(zero, zero, zero, busy, one, zero)
    whole = _joules(hostless, bare)
    linear = whole * (1.0 - _attention_share(hostless, bare))
    head = _joules(hostless, Work(zero, zero, zero, busy, one, busy)) - whole
    none, ones = np.zeros_like(contexts), np.ones_like(contexts)
    many = MANY * ranks * ones
    decode = _joules(hostless, Work(none, none, none, many, contexts, none))
    decode = np.maximum(decode - np.interp(many, tokens, linear), 0.0)
    # A piece that sees so few keys on average is no longer than this.
    piece = np.clip(np.floor(2.0 * contexts - 1.0), 1.0, min(PIECE, max(float(most_tokens) // ranks, 1.0)))
    alone = Work(ranks * ones, piece, np.maximum(contexts - (piece + 1.0) / 2.0, 0.0), none, none, none)
    prompts = ranks * piece
    # Between points of the tables a side without attention has what lines leave over, and no more.
    seen = 0.0 if case.side == "feed_forward" else 1.0
    prefill = np.maximum(_joules(hostless, alone) - np.interp(prompts, tokens, linear), 0.0) / prompts
    chip = case.system.chip.power
    return StepEnergy(
        tokens=tokens,
        contexts=contexts,
        linear_j=np.maximum.accumulate(linear),
        head_j=np.maximum.accumulate(np.maximum(head, 0.0)),
        prefill_j=seen * prefill,
        decode_j=seen * np.maximum.accumulate(decode) / many,
        idle_w=float(chip.idle) * float(case.plan.chips),
    )


def split_energy(split: Split, *, most_tokens: int, most_context: int) -> tuple[StepEnergy, StepEnergy]:
    """The same of either side of a replica, attention first, with the links that tokens leave it by."""
    found = [step_energy(case, most_tokens=most_tokens, most_context=most_context) for case in split.sides]
    ways = (way_joules(split, energy.tokens)[side] for side, energy in enumerate(found))
    near, far = (replace(own, linear_j=own.linear_j + way) for own, way in zip(found, ways, strict=True))
    return near, far


def _attention_share(case: Case, work: Work) -> Array:
    """Share of the dynamic energy of a step that is of attention and states, (P,)."""
    own = wide_case(case, work)
    model, device = case.model, device_graph(own)
    parts = {"attention": array(0.0), "all": array(0.0)}
    for op in op_costs(own, device):
        joules = op.count * op.energy * repeats(model, op.group)
        parts["all"] = parts["all"] + joules
        if op.kind == "attention":
            parts["attention"] = parts["attention"] + joules
    share = parts["attention"] / np.where(parts["all"] > 0.0, parts["all"], 1.0)
    return np.broadcast_to(share, (points(own),))


def _joules(case: Case, work: Work) -> Array:
    """Joules of a step of each point of `work` beyond those of chips that idle as long, (P,)."""
    wide = wide_case(case, work)
    timed, _ = timed_step(wide)
    idle = case.system.chip.power.idle * case.plan.chips
    return np.broadcast_to(timed["energy"] - idle * timed["time"], (points(wide),))
