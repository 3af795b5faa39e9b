"""Fused attention on a tile machine: the best block of queries or split of the context, over all candidates at once.

Two kernels, as serving stacks have them. Keys are walked in steps of 64.

    blocks   (prompts, training)   rows of 16 to 128 queries of the heads that share a key/value head
        items = batch kv_heads ceil(queries heads_per_kv / rows) splits
        step  = most of: block_step_cycles, products over a core's rate, exponentials, vector FLOP
        core  = most of: items / cores ((mean keys / splits / 64 + 1/2) step + block_cycles), the longest block
    splits   (decode)              one block a group of heads or a head, its context cut in 1 to 128 pieces
        items = batch groups splits              waves = ceil(items / cores)
        core  = waves (ceil(keys / splits / 64) step + split_item_cycles)
    time     = attention_start + core + memory (+ attention_split where the context is cut)

Memory and arithmetic add up: the tables show that these kernels overlap them badly. The constants are those of a
library of kernels or of the chip; `lower.KERNEL_CONSTANTS` defines them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.lower import ChipArrays
from cosim.records import Array, array, map_leaves, take
from cosim.timing.cost import COMPUTE, LATENCY, MEMORY, KernelCost
from cosim.timing.unique import unique_rows

KEYS = 64.0
MIN_ROWS = 16.0
"""Rows of the smallest matrix instruction (m16n8k16 of the PTX ISA)."""
ROWS = np.array([16.0, 32.0, 64.0, 128.0])[:, None]
SPLITS = array(2.0 ** np.arange(8))[:, None]
ROWS_AND_SPLITS = (np.repeat(ROWS, SPLITS.size, axis=0), np.tile(SPLITS, (ROWS.size, 1)))
PACKED_AND_SPLITS = (np.repeat([[True], [False]], SPLITS.size, axis=0), np.tile(SPLITS, (2, 1)))
CHUNK = 512
NEEDED = (
    "attention_start",
    "block_step_cycles",
    "block_cycles",
    "split_step_cycles",
    "split_item_cycles",
    "attention_split",
    "group_limit",
)


@dataclass(frozen=True, slots=True)
class Work:
    """One kernel, leaves of shape () or (N,): what `attention.work_of` reads from the op and the chip.

    `groups` key/value heads of all sequences, each of `per_group` heads and `query` queries a head; `context` keys,
    `keys` that a query sees on average, `reach` the most that one sees. `products` FLOP per score, `vector` FLOP per
    score. `near` and `far` bytes: queries and outputs, cached keys and values; `resident` bytes of the latter are on
    chip. `rate` [FLOP/s] at the kernel's quality; `dram`, `cache` [B/s]; `special`, `peak` of the vector units.
    """

    groups: Array
    per_group: Array
    query: Array
    context: Array
    keys: Array
    reach: Array
    products: Array
    vector: Array
    near: Array
    far: Array
    resident: Array
    flop: Array
    rate: Array
    dram: Array
    cache: Array
    special: Array
    peak: Array
    depth: Array
    """Products of a step over those of a forward pass: a gradient waits as much longer."""


@dataclass(frozen=True, slots=True)
class _Core:
    """What the chip's constants say: cycles turned to seconds."""

    cores: Array
    start: Array
    block_step: Array
    block: Array
    split_step: Array
    item: Array
    split: Array
    limit: Array


def is_tiled(chip: ChipArrays) -> bool:
    """Whether the chip is a tile machine that carries constants of attention kernels.

    Raises SpecError where it carries some of them and not others.
    """
    missing = [name for name in NEEDED if name not in chip.kernel]
    if missing and len(missing) < len(NEEDED):
        raise SpecError("attention kernels need this constant too", field=f"calibration.constants.{missing[0]}")
    return not missing and chip.cores is not None and chip.matrix.clock is not None


def tiled_cost(work: Work, chip: ChipArrays, *, blocks: bool, latent: bool) -> KernelCost:
    """Cost of attention kernels on a tiled chip, launch not included: of blocks of queries, or of a split context.

    Kernels of a `latent` cache are made for its one large group; others serve `group_limit` heads together at most.
    Every unique (work, chip) is costed once.
    """
    core = _core(chip, latent=latent)
    parts: tuple[Work, _Core] = (work, core)
    shape = np.broadcast_shapes(*(leaf.shape for part in parts for leaf in _leaves(part)), (1,))
    full = map_leaves(parts, lambda leaf: np.broadcast_to(leaf, shape))
    columns = [np.ascontiguousarray(leaf) for part in full for leaf in _leaves(part)]
    first, inverse = unique_rows(columns)
    kernel = _blocks if blocks else _splits
    costs = [kernel(*take(full, first[start : start + CHUNK])) for start in range(0, first.size, CHUNK)]
    names = ("time", "compute", "memory", "flop", "dram_bytes", "cache_bytes", "bound")
    whole = {name: np.concatenate([getattr(cost, name) for cost in costs]).take(inverse) for name in names}
    tiling = [np.concatenate([cost.tiling[place] for cost in costs]).take(inverse) for place in range(3)]
    return KernelCost(**whole, tiling=(tiling[0], tiling[1], tiling[2]), overlaps=False)


