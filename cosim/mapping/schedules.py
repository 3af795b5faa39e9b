"""Pipeline schedules: what a stage holds under each, and what each asks of a plan.

1f1b      one piece, or `virtual_pipeline` pieces that go round (interleaved)
gpipe     all micro-batches forward, then all back (Huang et al. 2019)
zb-h1     1F1B whose weight gradients wait until nothing else can run (Qi et al. 2023, zero bubble)
zb-v      two pieces a stage, down the pipeline and back up, so that the first stage holds embedding and head
          (Qi et al. 2023, section 6; Qi et al. 2024)
dualpipe  micro-batches enter at both ends; every stage holds its own layers and those of the stage as far from
          the other end (DeepSeek-V3 technical report, figure 5 and table 2)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.mapping.plan import SCHEDULES, PlanArrays
from cosim.mapping.stages import Stages
from cosim.records import Array

PIECES = {"gpipe": 1.0, "zb-h1": 1.0, "zb-v": 2.0, "dualpipe": 2.0}
"""Pieces a stage holds where the schedule says how many."""
BOTH_ENDS = ("zb-v", "dualpipe")
"""Schedules whose first stage holds embedding and head: a table that both use is there once."""
SPLIT = ("zb-h1", "zb-v", "dualpipe")
"""Schedules that run weight gradients as passes of their own."""


def held(stage: Stages, schedule: str) -> Stages:
    """What a stage of each class runs of one micro-batch: the head is on the first stage under zb-v.

    Under dualpipe half the micro-batches meet a stage as one end of the pipeline and half as the other.
    """
    if schedule == "zb-v":
        return replace(stage, heads=stage.embeds)
    if schedule == "dualpipe":
        ends = (stage.embeds + stage.heads) / 2.0
        return replace(stage, embeds=ends, heads=ends, dense=(stage.dense + _mirrored(stage)) / 2.0)
    return stage


def pieces(stage: Stages, schedule: str) -> tuple[Stages, ...]:
    """What a stage of each class runs of one micro-batch on each of its pieces, where pieces differ, else nothing.

    `stage` as the pipeline splits layers, before `held`. Dense layers of a stage count alike on both pieces.
    """
    none = np.zeros_like(stage.embeds)
    if schedule == "zb-v":
        half = replace(stage, layers=stage.layers / 2.0, dense=stage.dense / 2.0)
        return replace(half, heads=none), replace(half, embeds=none, heads=stage.embeds)
    if schedule == "dualpipe":
        # Ends change places on the way up: the last class holds the embedding, the first one the head.
        first, last = stage.embeds, stage.heads
        back = replace(stage, embeds=last, heads=first, dense=_mirrored(stage))
        return stage, back
    return ()


def copies(schedule: str) -> float:
    """How often the pipeline holds every weight."""
    return 2.0 if schedule == "dualpipe" else 1.0


def live_passes(plan: PlanArrays) -> Array:
    """Micro-batches whose tensors a stage holds at once, in whole-stage units, all stages alike.

    gpipe all; zb-h1 and zb-v as many as stages (zb-v twice as many pieces of half the size); dualpipe one more.
    """
    most = {"gpipe": plan.micro_batches, "dualpipe": plan.pipeline + 1.0}.get(plan.schedule, plan.pipeline)
    found: Array = np.minimum(most, plan.micro_batches)
    return found


def hops(plan: PlanArrays) -> Array:
    """Transfers that a chip sends for one micro-batch, forward and back, mean over the stages."""
    ways = 2.0 if plan.schedule == "zb-v" else 1.0
    if plan.schedule in PIECES:
        return 2.0 * ways * (plan.pipeline - 1.0) / plan.pipeline
    return 2.0 * (plan.pipeline * plan.virtual - 1.0) / plan.pipeline


def shortfalls(plan: PlanArrays, layers: Array) -> dict[str, Array]:
    """What a plan lacks for its schedule, by limit; nothing under 1f1b. Raises ValueError for an unknown schedule."""
    name = plan.schedule
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name}")
    if name == "1f1b":
        return {}
    found = {"schedule_pieces": np.abs(plan.virtual - PIECES[name])}
    if PIECES[name] == 1.0:
        return found
    found["schedule_stages"] = np.where(plan.pipeline < 2.0, 1.0, np.mod(plan.pipeline, 2.0))
    split = plan.pipeline * (2.0 if name == "zb-v" else 1.0)
    found["schedule_layers"] = np.mod(layers, split)
    least = plan.pipeline * (2.0 if name == "dualpipe" else 1.0)
    found["schedule_micro_batches"] = np.maximum(least - plan.micro_batches, 0.0)
    if name == "dualpipe":
        odd = np.mod(plan.micro_batches, 2.0)
        found["schedule_micro_batches"] = np.maximum(found["schedule_micro_batches"], odd)
    return found


def _mirrored(stage: Stages) -> Array:
    """Dense layers of the stages as far from the other end, mean over each class (4, P)."""
    start = np.cumsum(stage.count, axis=0) - stage.count

    def until(position: Array) -> Array:
        """Dense layers of the stages before a position of each class (4, P)."""
        inside = np.clip(position - np.expand_dims(start, 1), 0.0, np.expand_dims(stage.count, 1))
        found: Array = np.sum(inside * np.expand_dims(stage.dense, 1), axis=0)
        return found

    end = np.sum(stage.count, axis=0) - start
    mean: Array = (until(end) - until(end - stage.count)) / np.maximum(stage.count, 1.0)
    return mean
