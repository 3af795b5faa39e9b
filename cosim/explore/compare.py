"""The comparison: every system, precision and kernel quality over all plans and batches, and the best of each.

A block is one (system, phase, precision, quality): its points share a structure and are evaluated in one
call. Selection under a limit happens on the evaluated points, so that every tier reads the same rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case, Phase
from cosim.explore.experiment import Compare, EqualQuality
from cosim.explore.space import Candidates, batch_grid, best_native, candidates_over, on_nodes, searched, unlimited
from cosim.hardware.lower import COSTS, QualityArrays, SystemArrays, lower_system
from cosim.hardware.system import System, Tier
from cosim.overrides import Varied
from cosim.records import Array, array, map_leaves
from cosim.workload.model import ModelArrays

QUALITIES = ("equal", "own", "low", "high")
PHASES: tuple[Phase, ...] = ("decode", "prefill")


@dataclass(frozen=True, slots=True)
class Block:
    """Points of one system in one phase, precision and quality. `label` is the precision as the study names it.

    A training block belongs to one goal, a serving block to one workload; `scale` turns its tokens/s per chip into
    what that goal ranks by.
    """

    system: str
    phase: Phase
    label: str
    quality: str
    case: Case
    plans: int
    goal: str = ""
    scale: float = 1.0
    workload: str = ""

    def rate(self, result: Estimates) -> Array:
        """What points are ranked by: tokens/s per chip, or what the goal makes of it."""
        return self.scale * result.tokens / result.time / result.chips


@dataclass(frozen=True, slots=True)
class Goal:
    """What a winner is chosen for: a workload, a phase and the most time of its step [s].

    A training goal has a `name` of its own and ranks by tokens/s `per` something.
    """

    phase: Phase
    limit_s: float
    name: str = ""
    per: str = "chip"
    workload: str = ""

    def holds(self, block: Block) -> bool:
        """Whether the block's points answer this goal."""
        return (block.phase, block.goal, block.workload) == (self.phase, self.name, self.workload)

    @property
    def text(self) -> str:
        """As tables name it."""
        if self.name:
            return self.name
        what = "TPOT" if self.phase == "decode" else "TTFT"
        shown = f"{self.limit_s * 1e3:g} ms" if self.limit_s < 1.0 else f"{self.limit_s:g} s"
        return f"{self.workload} {self.phase}, {what} <= {shown}"


def phases(study: Compare, *, network: bool) -> tuple[Phase, ...]:
    """Phases in which a workload is compared: those of the study; a network has prefill alone."""
    return PHASES if study.decode is not None and not network else ("prefill",)


def goals(study: Compare, networks: Collection[str] = ()) -> list[Goal]:
    """The tiers of every workload, tightest decode first; `networks` have no decode."""
    tpot = () if study.decode is None else sorted(study.decode.tpot_limits)
    tiers: dict[Phase, Sequence[float]] = {"decode": tpot, "prefill": [study.prefill.ttft_limit]}
    return [
        Goal(phase, limit, workload=name)
        for name in study.workload
        for phase in phases(study, network=name in networks)
        for limit in tiers[phase]
    ]


def blocks(study: Compare, systems: Mapping[str, Varied[System]], models: Mapping[str, ModelArrays]) -> Iterator[Block]:
    """Every block of the study in a fixed order. Formats that a chip has not are left out here and said later."""
    for workload, model in models.items():
        for name, varied in systems.items():
            lowered = lower_system(varied)
            formats = {label: best_native(lowered.chip) if label == "native" else label for label in study.precisions}
            able = [(label, dtype) for label, dtype in formats.items() if dtype in lowered.chip.matrix.peak]
            for (label, dtype), phase in itertools.product(able, phases(study, network=not model.keeps_cache)):
                found = _candidates(study, lowered, model, phase)
                for quality in QUALITIES:
                    machine = with_quality(lowered, varied, quality, study.equal_quality)
                    if machine is not None:
                        case = _block_case(study, machine, model, found, phase, dtype)
                        yield Block(name, phase, label, quality, case, found.plans, workload=workload)