def _leaves(part: Work | _Core) -> list[Array]:
    return [getattr(part, each.name) for each in fields(part)]


def _core(chip: ChipArrays, *, latent: bool) -> _Core:
    kernel = chip.kernel
    clock = array(1.0) if chip.matrix.clock is None else chip.matrix.clock
    return _Core(
        cores=array(1.0) if chip.cores is None else chip.cores,
        start=kernel["attention_start"],
        block_step=kernel["block_step_cycles"] / clock,
        block=kernel["block_cycles"] / clock,
        split_step=kernel["split_step_cycles"] / clock,
        item=kernel["split_item_cycles"] / clock,
        split=kernel["attention_split"],
        limit=array(np.inf) if latent else kernel["group_limit"],
    )


def _blocks(work: Work, core: _Core) -> KernelCost:
    """Blocks of queries; uneven causal blocks are dealt out evenly. Few queries have their context cut as well."""
    rows, splits = ROWS_AND_SPLITS
    items = work.groups * np.ceil(work.query * work.per_group / rows) * splits
    queries = np.minimum(rows / work.per_group, work.query)
    # A block walks the keys of its last query; the mean query sees half a block less.
    longest = np.minimum(work.context, work.reach + np.maximum(queries - 1.0, 0.0))
    seen = np.minimum(work.keys + np.maximum(queries - 1.0, 0.0) / 2.0, longest)
    least, around = core.block_step * work.depth, core.block * work.depth
    step = np.maximum(_step(work, core, rows, rows * KEYS), least)
    shared = items / core.cores * ((seen / splits / KEYS + 0.5) * step + around)
    compute = np.maximum(shared, longest / splits / KEYS * step + around)
    moved = work.near + work.far
    memory = np.broadcast_to((moved - work.resident) / work.dram, compute.shape)
    waits = np.where(step <= least, LATENCY, COMPUTE)
    extra = core.start + np.where(splits > 1.0, core.split, 0.0)
    return _best(work, (compute, memory, extra), waits, (rows, splits, moved))


def _splits(work: Work, core: _Core) -> KernelCost:
    """One block for a group of heads, or one for each head, which then reads the cache itself.

    A group beyond the limit has no choice.
    """
    packed, splits = PACKED_AND_SPLITS
    together = np.where(packed & (work.per_group <= core.limit), work.per_group, 1.0)
    items = work.groups * (work.per_group / together) * splits
    rows = np.ceil(together * work.query / MIN_ROWS) * MIN_ROWS
    # Rows that pad the smallest instruction are multiplied, nothing more.
    step = np.maximum(_step(work, core, rows, together * work.query * KEYS), core.split_step)
    steps = np.ceil(np.minimum(work.reach, work.context) / splits / KEYS)
    compute = np.ceil(items / core.cores) * (steps * step + core.item)
    through = work.near + work.far * work.per_group / together
    memory = np.maximum((work.near + work.far - work.resident) / work.dram, through / work.cache)
    waits = np.broadcast_to(np.where(step <= core.split_step, LATENCY, COMPUTE), compute.shape)
    extra = core.start + np.where(splits > 1.0, core.split, 0.0)
    return _best(work, (compute, memory, extra), waits, (rows, splits, through))


def _step(work: Work, core: _Core, rows: Array, scores: Array) -> Array:
    """Time of 64 keys on one core by its products over `rows`, and by exponentials and vector FLOP of `scores` [s]."""
    matrix = rows * KEYS * work.products * core.cores / work.rate
    around = np.maximum(scores * core.cores / work.special, scores * work.vector * core.cores / work.peak)
    found: Array = np.maximum(matrix, around)
    return found


def _best(
    work: Work, parts: tuple[Array, Array, Array], waits: Array, choice: tuple[Array, Array, Array]
) -> KernelCost:
    """The fastest candidate of each point; candidates along the first axis.

    `parts` compute, memory and what is added; `choice` rows, splits and bytes through the last cache.
    """
    compute, memory, extra = parts
    time = compute + memory + extra
    best = np.argmin(time, axis=0)
    point = np.arange(time.shape[1])
    rows, splits, through = (np.broadcast_to(each, time.shape)[best, point] for each in choice)
    spent, waited = compute[best, point], memory[best, point]
    return KernelCost(
        time=time[best, point],
        compute=spent,
        memory=waited,
        flop=work.flop,
        dram_bytes=work.near + work.far - work.resident,
        cache_bytes=through,
        bound=np.where(waited > spent, MEMORY, np.broadcast_to(waits, time.shape)[best, point]).astype(np.int64),
        tiling=(rows, np.full(point.size, KEYS), splits),
        overlaps=False,
    )