def _candidates(study: Compare, system: SystemArrays, model: ModelArrays, phase: Phase) -> Candidates:
    """All plans and batches of one block, over the numbers of nodes that the study names."""
    per_node, counts = int(system.node_chips), [int(system.chips)]
    if study.max_chips is not None:
        # A system without a tier beyond its node has no network to a second one.
        nodes = max(study.max_chips // per_node, 1) if len(system.tiers) > system.node_tier + 1 else 1
        counts = [per_node * 2**doubling for doubling in range(nodes.bit_length())]
    # Items of a network are small: what fills a chip is many of them.
    most = 16 if not model.network else study.max_batch
    few = 2 ** np.arange(most.bit_length(), dtype=np.int64)
    grid = batch_grid(study.max_batch) if phase == "decode" else few
    return candidates_over(model, counts, grid, phase)


def _block_case(
    study: Compare, system: SystemArrays, model: ModelArrays, found: Candidates, phase: Phase, dtype: str
) -> Case:
    """The case of a block; decode reads the mean context and must hold the whole request."""
    prompt, answer = float(study.scenario.input), float(study.scenario.output)
    scenario = unlimited(1.0, prompt, prompt)
    if phase == "decode":
        scenario = unlimited(1.0, prompt + answer / 2.0, prompt + answer)
    machine = on_nodes(system, found.tensor * found.pipeline * found.data) if study.max_chips is not None else system
    return searched(phase, machine, model, scenario, dtype, found)


def with_quality(
    system: SystemArrays, varied: Varied[System], quality: str, equal: EqualQuality
) -> SystemArrays | None:
    """The system with the software of the named column; None where nothing has a range to be low or high in.

    Equal gives all systems the same, algorithms of collectives included.
    """
    if quality == "own":
        return system
    if quality != "equal":
        return at_range_end(system, varied, best=quality == "high")
    values = [array(getattr(equal, name)) for name in _CLASSES]
    software = _with_software(system, values, {}, array(equal.launch_gap))
    return _with_direct(_one_protocol(software, array(equal.collective_start)), only=True)


def at_range_end(system: SystemArrays, varied: Varied[System], *, best: bool) -> SystemArrays | None:
    """The system with the best or worst end of every range: quality, kernel constants, launch gap, collectives' start.

    The best also has the direct all-reduce that a serving engine may add. None where nothing has a range.
    """
    chip, node = varied.spec.chip, varied.spec.tiers[: system.node_tier + 1]
    ranges = [getattr(chip.quality, name).si_range for name in _CLASSES]
    formats = {dtype: datum.si_range for dtype, datum in chip.quality.matmul_formats.items()}
    constants = {} if chip.calibration is None else {n: d.si_range for n, d in chip.calibration.constants.items()}
    steps = [_protocol_ranges(tier) for tier in node]
    sends = [ends for tier in steps for protocol in tier for ends in protocol]
    gaps = chip.launch.gap.si_range
    has_more = system.tiers[0].kind == "switch" and "direct" not in system.tiers[0].algorithms
    every = (*ranges, *formats.values(), gaps, *constants.values(), *sends)
    if not has_more and all(low == high for low, high in every):
        return None
    better = 1 if best else 0
    chosen = {str(dtype): array(ends[better]) for dtype, ends in formats.items()}
    software = _with_software(system, [array(ends[better]) for ends in ranges], chosen, array(gaps[1 - better]))
    software = _with_protocols(_with_constants(software, constants, better), steps, better)
    return _with_direct(software, only=False) if best else software


def _with_constants(system: SystemArrays, ranges: Mapping[str, tuple[float, float]], better: int) -> SystemArrays:
    """The system with one end of its kernel constants: fewer cycles and less time are better, more of a share."""
    open_ranges = {name: pair for name, pair in ranges.items() if pair[0] != pair[1]}
    ends = {name: array(pair[better if name not in COSTS else 1 - better]) for name, pair in open_ranges.items()}
    if "dram_share" in ends:
        # Two ends that were not meant for each other reach no more than the whole.
        ends["dram_share"] = np.minimum(ends["dram_share"], 1.0 / system.chip.quality.memory)
    return replace(system, chip=replace(system.chip, kernel={**system.chip.kernel, **ends}))


def _with_direct(system: SystemArrays, *, only: bool) -> SystemArrays:
    """The node's tier with the direct all-reduce that serving engines write themselves where all are connected.

    `only`: ring and direct and nothing else, so that no library has more than another.
    """
    inner, *outer = system.tiers
    if inner.kind not in ("switch", "mesh"):
        return system
    names = ("ring", "direct") if only else tuple(dict.fromkeys((*inner.algorithms, "direct")))
    return replace(system, tiers=(replace(inner, algorithms=names), *outer))


def _with_software(system: SystemArrays, classes: list[Array], formats: dict[str, Array], gap: Array) -> SystemArrays:
    """The system with qualities in the order of _CLASSES and a launch gap [s]."""
    matmul, attention, memory, collective = classes
    quality = QualityArrays(matmul, attention, memory, collective, formats)
    chip = replace(system.chip, quality=quality, launch=replace(system.chip.launch, gap=gap))
    return replace(system, chip=chip)


def _protocol_ranges(tier: Tier) -> list[tuple[Ends, Ends, Ends]]:
    """Ends of start, hop and share of every protocol of a tier, low first."""
    every = tier.constants.protocols.values()
    return [(each.start.si_range, each.hop.si_range, each.share.si_range) for each in every]


def _with_protocols(system: SystemArrays, ends: list[list[tuple[Ends, Ends, Ends]]], better: int) -> SystemArrays:
    """The tiers of a node with one end of the ranges of their protocols: sooner and more of the wire are better."""
    tiers = list(system.tiers)
    for t, protocols in enumerate(ends):
        chosen = [
            replace(old, start=array(start[1 - better]), hop=array(hop[1 - better]), share=array(share[better]))
            for old, (start, hop, share) in zip(tiers[t].protocols, protocols, strict=True)
        ]
        tiers[t] = replace(tiers[t], protocols=tuple(chosen))
    return replace(system, tiers=tuple(tiers))


def _one_protocol(system: SystemArrays, start: Array) -> SystemArrays:
    """The system with the short start of collectives at the whole bandwidth: no library has more than another.

    Inside a node the start is `start` [s].
    """
    one = array(1.0)
    tiers = []
    for t, tier in enumerate(system.tiers):
        first = replace(tier.protocols[0], share=one, copies=False)
        first = replace(first, start=start) if t <= system.node_tier else first
        tiers.append(replace(tier, protocols=(first,), copy_share=None))
    return replace(system, tiers=tuple(tiers))


_CLASSES = ("matmul", "attention", "memory", "collective")
Ends = tuple[float, float]


def scaled_quality(system: SystemArrays, factor: NDArray[np.float64]) -> SystemArrays:
    """The system with all its kernel qualities times `factor`, none above 1."""
    values = map_leaves(system.chip.quality, lambda own: np.minimum(own * factor, 1.0))
    return replace(system, chip=replace(system.chip, quality=values))


def winner(result: Estimates, goal: Goal) -> int | None:
    """Index of the point with the most tokens/s/chip within the goal's limit, ties to the first; None if none."""
    rate = result.tokens / result.time / result.chips
    within = result.feasible & (result.time <= goal.limit_s)
    if not within.any():
        return None
    return int(np.argmax(np.where(within, rate, -np.inf)))


def run_block(block: Block) -> Estimates:
    """Estimates of the points of a block."""
    return evaluate(block.case)
